"""What a notification pipe says, as typed frozen objects: the records of linux/watch_queue.h decoded.

The fields have the names that the kernel's structures give them. Nothing is dropped: a record of a type
or with a body that nobody knows is an UnknownEvent, and that records were lost is an event as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TypeVar

from wqfs.abi import records as r
from wqfs.abi.records import (
    BlockSubtype,
    KeySubtype,
    MetaSubtype,
    MountFlag,
    MountSubtype,
    SbFlag,
    SbSubtype,
    WatchType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record. watch_id: the ID that its watch was given, 0..255; raw: its bytes, header included."""

    watch_id: int
    raw: bytes = field(repr=False)

    @property
    def info(self) -> int:
        """The header's `info` as it stands: length, ID, flags."""
        return int(r.HEADER.unpack_from(self.raw)[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent(Event):
    """KEY_NOTIFY. key_id: serial of the key or keyring that changed; aux: of linked and unlinked the key,
    of instantiated the errno of a key that was negated, of others 0."""

    subtype: KeySubtype | int
    key_id: int
    aux: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEvent(Event):
    """MOUNT_NOTIFY, of the series of 2020. Ids of mounts are those in the first column of mountinfo.

    triggered_on: the mount where it happened, of new_mount, unmount and moves the parent;
    auxiliary_mount: the mount that came, went or moved, else 0; flags: IN_SUBTREE, IS_NOW_RO, IS_SUBMOUNT.
    """

    subtype: MountSubtype | int
    triggered_on: int
    auxiliary_mount: int
    flags: MountFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperblockEvent(Event):
    """SB_NOTIFY. sb_id: the superblock; flags: IS_NOW_RO with readonly. Errors are SuperblockError."""

    subtype: SbSubtype | int
    sb_id: int
    flags: SbFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperblockError(SuperblockEvent):
    """A filesystem's error. error_number: an errno; error_cookie: links the events of one fault, or 0;
    text: what the filesystem said, which the record's 127 bytes may have cut."""

    error_number: int
    error_cookie: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEvent(Event):
    """BLOCK_NOTIFY. dev: the device's number, as in st_rdev of stat(2); sector: of 512 bytes."""

    subtype: BlockSubtype | int
    dev: int
    sector: int

    @property
    def major(self) -> int:
        return os.major(self.dev)

    @property
    def minor(self) -> int:
        return os.minor(self.dev)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Event):
    """META loss: at this place in the stream records are missing, nobody knows how many. What was learned
    from events may be wrong now: look at the state again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal(Event):
    """META removal: what was watched under watch_id is gone, or no longer watched. object_id: the key,
    mount or superblock, None where the kernel did not say. No event of it will come."""

    object_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """A record of a type that this version does not know, or too short for its type. body: what follows the
    header."""

    type: int
    subtype: int
    body: bytes = field(repr=False)


def parse_events(data: bytes) -> list[Event]:
    """The events in what one or more whole reads of a notification pipe gave.

    Pure: no file, no wait. Raises Malformed (a ValueError), with the offset, when a length is below 8 or
    reaches beyond the end of `data`: then it was not read from a notification pipe.
    """
    return [_event(raw) for raw in r.split(data)]


def _event(raw: bytes) -> Event:
    word, info = r.HEADER.unpack_from(raw)
    type_, subtype = word & 0xFFFFFF, word >> 24
    body = raw[r.RECORD_MIN :]
    id_ = (info & r.WATCH_INFO_ID) >> r.WATCH_INFO_ID__SHIFT
    if type_ == WatchType.META:
        if subtype == MetaSubtype.LOSS:
            return Loss(watch_id=id_, raw=raw)
        if subtype == MetaSubtype.REMOVAL:
            whole = len(body) >= r.REMOVAL_BODY.size
            return Removal(watch_id=id_, raw=raw, object_id=r.REMOVAL_BODY.unpack_from(body)[0] if whole else None)
    elif type_ == WatchType.KEY_NOTIFY and len(body) >= r.KEY_BODY.size:
        key, aux = r.KEY_BODY.unpack_from(body)
        return KeyEvent(watch_id=id_, raw=raw, subtype=_named(KeySubtype, subtype), key_id=key, aux=aux)
    elif type_ == WatchType.MOUNT_NOTIFY and len(body) >= r.MOUNT_BODY.size:
        place, mount = r.MOUNT_BODY.unpack_from(body)
        flags = MountFlag(info & r.WATCH_INFO_TYPE_INFO)
        named = _named(MountSubtype, subtype)
        return MountEvent(watch_id=id_, raw=raw, subtype=named, triggered_on=place, auxiliary_mount=mount, flags=flags)
    elif type_ == WatchType.SB_NOTIFY and len(body) >= r.SB_BODY.size:
        return _superblock_event(raw, subtype, body, id_, SbFlag(info & r.WATCH_INFO_TYPE_INFO))
    elif type_ == WatchType.BLOCK_NOTIFY and len(body) >= r.BLOCK_BODY.size:
        dev, sector = r.BLOCK_BODY.unpack_from(body)
        return BlockEvent(watch_id=id_, raw=raw, subtype=_named(BlockSubtype, subtype), dev=dev, sector=sector)
    return UnknownEvent(watch_id=id_, raw=raw, type=type_, subtype=subtype, body=body)


def _superblock_event(raw: bytes, subtype: int, body: bytes, id_: int, flags: SbFlag) -> Event:
    named = _named(SbSubtype, subtype)
    if named != SbSubtype.ERROR:
        return SuperblockEvent(watch_id=id_, raw=raw, subtype=named, sb_id=r.SB_BODY.unpack_from(body)[0], flags=flags)
    if len(body) < r.SB_ERROR_BODY.size:
        return UnknownEvent(watch_id=id_, raw=raw, type=WatchType.SB_NOTIFY, subtype=subtype, body=body)
    sb, number, cookie = r.SB_ERROR_BODY.unpack_from(body)
    text = body[r.SB_ERROR_BODY.size :].rstrip(b"\0").decode("utf-8", "replace")
    return SuperblockError(
        watch_id=id_,
        raw=raw,
        subtype=named,
        sb_id=sb,
        flags=flags,
        error_number=number,
        error_cookie=cookie,
        text=text,
    )


_S = TypeVar("_S", KeySubtype, MountSubtype, SbSubtype, BlockSubtype)


def _named(subtypes: type[_S], number: int) -> _S | int:
    try:
        return subtypes(number)
    except ValueError:
        return number
