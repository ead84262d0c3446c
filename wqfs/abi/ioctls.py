"""Ioctl numbers of a queue: the kernel's two, and wqfs's own (wqfs.h says the same in C).

    IOC_WATCH_QUEUE_SET_SIZE     _IO('W', 0x60)    depth by value, 1..512
    IOC_WATCH_QUEUE_SET_FILTER   _IO('W', 0x61)    pointer to a filter (filters.py), null removes it
    WQFS_IOC_SET_FILTER(n)       _IOC(WRITE, 'W', 0x61, 8 + 44 * n)   the same, carried by value
    WQFS_IOC_WATCH_KEY           _IOW('W', 0x70, struct wqfs_watch_key)
    WQFS_IOC_WATCH_MOUNT         _IOW('W', 0x71, struct wqfs_watch_path)
    WQFS_IOC_WATCH_SB            _IOW('W', 0x72, struct wqfs_watch_path)
    WQFS_IOC_WATCH_DEVICES       _IOW('W', 0x73, struct wqfs_watch_devices)
    WQFS_IOC_QUEUED              _IOR('W', 0x74, struct wqfs_queued)
    WQFS_IOC_SETTLE              _IO('W', 0x75)    waits until the queue is drained; flags by value
    WQFS_IOC_WATCH_KEY_AS        _IOW('W', 0x76, struct wqfs_watch_key_as)
    WQFS_IOC_DELIVER             _IOW('W', 0x77, struct wqfs_deliver)   a record, into this queue alone

A watch ID is 0..255 to add and -1 to remove, as with keyctl(KEYCTL_WATCH_KEY).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from wqfs.abi.errors import Malformed
from wqfs.abi.filters import FILTER_HEADER, FILTER_RULE, FILTERS_MAX
from wqfs.abi.records import split

_NONE, _WRITE, _READ = 0, 1, 2
_MAGIC = ord("W")


def _ioc(direction: int, number: int, size: int) -> int:
    """The kernel's _IOC() for the letter 'W' (asm-generic/ioctl.h)."""
    return direction << 30 | size << 16 | _MAGIC << 8 | number


PATH_MAX = 4096
WATCH_KEY = struct.Struct("=ii")  # key, id
WATCH_PATH = struct.Struct(f"=i{PATH_MAX}s")  # id, path ended by a zero byte
WATCH_DEVICES = struct.Struct("=i")  # id
WATCH_KEY_AS = struct.Struct("=ii64s64s")  # key, id, process, thread, each ended by a zero byte
QUEUED = struct.Struct("=IIII")  # records, bytes, loss, depth
DELIVER = struct.Struct("=I128s")  # size, record
assert (WATCH_KEY.size, WATCH_PATH.size, WATCH_DEVICES.size, QUEUED.size) == (8, 4100, 4, 16)
assert (WATCH_KEY_AS.size, DELIVER.size) == (136, 132)

IOC_WATCH_QUEUE_SET_SIZE = _ioc(_NONE, 0x60, 0)
IOC_WATCH_QUEUE_SET_FILTER = _ioc(_NONE, 0x61, 0)
assert (IOC_WATCH_QUEUE_SET_SIZE, IOC_WATCH_QUEUE_SET_FILTER) == (0x5760, 0x5761)
WQFS_IOC_WATCH_KEY = _ioc(_WRITE, 0x70, WATCH_KEY.size)
WQFS_IOC_WATCH_MOUNT = _ioc(_WRITE, 0x71, WATCH_PATH.size)
WQFS_IOC_WATCH_SB = _ioc(_WRITE, 0x72, WATCH_PATH.size)
WQFS_IOC_WATCH_DEVICES = _ioc(_WRITE, 0x73, WATCH_DEVICES.size)
WQFS_IOC_QUEUED = _ioc(_READ, 0x74, QUEUED.size)
WQFS_IOC_SETTLE = _ioc(_NONE, 0x75, 0)
WQFS_IOC_WATCH_KEY_AS = _ioc(_WRITE, 0x76, WATCH_KEY_AS.size)
WQFS_IOC_DELIVER = _ioc(_WRITE, 0x77, DELIVER.size)
WQFS_SETTLE_READERS = 0x1
"""Flag of WQFS_IOC_SETTLE: also return when nobody has the queue open for reading (any more)."""

