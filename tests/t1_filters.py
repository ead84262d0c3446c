"""wqfs.abi.filters and filter_text: SET_FILTER's bytes and the file `filter`, each to rules and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi import filter_text, filters
from wqfs.abi import records as r
from wqfs.abi.errors import Malformed
from wqfs.abi.filter_text import FilterTextError
from wqfs.abi.filters import Filter, Rule


@st.composite
def rules(draw: st.DrawFn, types: st.SearchStrategy[int]) -> Rule:
    mask = draw(st.integers(0, 0xFFFFFFFF)) & ~r.WATCH_INFO_LENGTH
    return Rule(
        type=draw(types),
        subtypes=draw(st.one_of(st.just(filters.ALL_SUBTYPES), st.integers(0, 0xFFFFFFFF))),
        info_filter=draw(st.integers(0, 0xFFFFFFFF)) & mask,
        info_mask=mask,
    )


KNOWN = rules(st.integers(0, 4))
ANY = rules(st.integers(0, 0xFFFFFFFF))
TWO = filters.encode([Rule(2, 0x6), Rule(3, 0x2, 1 << 16, 1 << 16)])

# -- bytes


@given(st.lists(KNOWN, min_size=1, max_size=16))
def test_filter_encoded_and_decoded_is_itself(given_rules: list[Rule]) -> None:
    assert filters.decode(filters.encode(given_rules)).rules == tuple(given_rules)


@given(st.lists(ANY, min_size=1, max_size=16))
def test_filter_decoded_has_no_unknown_types(given_rules: list[Rule]) -> None:
    known = tuple(rule for rule in given_rules if rule.type < 5)
    assert filters.decode(filters.encode(given_rules)).rules == known


@pytest.mark.parametrize("size", range(len(TWO)))
def test_filter_cut_anywhere_is_malformed(size: int) -> None:
    with pytest.raises(Malformed) as caught:
        filters.decode(TWO[:size])
    assert caught.value.offset == (0 if size < 8 else size)


def test_filter_with_a_tail_ignores_it() -> None:
    assert filters.decode(TWO + b"tail").rules == filters.decode(TWO).rules


@pytest.mark.parametrize("count", [0, 17, 0xFFFFFFFF])
def test_filter_count_outside_1_to_16_is_malformed(count: int) -> None:
    with pytest.raises(Malformed, match=r"1\.\.16") as caught:
        filters.decode(struct.pack("=II", count, 0) + bytes(44 * 17))
    assert caught.value.offset == 0


def test_filter_with_reserved_set_is_malformed() -> None:
    with pytest.raises(Malformed) as caught:
        filters.decode(struct.pack("=II", 1, 1) + bytes(44))
    assert caught.value.offset == 4


@pytest.mark.parametrize("bit", range(7))
def test_filter_mask_on_a_length_bit_is_malformed_at_its_rule(bit: int) -> None:
    with pytest.raises(Malformed) as caught:
        filters.decode(filters.encode([Rule(1), Rule(1, info_mask=1 << bit)]))
    assert caught.value.offset == 8 + 44


def test_filter_value_outside_its_mask_is_malformed() -> None:
    with pytest.raises(Malformed) as caught:
        filters.decode(filters.encode([Rule(1, info_filter=0x100, info_mask=0x200)]))
    assert caught.value.offset == 8


@given(st.binary(max_size=900))
def test_filter_of_any_bytes_is_a_filter_or_malformed(data: bytes) -> None:
    try:
        assert len(filters.decode(data).rules) <= 16
    except Malformed as error:
        assert 0 <= error.offset <= len(data)


# -- what passes


@given(
    st.lists(KNOWN, max_size=4),
    st.integers(0, 6),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 7),
)
def test_filter_passes_what_any_rule_lets(
    given_rules: list[Rule], type_: int, subtype: int, id_: int, flags: int
) -> None:
    record = r.encode(type_, subtype, b"", flags=flags << 16, watch_id=id_)
    info = 8 | id_ << 8 | flags << 16
    expected = any(
        rule.type == type_
        and subtype < 32
        and rule.subtypes >> subtype & 1
        and info & rule.info_mask == rule.info_filter
        for rule in given_rules
    )
    assert Filter(given_rules).passes(record) is expected


def test_filter_of_unknown_types_alone_passes_nothing() -> None:
    filter_ = filters.decode(filters.encode([Rule(5)]))
    assert not any(filter_.passes(r.encode(type_, 1)) for type_ in range(7))


# -- text


@given(st.lists(KNOWN, max_size=16))
def test_filter_text_read_back_is_the_same_filter(given_rules: list[Rule]) -> None:
    text = filter_text.format(Filter(given_rules))
    again = filter_text.parse(text)
    assert again is not None
    assert again.rules == tuple(given_rules)
    assert filter_text.format(again) == text


def test_filter_text_of_no_filter_is_empty() -> None:
    assert filter_text.format(None) == ""
    assert filter_text.parse("") is None
    assert filter_text.parse("\n  # nothing here\n") is None


def test_filter_text_of_designs_examples() -> None:
    parsed = filter_text.parse("mount unmount,new_mount\nkey * id=3\nsb error flags=0x1/0x1\n")
    assert parsed is not None
    assert parsed.rules == (Rule(2, 0b11), Rule(1, info_filter=0x300, info_mask=0xFF00),
                            Rule(3, 0b10, 1 << 16, 1 << 16))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("bogus *", 1, 1),
        ("mount bogus", 1, 2),
        ("key *\nmount unmount,bogus", 2, 2),
        ("key * id=256", 1, 3),
        ("key * id=1 id=2", 1, 4),
        ("sb error flags=0x2/0x1", 1, 3),
        ("key * info=0x1/0x1", 1, 3),
        ("key * what=1", 1, 3),
        ("key * 7", 1, 3),
        ("key 32", 1, 2),
        ("\n" + "key *\n" * 17, 18, 0),
        ("key *\nnothing", 2, 1),
    ],
)
def test_filter_text_refused_names_line_and_word(text: str, line: int, word: int) -> None:
    with pytest.raises(FilterTextError) as caught:
        filter_text.parse(text)
    assert (caught.value.line, caught.value.word) == (line, word)
    assert caught.value.rule.startswith("expected ")


@given(st.text(max_size=200))
def test_filter_text_of_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        filter_text.parse(text)
    except FilterTextError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert error.word >= 0
