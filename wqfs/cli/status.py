"""`wqfs status`: what is mounted where, the dead mounts too, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence

from wqfs.cli import tables
from wqfs.cli.command import EXIT_ERROR, EXIT_OK, Parser, parser
from wqfs.cli.finding import named_mount, wqfs_mounts
from wqfs.cli.looking import WORDS, Look, look
from wqfs.fs.mounting import Mounted

_LIMIT_S = 2.0
_COLUMNS = ("depth", "queued", "posted", "delivered", "lost", "filtered", "readers", "pollers")


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "status",
        "Show all mounts, or one: what state it is in, its options, counts and watches. Never waits for a mount\n"
        "that does not answer.",
        "exit codes: 0 all answer, or none is mounted; 1 error or usage, or one is dead or does not answer",
    )
    options.add_argument("dir", metavar="DIR", nargs="?", help="the mount, as --mount; by default all")
    options.add_argument("--json", "-j", action="store_true", help="one JSON object a line for each mount")
    tables.add_colour(options)
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    named = given.dir or given.mount
    mounts = [named_mount(named)] if named else wqfs_mounts()
    colour = tables.wants_colour(given.color)
    code = EXIT_OK
    for mount in mounts:
        seen = look(mount.mountpoint, _LIMIT_S)
        if seen.state in ("dead", "stuck", "failed"):
            code = EXIT_ERROR
        if given.json:
            print(json.dumps(_as_json(mount, seen)), flush=True)
        else:
            print("\n".join(_as_text(mount, seen, colour)), flush=True)
    if not mounts and not given.json:
        print("no wqfs is mounted")
    return code


def _as_json(mount: Mounted, seen: Look) -> dict[str, object]:
    return {
        "mount": mount.mountpoint,
        "state": seen.state,
        "source": mount.source,
        "device": mount.device,
        "options": mount.options.split(","),
        "super_options": mount.super_options.split(","),
        "metrics": seen.metrics,
        "watches": seen.watches,
    }


def _as_text(mount: Mounted, seen: Look, colour: bool) -> list[str]:
    state = WORDS[seen.state].format(mount.mountpoint, _LIMIT_S)
    shade = {"ok": tables.GREEN, "closed": tables.YELLOW}.get(seen.state, tables.RED)
    lines = [
        f"{tables.coloured(tables.printable(mount.mountpoint), tables.BOLD, colour)}  "
        f"{tables.coloured(state, shade, colour)}",
        f"  source   {tables.printable(mount.source)}",
        f"  options  {mount.options},{mount.super_options}",
    ]
    if seen.metrics:
        counts = [f"{name.removeprefix('wqfs_')} {value}" for name, value in seen.metrics.items()]
        lines.append("  counts   " + ", ".join(counts))
    if seen.watches:
        rows = [
            [tables.printable(name), *(str(numbers[c]) if numbers else "-" for c in _COLUMNS)]
            for name, numbers in seen.watches.items()
        ]
        lines += ["  " + line for line in tables.table(["watch", *_COLUMNS], rows)]
    return lines
