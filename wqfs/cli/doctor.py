"""`wqfs doctor`: what mounting needs and what the kernel has, and what to do about what is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence

from wqfs.cli import tables
from wqfs.cli.checks import CHECKS, Finding
from wqfs.cli.command import EXIT_ERROR, EXIT_OK, Parser, parser

_SHADES = {"ok": tables.GREEN, "warn": tables.YELLOW, "fail": tables.RED}


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "doctor",
        "Check what mounting needs: a line `ok|warn|fail  what  finding` for each thing, and below it what to do.\n"
        "The last check mounts on a temporary folder for a moment.",
        "exit codes: 0 wqfs can be mounted; 1 it cannot (something says fail), or usage",
        on_mount=False,
    )
    options.add_argument("--json", "-j", action="store_true", help="one JSON object a line for each check")
    options.add_argument("--no-trial", action="store_true", help="do not mount")
    tables.add_colour(options)
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    colour = tables.wants_colour(given.color)
    width = max(map(len, CHECKS))
    code = EXIT_OK
    for what, check in CHECKS.items():
        if what == "trial mount" and given.no_trial:
            continue
        try:
            found = check()
        except OSError as error:
            found = Finding("warn", f"could not be checked: {error}")
        if found.state == "fail":
            code = EXIT_ERROR
        if given.json:
            said = {"state": found.state, "what": what, "finding": found.finding, "advice": found.advice}
            print(json.dumps(said), flush=True)
        else:
            state = tables.coloured(found.state.ljust(4), _SHADES[found.state], colour)
            print(f"{state}  {what:<{width}}  {found.finding}", flush=True)
            if found.advice:
                print(f"      {'':<{width}}  -> {found.advice}", flush=True)
    return code
