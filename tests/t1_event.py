"""wqfs.event: an event's line, the stream behind `events`, and `log`."""

from __future__ import annotations

import json
from select import POLLHUP, POLLIN
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi import records as r
from wqfs.event import Event, Log, Stream, Told
from wqfs.together import Part, Run

READABLE = POLLIN | 0x040


def notice(number: int) -> Told:
    return Event(number, number * 10**9, r.encode(1, 1, r.KEY_BODY.pack(number, 0)), {}).notice()


def part_of(notices: list[Told]) -> Part:
    run = Run()
    for each in notices:
        run.add(each, each.number)
    return Part([(run, 0)])


def lines(text: bytes) -> list[dict[str, Any]]:
    assert not text or text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


def drain(stream: Stream, size: int = 65536) -> bytes:
    parts = []
    while data := stream.read(size):
        parts.append(data)
    return b"".join(parts)


def members(record: bytes, **names: str) -> dict[str, Any]:
    line = Event(5, 1_700_000_000_123_456_789, record, names).notice().line()
    return lines(line)[0]


# -- lines


def test_line_has_the_promised_members_first() -> None:
    got = members(r.encode(2, 0, r.MOUNT_BODY.pack(21, 22), flags=0x30000, watch_id=9), mountpoint="/mnt")
    assert got == {
        "seq": 5, "time": 1700000000.123456, "id": 9, "type": "mount", "event": "new_mount",
        "flags": ["IN_SUBTREE", "IS_NOW_RO"], "triggered_on": 21, "auxiliary_mount": 22, "mountpoint": "/mnt",
    }  # fmt: skip
    assert list(got)[:6] == ["seq", "time", "id", "type", "event", "flags"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (r.encode(1, 5, r.KEY_BODY.pack(7, 8)), {"type": "key", "event": "revoked", "key": 7, "aux": 8}),
        (
            r.encode(3, 0, r.SB_BODY.pack(4), flags=0x10000),
            {"event": "readonly", "flags": ["IS_NOW_RO"], "sb": 4},
        ),
        (
            r.encode(3, 1, r.SB_ERROR_BODY.pack(4, 5, 6) + b"bad block"),
            {"sb": 4, "error": "EIO", "error_text": "Input/output error", "cookie": 6, "text": "bad block"},
        ),
        (
            r.encode(4, 10, r.BLOCK_BODY.pack(2049, 8)),
            {"type": "block", "event": "io", "dev": 2049, "sector": 8},
        ),
        (r.removal(22, 3), {"type": "meta", "event": "removal", "id": 3, "object": 22}),
        (r.encode(77, 200, b"\x01\xff"), {"type": 77, "event": 200, "flags": [], "body": "01ff"}),
        (r.encode(1, 9, b""), {"type": "key", "event": 9}),
    ],
    ids=["key", "sb", "sb-error", "block", "removal", "unknown", "unknown-subtype"],
)
def test_line_of_each_type_names_its_ids(record: bytes, expected: dict[str, object]) -> None:
    got = members(record)
    assert {name: got.get(name) for name in expected} == expected


@given(st.integers(0, 0xFFFFFF), st.integers(0, 255), st.binary(max_size=119), st.integers(0, 0xFFFF))
def test_line_of_any_record_is_one_line_of_json(type_: int, subtype: int, body: bytes, flags: int) -> None:
    line = Event(1, 0, r.encode(type_, subtype, body, flags=flags << 16), {}).notice().line()
    assert line.count(b"\n") == 1
    assert {"seq", "time", "id", "type", "event", "flags"} <= set(lines(line)[0])


def test_line_with_names_that_are_no_utf8_is_valid_json() -> None:
    got = members(r.removal(1, 0), mountpoint="/mnt/\udcff\n\"'")
    assert got["mountpoint"] == "/mnt/\udcff\n\"'"


