"""Which mount a command is for: --mount DIR, else WQFS_MOUNT, else the one that we are in, else the only one."""

from __future__ import annotations

import os
from pathlib import Path

from wqfs.cli.command import CommandFailed
from wqfs.cli.deadline import within
from wqfs.cli.looking import WORDS, state_of
from wqfs.fs.mounting import Mounted, mount_table

_LIMIT_S = 2.0
"""For a mount to answer."""


def find_mount(named: str | None) -> Path:
    """The mountpoint. Raises CommandFailed."""
    chosen = Path(named) if named else _the_mount()
    state = state_of(str(chosen), _LIMIT_S)
    if state == "none":
        raise CommandFailed(f"{chosen} is no wqfs mount. Mount one with `wqfs {chosen}`.")
    if state != "ok":
        raise CommandFailed(f"{chosen} is {WORDS[state].format(chosen, _LIMIT_S)}.")
    return chosen


def _the_mount() -> Path:
    """The one that can be meant by who names none."""
    there = mounted()
    if not there:
        raise CommandFailed("no wqfs is mounted. Mount one with `wqfs DIR`, or name it with --mount DIR.")
    here = Path(os.readlink("/proc/self/cwd"))  # without asking the mount, which may not answer
    around = [place for place in there if place in (here, *here.parents)]
    if around:
        return max(around, key=lambda place: len(place.parts))
    if len(there) > 1:
        # One that is dead, or another user's, cannot be meant.
        usable = [place for place in there if state_of(str(place), _LIMIT_S) == "ok"]
        if len(usable) != 1:
            listed = ", ".join(map(str, usable or there))
            raise CommandFailed(f"there are several mounts ({listed}). Name one with --mount DIR.")
        return usable[0]
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
