"""wqfs.client's events: every record becomes one, and none is dropped or misread."""

from __future__ import annotations

import dataclasses
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi import records as r
from wqfs.client import (
    BlockEvent,
    BlockSubtype,
    Event,
    KeyEvent,
    KeySubtype,
    Loss,
    Malformed,
    MountEvent,
    MountFlag,
    MountSubtype,
    Removal,
    SbFlag,
    SbSubtype,
    SuperblockError,
    SuperblockEvent,
    UnknownEvent,
    WatchType,
    parse_events,
)


def one(raw: bytes) -> Event:
    (event,) = parse_events(raw)
    return event


def test_mount_event_has_ids_and_flags() -> None:
    raw = struct.pack("=IIQQ", 2 | 4 << 24, 24 | 7 << 8 | 0b11 << 16, 21, 2**40)
    assert one(raw) == MountEvent(
        watch_id=7,
        raw=raw,
        subtype=MountSubtype.SETATTR,
        triggered_on=21,
        auxiliary_mount=2**40,
        flags=MountFlag.IN_SUBTREE | MountFlag.IS_NOW_RO,
    )


def test_key_event_has_key_and_aux() -> None:
    raw = struct.pack("=IIII", 1 | 2 << 24, 16, 591206539, 84254426)
    assert one(raw) == KeyEvent(watch_id=0, raw=raw, subtype=KeySubtype.LINKED, key_id=591206539, aux=84254426)


def test_superblock_event_has_flags() -> None:
    raw = struct.pack("=IIQ", 3, 16 | 1 << 16, 5)
    assert one(raw) == SuperblockEvent(watch_id=0, raw=raw, subtype=SbSubtype.READONLY, sb_id=5, flags=SbFlag.IS_NOW_RO)


@pytest.mark.parametrize(
    ("tail", "text"), [(b"", ""), ("é 1".encode(), "é 1"), (b"cut \xc3", "cut �"), (b"padded\0\0", "padded")]
)
def test_superblock_error_has_errno_cookie_and_text(tail: bytes, text: str) -> None:
    event = one(r.encode(3, 1, r.SB_ERROR_BODY.pack(5, errno.EIO, 9) + tail, watch_id=255))
    assert isinstance(event, SuperblockError) and isinstance(event, SuperblockEvent)
    assert (event.watch_id, event.sb_id, event.error_number, event.error_cookie) == (255, 5, errno.EIO, 9)
    assert event.text == text


def test_block_event_has_major_and_minor() -> None:
    # new_encode_dev(): minor in bits 0-7 and 20-31, major in bits 8-19.
    event = one(r.encode(4, 10, r.BLOCK_BODY.pack(0x10 | 259 << 8 | 0x3 << 20, 2048)))
    assert isinstance(event, BlockEvent)
    assert (event.subtype, event.major, event.minor, event.sector) == (BlockSubtype.IO, 259, 0x310, 2048)


def test_loss_and_removal_are_events_of_their_own() -> None:
    loss, removal, nameless = parse_events(r.LOSS + r.removal(2**33, 4) + r.encode(0, 0, watch_id=3))
    assert type(loss) is Loss
    assert isinstance(removal, Removal) and (removal.object_id, removal.watch_id) == (2**33, 4)
    assert isinstance(nameless, Removal) and (nameless.object_id, nameless.watch_id) == (None, 3)


@pytest.mark.parametrize("type_", [1, 2, 3, 4])
def test_unknown_subtype_is_a_number(type_: int) -> None:
    event = one(r.encode(type_, 200, bytes(16)))
    assert isinstance(event, KeyEvent | MountEvent | SuperblockEvent | BlockEvent)
    assert event.subtype == 200 and type(event.subtype) is int


@pytest.mark.parametrize(
    ("type_", "subtype", "size"),
    [(0, 2, 0), (1, 1, 4), (2, 0, 15), (3, 0, 7), (3, 1, 15), (4, 1, 12), (5, 1, 16), (0xFFFFFF, 255, 119)],
)
def test_record_of_unknown_type_or_too_short_is_an_unknown_event(type_: int, subtype: int, size: int) -> None:
    body = bytes(range(size))
    event = one(r.encode(type_, subtype, body, watch_id=9))
    assert isinstance(event, UnknownEvent)
    assert (event.type, event.subtype, event.body, event.watch_id) == (type_, subtype, body, 9)


def test_longer_body_than_known_is_read_as_far_as_known() -> None:
    event = one(r.encode(WatchType.MOUNT_NOTIFY, 1, r.MOUNT_BODY.pack(1, 2) + b"later"))
    assert isinstance(event, MountEvent) and event.auxiliary_mount == 2
    assert event.raw.endswith(b"later")


def test_event_is_frozen_and_can_be_hashed() -> None:
    event = one(r.LOSS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.watch_id = 3  # type: ignore[misc]
    assert len({event, one(r.LOSS)}) == 1


@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"abc", 0), (r.LOSS + r.LOSS[:7], 8), (struct.pack("=II", 1, 7), 0), (struct.pack("=II", 1, 16), 0)],
)
def test_what_is_no_run_of_records_is_malformed_at_its_offset(data: bytes, offset: int) -> None:
    with pytest.raises(Malformed) as caught:
        parse_events(data)
    assert caught.value.offset == offset


records = st.builds(
    lambda type_, subtype, body, flags, watch_id: r.encode(type_, subtype, body, flags=flags << 16, watch_id=watch_id),
    st.one_of(st.integers(0, 6), st.integers(0, 0xFFFFFF)),
    st.one_of(st.integers(0, 10), st.integers(0, 255)),
    st.binary(max_size=119),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
)


@given(st.lists(records, max_size=20))
def test_any_records_are_as_many_events_with_their_bytes(given_records: list[bytes]) -> None:
    events = parse_events(b"".join(given_records))
    assert [event.raw for event in events] == given_records
    for event, raw in zip(events, given_records, strict=True):
        header = next(iter(r.decode(raw)))
        assert (event.watch_id, event.info) == (header.watch_id, header.info)


@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_malformed(data: bytes) -> None:
    try:
        events = parse_events(data)
    except Malformed as error:
        assert 0 <= error.offset < max(len(data), 1)
    else:
        assert b"".join(event.raw for event in events) == data