def test_notice_puts_id_and_flags_into_the_record() -> None:
    record = Event(1, 0, r.removal(1, 0), {}).notice(3 << 8 | 0x10000).record
    assert record == r.encode(0, 0, r.REMOVAL_BODY.pack(1), flags=0x10000, watch_id=3)


# -- Stream


@given(st.lists(st.integers(1, 300), min_size=1), st.integers(0, 20))
def test_stream_read_in_any_sizes_gives_the_same_bytes(sizes: list[int], count: int) -> None:
    stream, whole = Stream(100), Stream(100)
    for number in range(1, count + 1):
        stream.push(notice(number))
        whole.push(notice(number))
    got = b""
    at = 0
    while data := stream.read(sizes[at % len(sizes)]):
        assert len(data) <= sizes[at % len(sizes)]
        got += data
        at += 1
    assert got == drain(whole) == b"".join(notice(n).line() for n in range(1, count + 1))


@given(st.integers(1, 5), st.lists(st.one_of(st.just(0), st.integers(1, 400)), max_size=80))
def test_stream_accounts_for_every_event(limit: int, steps: list[int]) -> None:
    """0 pushes, another number reads so many bytes: what comes out is all there was, or its count."""
    stream = Stream(limit)
    pushed = 0
    got = b""
    for step in steps:
        if step:
            got += stream.read(step) or b""
        else:
            pushed += 1
            stream.push(notice(pushed))
    got += drain(stream)
    seen = 0
    for line in lines(got):
        seen += line.get("lost", 1)
        assert line["seq"] == seen
        assert ("lost" in line) == (line["event"] == "lost")
    assert seen == pushed


def test_stream_loss_is_one_line_where_events_are_missing() -> None:
    stream = Stream(2)
    for number in range(1, 6):
        stream.push(notice(number))
    assert [(line["seq"], line.get("lost")) for line in lines(drain(stream))] == [
        (1, None),
        (2, None),
        (5, 3),
    ]


def test_stream_without_events_has_nothing_to_read() -> None:
    stream = Stream(2)
    assert stream.read(100) is None
    assert stream.read(0) == b""
    assert stream.poll(hung_up=False) == 0
    assert stream.poll(hung_up=True) == POLLHUP


def test_stream_read_halfway_through_a_line_is_readable() -> None:
    stream = Stream(2)
    stream.push(notice(1))
    stream.read(1)
    assert stream.poll(hung_up=False) == READABLE
    drain(stream)
    assert stream.poll(hung_up=False) == 0


def test_stream_tells_who_waits_of_each_event() -> None:
    stream = Stream(1)
    told: list[Stream] = []
    stream.on_change = told.append
    stream.push(notice(1))
    assert told == [stream]


# -- Log


def test_log_is_the_lines_of_all_events() -> None:
    log = Log(10)
    for number in (1, 2, 3):
        log.push(notice(number))
    assert bytes(log.text()) == b"".join(notice(n).line() for n in (1, 2, 3))
    log.push(notice(4))
    assert [line["seq"] for line in lines(bytes(log.text()))] == [1, 2, 3, 4]


def test_log_at_its_limit_begins_with_a_line_that_says_so() -> None:
    log = Log(3)
    for number in range(1, 5):
        log.push(notice(number))
    first, second = lines(bytes(log.text()))
    assert (first["event"], first["cut"], first["seq"]) == ("cut", 3, 3)
    assert second["seq"] == 4


@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=12), st.booleans())
def test_log_pushed_at_once_is_as_pushed_one_by_one(limit: int, blocks: list[int], look: bool) -> None:
    one, many = Log(limit), Log(limit)
    number = 0
    for block in blocks:
        notices: list[Told] = [notice(number + at) for at in range(1, block + 1)]
        number += block
        many.push_part(part_of(notices))
        for each in notices:
            one.push(each)
        if look:
            many.text()
    text = bytes(many.text())
    assert text == bytes(one.text())
    seen = 0
    for line in lines(text):
        seen = line["seq"] if line["event"] == "cut" else seen + 1
        assert line["seq"] == seen
    assert seen == number