SIZED_SET_FILTER: dict[int, int] = {
    _ioc(_WRITE, 0x61, FILTER_HEADER.size + FILTER_RULE.size * count): count for count in range(FILTERS_MAX + 1)
}
"""The sized form's numbers, with the count of rules that each carries; none removes the filter."""


OF_WQFS = frozenset(
    (
        *SIZED_SET_FILTER, WQFS_IOC_WATCH_KEY, WQFS_IOC_WATCH_MOUNT, WQFS_IOC_WATCH_SB, WQFS_IOC_WATCH_DEVICES,
        WQFS_IOC_QUEUED, WQFS_IOC_SETTLE, WQFS_IOC_WATCH_KEY_AS, WQFS_IOC_DELIVER,
    )
)  # fmt: skip
"""All numbers that a queue knows beside the kernel's two."""


def wqfs_ioc_set_filter(count: int) -> int:
    """The number of SET_FILTER that carries `count` rules, 0..16, by value."""
    return _ioc(_WRITE, 0x61, FILTER_HEADER.size + FILTER_RULE.size * count)


@dataclass(frozen=True, slots=True)
class Queued:
    """What WQFS_IOC_QUEUED tells.

    records, size: queued for the next reads, and their bytes, the loss record not counted; loss: 1
    while a loss record comes before them; depth: records that fit, 0 before the queue is sized.
    """

    records: int
    size: int
    loss: int
    depth: int

    def encode(self) -> bytes:
        """The bytes of struct wqfs_queued."""
        return QUEUED.pack(self.records, self.size, self.loss, self.depth)


def decode_watch_key_as(data_untrusted: bytes) -> tuple[int, int, str, str]:
    """(key, watch ID, process, thread) of a struct wqfs_watch_key_as. Raises Malformed without the zero bytes."""
    if len(data_untrusted) < WATCH_KEY_AS.size:
        raise Malformed(len(data_untrusted), f"expected {WATCH_KEY_AS.size} bytes, not {len(data_untrusted)}")
    key, watch_id, *names = WATCH_KEY_AS.unpack_from(data_untrusted)
    if not all(b"\0" in name for name in names):
        raise Malformed(8, "expected names of at most 63 bytes and a zero byte")
    process, thread = (name.partition(b"\0")[0].decode("utf-8", "surrogateescape") for name in names)
    return key, watch_id, process, thread


def decode_deliver(data_untrusted: bytes) -> bytes:
    """The record in a struct wqfs_deliver, b"" for none. Raises Malformed unless it is one whole record."""
    if len(data_untrusted) < DELIVER.size:
        raise Malformed(len(data_untrusted), f"expected {DELIVER.size} bytes, not {len(data_untrusted)}")
    size, record = DELIVER.unpack_from(data_untrusted)
    if size > len(record):
        raise Malformed(0, f"expected a record of at most {len(record)} bytes, not {size}")
    records = split(record[:size])
    if len(records) > 1:
        raise Malformed(4, f"expected one record, not {len(records)}")
    return records[0] if records else b""


def decode_watch_path(data_untrusted: bytes) -> tuple[int, bytes]:
    """(watch ID, path) of a struct wqfs_watch_path. Raises Malformed without the ending zero byte."""
    if len(data_untrusted) < WATCH_PATH.size:
        raise Malformed(len(data_untrusted), f"expected {WATCH_PATH.size} bytes, not {len(data_untrusted)}")
    watch_id, path = WATCH_PATH.unpack_from(data_untrusted)
    end = path.find(b"\0")
    if end < 0:
        raise Malformed(4, f"expected a path of at most {PATH_MAX - 1} bytes and a zero byte")
    return watch_id, path[:end]
