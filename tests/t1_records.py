"""wqfs.abi.records: bytes to records and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi import records as r
from wqfs.abi.errors import Malformed

RAW = st.builds(
    lambda type_, subtype, body, flags, id_: r.encode(type_, subtype, body, flags=flags << 16, watch_id=id_),
    st.integers(0, 0xFFFFFF),
    st.integers(0, 255),
    st.binary(max_size=r.RECORD_MAX - r.RECORD_MIN),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
)
THREE = r.removal(7, 1) + r.LOSS + r.encode(2, 1, r.MOUNT_BODY.pack(21, 22))
STARTS = (0, 16, 24)


@given(
    st.integers(0, 0xFFFFFF),
    st.integers(0, 255),
    st.binary(max_size=119),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
)
def test_record_encoded_and_decoded_is_itself(type_: int, subtype: int, body: bytes, flags: int, id_: int) -> None:
    (record,) = r.decode(r.encode(type_, subtype, body, flags=flags << 16, watch_id=id_))
    assert record == r.Record(type_, subtype, flags << 16 | id_ << 8 | 8 + len(body), body)
    assert (record.length, record.watch_id) == (8 + len(body), id_)


@given(st.lists(RAW, max_size=20))
def test_split_of_joined_records_is_the_records(raws: list[bytes]) -> None:
    assert r.split(b"".join(raws)) == raws


@pytest.mark.parametrize("size", range(len(THREE)))
def test_split_of_cut_input_names_the_cut_record(size: int) -> None:
    if size in STARTS:
        assert len(r.split(THREE[:size])) == STARTS.index(size)
        return
    with pytest.raises(Malformed) as caught:
        r.split(THREE[:size])
    assert caught.value.offset == max(start for start in STARTS if start < size)


@given(st.binary(max_size=400))
def test_split_of_any_bytes_gives_them_all_or_malformed(data: bytes) -> None:
    try:
        assert b"".join(r.split(data)) == data
    except Malformed as error:
        assert 0 <= error.offset < len(data)
        assert r.split(data[: error.offset]) is not None


@pytest.mark.parametrize("length", range(8))
def test_split_of_a_length_below_the_header_is_malformed(length: int) -> None:
    with pytest.raises(Malformed, match=r"8\.\.127") as caught:
        r.split(r.LOSS + struct.pack("=II", 1, length) + bytes(8))
    assert caught.value.offset == len(r.LOSS)


def test_split_of_a_memoryview_gives_bytes() -> None:
    assert r.split(memoryview(bytearray(THREE)))[1] == r.LOSS


def test_encode_of_the_longest_record_is_127_bytes() -> None:
    assert len(r.encode(3, 1, bytes(119))) == r.RECORD_MAX


def test_encode_of_a_body_too_long_is_malformed() -> None:
    with pytest.raises(Malformed) as caught:
        r.encode(3, 1, bytes(120))
    assert caught.value.offset == r.RECORD_MIN


def test_loss_is_the_kernels_eight_bytes() -> None:
    assert struct.pack("=II", 1 << 24, 8) == r.LOSS


def test_removal_carries_id_and_watch_id() -> None:
    assert r.removal(0x123456789, 5) == struct.pack("=IIQ", 0, 5 << 8 | 16, 0x123456789)


def test_malformed_says_offset_and_rule() -> None:
    with pytest.raises(Malformed) as caught:
        r.split(r.LOSS + b"\0" * 3)
    assert str(caught.value) == "at byte 8: expected a header of 8 bytes, not 3"
    assert caught.value.rule == "expected a header of 8 bytes, not 3"
