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
from dataclasses import replace
from typing import TYPE_CHECKING

from wqfs.sim import mount_options as o
from wqfs.sim import mounting, propagation
from wqfs.sim.call_arguments import Answer, Arguments, Run, number, optional, text
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.mount_descriptors import Context, Parameters, Phase, Tree
from wqfs.sim.mounting import At
from wqfs.sim.mounts import Mount, path_text, segments
from wqfs.sim.superblocks import DEVICE_TYPES, Superblock

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
SET_FLAG, SET_STRING, SET_BINARY, SET_PATH, SET_PATH_EMPTY, SET_FD = range(6)
CMD_CREATE, CMD_RECONFIGURE, CMD_CREATE_EXCL = 6, 7, 8

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


# -- places


def _at(system: System, place: Arguments, *, marks: bool = True) -> At:
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


def _target(system: System, at: At) -> At:
    """Where something is mounted that is mounted at this place: on top of what is there (lock_mount)."""
    mount, place = at
    while (above := mount.children.get(place)) is not None:
        mount, place = above, ()
    if not mount.attached:
        raise Refused(errno.EINVAL, "expected a place in the tree, not in a detached one")
    return mount, place


def _root(at: At, *, attached: bool = False) -> Mount:
    """The mount whose root a place is. Raises EINVAL for a plain directory."""
    mount, place = at
    if place:
        raise Refused(errno.EINVAL, f"expected a mount point, not {path_text(mount, place)!r}")
    if attached and not mount.attached:
        raise Refused(errno.EINVAL, "expected a mount in the tree, not a detached one")
    return mount


# -- mount and umount2


