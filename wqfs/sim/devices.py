"""Block devices: their numbers, and what became of them.

A device is known from the moment that something names it, keeps its number as long as the
simulation runs, and holds its partitions: what happens to /dev/sdb happens to /dev/sdb1. Its errors
are those of the block layer, each with the errno that the filesystem above gets for it (blk_errors[]
in block/blk-core.c of Linux 6.12).
"""

from __future__ import annotations

import errno
import re
from typing import Final

from wqfs.abi.records import BlockSubtype
from wqfs.sim.errors import Refused
from wqfs.watch import Watchable

ERRNO_OF: Final = {
    BlockSubtype.TIMEOUT: errno.ETIMEDOUT,
    BlockSubtype.NO_SPACE: errno.ENOSPC,
    BlockSubtype.RECOVERABLE_TRANSPORT: errno.ENOLINK,
    BlockSubtype.CRITICAL_TARGET: errno.EREMOTEIO,
    BlockSubtype.CRITICAL_NEXUS: errno.EBADE,
    BlockSubtype.CRITICAL_MEDIUM: errno.ENODATA,
    BlockSubtype.PROTECTION: errno.EILSEQ,
    BlockSubtype.KERNEL_RESOURCE: errno.ENOMEM,
    BlockSubtype.DEVICE_RESOURCE: errno.EBUSY,
    BlockSubtype.IO: errno.EIO,
}
"""What a filesystem gets when its device fails so."""


class Devices(Watchable):
    """The block layer, all devices together. Its id in META removal is 0: it is one, and never goes."""

    @property
    def watch_object_id(self) -> int:
        return 0


class BlockDevice:
    """name: `/dev/sdb1`; number: (major, minor); errors: reported so far; removed: pulled out; changed:
    the number of the event that changed it last, as a superblock's."""

    __slots__ = ("changed", "errors", "name", "number", "removed")

    def __init__(self, name: str, number: tuple[int, int]) -> None:
        self.name = name
        self.number = number
        self.errors = 0
        self.removed = False
        self.changed = 0

    @property
    def state(self) -> str:
        """`ok`, `error` once one was reported, `removed`."""
        if self.removed:
            return "removed"
        return "error" if self.errors else "ok"


class BlockDevices:
    """The block devices, by name. limit: how many."""

    def __init__(self, limit: int = 16_384) -> None:
        self._limit = limit
        self.by_name: dict[str, BlockDevice] = {}
        self._others = 0

    def get(self, name: str) -> BlockDevice:
        """The device called `name`, which is there from now on. sd, vd and loop devices have Linux's
        numbers, all others 259 (blkext) and one of their own. Raises ENOTBLK for no name in /dev,
        ENOSPC for one too many."""
        device = self.by_name.get(name)
        if device is None:
            if not name.startswith("/dev/") or len(name) == len("/dev/"):
                raise Refused(errno.ENOTBLK, f"expected a block device /dev/..., not {name!r}")
            if len(self.by_name) >= self._limit:
                raise Refused(errno.ENOSPC, f"there are {self._limit} block devices, the limit max_devices")
            number = _known_number(name)
            if number is None:
                number = (259, self._others)
                self._others += 1
            device = self.by_name[name] = BlockDevice(name, number)
        return device

    def check_there(self, name: str) -> None:
        """Raises ENOENT for a device that was removed, or whose disk was."""
        for device in self.by_name.values():
            if device.removed and is_within(name, device.name):
                raise Refused(errno.ENOENT, f"{device.name} was removed")

    def within(self, disk: str) -> list[BlockDevice]:
        """The known devices that share the fate of the one called `disk`: itself and its partitions."""
        return [device for device in self.by_name.values() if is_within(device.name, disk)]

    def removed_disk(self, name: str) -> BlockDevice | None:
        """The removed disk that `name` is a partition of, None if there is none."""
        for device in self.by_name.values():
            if device.removed and device.name != name and is_within(name, device.name):
                return device
        return None


def is_within(name: str, disk: str) -> bool:
    """Whether `name` is `disk` or a partition of it: sdb1 of sdb, nvme0n1p1 of nvme0n1."""
    if not disk or not name.startswith(disk):
        return False
    rest = name[len(disk) :]
    if not rest:
        return True
    if disk[-1].isdecimal():
        rest = rest[1:] if rest[0] == "p" else ""
    return rest.isdecimal()


_KNOWN_DEVICE = re.compile(r"/dev/(?:(sd|vd)([a-p])(\d{0,2})|loop(\d{1,3}))", re.ASCII)
_MAJORS = {"sd": 8, "vd": 254}


def _known_number(name: str) -> tuple[int, int] | None:
    match = _KNOWN_DEVICE.fullmatch(name)
    if match is None:
        return None
    kind, letter, partition, loop = match.groups()
    if loop is not None:
        return 7, int(loop)
    number = int(partition or 0)
    return (_MAJORS[kind], 16 * (ord(letter) - ord("a")) + number) if number < 16 else None
