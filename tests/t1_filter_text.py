"""The file `filter`: text to filter and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi.filter_text import FilterTextError, format, parse
from wqfs.abi.filters import ALL_SUBTYPES, Filter, Rule
from wqfs.abi.records import WATCH_INFO_LENGTH


def rules(text: str) -> tuple[Rule, ...]:
    filter_ = parse(text)
    assert filter_ is not None
    return filter_.rules


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("mount unmount,new_mount", Rule(2, 0b11)),
        ("key * id=3", Rule(1, ALL_SUBTYPES, 0x300, 0xFF00)),
        ("key id=3", Rule(1, ALL_SUBTYPES, 0x300, 0xFF00)),
        ("sb error flags=0x1/0x1", Rule(3, 0b10, 0x10000, 0x10000)),
        ("mount * flags=2", Rule(2, ALL_SUBTYPES, 0x20000, 0x20000)),
        ("mount * flags=0/2", Rule(2, ALL_SUBTYPES, 0, 0x20000)),
        ("mount * id=1/0x1 flags=0/1 # comment", Rule(2, ALL_SUBTYPES, 0x100, 0x10100)),
        ("block io,timeout", Rule(4, 1 << 10 | 1 << 1)),
        ("meta loss", Rule(0, 0b10)),
        ("meta", Rule(0)),
        ("1 31,0", Rule(1, 1 << 31 | 1)),
        ("key none", Rule(1, 0)),
        ("key * info=0x80/0x80", Rule(1, ALL_SUBTYPES, 0x80, 0x80)),
        ("\tkey\tupdated\r", Rule(1, 0b10)),
    ],
)
def test_filter_line(line: str, rule: Rule) -> None:
    assert rules(line) == (rule,)


def test_filter_of_nothing_but_comments_is_none() -> None:
    assert parse("") is None and parse("\n  # none\n\n") is None


def test_filter_nothing_lets_nothing_pass() -> None:
    filter_ = parse("nothing\n")
    assert filter_ is not None and filter_.rules == ()


def test_filter_rule_of_an_unknown_type_is_dropped() -> None:
    filter_ = parse("99 *\n")
    assert filter_ is not None and filter_.rules == ()


def test_filter_rules_keep_their_order() -> None:
    assert [rule.type for rule in rules("sb *\nkey *\n\nmount *\n")] == [3, 1, 2]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("mont *", 1, 1),
        ("key *\nmount\nsb eror", 3, 2),
        ("key updated,", 1, 2),
        ("key ,updated", 1, 2),
        ("key Updated", 1, 2),
        ("key 32", 1, 2),
        ("key * *", 1, 3),
        ("key * id=256", 1, 3),
        ("key * id=", 1, 3),
        ("key * id=x", 1, 3),
        ("key * id=2/1", 1, 3),
        ("key * id=1/2/3", 1, 3),
        ("key id=1 id=1", 1, 3),
        ("key * id=1 info=0x100/0x100", 1, 4),
        ("key * flags=0x10000", 1, 3),
        ("key * info=1/0x7f", 1, 3),
        ("key * size=1", 1, 3),
        ("4294967296 *", 1, 1),
        ("nothing\nkey *", 1, 1),
        ("nothing here", 1, 1),
        ("\n".join(["key *"] * 17), 17, 0),
    ],
)
def test_filter_text_wrong_names_line_and_word(text: str, line: int, word: int) -> None:
    with pytest.raises(FilterTextError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.word) == (line, word)
    assert caught.value.rule.startswith("expected ")


def test_filter_none_is_empty_text() -> None:
    assert format(None) == ""


def test_filter_is_shown_in_words() -> None:
    text = "mount new_mount,unmount id=3\nsb error flags=0x1/0x1\nkey *\nmeta none\nblock io,31\n"
    assert format(parse(text)) == text


U32 = st.integers(0, 0xFFFFFFFF)


@st.composite
def any_rule(draw: st.DrawFn) -> Rule:
    mask = draw(st.one_of(U32, st.sampled_from([0, 0xFF00, 0x10000]))) & ~WATCH_INFO_LENGTH
    return Rule(draw(st.integers(0, 4)), draw(st.one_of(U32, st.just(ALL_SUBTYPES))), draw(U32) & mask, mask)


@given(st.lists(any_rule(), max_size=16))
def test_filter_read_back_is_the_same(given_rules: list[Rule]) -> None:
    assert rules(format(Filter(given_rules))) == tuple(given_rules)


@given(st.text("mountkeysb *=/id0x1f,#\n 9-", max_size=40))
def test_filter_text_of_any_kind_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except FilterTextError as error:
        assert 1 <= error.line <= text.count("\n") + 1