def _mount(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """path_mount(): what the flags say first is done, and nothing else."""
    source, flags, data = a[1], without_magic(number(a[5])), optional(a[6]) or ""
    at = _at(system, a[2:4])
    if flags & MS_NOUSER:
        raise Refused(errno.EINVAL, "MS_NOUSER is the kernel's own")
    attributes = _attributes(flags, at[0].attr)
    if flags & MS_REMOUNT:
        given = replace(_parameters(flags, data).options(), set=attributes, clear=_SETTABLE)
        if flags & MS_BIND:
            mounting.set_attributes(system, {_root(at, attached=True): given.attributes(at[0].attr)}, now_ns)
        else:
            mounting.remount(system, _root(at, attached=True), given, now_ns)
    elif flags & MS_BIND:
        old = _old(system, a)
        where = _target(system, at)
        if not old[0].attached:
            raise Refused(errno.EINVAL, "what is detached is attached by move_mount(2)")
        mounting.bind_at(system, old, where, now_ns, recursive=bool(flags & MS_REC))
    elif flags & _TYPE_FLAGS:
        _change_type(system, _root(at), flags)
    elif flags & MS_MOVE:
        _move(system, _old(system, a), _target(system, at), now_ns)
    else:
        fstype = optional(a[4])
        if fstype is None:
            raise Refused(errno.EINVAL, "expected the type of a filesystem")
        _check_type(fstype)
        parameters = _parameters(flags, "")
        parameters.source = None if source is None else text(source)
        parameters.add_data(data)
        sb = _new_superblock(system, fstype, parameters)
        try:
            where = _target(system, at)
        except Refused:
            if not sb.is_used:
                system.superblocks.forget(sb)
            raise
        mounting.mount_at(system, sb, where, attributes, now_ns)
    return 0


def _old(system: System, a: Arguments) -> At:
    if not a[1]:
        raise Refused(errno.EINVAL, "expected the path of what is mounted already")
    return _at(system, a[:2])


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


def _check_type(fstype: str) -> None:
    """The simulated machine has a filesystem of any name."""
    if not fstype:
        raise Refused(errno.ENODEV, "expected the type of a filesystem, it is empty")
    if fstype.endswith("."):
        raise Refused(errno.EINVAL, f"expected a subtype after the dot of {fstype!r}")


def _new_superblock(system: System, fstype: str, parameters: Parameters, *, exclusive: bool = False) -> Superblock:
    source = parameters.source
    if not source and fstype in DEVICE_TYPES:
        raise Refused(errno.EINVAL, "No source specified")
    sb = system.superblocks.get(source or "none", fstype, bool(parameters.read_only), parameters.options().fs)
    if exclusive and sb.is_used:
        raise Refused(errno.EBUSY, f"{source} has a superblock already")
    return sb


def _change_type(system: System, mount: Mount, flags: int) -> None:
    word = MS_TYPES.get(flags & ~(MS_REC | MS_SILENT))
    if word is None:
        raise Refused(errno.EINVAL, f"expected one propagation type and nothing but MS_REC, not {flags:#x}")
    mounting.change_propagation(system, mount, f"r{word}" if flags & MS_REC else word)


def _umount2(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    flags = number(a[2])
    mount = _root(_at(system, a[:2], marks=False), attached=True)
    if flags & MNT_EXPIRE:
        if mount.parent is None or flags & (MNT_FORCE | MNT_DETACH):
            raise Refused(errno.EINVAL, "MNT_EXPIRE is neither for the root mount nor with another flag")
        if mount.children:
            raise Refused(errno.EBUSY, f"something is mounted in {mount.path}")
        if not mount.expiring:
            mount.expiring = True
            raise Refused(errno.EAGAIN, f"{mount.path} goes next time, if nobody uses it until then")
    if mount.parent is None and not flags & MNT_DETACH:
        mounting.sb_set_readonly(system, mount.sb, True, now_ns)  # do_umount_root
    else:
        mounting.umount(system, mount, now_ns, lazy=bool(flags & MNT_DETACH))
    return 0


# -- moving and cloning


def _move_mount(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    old, new, flags = _at(system, a[:2]), _at(system, a[2:4]), number(a[4])
    if flags & MOVE_MOUNT_BENEATH:
        raise Refused(errno.EINVAL, "MOVE_MOUNT_BENEATH is not simulated: Linux has it from 6.5 on")
    if flags & MOVE_MOUNT_SET_GROUP:
        _set_group(system, _root(old, attached=True), _root(new, attached=True))
    else:
        _move(system, old, _target(system, new), now_ns)
    return 0


def _move(system: System, what: At, where: At, now_ns: int) -> None:
    mount, place = what
    if mount.parent is None:
        if mount not in system.descriptors.detached:
            raise Refused(errno.EINVAL, "expected a mount with a parent, not the root mount or one that is gone")
        _attach(system, _root(what), where, now_ns)
    else:
        mounting.move_to(system, _root((mount, place), attached=True), where, now_ns)


def _attach(system: System, top: Mount, where: At, now_ns: int) -> None:
    """A detached tree comes into the tree."""
    parent, place = where
    mounting.check_move(top, parent)
    copied_to = propagation.targets(parent, place)
    mounts = [*top.subtree()]
    system.mounts.check_room(len(mounts) * (1 + len(copied_to)))
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
    (mount, place), flags = _at(system, a[:2]), number(a[2])
    if not flags & OPEN_TREE_CLONE:
        return system.descriptors.add(Tree(mount, place))
    if mount.unbindable or not mount.attached:
        what = "unbindable" if mount.unbindable else "detached itself"
        raise Refused(errno.EINVAL, f"{path_text(mount, place)} is {what}")
    top = system.mounts.copy(mount, place, recursive=bool(flags & AT_RECURSIVE))
    return system.descriptors.add_detached(top)


def _mount_setattr(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """do_mount_setattr(); recursive, set, clear, propagation, idmapped: what struct mount_attr asks."""
    mount = _root(_at(system, a[:2]))
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
        mounting.set_attributes(system, {each: each.attr & ~clear | set_ for each in mounts}, now_ns)
    return 0


# -- contexts


def _fsopen(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    fstype = text(a[0])
    _check_type(fstype)
    return system.descriptors.add(Context(fstype))


def _fspick(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    sb = _root(_at(system, a[:2])).sb
    return system.descriptors.add(Context(sb.fstype, sb))


def _fsconfig(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    context, command = system.descriptors.context(number(a[0])), number(a[1])
    if command in (CMD_CREATE, CMD_CREATE_EXCL):
        if context.phase is not Phase.CREATE_PARAMS:
            raise Refused(errno.EBUSY, "the superblock is created already, or cannot be")
        context.phase = Phase.FAILED  # unless all goes well
        exclusive = command == CMD_CREATE_EXCL
        context.hold(_new_superblock(system, context.fstype, context.parameters, exclusive=exclusive))
        context.phase = Phase.AWAITING_MOUNT
    elif command == CMD_RECONFIGURE:
        if context.phase is not Phase.RECONF_PARAMS:
            raise Refused(errno.EBUSY, "the superblock is not mounted yet, or the context has failed")
        assert context.sb is not None
        context.phase = Phase.FAILED
        mounting.reconfigure(system, context.sb, context.parameters.options(), now_ns)
        context.may_be_reconfigured()
    elif context.phase not in (Phase.CREATE_PARAMS, Phase.RECONF_PARAMS):
        raise Refused(errno.EBUSY, "the superblock is created already, or the context has failed")
    else:
        context.parameters.add(optional(a[2]) or "", optional(a[3]), is_text=command == SET_STRING)
    return 0


def _fsmount(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    context = system.descriptors.context(number(a[0]))
    if context.sb is None:
        raise Refused(errno.EINVAL, "no superblock is created yet (FSCONFIG_CMD_CREATE)")
    if context.phase is not Phase.AWAITING_MOUNT:
        raise Refused(errno.EBUSY, "the context was mounted already")
    made = system.descriptors.add_detached(system.mounts.make(context.sb, (), number(a[1])))
    context.may_be_reconfigured()
    return made


# -- others


def _close(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.descriptors.close(system, number(a[0]), now_ns)
    return 0


def _path(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    mount, place = _at(system, a)
    if not mount.attached:
        raise Refused(errno.EINVAL, "a detached mount has no path yet")
    return path_text(mount, place).encode("utf-8", "surrogateescape")


def _superblock(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return _at(system, a)[0].sb.id


CALLS: Mapping[str, tuple[str, Run]] = {
    "mount": ("initnin", _mount),
    "umount2": ("iti", _umount2),
    "move_mount": ("ititi", _move_mount),
    "open_tree": ("iti", _open_tree),
    "mount_setattr": ("itiiii", _mount_setattr),
    "fsopen": ("t", _fsopen),
    "fspick": ("it", _fspick),
    "fsconfig": ("iinn", _fsconfig),
    "fsmount": ("ii", _fsmount),
    "close_mount_fd": ("i", _close),
    "path_of": ("it", _path),
    "superblock_of": ("it", _superblock),
}
