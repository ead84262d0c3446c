"""Places in the system calls of mounts: two arguments, 0 and an absolute path, or the number of a tree
(wqfs.sim.mount_descriptors) and a path within it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from wqfs.sim.call_arguments import Arguments, number, text
from wqfs.sim.errors import Refused
from wqfs.sim.mounting import At
from wqfs.sim.mounts import Mount, path_text, segments

if TYPE_CHECKING:
    from wqfs.sim.system import System


def find(system: System, place: Arguments, *, marks: bool = True) -> At:
    """The mount that a place is in, and where. marks: the mount is used, and does not expire next time."""
    tree, path = number(place[0]), text(place[1])
    if tree:
        named = system.descriptors.tree(tree)
        found = system.mounts.walk(named.mount, named.place, segments("/" + path))
    else:
        found = system.mounts.lookup(path)
    if marks:
        found[0].expiring = False
    return found


def target(system: System, at: At) -> At:
    """Where something is mounted that is mounted at this place: on top of what is there (lock_mount)."""
    mount, place = at
    while (above := mount.children.get(place)) is not None:
        mount, place = above, ()
    if not mount.attached:
        raise Refused(errno.EINVAL, "expected a place in the tree, not in a detached one")
    return mount, place


def root(at: At, *, attached: bool = False) -> Mount:
    """The mount whose root a place is. Raises EINVAL for a plain directory."""
    mount, place = at
    if place:
        raise Refused(errno.EINVAL, f"expected a mount point, not {path_text(mount, place)!r}")
    if attached and not mount.attached:
        raise Refused(errno.EINVAL, "expected a mount in the tree, not a detached one")
    return mount
