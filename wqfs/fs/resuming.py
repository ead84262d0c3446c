"""Going on with the mount that the process before left in the service manager's store."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from typing import Final

from wqfs.fs import mounting, store
from wqfs.fs.options import Options
from wqfs.fs.state import StateRefused
from wqfs.fs.store import Found, Left

log = logging.getLogger(__name__)

_OF_THE_PROCESS: Final = frozenset(("user", "survive"))
"""Options that a mount does not keep: those of the command line count."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A mount to go on with: its descriptor of /dev/fuse, what was left of it, and the options that hold."""

    fuse_fd: int
    left: Left
    options: Options


def resume(found: Found, mountpoint: str, options: Options) -> Resumed | None:
    """Take up what the manager kept, and let it forget that. Where that cannot go on, the old mount is unmounted, with
    a line in the log, and None returned: a new one is to be made. options: of the command line."""
    try:
        left = found.read(mountpoint)
    except StateRefused as error:
        log.warning("%s: the mount of before cannot go on, and a new one is made: %s", mountpoint, error)
        store.forget()
        there = mounting.mounted_at(mountpoint)
        if there is not None and there.type == "fuse.wqfs":
            mounting.unmount(mountpoint, lazy=True)
        found.close()
        return None
    store.forget()  # before anything is served: what it has is then of a moment that has passed
    kept = left.recorder.filesystem.options
    named = {field.name for field in fields(Options)} - _OF_THE_PROCESS
    changed = sorted(name for name in named if getattr(kept, name) != getattr(options, name))
    if changed:
        log.warning("%s: %s as before, until it is mounted anew (stop, start)", mountpoint, ", ".join(changed))
    log.info("%s: goes on with the mount of before", mountpoint)
    return Resumed(found.fuse_fd, left, replace(kept, user=options.user, survive=True))
