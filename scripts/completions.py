"""Writes docs/completion/: the completion of `wqfs` for bash, zsh and fish, from the commands' own parsers.

python -m scripts.completions

shtab makes what a parser knows. What a mount knows, and the language of `post`, the scripts ask of
`wqfs --complete KIND`: scripts/completion/ has how each shell asks.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import shtab

from wqfs.cli import COMMANDS
from wqfs.cli.choosing import event_words
from wqfs.cli.command import Parser

FOLDER = Path(__file__).resolve().parent.parent / "docs/completion"
FILES = {"bash": "wqfs.bash", "zsh": "_wqfs", "fish": "wqfs.fish"}
_PARTS = Path(__file__).resolve().parent / "completion"


def _asks(kind: str) -> dict[str, str]:
    """How each shell asks `wqfs --complete KIND`."""
    return {
        "bash": f"_wqfs_ask_{kind.replace('-', '_')}",
        "zsh": f" _wqfs_ask {kind}",  # the blank: without it _arguments puts words of its own before KIND
        "fish": f"(_wqfs_ask {kind})",
    }


_FOLDER = {"bash": "_wqfs_dir_or_mount", "zsh": "_wqfs_dir_or_mount",
           "fish": "(_wqfs_ask mount; __fish_complete_directories)"}  # fmt: skip
_SCENARIO = {"bash": "_wqfs_file_or_scenario", "zsh": "_wqfs_file_or_scenario",
             "fish": "(_wqfs_ask scenario; __fish_complete_path (commandline -ct))"}  # fmt: skip
_BY_METAVAR = {
    "DIR": shtab.DIRECTORY,
    "FILE": shtab.FILE,
    "WATCH": _asks("watch"),
    "OPTIONS": _asks("options"),
    "LINE": _asks("object"),
}
_BY_PLACE = {
    # bash asks by a function around shtab's: see completion/tail.bash
    ("wqfs post", "words"): {**_asks("post"), "bash": ""},
    ("wqfs watch change", "name"): _asks("watch"),
    ("wqfs watch remove", "names"): _asks("watch"),
    ("wqfs wait", "name"): _asks("condition-name"),
    ("wqfs play", "file"): _SCENARIO,
    ("wqfs umount", "dir"): _FOLDER,
    ("wqfs status", "dir"): _FOLDER,
}


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
    unused = set(_BY_PLACE)
    for parser, action in actions(made):
        place = (parser.prog, action.dest)
        unused.discard(place)
        how = _FOLDER if action.dest == "mount" else _BY_PLACE.get(place) or _BY_METAVAR.get(str(action.metavar))
        if how is not None:
            action.complete = how  # type: ignore[attr-defined]
        if action.metavar == "EVENT":
            action.choices = event_words()
    assert not unused, f"no such arguments: {unused}"
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


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """All actions of a parser and of those below it, each with its parser."""
    for action in parser._actions:
        yield parser, action
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from actions(each)


def text(shell: str) -> str:
    """The script for a shell: bash, zsh or fish."""
    head = (_PARTS / f"head.{shell}").read_text()
    made = str(shtab.complete(whole_parser(), shell=shell, preamble=head))
    if shell == "bash":
        made, last, _ = made.partition("complete -o bashdefault -F _shtab_wqfs wqfs")
        assert last
        made += (_PARTS / "tail.bash").read_text()
    if shell == "fish":
        made += (_PARTS / "tail.fish").read_text()
    if shell == "zsh":
        made, last, end = made.rpartition("if [[ $zsh_eval_context")
        made = re.sub(r'"\(\*\)::?', '"*:', made)  # shtab's way completes but the first of several
        made += last + end.replace("_shtab_wqfs", "_wqfs")
    return "\n".join(line.rstrip() for line in made.splitlines()) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (FOLDER / name).write_text(text(shell))


if __name__ == "__main__":
    main()
