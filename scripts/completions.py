"""Writes docs/completion/: the completion of `wqfs` for bash, zsh and fish, from the commands' own parsers.

python -m scripts.completions
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import shtab

from wqfs.cli import COMMANDS
from wqfs.cli.choosing import event_words
from wqfs.cli.command import Parser

FOLDER = Path(__file__).resolve().parent.parent / "docs/completion"
FILES = {"bash": "wqfs.bash", "zsh": "_wqfs", "fish": "wqfs.fish"}
_PATHS = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE}


def whole_parser() -> argparse.ArgumentParser:
    """One parser of all commands."""
    os.environ.pop("WQFS_MOUNT", None)  # is a default, and must not be written down
    made = argparse.ArgumentParser(prog="wqfs", add_help=True)
    made_now: list[Parser] = []

    def made_already(**_: Any) -> argparse.ArgumentParser:
        return made_now[-1]

    commands = made.add_subparsers(dest="command", parser_class=cast(Any, made_already))
    for name, summary in {"mount": "mount the filesystem", **COMMANDS}.items():
        made_now.append(
            mount_parser() if name == "mount" else importlib.import_module(f"wqfs.cli.{name}").make_parser()
        )
        commands.add_parser(name, help=summary)
    for action in actions(made):
        if isinstance(action.metavar, str) and action.metavar in _PATHS:
            action.complete = _PATHS[action.metavar]  # type: ignore[attr-defined]
        if action.metavar == "EVENT":
            action.choices = event_words()
    return made


def mount_parser() -> Parser:
    """What the mount command takes, which parses by hand: tests hold it against that."""
    made = Parser(prog="wqfs mount")
    made.add_argument("-f", action="store_true", help="stay in the foreground")
    made.add_argument("-d", action="store_true", help="log every request")
    made.add_argument("-o", metavar="OPTIONS", help="mount options")
    made.add_argument("--ready-fd", metavar="N", help="written to when the mount answers")
    made.add_argument("--fuse-fd", metavar="N", help="serve this mount of somebody else's")
    made.add_argument("-V", "--version", action="store_true", help="print the version")
    made.add_argument("mountpoint", metavar="DIR", help="the folder to mount on")
    return made


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All actions of a parser and of those below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from actions(each)


def text(shell: str) -> str:
    """The script for a shell: bash, zsh or fish."""
    lines = str(shtab.complete(whole_parser(), shell=shell)).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (FOLDER / name).write_text(text(shell))


if __name__ == "__main__":
    main()
