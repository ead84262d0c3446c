"""What the commands have in common: their parser, their exit codes, and how one says that it failed.

A command is a module of this folder with `make_parser() -> Parser`, from which `--help`, the man page's
test and the shells' completion come, and `main(arguments) -> exit code`, which may raise CommandFailed.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

# The one table of exit codes; docs/reference/exit-codes.md says it to users.
EXIT_OK = 0
EXIT_ERROR = 1  # an error, or a command line that makes no sense
EXIT_TIMED_OUT = 2  # what was waited for did not come
EXIT_LOST = 3  # events were lost: it may have come
EXIT_INTERRUPTED = 130


class CommandFailed(Exception):
    """A sentence for the user, with the next step; the command ends with `code`."""

    def __init__(self, sentence: str, code: int = EXIT_ERROR) -> None:
        super().__init__(sentence)
        self.code = code


class Parser(argparse.ArgumentParser):
    """argparse with 1 for usage, as the mount command has it; usage_code: where it is another."""

    usage_code = EXIT_ERROR

    def error(self, message: str) -> None:  # type: ignore[override]  # ends the program too
        self.print_usage(sys.stderr)
        self.exit(self.usage_code, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def parser(command: str, description: str, epilog: str, *, on_mount: bool = True) -> Parser:
    """A parser for `wqfs COMMAND`; on_mount: with what all commands on a mount take."""
    made = Parser(
        prog=f"wqfs {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if on_mount:
        made.add_argument(
            "--mount",
            metavar="DIR",
            default=os.environ.get("WQFS_MOUNT"),
            help="the mount; by default that of WQFS_MOUNT, else the one that you are in, else the only one there is",
        )
    return made


def seconds(text: str) -> float:
    """The value of an option that takes seconds, 0..1e9, decimals allowed; for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds such as 10 or 0.5, not {text!r}")
    return value


def poll_ms(seconds: float | None) -> float | None:
    """A time limit as poll(2) takes it, which is an int of milliseconds: 23 days at most. None for ever."""
    return None if seconds is None else min(max(seconds, 0.0), 2e6) * 1000


def count(text: str) -> int:
    """The value of an option that takes a count of 1 or more; for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"expected a count of 1 or more, not {text!r}")
    return int(text)
