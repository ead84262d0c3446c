"""Which mount a command is for: --mount DIR, else WQFS_MOUNT, else the only one there is."""

from __future__ import annotations

import os
from pathlib import Path

from wqfs.cli.command import CommandFailed
from wqfs.cli.deadline import within
from wqfs.fs.mounting import Mounted, mount_table


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


def mounted() -> list[Path]:
    """Where wqfs is mounted, as /proc/self/mountinfo has it: nothing is asked of the mounts themselves."""
    return [Path(mount.mountpoint) for mount in wqfs_mounts()]


def wqfs_mounts() -> list[Mounted]:
    """The mounts of wqfs, of those on the same folder the topmost."""
    return list({mount.mountpoint: mount for mount in mount_table() if mount.type == "fuse.wqfs"}.values())


def named_mount(named: str) -> Mounted:
    """The mount at a folder, not touched where that can be: it may be dead or stuck. Raises CommandFailed."""
    by_place = {mount.mountpoint: mount for mount in wqfs_mounts()}
    path = os.path.abspath(named)
    if path in by_place:
        return by_place[path]
    # A symbolic link on the way. The folder that holds it is looked at, with a deadline.
    real = within(1.0, lambda: os.path.realpath(path))
    if isinstance(real, str) and real in by_place:
        return by_place[real]
    raise CommandFailed(f"{named} is no wqfs mount. `wqfs status` lists those that there are.")
