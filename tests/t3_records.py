"""sim/records: raw records are delivered byte for byte, or none of a write is."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from tests.posting import PIECE, Sight, last_error, read_queue, write_once
from tests.tools import Mount, metric, refused
from wqfs.abi import records as r

RAW = (
    r.encode(2, 1, r.MOUNT_BODY.pack(5, 6), flags=0x30000, watch_id=9),
    r.encode(77, 200, b"\x00\xff\x01"),
    r.encode(0xFFFFFF, 255, b"x" * 119, flags=0xFFFF0000, watch_id=255),
    r.LOSS,
    r.removal(7, 3),
)


def test_records_are_delivered_byte_for_byte(shared: Mount, watch: Path) -> None:
    data = b"".join(RAW)
    assert write_once(shared.path / "sim" / "records", data) == len(data)
    assert read_queue(watch) == data


def test_records_keep_id_and_type_in_events(shared: Mount, sight: Sight) -> None:
    write_once(shared.path / "sim" / "records", b"".join(RAW))
    got = [(line["type"], line["event"], line["id"]) for line in sight.lines()]
    assert got == [
        ("mount", "unmount", 9), (77, 200, 0), (0xFFFFFF, 255, 255), ("meta", "loss", 0),
        ("meta", "removal", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (struct.pack("=II", 1, 7), "expected a length of 8..127 bytes, not 7"),
        (struct.pack("=II", 1, 0x80), "expected a length of 8..127 bytes, not 0"),
        (struct.pack("=II", 1, 24) + bytes(15), "expected 24 bytes of record, not 23"),
        (bytes(5), "expected a header of 8 bytes, not 5"),
    ],
    ids=["length-7", "length-0", "beyond-the-end", "header-cut"],
)
def test_records_malformed_are_einval_and_none_is_delivered(shared: Mount, watch: Path, bad: bytes, said: str) -> None:
    data = RAW[0] + RAW[1] + bad
    with refused(errno.EINVAL):
        write_once(shared.path / "sim" / "records", data)
    assert read_queue(watch) == b""
    assert last_error(shared) == f"sim/records: at byte {len(RAW[0]) + len(RAW[1])}: {said} [EINVAL]"


def test_records_split_over_two_writes_are_einval(shared: Mount, watch: Path) -> None:
    fd = os.open(shared.path / "sim" / "records", os.O_WRONLY)
    try:
        with refused(errno.EINVAL):
            os.write(fd, RAW[0][:12])
        assert os.write(fd, RAW[0]) == len(RAW[0])
    finally:
        os.close(fd)
    assert read_queue(watch) == RAW[0]


@pytest.mark.parametrize("record", [r.encode(1, 1, bytes(8)), r.encode(2, 1, bytes(16)), RAW[2]], ids=len)
def test_records_of_300_kib_are_all_delivered(shared: Mount, watch: Path, record: bytes) -> None:
    count = 300 * 1024 // len(record)
    data = record * count
    before = metric(shared, "events_total")
    fd = os.open(shared.path / "sim" / "records", os.O_WRONLY)
    try:
        while data:  # a write may return short, after a whole record
            written = os.write(fd, data)
            assert written % len(record) == 0
            data = data[written:]
    finally:
        os.close(fd)
    assert metric(shared, "events_total") == before + count
    assert shared.status(watch)["posted"] == count
    assert read_queue(watch)[: len(record)] == record


def test_records_malformed_at_the_end_of_a_whole_piece_are_einval(shared: Mount, watch: Path) -> None:
    data = r.encode(1, 1, bytes(8)) * (PIECE // 16 - 1) + struct.pack("=II", 1, 7) + bytes(8)
    before = metric(shared, "events_total")
    with refused(errno.EINVAL):
        write_once(shared.path / "sim" / "records", data)
    assert metric(shared, "events_total") == before


def test_records_with_a_later_piece_malformed_return_the_count_taken(shared: Mount, watch: Path) -> None:
    record = r.encode(1, 1, bytes(8))
    data = record * (200 * 1024 // 16) + struct.pack("=II", 1, 7) + record * 5000
    before = metric(shared, "events_total")
    assert write_once(shared.path / "sim" / "records", data) == PIECE
    assert metric(shared, "events_total") == before + PIECE // 16, "nothing of the refused piece"


def test_records_pass_through_the_filter_but_meta_does_not_ask_it(shared: Mount, watch: Path) -> None:
    (watch / "filter").write_text("key *\n")
    key = r.encode(1, 1, bytes(8))
    write_once(shared.path / "sim" / "records", b"".join(RAW) + key)
    assert read_queue(watch) == RAW[3] + RAW[4] + key
