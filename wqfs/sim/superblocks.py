"""Superblocks: what is mounted, once, under however many mounts.

A source that begins with /dev/ is a block device (unless the type never has one): mounting it again
with the same type shares its superblock, with another type is EBUSY, as is a wish for the other of
read-only and read-write (get_tree_bdev, fs/super.c). Anything else gets a superblock and an
anonymous device 0:N of its own each time.
Frozen and full are state that no event tells of: the record format has none for them.
A superblock lives while a mount of it is there, or a descriptor holds it. Ids and anonymous devices are
never used again.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from wqfs.sim.devices import BlockDevices, is_within
from wqfs.sim.errors import Refused
from wqfs.watch import Watchable

if TYPE_CHECKING:
    from wqfs.sim.mounts import Mount

DEVICE_TYPES = frozenset(
    {
        "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "ntfs", "ntfs3", "squashfs", "udf",
        "vfat", "xfs",
    }
)  # fmt: skip
"""Types that cannot be mounted from anything but a block device."""
NODEV_TYPES = frozenset(
    {
        "9p", "autofs", "bpf", "ceph", "cgroup", "cgroup2", "cifs", "configfs", "debugfs", "devpts",
        "devtmpfs", "fuse", "hugetlbfs", "mqueue", "nfs", "nfs4", "overlay", "proc", "pstore", "ramfs",
        "rootfs", "securityfs", "smb3", "sysfs", "tmpfs", "tracefs", "virtiofs",
    }
)  # fmt: skip
"""Types that have no block device, whatever their source is called."""


class Superblock(Watchable):
    """id: the id in records and in sim/superblocks, from 1; device: (major, minor); read_only: of
    the superblock, not of a mount; options: of the filesystem, as mounted; errors: reported so far;
    last_error: the number of the event that told of the last one, 0 for none;
    frozen: nothing may be written until it is thawed; fill_percent: 0..100; unseen: its mounts in
    detached trees, and contexts of fsopen(2) that hold it; changed: the number of
    the event that changed it last, 0 before the first; after a change without one, the next number."""

    __slots__ = ("changed", "device", "errors", "fill_percent", "frozen", "fstype", "id", "last_error", "mounts",
                 "network_down", "options", "read_only", "source", "unseen")  # fmt: skip

    def __init__(
        self,
        id_: int,
        device: tuple[int, int],
        source: str,
        fstype: str,
        read_only: bool,
        options: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.id = id_
        self.device = device
        self.source = source
        self.fstype = fstype
        self.read_only = read_only
        self.options = options
        self.errors = 0
        self.last_error = 0
        self.network_down = False
        self.frozen = False
        self.fill_percent = 0
        self.unseen = 0
        self.changed = 0
        self.mounts: dict[int, Mount] = {}
        """Its mounts by id, oldest first."""

    @property
    def watch_object_id(self) -> int:
        return self.id

    @property
    def is_used(self) -> bool:
        """Whether anything is mounted from it, or will be."""
        return bool(self.mounts or self.unseen)

    @property
    def device_text(self) -> str:
        """`major:minor`."""
        return f"{self.device[0]}:{self.device[1]}"

    @property
    def on_block_device(self) -> bool:
        return self.device[0] != 0

    @property
    def state(self) -> str:
        """`ok`, or with commas between, in this order: `error` once one was reported, `full` at 100 percent,
        `frozen` until it is thawed, `down` while its network is."""
        if not (self.errors or self.network_down or self.frozen or self.fill_percent == 100):
            return "ok"
        states = (
            ("error", self.errors), ("full", self.fill_percent == 100), ("frozen", self.frozen),
            ("down", self.network_down),
        )  # fmt: skip
        return ",".join(word for word, holds in states if holds)

    @property
    def option_text(self) -> str:
        """`ro` or `rw` and the filesystem's own options, as in mountinfo's last field."""
        return ",".join(("ro" if self.read_only else "rw", *self.options))


class Superblocks:
    """All superblocks. devices: the block devices that they came from, and others."""

    def __init__(self, *, max_devices: int = 16_384) -> None:
        self.devices = BlockDevices(max_devices)
        self.by_id: dict[int, Superblock] = {}
        self._by_device: dict[str, Superblock] = {}  # by source; block devices only
        self._anonymous = 20  # a running system has used the first ones
        self._last_id = 0

    def get(self, source: str, fstype: str, read_only: bool, options: tuple[str, ...] = ()) -> Superblock:
        """The superblock for a new mount: the one of that block device, or a new one.

        fstype: "" takes what is on the device. Raises EBUSY (see above), ENOTBLK for a type that
        needs a device, ENOENT for a device that was removed, EINVAL when there is no type to take.
        """
        block = source.startswith("/dev/") and fstype.partition(".")[0] not in NODEV_TYPES
        if block:
            there = self._by_device.get(source)
            if there is not None:
                self.devices.check_there(source)
                return _shared(there, fstype, read_only)
            self.devices.check_there(source)
            device = self.devices.get(source).number
            fstype = fstype or "ext4"
        else:
            if fstype in DEVICE_TYPES:
                raise Refused(errno.ENOTBLK, f"expected a source in /dev for type {fstype}, not {source!r}")
            fstype = fstype or _guess(source)
            self._anonymous += 1
            device = (0, self._anonymous)
        self._last_id += 1
        sb = Superblock(self._last_id, device, source, fstype, read_only, options)
        self.by_id[sb.id] = sb
        if block:
            self._by_device[source] = sb
        return sb

    def forget(self, sb: Superblock) -> None:
        """The last mount of `sb` is gone, and so is it."""
        del self.by_id[sb.id]
        if self._by_device.get(sb.source) is sb:
            del self._by_device[sb.source]

    def on_device(self, name: str) -> list[Superblock]:
        """The superblocks from a block device or one of its partitions, oldest first."""
        return [sb for source, sb in self._by_device.items() if is_within(source, name)]


def _shared(there: Superblock, fstype: str, read_only: bool) -> Superblock:
    if fstype and fstype != there.fstype:
        raise Refused(errno.EBUSY, f"{there.source} is mounted as {there.fstype} already, not {fstype}")
    if read_only != there.read_only:
        now = "read-only" if there.read_only else "read-write"
        raise Refused(errno.EBUSY, f"{there.source} is mounted {now} already")
    return there


def _guess(source: str) -> str:
    """The type that mount(8) takes from the source's form."""
    if source.startswith("//"):
        return "cifs"
    if ":" in source:
        return "nfs"
    raise Refused(errno.EINVAL, f"expected a type (-t TYPE) for the source {source!r}")
