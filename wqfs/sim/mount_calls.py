"""The system calls of mounts on the simulated tree: what `wqfs run --mounts simulated` answers a program with.

Each is the kernel's call once its arguments are copied and its flags looked at (fs/namespace.c and fs/fsopen.c of
Linux 6.12): flags as numbers, texts as bytes, None for a null pointer. A place is two arguments: 0 and an absolute
path, or the number of a tree (wqfs.sim.mount_descriptors) and a path within it. Nobody is asked for a privilege.

    open_tree(place, flags), fsmount(context, attributes), fsopen(type), fspick(place)   -> a number
    superblock(place)                                                                    -> its id
    path(place)                                                                          -> bytes
    all others                                                                           -> 0
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wqfs.sim import context_calls, mounting, propagation, remounting
from wqfs.sim import mount_options as o
from wqfs.sim.call_arguments import Answer, Arguments, Run, number, optional, text
from wqfs.sim.call_places import find, root, target
from wqfs.sim.command import Actor
from wqfs.sim.context_calls import check_type, new_superblock
from wqfs.sim.errors import Refused
from wqfs.sim.mount_descriptors import Parameters, Tree
from wqfs.sim.mounting import At
from wqfs.sim.mounts import Mount, path_text, shown, text_of, weight

if TYPE_CHECKING:
    from wqfs.sim.system import System

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_DIRSYNC, MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME = 128, 256, 1024, 2048
MS_BIND, MS_MOVE, MS_REC, MS_SILENT = 4096, 8192, 16384, 32768
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME, MS_NOUSER = 1 << 21, 1 << 24, 1 << 25, 1 << 31
_MS_MAGIC, _MS_MAGIC_MASK = 0xC0ED0000, 0xFFFF0000
MS_TYPES = {1 << 17: "unbindable", 1 << 18: "private", 1 << 19: "slave", 1 << 20: "shared"}
MNT_FORCE, MNT_DETACH, MNT_EXPIRE = 1, 2, 4
OPEN_TREE_CLONE, AT_RECURSIVE = 1, 0x8000
MOVE_MOUNT_SET_GROUP, MOVE_MOUNT_BENEATH = 0x100, 0x200

_ATIMES = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME
_ATIME_ATTRIBUTES = o.MOUNT_ATTR__ATIME | o.MOUNT_ATTR_NODIRATIME
_SETTABLE = (
    o.MOUNT_ATTR_RDONLY | o.MOUNT_ATTR_NOSUID | o.MOUNT_ATTR_NODEV | o.MOUNT_ATTR_NOEXEC | o.MOUNT_ATTR_NOSYMFOLLOW
    | _ATIME_ATTRIBUTES
)  # fmt: skip
_ATTRIBUTES = (
    (MS_RDONLY, o.MOUNT_ATTR_RDONLY), (MS_NOSUID, o.MOUNT_ATTR_NOSUID), (MS_NODEV, o.MOUNT_ATTR_NODEV),
    (MS_NOEXEC, o.MOUNT_ATTR_NOEXEC), (MS_NODIRATIME, o.MOUNT_ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, o.MOUNT_ATTR_NOSYMFOLLOW),
)  # fmt: skip
_TYPE_FLAGS = sum(MS_TYPES)


def without_magic(flags: int) -> int:
    """The flags of mount(2) without what programs for Linux 2.3 had to add."""
    return flags & ~_MS_MAGIC_MASK if flags & _MS_MAGIC_MASK == _MS_MAGIC else flags


def source_is_path(flags: int) -> bool:
    """Whether mount(2) with these flags takes its source for a path."""
    flags = without_magic(flags)
    return not flags & MS_REMOUNT and (bool(flags & MS_BIND) or (not flags & _TYPE_FLAGS and bool(flags & MS_MOVE)))


# -- mount and umount2


def _mount(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """path_mount(): what the flags say first is done, and nothing else."""
    source, flags, data = a[1], without_magic(number(a[5])), optional(a[6]) or ""
    at = find(system, a[2:4])
    if flags & MS_NOUSER:
        raise Refused(errno.EINVAL, "MS_NOUSER is the kernel's own")
    attributes = _attributes(flags, at[0].attr)
    if flags & MS_REMOUNT:
        mount = root(at, attached=True)
        attributes |= mount.attr & ~_SETTABLE
        if flags & MS_BIND:
            remounting.set_attributes(system, {mount: attributes}, now_ns)
        else:
            given = _parameters(flags, data).options()
            remounting.remount_to(system, mount, attributes, given.read_only, given, now_ns)
    elif flags & MS_BIND:
        old = _old(system, a)
        where = target(system, at)
        if not old[0].attached:
            raise Refused(errno.EINVAL, "what is detached is attached by move_mount(2)")
        mounting.bind_at(system, old, where, now_ns, recursive=bool(flags & MS_REC))
    elif flags & _TYPE_FLAGS:
        _change_type(system, root(at), flags)
    elif flags & MS_MOVE:
        _move(system, _old(system, a), target(system, at), now_ns)
    else:
        fstype = optional(a[4])
        if fstype is None:
            raise Refused(errno.EINVAL, "expected the type of a filesystem")
        check_type(fstype)
        parameters = _parameters(flags, "")
        parameters.source = None if source is None else text(source)
        parameters.add_data(data)
        sb = new_superblock(system, fstype, parameters)
        try:
            where = target(system, at)
        except Refused:
            if not sb.is_used:
                system.superblocks.forget(sb)
            raise
        mounting.mount_at(system, sb, where, attributes, now_ns)
    return 0


def _old(system: System, a: Arguments) -> At:
    if not a[1]:
        raise Refused(errno.EINVAL, "expected the path of what is mounted already")
    return find(system, a[:2])


def _attributes(flags: int, before: int) -> int:
    """Those of a mount from the flags of mount(2); a remount that says nothing of access times keeps them."""
    attributes = sum(attribute for flag, attribute in _ATTRIBUTES if flags & flag)
    if flags & MS_REMOUNT and not flags & _ATIMES:
        return attributes | before & _ATIME_ATTRIBUTES
    if flags & MS_STRICTATIME:
        return attributes | o.MOUNT_ATTR_STRICTATIME
    return attributes | (o.MOUNT_ATTR_NOATIME if flags & MS_NOATIME else o.MOUNT_ATTR_RELATIME)


def _parameters(flags: int, data: str) -> Parameters:
    """Of a superblock, from the flags and the data of mount(2)."""
    parameters = Parameters()
    said = {"sync": bool(flags & MS_SYNCHRONOUS), "lazytime": bool(flags & MS_LAZYTIME)}
    if flags & MS_DIRSYNC and not flags & MS_REMOUNT:
        said["dirsync"] = True  # a remount neither gives nor takes it (MS_RMT_MASK)
    parameters.add_flags(bool(flags & MS_RDONLY), said)
    if data:
        parameters.add_data(data)
    return parameters


def _change_type(system: System, mount: Mount, flags: int) -> None:
    word = MS_TYPES.get(flags & ~(MS_REC | MS_SILENT))
    if word is None:
        raise Refused(errno.EINVAL, f"expected one propagation type and nothing but MS_REC, not {flags:#x}")
    mounting.change_propagation(system, mount, f"r{word}" if flags & MS_REC else word)


def _umount2(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    flags = number(a[2])
    mount = root(find(system, a[:2], marks=False), attached=True)
    if flags & MNT_EXPIRE:
        if mount.parent is None or flags & (MNT_FORCE | MNT_DETACH):
            raise Refused(errno.EINVAL, "MNT_EXPIRE is neither for the root mount nor with another flag")
        if mount.children:
            raise Refused(errno.EBUSY, f"something is mounted in {mount.path}")
        if not mount.expiring:
            mount.expiring = True
            raise Refused(errno.EAGAIN, f"{mount.path} goes next time, if nobody uses it until then")
    if mount.parent is None and not flags & MNT_DETACH:
        remounting.sb_set_readonly(system, mount.sb, True, now_ns)  # do_umount_root
    else:
        mounting.umount(system, mount, now_ns, lazy=bool(flags & MNT_DETACH))
    return 0


# -- moving and cloning


def _move_mount(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    old, new, flags = find(system, a[:2]), find(system, a[2:4]), number(a[4])
    if flags & MOVE_MOUNT_BENEATH:
        raise Refused(errno.EINVAL, "MOVE_MOUNT_BENEATH is not simulated: Linux has it from 6.5 on")
    if flags & MOVE_MOUNT_SET_GROUP:
        _set_group(system, root(old, attached=True), root(new, attached=True))
    else:
        _move(system, old, target(system, new), now_ns)
    return 0


def _move(system: System, what: At, where: At, now_ns: int) -> None:
    mount, place = what
    if mount.parent is None:
        if mount not in system.descriptors.detached:
            raise Refused(errno.EINVAL, "expected a mount with a parent, not the root mount or one that is gone")
        _attach(system, root(what), where, now_ns)
    else:
        mounting.move_to(system, root((mount, place), attached=True), where, now_ns)


def _attach(system: System, top: Mount, where: At, now_ns: int) -> None:
    """A detached tree comes into the tree."""
    parent, place = where
    mounting.check_move(top, parent)
    copied_to = propagation.targets(parent, place)
    mounts = [*top.subtree()]
    longest = max(weight(each.path) + text_of(each.sb) for each in mounts)
    system.mounts.check_room(
        len(mounts) * (1 + len(copied_to)), mounting.longest_text(longest, parent, place, copied_to)
    )
    system.descriptors.attached(top)
    copies = propagation.graft(system.mounts, top, parent, place, copied_to)
    mounting.new_mounts(system, [*mounts, *copies], now_ns)


def _set_group(system: System, of: Mount, to: Mount) -> None:
    """do_set_group(): a private mount becomes what another of the same filesystem is."""
    if of.sb is not to.sb or to.root[: len(of.root)] != of.root:
        raise Refused(errno.EINVAL, f"expected two mounts of one filesystem, {of.path} the wider one")
    if to.group is not None or to.master is not None:
        raise Refused(errno.EINVAL, f"expected {to.path} to be private")
    if of.group is None and of.master is None:
        raise Refused(errno.EINVAL, f"expected {of.path} to be shared or a slave")
    system.mounts.groups.join(to, of)
    system.mounts.groups.touched.append(to)


def _open_tree(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    (mount, place), flags = find(system, a[:2]), number(a[2])
    if not flags & OPEN_TREE_CLONE:
        return system.descriptors.add(Tree(mount, place))
    if mount.unbindable or not mount.attached:
        what = "unbindable" if mount.unbindable else "detached itself"
        raise Refused(errno.EINVAL, f"{path_text(mount, place)} is {what}")
    mounting.check_root(mount, place)
    system.mounts.check_room(1 + (len(shown(mount, place)) if flags & AT_RECURSIVE else 0))
    top = system.mounts.copy(mount, place, recursive=bool(flags & AT_RECURSIVE))
    return system.descriptors.add_detached(top, system.mounts)


def _mount_setattr(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """do_mount_setattr(); recursive, set, clear, propagation, idmapped: what struct mount_attr asks."""
    mount = root(find(system, a[:2]))
    recursive, set_, clear, kind = (number(each) for each in a[2:6])
    if mount.parent is None and mount.attached is False and mount not in system.descriptors.detached:
        raise Refused(errno.EINVAL, "the mount is gone")
    if mount.parent is not None and not mount.attached:
        raise Refused(errno.EINVAL, "expected a mount in the tree, or the top of a detached one")
    mounts = [*mount.subtree()] if recursive else [mount]
    if set_ & o.MOUNT_ATTR_IDMAP:
        for each in mounts:
            if each.attr & o.MOUNT_ATTR_IDMAP:
                raise Refused(errno.EPERM, f"{each.path} has an idmap already")
            if each.attached:
                raise Refused(errno.EINVAL, f"{each.path} is attached already: an idmap comes before")
    if kind:
        word = MS_TYPES[kind]
        mounting.change_propagation(system, mount, f"r{word}" if recursive else word)
    if set_ or clear:
        remounting.set_attributes(system, {each: each.attr & ~clear | set_ for each in mounts}, now_ns)
    return 0


# -- others


def _close(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.descriptors.close(system, number(a[0]), now_ns)
    return 0


def _path(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    mount, place = find(system, a)
    if not mount.attached:
        raise Refused(errno.EINVAL, "a detached mount has no path yet")
    return path_text(mount, place).encode("utf-8", "surrogateescape")


def _superblock(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return find(system, a)[0].sb.id


CALLS: Mapping[str, tuple[str, Run]] = {
    "mount": ("initnin", _mount),
    "umount2": ("iti", _umount2),
    "move_mount": ("ititi", _move_mount),
    "open_tree": ("iti", _open_tree),
    "mount_setattr": ("itiiii", _mount_setattr),
    **context_calls.CALLS,
    "close_mount_fd": ("i", _close),
    "path_of": ("it", _path),
    "superblock_of": ("it", _superblock),
}
