"""What can be done to the mount tree: the system calls behind mount(8) and umount(8), and their events.

Each function follows fs/namespace.c of Linux 6.12 in what it refuses and why; what each event says
and who hears it is in ABI.md, 1, and `conformance/mounts.json`. All changes of a call come first,
then its events, in order; last the objects that are gone take their watches with them.

Where the kernel and this differ: the root mount cannot go, lazily neither (EBUSY); nothing keeps a
mount busy but mounts below it; what is mounted on / covers the root for all paths, where a process of
the kernel goes on to begin at its own root below that.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wqfs.abi.records import MountFlag, MountSubtype
from wqfs.sim import propagation
from wqfs.sim.errors import Refused
from wqfs.sim.mount_options import MOUNT_ATTR_RDONLY, MountOptions
from wqfs.sim.mounts import PATH_MAX, Heard, Mount, audience, path_text, shown, text_of, weight
from wqfs.sim.superblocks import Superblock
from wqfs.watch import Place

if TYPE_CHECKING:
    from wqfs.sim.system import System

_NOW_RO = int(MountFlag.IS_NOW_RO)
_SUBMOUNT = int(MountFlag.IS_SUBMOUNT)

At = tuple[Mount, Place]
"""A place in the tree, as MountTree.lookup gives it."""


def mount(
    system: System, source: str, path: str, fstype: str, options: MountOptions, now_ns: int, *, automount: bool = False
) -> Mount:
    """Mount a filesystem. fstype "" takes what the source suggests. automount: the kernel does it.

    Raises EBUSY when that superblock is the topmost at `path` already, ENOSPC at the limit, and
    what Superblocks.get refuses.
    """
    at = system.mounts.lookup(path)
    sb = system.superblocks.get(source, fstype, bool(options.read_only), options.fs)
    return mount_at(system, sb, at, options.attributes(), now_ns, automount=automount)


def mount_at(system: System, sb: Superblock, at: At, attr: int, now_ns: int, *, automount: bool = False) -> Mount:
    """Mount a superblock, which goes again if that is refused and nothing else uses it."""
    tree = system.mounts
    parent, place = at
    try:
        if not place and parent.sb is sb:
            raise Refused(errno.EBUSY, f"{sb.source} is mounted at {parent.path} already")
        copied_to = propagation.targets(parent, place)
        tree.check_room(1 + len(copied_to), longest_text(0, parent, place, copied_to) + text_of(sb))
    except Refused:
        if not sb.is_used:
            system.superblocks.forget(sb)
        raise
    new = tree.make(sb, (), attr)
    new.automount = automount
    copies = propagation.graft(tree, new, parent, place, copied_to)
    new_mounts(system, [new, *copies], now_ns)
    return new


def bind(system: System, old_path: str, new_path: str, now_ns: int, *, recursive: bool = False) -> Mount:
    """Show what is at one path at another path too. recursive: with the mounts below. Raises EINVAL for
    an unbindable mount, ENOSPC at the limit, ENAMETOOLONG."""
    tree = system.mounts
    return bind_at(system, tree.lookup(old_path), tree.lookup(new_path), now_ns, recursive=recursive)


def bind_at(system: System, what: At, at: At, now_ns: int, *, recursive: bool = False) -> Mount:
    """`bind` for what has been looked up."""
    tree = system.mounts
    old, old_place = what
    parent, place = at
    if old.unbindable:
        raise Refused(errno.EINVAL, f"{old.path} is unbindable")
    check_root(old, old_place)
    copied_to = propagation.targets(parent, place)
    copied = [old, *(mount for mount, _ in (shown(old, old_place) if recursive else ()))]
    longest = max(weight(each.path) + text_of(each.sb) for each in copied)
    tree.check_room(len(copied) * (1 + len(copied_to)), longest_text(longest, parent, place, copied_to))
    top = tree.copy(old, old_place, recursive=recursive)
    new = [*top.subtree()]
    new += propagation.graft(tree, top, parent, place, copied_to)
    new_mounts(system, new, now_ns)
    return top


def check_root(mount: Mount, place: Place) -> None:
    """Raises ENAMETOOLONG where a copy of `mount` at `place` would show a directory that is too deep in its filesystem:
    binding what is bound, over and over, would make it longer without end."""
    if sum(len(name) + 1 for name in (*mount.root, *place)) >= PATH_MAX:
        raise Refused(errno.ENAMETOOLONG, f"expected less than {PATH_MAX} bytes from the filesystem's root")


def longest_text(longest: int, parent: Mount, place: Place, copied_to: Iterable[propagation.Target]) -> int:
    """Bytes that what has `longest` of them may have where it is attached, and where it is copied to."""
    return longest + max(
        weight(path_text(at, each)) for at, each in ((parent, place), *((t[0], t[1]) for t in copied_to))
    )


def new_mounts(system: System, mounts: Iterable[Mount], now_ns: int) -> None:
    """Tell of mounts that have appeared."""
    above: dict[Mount, Heard] = {}
    for new in mounts:
        assert new.parent is not None
        heard = audience(new.parent, new.mountpoint, above)
        flags = (_NOW_RO if new.attr & MOUNT_ATTR_RDONLY else 0) | (_SUBMOUNT if new.automount else 0)
        system.notify_mount(MountSubtype.NEW_MOUNT, new.parent, new.mountpoint, new, now_ns, flags, heard=heard)


def move(system: System, old_path: str, new_path: str, now_ns: int) -> Mount:
    """Move a mount and all below it.

    Raises EINVAL for the root mount, for what is no mountpoint, for a mount on a shared one, and for
    unbindable mounts that would become shared; ELOOP to a place below itself; ENOSPC at the limit.
    """
    tree = system.mounts
    return move_to(system, tree.mounted_at(old_path), tree.lookup(new_path), now_ns)


def move_to(system: System, moved: Mount, at: At, now_ns: int) -> Mount:
    """`move` for what has been looked up."""
    tree = system.mounts
    parent, place = at
    old_parent, old_mountpoint, was = moved.parent, moved.mountpoint, moved.path
    if old_parent is None:
        raise Refused(errno.EINVAL, "expected a mount with a parent, not the root mount")
    check_move(moved, parent)
    copied_to = propagation.targets(parent, place)
    longest = max(weight(each.path) + text_of(each.sb) for each in moved.subtree())
    count = len(copied_to) * sum(1 for _ in moved.subtree()) if copied_to else 0
    tree.check_room(count, longest_text(longest, parent, place, copied_to))
    moved.automount = False  # it expires no longer (do_move_mount)
    copies = propagation.graft(tree, moved, parent, place, copied_to)
    extra = {"old_mountpoint": was}
    tree.groups.touched += moved.subtree()  # their paths are others now
    system.notify_mount(MountSubtype.MOVE_FROM, old_parent, old_mountpoint, moved, now_ns, names=extra)
    system.notify_mount(MountSubtype.MOVE_TO, parent, place, moved, now_ns, names=extra)
    new_mounts(system, copies, now_ns)
    return moved


def check_move(moved: Mount, parent: Mount) -> None:
    """do_move_mount: may `moved`, which may be detached, be attached to `parent`?"""
    if moved.parent is not None and moved.parent.group is not None:
        raise Refused(errno.EINVAL, f"{moved.path} is mounted on {moved.parent.path}, which is shared")
    if parent.group is not None and any(each.unbindable for each in moved.subtree()):
        raise Refused(errno.EINVAL, f"{moved.path} has unbindable mounts, and {parent.path} is shared")
    above: Mount | None = parent
    while above is not None:
        if above is moved:
            raise Refused(errno.ELOOP, f"the place is below {moved.path}")
        above = above.parent


def umount(system: System, mount: Mount, now_ns: int, *, lazy: bool = False) -> None:
    """Unmount one mount; lazily, with all below it. Raises EBUSY for the root mount, and for a mount
    with mounts below it unless lazily or those are automounts."""
    if mount.parent is None:
        raise Refused(errno.EBUSY, "the root mount cannot go")
    if not lazy:
        below = next((each for each in mount.subtree() if each is not mount and not each.automount), None)
        if below is not None:
            raise Refused(errno.EBUSY, f"{below.path} is mounted below {mount.path}")
        for each in reversed([*mount.subtree()][1:]):  # automounts do not keep it busy (shrink_submounts)
            if each.parent is not None:
                _umount(system, each, now_ns)
    _umount(system, mount, now_ns)


def _umount(system: System, mount: Mount, now_ns: int) -> None:
    gone = propagation.uproot(system.mounts, mount)
    ended: list[Superblock | Mount] = []
    for each in reversed(gone):  # the kernel lets go of the last one first
        ended.append(each.mount)
        sb = each.mount.sb
        if each.detached:
            sb.unseen -= 1
        if not sb.is_used and sb.id in system.superblocks.by_id:
            system.superblocks.forget(sb)
            ended.append(sb)
    for each in gone:
        if each.detached:
            continue  # nobody sees it
        system.notify_mount(MountSubtype.UNMOUNT, each.parent, each.place, each.mount, now_ns, heard=each.heard)
    for target in ended:
        system.gone(target, now_ns)


def expire(system: System, mount: Mount, now_ns: int) -> None:
    """An automount expires: it says so, then it is unmounted (mark_mounts_for_expiry). Raises EINVAL for
    a mount that is no automount, EBUSY for one with mounts below it."""
    if not mount.automount:
        raise Refused(errno.EINVAL, f"expected an automount, not {mount.path}")
    if mount.children:
        below = next(iter(mount.children.values()))
        raise Refused(errno.EBUSY, f"{below.path} is mounted below {mount.path}")
    system.notify_mount(MountSubtype.EXPIRY, mount, (), None, now_ns)
    _umount(system, mount, now_ns)


def expire_all(system: System, now_ns: int) -> None:
    """All automounts with nothing below them expire; those that come free by it the next time."""
    for mount in [each for each in system.mounts.by_id.values() if each.automount and not each.children]:
        if mount.parent is not None:
            expire(system, mount, now_ns)


def umount_recursive(system: System, mount: Mount, now_ns: int) -> None:
    """umount(8) -R: unmount all below, the newest first, then the mount; what has gone meanwhile with
    a peer is left out. Raises EBUSY for the root mount."""
    if mount.parent is None:
        raise Refused(errno.EBUSY, "the root mount cannot go")
    order: list[Mount] = []
    pending = [mount]
    while pending:
        each = pending.pop()
        order.append(each)
        pending.extend(sorted(each.children.values(), key=_by_id))
    for each in reversed(order):
        if each.parent is not None:
            umount(system, each, now_ns)


def umount_all(system: System, sb: Superblock, now_ns: int, *, lazy: bool = False, recursive: bool = False) -> None:
    """umount(8) -A: unmount all mounts of a superblock, the newest first, with `recursive` what is below
    them too. Raises EBUSY for the root mount, and for a mount with others below it."""
    mounts = [*reversed(sb.mounts.values())]
    for mount in mounts:
        if mount.parent is None:
            raise Refused(errno.EBUSY, "the root mount cannot go")
        busy = [each for each in mount.children.values() if each.sb is not sb or each.id < mount.id]
        if busy and not lazy and not recursive:
            raise Refused(errno.EBUSY, f"{busy[0].path} is mounted below {mount.path}")
    for mount in mounts:
        if mount.parent is None:
            continue  # it went with a peer
        if recursive:
            umount_recursive(system, mount, now_ns)
        else:
            umount(system, mount, now_ns, lazy=lazy)


def _by_id(mount: Mount) -> int:
    return -mount.id


def change_propagation(system: System, mount: Mount, word: str) -> None:
    """`--make-WORD`: shared, private, slave, unbindable, or with an r in front for the mounts below
    too. Posts nothing (do_change_type)."""
    recursive = word in ("rshared", "rprivate", "rslave", "runbindable")
    kind = word[1:] if recursive else word
    groups = system.mounts.groups
    for each in [*mount.subtree()] if recursive else [mount]:
        if kind == "shared":
            groups.make_shared(each)
        elif kind == "slave":
            groups.make_slave(each)
        else:
            groups.make_private(each, unbindable=kind == "unbindable")
