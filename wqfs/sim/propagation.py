"""Mounts that come and go with their copies: attach_recursive_mnt() and umount_tree() of Linux 6.12
(fs/namespace.c, fs/pnode.c).

The rules:
- What is attached to a shared mount becomes shared, and is copied to every peer and slave that shows
  the mountpoint: to a peer as a peer of the original, to a slave as its slave, shared if that slave
  is shared. In a place where something is mounted already the copy slips in below it.
- What is unmounted from a shared mount is unmounted from its peers and slaves too, but for mounts
  that have others mounted in them. What is mounted upon the root of one that goes stays, in its place.

Nothing in here makes events: wqfs/sim/mounting.py does.
"""

from __future__ import annotations

from dataclasses import dataclass

from wqfs.sim.mounts import Heard, Mount, MountTree, audience
from wqfs.sim.peers import are_peers, hearers, receivers
from wqfs.watch import Place

Target = tuple[Mount, Place, bool]
"""A mount, the place in it, and whether it is shared: a mount that moves turns so only after the copies
were made, and may be a target itself."""


def targets(parent: Mount, place: Place) -> list[Target]:
    """Where copies of what is mounted at a place appear, in the order in which they are made. Detached trees
    get none (IS_MNT_NEW)."""
    if parent.group is None:
        return []
    inner = parent.root + place
    return [
        (mount, at, mount.group is not None)
        for mount in receivers(parent)
        if mount.attached and (at := _seen_from(mount, inner)) is not None
    ]


def _seen_from(mount: Mount, inner: Place) -> Place | None:
    """Where a directory of the filesystem is within a mount of it; None if that does not show it."""
    depth = len(mount.root)
    return inner[depth:] if inner[:depth] == mount.root else None


def graft(tree: MountTree, source: Mount, parent: Mount, place: Place, copied_to: list[Target]) -> list[Mount]:
    """Attach a mount and what is below it, a new one or one that moves, and the copies of it.

    copied_to: `targets(parent, place)`, from before `source` was made; the caller has checked that
    there is room. Returns the mounts of the copies, in the order of their ids.
    """
    copies: list[tuple[Mount, Target]] = []
    if parent.group is not None:
        for each in source.subtree():
            tree.groups.make_shared(each)
        copies = _copies(tree, source, parent, copied_to)
    made = [each for copy, _ in copies for each in copy.subtree()]
    if source.automount:
        for copy, _ in copies:
            copy.automount = True
    if source.parent is None:
        tree.attach(source, parent, place)
    else:
        tree.move(source, parent, place)
    for copy, (target, at, _) in copies:
        covering = target.children.pop(at, None)
        tree.attach(copy, target, at)
        if covering is not None:
            covering.parent, covering.mountpoint = copy, ()
            copy.children[()] = covering
            tree.groups.touched.append(covering)
    return made


def _copies(
    tree: MountTree, source: Mount, parent: Mount, copied_to: list[Target]
) -> list[tuple[Mount, Target]]:  # fmt: skip
    """A copy of the tree for each target, not attached yet (propagate_one)."""
    copies: list[tuple[Mount, Target]] = []
    last, last_target = source, parent
    target_of: dict[Mount, Mount] = {}
    marked: set[Mount | None] = set()
    for target in copied_to:
        mount, _, shared = target
        if are_peers(mount, last_target):
            last = tree.copy(last, slaves=False)
        else:
            last = tree.copy(_master(last, source, mount, parent, marked, target_of), slaves=True,
                             shared=shared)  # fmt: skip
        if mount.master is not parent.master:
            marked.add(mount.master)
        last_target = target_of[last] = mount
        copies.append((last, target))
    return copies


def _master(
    last: Mount, source: Mount, mount: Mount, parent: Mount, marked: set[Mount | None], target_of: dict[Mount, Mount]
) -> Mount:
    """Of which copy the one on the slave `mount` is a slave: of the one on the nearest master that
    has one."""
    below = mount
    while (master := below.master) is not parent.master and master not in marked:
        assert master is not None
        below = master
    while not are_peers(last, source):
        on = target_of[last]
        done = on.master is master
        if done and are_peers(below, on):
            break
        assert last.master is not None
        last = last.master
        if done:
            break
    return last


@dataclass(frozen=True, slots=True)
class Gone:
    """A mount that was unmounted, where it was, who hears of it, and whether it was in a detached tree."""

    mount: Mount
    parent: Mount
    place: Place
    heard: Heard
    detached: bool


def uproot(tree: MountTree, top: Mount) -> list[Gone]:
    """Unmount a mount and all below it, each from its parent, and its copies elsewhere; in order."""
    going = dict.fromkeys(top.subtree())
    staying = _spread(going)
    _reparent(staying, going)
    tree.groups.touched += staying
    gone: list[Gone] = []
    for mount in going:
        parent, place = mount.parent, mount.mountpoint
        assert parent is not None
        gone.append(Gone(mount, parent, place, audience(parent, place), not mount.attached))
        tree.detach(mount)  # who is unmounted after it is heard of as far up as this alone
    for mount in going:
        tree.groups.make_private(mount)
    return gone


def _spread(going: dict[Mount, None]) -> dict[Mount, None]:
    """Add to `going` what goes from peers and slaves (propagate_umount). Returns what stays though
    all around it may go."""
    top_down = list(going)
    visited: set[Mount] = set()
    staying: dict[Mount, None] = {}
    added: list[Mount] = []

    def take(mount: Mount) -> bool:
        """Let a mount go if all that is mounted in it goes, and what is upon its root stays."""
        if mount in going:
            return False
        staying.pop(mount, None)
        if any(place and child not in going for place, child in mount.children.items()):
            staying[mount] = None
            return False
        going[mount] = None
        added.append(mount)
        return True

    for mount in reversed(top_down):
        if mount in visited:
            continue
        visited.add(mount)
        assert mount.parent is not None
        inner = mount.parent.root + mount.mountpoint
        for hearer in hearers(mount.parent):
            at = _seen_from(hearer, inner)
            child = hearer.children.get(at) if at is not None else None
            if child is None or child in visited or child in staying:
                continue
            if child in going:
                visited.add(child)
                continue
            while take(child):
                assert child.parent is not None
                child = child.parent
                if child not in staying:
                    break
    for mount in added:
        for place, child in mount.children.items():
            if child not in going:
                assert not place
                staying.pop(child, None)
                staying[child] = None
    return staying


def _reparent(staying: dict[Mount, None], going: dict[Mount, None]) -> None:
    """Put what stays upon mounts that go into their place (restore_mounts)."""
    for mount in staying:
        assert mount.parent is not None  # the root mount never goes
        parent, place = mount.parent, mount.mountpoint
        while parent in going:
            place = parent.mountpoint
            assert parent.parent is not None
            parent = parent.parent
        if parent is not mount.parent:
            del mount.parent.children[mount.mountpoint]
            mount.parent, mount.mountpoint = parent, place
            parent.children.pop(place, None)  # what goes; the newcomer is the last among its siblings
            parent.children[place] = mount
