"""What changes of mounts and superblocks where they are: attributes, options, read-only or not; and the events of it.

The rules of wqfs/sim/mounting.py hold here too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from wqfs.abi.records import MountFlag, MountSubtype, SbFlag, SbSubtype
from wqfs.sim.errors import Refused
from wqfs.sim.mount_options import MOUNT_ATTR_RDONLY, MountOptions
from wqfs.sim.mounts import Mount
from wqfs.sim.superblocks import Superblock

if TYPE_CHECKING:
    from wqfs.sim.system import System

_NOW_RO = int(MountFlag.IS_NOW_RO)
_SB_NOW_RO = int(SbFlag.IS_NOW_RO)


def remount_bind(system: System, mount: Mount, options: MountOptions, now_ns: int, *, forget: bool = False) -> None:
    """Change the attributes of one mount, and of all below it those with `=recursive`:
    `-o remount,bind`. forget: those that are not named go, see MountOptions."""
    attributes = options.attributes_after(mount.attr, read_only=mount.sb.read_only, forget=forget)
    set_attributes(system, {mount: attributes, **_below(mount, options)}, now_ns)


def _below(mount: Mount, options: MountOptions) -> dict[Mount, int]:
    """The attributes that the mounts below get."""
    if not options.is_deep:
        return {}
    return {each: options.attributes_below(each.attr) for each in mount.subtree() if each is not mount}


def set_attributes(system: System, attributes: dict[Mount, int], now_ns: int) -> None:
    """Give mounts attributes, all at once as mount_setattr(2) does, and tell."""
    _tell_attributes(system, attributes, _assign(system, attributes), now_ns)


def _assign(system: System, attributes: dict[Mount, int]) -> set[Mount]:
    """The state; returns whose RDONLY changed."""
    turned = {mount for mount, attr in attributes.items() if (mount.attr ^ attr) & MOUNT_ATTR_RDONLY}
    for mount, attr in attributes.items():
        mount.attr = attr
    system.mounts.changed += 1
    return turned


def _tell_attributes(system: System, mounts: Iterable[Mount], turned: set[Mount], now_ns: int) -> None:
    """Of each mount readonly if that changed, then setattr in any case."""
    for mount in mounts:
        if not mount.attached:
            continue  # nobody sees it
        flags = _NOW_RO if mount.attr & MOUNT_ATTR_RDONLY else 0
        if mount in turned:
            system.notify_mount(MountSubtype.READONLY, mount, (), None, now_ns, flags)
        system.notify_mount(MountSubtype.SETATTR, mount, (), None, now_ns, flags)


def bind_attributes(system: System, mount: Mount, options: MountOptions, now_ns: int) -> None:
    """The second call that mount(8) makes for `--bind -o ...`: the attributes become those named, none
    but the atime ones being kept. With `=recursive` it is mount_setattr(2), which keeps what is not
    named."""
    if options.is_deep:
        attributes = options.attributes_after(mount.attr)
        set_attributes(system, {mount: attributes, **_below(mount, options)}, now_ns)
    elif options.has_bindable:
        set_attributes(system, {mount: options.attributes_bound(mount.attr)}, now_ns)


def remount(system: System, mount: Mount, options: MountOptions, now_ns: int, *, forget: bool = False) -> None:
    """Reconfigure the superblock, and the attributes of this mount of it: `-o remount`. Posts the
    superblock's readonly if that changed; of the mount setattr alone. What is `=recursive` changes the
    mounts below as `remount_bind` does, and not the superblock. forget: attributes that are not named go,
    see MountOptions. Raises EBUSY while it is frozen (reconfigure_super)."""
    attributes = options.attributes_after(mount.attr, read_only=mount.sb.read_only, forget=forget)
    # Without =recursive one flag says it of both: a mount that was read-only turns its superblock so, if nothing is
    # said.
    read_only = options.read_only if options.is_deep else bool(attributes & MOUNT_ATTR_RDONLY)
    remount_to(system, mount, attributes, read_only, options, now_ns)


def remount_to(
    system: System, mount: Mount, attributes: int, read_only: bool | None, options: MountOptions, now_ns: int
) -> None:
    """`remount` once it is known what the mount and its superblock become; of the options the filesystem's count, and
    what is `=recursive`."""
    below = _below(mount, options)

    def mounts_too() -> set[Mount]:
        mount.attr = attributes
        return _assign(system, below)

    turned_below = reconfigure(system, mount.sb, read_only, options, now_ns, mounts_too)
    _tell_attributes(system, (mount, *below), turned_below, now_ns)


def reconfigure(
    system: System,
    sb: Superblock,
    read_only: bool | None,
    options: MountOptions,
    now_ns: int,
    also: Callable[[], set[Mount]] = set,
) -> set[Mount]:
    """Give a superblock the filesystem's options that it is to have, then do what changes with it, then tell.
    read_only: None for as it is. Returns what `also` does. Raises EBUSY while it is frozen."""
    if sb.frozen:
        raise Refused(errno.EBUSY, f"{sb.source} is frozen")
    read_only = sb.read_only if read_only is None else read_only
    turned = read_only != sb.read_only
    fs_options = options.fs_options(sb.options)
    system.mounts.check_room(0, sum(map(len, fs_options)))
    reconfigured = fs_options != sb.options
    sb.read_only, sb.options = read_only, fs_options
    for mount in sb.mounts.values():
        system.mounts.count_text(mount)
    done = also()
    if turned:
        system.notify_sb(SbSubtype.READONLY, sb, now_ns, _SB_NOW_RO if read_only else 0)
    if reconfigured:
        system.changed_silently(sb)
    return done


def sb_set_readonly(system: System, sb: Superblock, read_only: bool, now_ns: int) -> None:
    """The superblock turns read-only, or back, by itself. Nothing happens if it is so already."""
    if sb.read_only != read_only:
        sb.read_only = read_only
        system.notify_sb(SbSubtype.READONLY, sb, now_ns, _SB_NOW_RO if read_only else 0)
