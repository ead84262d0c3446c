"""Going on with the mount that the process before left in the service manager's store."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Final

from wqfs.fs import mounting, store
from wqfs.fs.options import Options
from wqfs.fs.state import StateRefused
from wqfs.fs.store import Found, Left

log = logging.getLogger(__name__)

_OF_THE_PROCESS: Final = frozenset(("user", "survive"))
"""Options that a mount does not keep: those of the command line count."""


def can_go_on(found: Found, mountpoint: str, *, as_another: bool) -> bool:
    """Whether there is a mount to go on with, which the manager keeps until it is served. Where it cannot go on, it is
    unmounted, with a line in the log: a new one is to be made. as_another: whether another user is to serve it."""
    try:
        made = found.check(mountpoint)
        if as_another and "allow_other" not in made.super_options.split(","):
            raise StateRefused("it was made without allow_other, and option user needs that")
        return True
    except StateRefused as error:
        log.warning("%s: the mount of before cannot go on, and a new one is made: %s", mountpoint, error)
    store.forget()
    there = mounting.mounted_at(mountpoint)
    if there is not None and there.type == "fuse.wqfs" and found.device in ("", there.device):
        mounting.unmount(mountpoint, lazy=True)  # else it is another one
    found.close()
    return False


def take_up(state_fd: int, mountpoint: str, options: Options) -> Left:
    """What was left of the mount, as objects, whose options hold; options: of the command line. By who serves, for
    that is who has written it. Raises StateRefused."""
    left = store.load(state_fd)
    kept = left.recorder.filesystem.options
    named = {field.name for field in fields(Options)} - _OF_THE_PROCESS
    changed = sorted(name for name in named if getattr(kept, name) != getattr(options, name))
    if changed:
        log.warning("%s: %s as before, until it is mounted anew (stop, start)", mountpoint, ", ".join(changed))
    log.info("%s: goes on with the mount of before", mountpoint)
    return left
