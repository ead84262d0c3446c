"""Tables and colours on a terminal: plain ANSI, no library."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

BOLD, RED, GREEN, YELLOW, DIM = "1", "31", "32", "33", "2"


def add_colour(options: argparse._ActionsContainer) -> None:
    """The option --color."""
    options.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal, without NO_COLOR"
    )


def wants_colour(choice: str) -> bool:
    """Whether standard output is to have colours, by --color and NO_COLOR."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, on: bool) -> str:
    """The text in a colour, if on."""
    return f"\033[{colour}m{text}\033[0m" if on and text else text


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    made = []
    for row in (heads, *rows):
        cells = [cell.rjust(widths[i]) if i else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        made.append("  ".join(cells).rstrip())
    return made


def printable(name: str) -> str:
    """A name from outside, without what a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name.encode("utf-8", "replace").decode())
