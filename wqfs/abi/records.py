"""Notification records: what a notification pipe is read as.

The kernel's struct watch_notification (linux/watch_queue.h) and what follows it, in native byte
order. Records are not padded: the next starts right after `length` bytes.

    0       type:24, subtype:8
    4       info: 0x0000007f length of the whole record, 8..127
                  0x0000ff00 the watch's ID
                  0xffff0000 flags of the type
    8       the body, by type (ABI: META, KEY_NOTIFY from the kernel; MOUNT_NOTIFY, SB_NOTIFY from
            the 2020 series; BLOCK_NOTIFY from the block series, renumbered to 4)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from wqfs.abi.errors import Malformed

HEADER = struct.Struct("=II")
assert HEADER.size == 8
KEY_BODY = struct.Struct("=II")  # key_id, aux
MOUNT_BODY = struct.Struct("=QQ")  # triggered_on, auxiliary_mount
SB_BODY = struct.Struct("=Q")  # sb_id
SB_ERROR_BODY = struct.Struct("=QII")  # sb_id, error_number, error_cookie; then text
BLOCK_BODY = struct.Struct("=QQ")  # dev, sector
REMOVAL_BODY = struct.Struct("=Q")  # id

WATCH_INFO_LENGTH = 0x0000007F
WATCH_INFO_ID = 0x0000FF00
WATCH_INFO_ID__SHIFT = 8
WATCH_INFO_TYPE_INFO = 0xFFFF0000
WATCH_INFO_TYPE_INFO__SHIFT = 16

RECORD_MIN = 8
RECORD_MAX = 127
WATCH_ID_MAX = 255


class WatchType(IntEnum):
    """Sources of records. Types outside are unknown: a filter for one is ignored."""

    META = 0
    KEY_NOTIFY = 1
    MOUNT_NOTIFY = 2
    SB_NOTIFY = 3
    BLOCK_NOTIFY = 4


class MetaSubtype(IntEnum):
    REMOVAL = 0
    LOSS = 1


class KeySubtype(IntEnum):
    INSTANTIATED = 0
    UPDATED = 1
    LINKED = 2
    UNLINKED = 3
    CLEARED = 4
    REVOKED = 5
    INVALIDATED = 6
    SETATTR = 7


class MountSubtype(IntEnum):
    NEW_MOUNT = 0
    UNMOUNT = 1
    EXPIRY = 2
    READONLY = 3
    SETATTR = 4
    MOVE_FROM = 5
    MOVE_TO = 6


class SbSubtype(IntEnum):
    READONLY = 0
    ERROR = 1
    EDQUOT = 2
    NETWORK = 3


class BlockSubtype(IntEnum):
    TIMEOUT = 1
    NO_SPACE = 2
    RECOVERABLE_TRANSPORT = 3
    CRITICAL_TARGET = 4
    CRITICAL_NEXUS = 5
    CRITICAL_MEDIUM = 6
    PROTECTION = 7
    KERNEL_RESOURCE = 8
    DEVICE_RESOURCE = 9
    IO = 10


class MountFlag(IntFlag):
    """Flags of a mount record, as they stand in `info`."""

    IN_SUBTREE = 1 << 16
    IS_NOW_RO = 1 << 17
    IS_SUBMOUNT = 1 << 18


class SbFlag(IntFlag):
    IS_NOW_RO = 1 << 16


Subtype = MetaSubtype | KeySubtype | MountSubtype | SbSubtype | BlockSubtype

SUBTYPES: dict[int, type[Subtype]] = {
    WatchType.META: MetaSubtype,
    WatchType.KEY_NOTIFY: KeySubtype,
    WatchType.MOUNT_NOTIFY: MountSubtype,
    WatchType.SB_NOTIFY: SbSubtype,
    WatchType.BLOCK_NOTIFY: BlockSubtype,
}
FLAGS: dict[int, type[MountFlag] | type[SbFlag]] = {
    WatchType.MOUNT_NOTIFY: MountFlag,
    WatchType.SB_NOTIFY: SbFlag,
}
# The words for types in `objects`, `filter`, `events`.
TYPE_WORDS: dict[int, str] = {
    WatchType.META: "meta",
    WatchType.KEY_NOTIFY: "key",
    WatchType.MOUNT_NOTIFY: "mount",
    WatchType.SB_NOTIFY: "sb",
    WatchType.BLOCK_NOTIFY: "block",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record, decoded as far as every type goes. `body` is what follows the header."""

    type: int
    subtype: int
    info: int
    body: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole record, 8..127."""
        return self.info & WATCH_INFO_LENGTH

    @property
    def watch_id(self) -> int:
        """The ID that the watch was given, 0..255."""
        return (self.info & WATCH_INFO_ID) >> WATCH_INFO_ID__SHIFT


def encode(type_: int, subtype: int, body: bytes = b"", *, flags: int = 0, watch_id: int = 0) -> bytes:
    """One record's bytes.

    type_ 0..0xffffff; subtype 0..255; body up to 119 bytes; flags: bits of `info` from 16 up;
    watch_id 0..255. Raises Malformed if the record would be longer than 127 bytes.
    """
    length = RECORD_MIN + len(body)
    if length > RECORD_MAX:
        raise Malformed(RECORD_MIN, f"expected a body of at most {RECORD_MAX - RECORD_MIN} bytes, not {len(body)}")
    return HEADER.pack(type_ | subtype << 24, flags | watch_id << WATCH_INFO_ID__SHIFT | length) + body


LOSS = encode(WatchType.META, MetaSubtype.LOSS)
assert len(LOSS) == 8


def removal(object_id: int, watch_id: int) -> bytes:
    """META removal: the watch `watch_id` on the object `object_id` is gone."""
    return encode(WatchType.META, MetaSubtype.REMOVAL, REMOVAL_BODY.pack(object_id), watch_id=watch_id)


def split(data_untrusted: bytes | memoryview) -> list[bytes]:
    """Cut a run of raw records into records, each as it stands.

    Raises Malformed, with the offset of the record at fault, when a length is below 8 or reaches
    beyond the end. Types, IDs and flags may be any.
    """
    data = bytes(data_untrusted)
    end = len(data)
    if RECORD_MIN <= end <= RECORD_MAX and data[_LOW_BYTE_OF_INFO] & WATCH_INFO_LENGTH == end:
        return [data]
    records: list[bytes] = []
    append = records.append
    at = 0
    while at < end:
        if at + RECORD_MIN > end:
            raise Malformed(at, f"expected a header of 8 bytes, not {end - at}")
        # The low byte of `info` holds the length, whatever else `info` says.
        following = at + (data[at + _LOW_BYTE_OF_INFO] & WATCH_INFO_LENGTH)
        if not at + RECORD_MIN <= following <= end:
            length = following - at
            if length < RECORD_MIN:
                raise Malformed(at, f"expected a length of 8..127 bytes, not {length}")
            raise Malformed(at, f"expected {length} bytes of record, not {end - at}")
        append(data[at:following])
        at = following
    return records


_LOW_BYTE_OF_INFO = 4 if struct.pack("=I", 1)[0] == 1 else 7


def decode(data_untrusted: bytes) -> Iterator[Record]:
    """The records in what was read from a notification pipe. Raises Malformed as `split` does."""
    for raw in split(data_untrusted):
        word, info = HEADER.unpack_from(raw)
        yield Record(word & 0xFFFFFF, word >> 24, info, raw[RECORD_MIN:])
