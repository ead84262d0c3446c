"""mount and umount, as mount(8) and umount(8) take them. There is no fstab: a new mount names both
source and directory."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wqfs.sim import arguments as args
from wqfs.sim import mount_options, mounting, remounting
from wqfs.sim.command import Actor, Command
from wqfs.sim.errors import Refused
from wqfs.sim.mount_options import MountOptions
from wqfs.sim.mounts import Mount, segments

if TYPE_CHECKING:
    from wqfs.sim.system import System

# The flags of mount(8) are its options by other names.
_MOUNT_FLAGS = {
    "-r": "ro", "--read-only": "ro", "-w": "rw", "--rw": "rw", "--read-write": "rw",
    "-B": "bind", "--bind": "bind", "-R": "rbind", "--rbind": "rbind", "-M": "move", "--move": "move",
    "-n": "", "--no-mtab": "", "-v": "", "--verbose": "", "-s": "", "-i": "", "--internal-only": "",
    "-c": "", "--no-canonicalize": "", "-m": "", "--mkdir": "",
    **{f"--make-{word}": word for word in mount_options.PROPAGATION},
}  # fmt: skip
_MOUNT_VALUED = {
    "-t": "type", "--types": "type", "-o": "options", "--options": "options",
    "--source": "source", "--target": "target",
}  # fmt: skip
_UMOUNT_FLAGS = {
    "-l": "lazy", "--lazy": "lazy", "-R": "recursive", "--recursive": "recursive",
    "-A": "all", "--all-targets": "all",
    "-f": "", "--force": "", "-n": "", "--no-mtab": "", "-v": "", "--verbose": "", "-q": "", "--quiet": "",
    "-i": "", "--internal-only": "", "-c": "", "--no-canonicalize": "", "-d": "", "--detach-loop": "",
}  # fmt: skip


def _mount(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    _parse_and_mount(system, arguments, now_ns, automount=False)


def _automount(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    _parse_and_mount(system, arguments, now_ns, automount=True)


def _parse_and_mount(system: System, arguments: Sequence[str], now_ns: int, *, automount: bool) -> None:
    given, rest = args.parse(arguments, 2, _MOUNT_FLAGS, _MOUNT_VALUED)
    texts: list[str] = []
    fstype = ""
    source = target = None
    make = False  # --make-shared and its kin alone need no source; -o shared would look into fstab
    for meaning, value, word in given:
        if meaning == "type":
            fstype = value.partition(",")[0]  # of several the first one that will do: here any does
            fstype = fstype if fstype != "auto" else ""
        elif meaning == "options":
            texts.append(value)
        elif meaning == "source":
            source = (value, word)
        elif meaning == "target":
            target = (value, word)
        elif meaning:
            texts.append(meaning)
            make = make or meaning in mount_options.PROPAGATION
    options = mount_options.parse(",".join(texts))
    target = target or (rest.pop() if rest else None)
    source = source or (rest.pop() if rest else None)
    if rest:
        raise Refused(errno.EINVAL, f"expected SOURCE and DIR and no more, not {rest[-1][0]!r}", rest[-1][1])
    if target is None:
        raise Refused(errno.EINVAL, "expected SOURCE and DIR", 2 + len(arguments))
    if automount and (source is None or options.operations or options.propagation):
        raise Refused(errno.EINVAL, "expected SOURCE and DIR, and options of a new mount", 2)
    try:
        if automount:
            assert source is not None
            mounting.mount(system, source[0], target[0], fstype, options, now_ns, automount=True)
            return
        if not options.operations and _is_propagation_alone(source, fstype, options, make):
            system.mounts.mounted_at(target[0])
            _make(system, target[0], options)
            return
        _carry_out(system, source, target[0], fstype, options, now_ns)
    except Refused as refused:
        refused.word = refused.word or target[1]
        raise


def _is_propagation_alone(source: args.Word | None, fstype: str, options: MountOptions, make: bool) -> bool:
    """Whether nothing is mounted (mnt_context_propagation_only of libmount)."""
    if source is None:
        return make
    return bool(options.propagation) and source[0] == "none" and fstype in ("", "none") and not options.set


def _make(system: System, target: str, options: MountOptions) -> None:
    for word in options.propagation:
        mounting.change_propagation(system, system.mounts.mounted_at(target), word)


def _carry_out(
    system: System, source: args.Word | None, target: str, fstype: str, options: MountOptions, now_ns: int
) -> None:
    """The system calls of one mount(8)."""
    operations = options.operations
    if "remount" in operations:
        mount = _find(system, target) if source is None else system.mounts.mounted_at(target)
        if operations & {"bind", "rbind"}:
            remounting.remount_bind(system, mount, options, now_ns, forget=source is not None)
        else:
            remounting.remount(system, mount, options, now_ns, forget=source is not None)
    elif operations:
        if len(operations) > 1 and operations != {"bind", "rbind"}:
            raise Refused(errno.EINVAL, f"expected one of {' and '.join(sorted(operations))}", 1)
        if source is None:
            raise Refused(errno.EINVAL, "expected OLD and NEW", 1)
        _from_path(system, source, target, options, now_ns)
    elif source is None:
        raise Refused(errno.EINVAL, "expected SOURCE and DIR: there is no fstab")
    else:
        mounting.mount(system, source[0], target, fstype, options, now_ns)
    _make(system, target, options)


def _from_path(system: System, source: args.Word, target: str, options: MountOptions, now_ns: int) -> None:
    """bind, rbind and move: the source is a path."""
    old, word = source
    try:
        segments(old)
        if "move" in options.operations:
            system.mounts.mounted_at(old)
    except Refused as refused:
        refused.word = word
        raise
    if "move" in options.operations:
        mounting.move(system, old, target, now_ns)
        return
    recursive = "rbind" in options.operations
    new = mounting.bind(system, old, target, now_ns, recursive=recursive)
    remounting.bind_attributes(system, new, options, now_ns)


def _umount(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    given, rest = args.parse(arguments, 2, _UMOUNT_FLAGS, {})
    if not rest:
        raise Refused(errno.EINVAL, "expected DIR or SOURCE", 2 + len(arguments))
    how = {meaning for meaning, _, _ in given}
    first: Refused | None = None
    for name, word in rest:  # as umount(8): each for itself, whatever became of the others
        try:
            _umount_one(system, name, how, now_ns)
        except Refused as refused:
            refused.word = refused.word or word
            first = first or refused
    if first is not None:
        raise first


def _umount_one(system: System, name: str, how: set[str], now_ns: int) -> None:
    mount = _find(system, name)
    if "all" in how:
        mounting.umount_all(system, mount.sb, now_ns, lazy="lazy" in how, recursive="recursive" in how)
    elif "recursive" in how:
        mounting.umount_recursive(system, mount, now_ns)
    else:
        mounting.umount(system, mount, now_ns, lazy="lazy" in how)


def _find(system: System, name: str) -> Mount:
    """What a single word means to umount(8), and to mount(8) for a remount: the mount at a mountpoint, else
    the newest from a source. EINVAL if another one covers that."""
    tree = system.mounts
    if name[:1] == "/":
        mount, place = tree.lookup(name)
        if not place:
            return mount
    found = tree.find_source(name)
    if found is None:
        raise Refused(errno.EINVAL, f"expected a mount point or a mounted source, not {name!r}")
    if tree.lookup(found.path) != (found, ()):
        raise Refused(errno.EINVAL, f"{name} is mounted at {found.path}, which something else covers")
    return found


def _expire(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    if len(arguments) > 1:
        raise Refused(errno.EINVAL, f"expected one DIR or none, not also {arguments[1]!r}", 3)
    if not arguments:
        mounting.expire_all(system, now_ns)
        return
    try:
        mounting.expire(system, system.mounts.mounted_at(arguments[0]), now_ns)
    except Refused as refused:
        refused.word = refused.word or 2
        raise


COMMANDS = (
    Command(
        ("mount",),
        "mount [-t TYPE] [-o OPTIONS] [-r|-w] SOURCE DIR | --bind|--rbind|--move OLD NEW | "
        "-o remount[,bind],OPTIONS DIR|SOURCE | --make-[r]shared|private|slave|unbindable DIR",
        "Mount a filesystem, show or move a part of the tree elsewhere, change what is mounted, or who "
        "gets what is mounted on it. An attribute with =recursive, as in ro=recursive, is for the mounts "
        "below too. As with mount(8) a remount keeps what is not named, unless SOURCE is named too, and a bind mount "
        "with options is followed by a remount,bind of it.",
        "new_mount for each mount that appears, the copies on peers and slaves too; with --move move_from "
        "and move_to; with remount,bind readonly if that changes, and setattr; with remount the "
        "superblock's readonly if that changes, and setattr; none with --make-.",
        _mount,
        "EBUSY: it is mounted there already, or the superblock otherwise, or frozen; EINVAL: no absolute path, no "
        "mount point, unbindable, shared, or a line that makes no sense; ENAMETOOLONG: the path; ENOTBLK: a type that "
        "needs a block device; ENOENT: the device was removed; ELOOP: a move below itself; "
        "ENOSPC: too many mounts or devices",
        _MOUNT_FLAGS,
        _MOUNT_VALUED,
    ),
    Command(
        ("umount",),
        "umount [-l|-R] [-A] DIR|SOURCE...",
        "Unmount what is topmost at a mount point, and its copies on peers and slaves; with -l or -R, all "
        "below it too; with -A, all mounts of that filesystem. Of several each is unmounted for itself, even if "
        "another is refused.",
        "unmount for each mount; removal for each watch on one, and on a superblock that has no mount left.",
        _umount,
        "EBUSY: something is mounted below it, or it is the root mount; EINVAL: nothing is mounted there, or a line "
        "that makes no sense",
        _UMOUNT_FLAGS,
    ),
    Command(
        ("automount",),
        "automount [-t TYPE] [-o OPTIONS] SOURCE DIR",
        "The kernel mounts a filesystem, as when somebody walks into an automount point; it may expire, and "
        "does not keep busy what it is mounted on.",
        "new_mount with IS_SUBMOUNT.",
        _automount,
        "as mount, for a new mount",
        _MOUNT_FLAGS,
        _MOUNT_VALUED,
    ),
    Command(
        ("expire",),
        "expire [DIR]",
        "An automount expires, by default each that has nothing mounted below it.",
        "expiry on the automount, then unmount.",
        _expire,
        "EBUSY: something is mounted below it; EINVAL: it is no automount",
    ),
)
