"""`wqfs watch`: make, list, change and remove the watches of a mount."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wqfs.cli.command import EXIT_ERROR, EXIT_OK, CommandFailed, Parser, parser
from wqfs.cli.finding import find_mount
from wqfs.cli.watching import refusal


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "watch",
        "Watches are folders of `watches/`; these are their mkdir, ls, echo and rmdir in one place.",
        "exit codes: 0 done; 1 error or usage. `wqfs watch ACTION --help` says more about each",
    )
    actions = options.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    make = actions.add_parser("make", help="make a watch; prints its folder")
    make.add_argument("name", metavar="NAME")
    change = actions.add_parser("change", help="add to or remove from what one watches, replace its filter")
    change.add_argument("name", metavar="NAME")
    for each in (make, change):
        each.add_argument(
            "--object",
            metavar="LINE",
            action="append",
            default=[],
            help="as in `objects`: 'mount /mnt id=1', 'sb /mnt', 'key @s', devices, everything; --object='-mount /mnt' "
            "removes",
        )
        each.add_argument(
            "--filter", metavar="RULE", action="append", help="as in `filter`: 'mount new_mount'; '' removes the filter"
        )
        each.add_argument("--depth", metavar="N", help="how many records fit, 1..512; once")
    listing = actions.add_parser("list", help="list the watches with their numbers")
    listing.add_argument("--json", "-j", action="store_true", help="a JSON object on each line")
    remove = actions.add_parser("remove", help="remove watches; their readers find end of file")
    remove.add_argument("names", metavar="NAME", nargs="+")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    mount = find_mount(given.mount)
    if given.action == "make":
        return _make(mount, given)
    if given.action == "change":
        _change(mount, _folder(mount, given.name), given)
        return EXIT_OK
    if given.action == "list":
        _list(mount, as_json=given.json)
        return EXIT_OK
    return _remove(mount, given.names)


def _folder(mount: Path, name: str) -> Path:
    if "/" in name or name in ("", ".", ".."):
        raise CommandFailed(f"expected the name of a watch, not {name!r}.")
    folder = mount / "watches" / name
    if not folder.is_dir():
        raise CommandFailed(f"there is no watch {name!r}: `wqfs watch list` lists those there are.")
    return folder


def _make(mount: Path, given: argparse.Namespace) -> int:
    folder = mount / "watches" / given.name
    if "/" in given.name or given.name in ("", ".", ".."):
        raise CommandFailed(f"expected a name without /, not {given.name!r}.")
    try:
        folder.mkdir()
    except OSError as error:
        raise CommandFailed(f"cannot make the watch {given.name!r}: {refusal(mount, error)}.") from None
    try:
        _change(mount, folder, given)
    except BaseException:
        folder.rmdir()  # half a watch would only be in the way
        raise
    print(folder)
    return EXIT_OK


def _change(mount: Path, folder: Path, given: argparse.Namespace) -> None:
    """The filter first, so that nothing passes that it should hold."""
    if given.filter is not None:
        _write(mount, folder / "filter", "\n".join(given.filter))
    if given.depth is not None:
        _write(mount, folder / "depth", given.depth)
    for line in given.object:
        _write(mount, folder / "objects", line)


def _write(mount: Path, file: Path, text: str) -> None:
    try:
        # O_TRUNC, for writing nothing to `filter` removes it.
        fd = os.open(file, os.O_WRONLY | os.O_TRUNC)
        try:
            if text.strip():
                os.write(fd, os.fsencode(text + "\n"))
        finally:
            os.close(fd)
    except OSError as error:
        said = refusal(mount, error, text)  # which begins with the file's name, if `errors` had it
        raise CommandFailed(f"{said if said.startswith(file.name) else f'{file.name} {text!r}: {said}'}.") from None


def _list(mount: Path, *, as_json: bool) -> None:
    found = [_about(folder) for folder in sorted((mount / "watches").iterdir())]
    if as_json:
        for about in found:
            print(json.dumps(about, separators=(",", ":")))
        return
    if not found:
        print("no watches: `wqfs watch make NAME` makes one", file=sys.stderr)
        return
    rows = [("NAME", "QUEUED", "DEPTH", "LOST", "READERS", "OBJECTS")]
    for about in found:
        numbers = [str(about.get(name, "-")) for name in ("queued", "depth", "lost", "readers")]
        rows.append((about["name"], *numbers, ", ".join(about["objects"]) if about["objects"] is not None else "-"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _about(folder: Path) -> dict[str, Any]:
    """A watch's name, owner, depth, objects, filter and numbers; None for what may not be read."""
    about: dict[str, Any] = {"name": folder.name, "uid": folder.stat().st_uid, "objects": None, "filter": None}
    try:
        about["objects"] = (folder / "objects").read_text(errors="replace").splitlines()
        about["filter"] = (folder / "filter").read_text().splitlines()
        about["depth"] = int((folder / "depth").read_text())
        for line in (folder / "status").read_text().splitlines():
            name, value = line.split()
            about[name] = int(value)
    except (PermissionError, FileNotFoundError):
        pass  # another user's, or removed just now
    return about


def _remove(mount: Path, names: Sequence[str]) -> int:
    code = EXIT_OK
    for name in names:
        try:
            _folder(mount, name).rmdir()
        except CommandFailed as failed:
            print(f"wqfs watch: {failed}", file=sys.stderr)
            code = EXIT_ERROR
        except OSError as error:
            print(f"wqfs watch: cannot remove {name!r}: {error.strerror}.", file=sys.stderr)
            code = EXIT_ERROR
    return code
