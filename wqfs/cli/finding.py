"""Which mount a command is for: --mount DIR, else WQFS_MOUNT, else the only one there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wqfs.cli.command import CommandFailed


def find_mount(named: str | None) -> Path:
    """The mountpoint. Raises CommandFailed."""
    if named:
        path = Path(named)
        if not os.path.isfile(path / "post") or not os.path.isdir(path / "watches"):
            raise CommandFailed(f"{named} is no wqfs mount. Mount one with `wqfs {named}`.")
        return path
    there = mounted()
    if not there:
        raise CommandFailed("no wqfs is mounted. Mount one with `wqfs DIR`, or name it with --mount DIR.")
    if len(there) > 1:
        listed = ", ".join(map(str, there))
        raise CommandFailed(f"there are several mounts ({listed}). Name one with --mount DIR.")
    return there[0]


_OCTAL = re.compile(rb"\\([0-7]{3})")


def mounted() -> list[Path]:
    """Where wqfs is mounted, as /proc/self/mountinfo has it: nothing is asked of the mounts themselves."""
    found: dict[bytes, None] = {}
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            before, _, after = line.partition(b" - ")
            if after.startswith(b"fuse.wqfs "):
                place = before.split(b" ")[4]
                found[_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), place)] = None
    return [Path(os.fsdecode(place)) for place in found]
