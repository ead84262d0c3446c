"""device: what happens to block devices, and to the filesystems on them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wqfs.abi import records as r
from wqfs.sim.command import Actor, Command
from wqfs.sim.devices import ERRNO_OF, BlockDevice
from wqfs.sim.errors import Refused
from wqfs.sim.sb_commands import no_more, number, report_error

if TYPE_CHECKING:
    from wqfs.sim.system import System

_ERRORS = "|".join(subtype.name.lower() for subtype in r.BlockSubtype)


def _device(system: System, arguments: Sequence[str]) -> BlockDevice:
    """The device that the first argument names."""
    if not arguments:
        raise Refused(errno.EINVAL, "expected DEVICE", 3)
    try:
        return system.superblocks.devices.get(arguments[0])
    except Refused as refused:
        refused.word = 3
        raise


def _there(system: System, arguments: Sequence[str]) -> BlockDevice:
    """The device that the first argument names, which must not have been removed: ENXIO."""
    try:
        if arguments:
            system.superblocks.devices.check_there(arguments[0])
    except Refused as refused:
        raise Refused(errno.ENXIO, refused.reason, 3) from None
    return _device(system, arguments)


def _subtype(name: str) -> r.BlockSubtype:
    subtype = r.BlockSubtype.__members__.get(name.upper())
    if subtype is None:
        raise Refused(errno.EINVAL, f"expected one of {_ERRORS.replace('|', ', ')}, not {name!r}", 4)
    return subtype


def _error(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    if len(arguments) < 2:
        raise Refused(errno.EINVAL, "expected DEVICE and an error", 3 + len(arguments))
    if not arguments[0].startswith("/dev/"):
        raise Refused(errno.ENOTBLK, f"expected a block device /dev/..., not {arguments[0]!r}", 3)
    subtype = _subtype(arguments[1])
    sector = 0
    if len(arguments) > 2:
        if not arguments[2].startswith("sector="):
            raise Refused(errno.EINVAL, f"expected sector=N, not {arguments[2]!r}", 5)
        sector = number(arguments[2][7:], 0xFFFFFFFFFFFFFFFF, "a sector", 5)
    no_more(arguments, 3)
    device = _there(system, arguments)
    device.errors += 1
    system.notify_device(device, subtype, sector, now_ns)
    text = f"{device.name} sector {sector}: {subtype.name.lower()}"
    for sb in system.superblocks.on_device(device.name):
        report_error(system, sb, ERRNO_OF[subtype], now_ns, text=text)


def _remove(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    no_more(arguments, 1)
    device = _there(system, arguments)
    for each in system.superblocks.devices.within(device.name):
        each.removed = True
        system.changed_silently(each)
    for sb in system.superblocks.on_device(device.name):
        report_error(system, sb, errno.EIO, now_ns, text=f"{device.name} was removed")


def _add(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    no_more(arguments, 1)
    disk = system.superblocks.devices.removed_disk(arguments[0]) if arguments else None
    if disk is not None:
        raise Refused(errno.ENXIO, f"{disk.name} was removed, and its partitions with it", 3)
    known = system.superblocks.devices.within(arguments[0]) if arguments else []
    for each in known:
        if not each.removed:
            raise Refused(errno.EEXIST, f"{each.name} is there", 3)
    mounted = system.superblocks.on_device(arguments[0]) if arguments else []
    if mounted:
        path = next(iter(mounted[0].mounts.values())).path
        raise Refused(errno.EBUSY, f"{path} is still mounted from what {arguments[0]} was: unmount it first", 3)
    for each in [*known, _device(system, arguments)]:
        each.removed = False
        each.errors = 0
        system.changed_silently(each)


COMMANDS = (
    Command(
        ("device", "error"),
        f"device error DEVICE {_ERRORS} [sector=N]",
        "A block device fails at a sector, by default 0; the filesystems on it and on its partitions report that.",
        "the block layer's event of that name; then error on each of those superblocks, with the errno that Linux "
        "gives a filesystem for it, and readonly where errors=remount-ro turns it read-only",
        _error,
        "ENOTBLK: no device in /dev; ENXIO: it was removed; EINVAL: no such error, or no sector; "
        "ENOSPC: too many devices",
    ),
    Command(
        ("device", "remove"),
        "device remove DEVICE",
        "A block device is pulled out. What is mounted from it stays mounted, and can do nothing but be unmounted.",
        "error (EIO) on each superblock on it and on its partitions, and readonly where errors=remount-ro turns it "
        "read-only; none of the block layer, whose events have none for it",
        _remove,
        "ENOTBLK: no device in /dev; ENXIO: it was removed already; ENOSPC: too many devices",
    ),
    Command(
        ("device", "add"),
        "device add DEVICE",
        "A block device appears with its partitions, a new one or one that was removed.",
        "none",
        _add,
        "ENOTBLK: no device in /dev; EEXIST: it is there; ENXIO: a partition of a removed disk; EBUSY: a "
        "filesystem of the removed one is still mounted; ENOSPC: too many devices",
    ),
)
