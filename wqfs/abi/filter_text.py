"""The filter of a notification pipe as text, a rule a line: the file `filter`.

    mount unmount,new_mount          records of this type and of these subtypes
    key * id=3                       all subtypes, under the watch ID 3
    sb error flags=0x1/0x1           those whose type-specific bits, from bit 16, are 1 under mask 1
    nothing                          alone: no rule, so that nothing passes

Types are meta, key, mount, sb, block; subtypes the words of `events`, `*` for all, or `none`; both
may be numbers. `id=N/MASK` looks at some bits of the ID, `flags=N` at exactly the bits N, and
`info=N/MASK` is info_filter and info_mask as they are. `#` begins a comment. At most 16 rules;
rules for types that nobody knows are dropped, as the kernel does. META removal and loss pass
whatever the filter is.
"""

from __future__ import annotations

import re

from wqfs.abi.errors import Malformed
from wqfs.abi.filters import ALL_SUBTYPES, FILTERS_MAX, Filter, Rule, check_rule
from wqfs.abi.records import (
    SUBTYPES,
    TYPE_WORDS,
    WATCH_ID_MAX,
    WATCH_INFO_ID__SHIFT,
    WATCH_INFO_TYPE_INFO__SHIFT,
)

_TYPES = {word: type_ for type_, word in TYPE_WORDS.items()}
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,10}", re.ASCII)
_U32 = 0xFFFFFFFF
_FLAGS_MAX = 0xFFFF
# name -> (where its lowest bit is in info, its largest value)
_FIELDS = {
    "id": (WATCH_INFO_ID__SHIFT, WATCH_ID_MAX),
    "flags": (WATCH_INFO_TYPE_INFO__SHIFT, _FLAGS_MAX),
    "info": (0, _U32),
}


class FilterTextError(ValueError):
    """A line is no rule. line, word: counted from 1, word 0 for the whole line; rule: what was
    expected, and what came."""

    def __init__(self, line: int, word: int, rule: str) -> None:
        super().__init__(f"line {line}, word {word}: {rule}" if word else f"line {line}: {rule}")
        self.line = line
        self.word = word
        self.rule = rule


class _Wrong(Exception):
    """A word is wrong; whoever knows its place makes a FilterTextError of it."""


def parse(text_untrusted: str) -> Filter | None:
    """The filter that the text describes, None when it has no rule: then everything passes.

    Raises FilterTextError.
    """
    rules: list[Rule] = []
    nothing = 0
    for number, line in enumerate(text_untrusted.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words == ["nothing"]:
            nothing = number
            continue
        if len(rules) == FILTERS_MAX:
            raise FilterTextError(number, 0, f"expected at most {FILTERS_MAX} rules")
        rules.append(_rule(words, number))
    if nothing and rules:
        raise FilterTextError(nothing, 1, "expected `nothing` without rules beside it")
    return Filter(rules) if rules or nothing else None


def _rule(words: list[str], line: int) -> Rule:
    word = 1  # where we are
    try:
        type_ = _type(words[0])
        subtypes = ALL_SUBTYPES
        options = words[1:]
        if options and "=" not in options[0]:
            word = 2
            subtypes = _subtypes(type_, options.pop(0))
        value = mask = 0
        for option in options:
            word += 1
            bits, care = _option(option)
            if mask & care:
                raise _Wrong(f"expected each bit once, not again in {option!r}")
            value |= bits
            mask |= care
            check_rule(Rule(type_, subtypes, bits, care))
    except _Wrong as wrong:
        raise FilterTextError(line, word, str(wrong)) from None
    except Malformed as malformed:
        raise FilterTextError(line, word, malformed.rule) from None
    return Rule(type_, subtypes, value, mask)


def _number(text: str, limit: int, what: str) -> int:
    if _NUMBER.fullmatch(text):
        number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
        if number <= limit:
            return number
    most = str(limit) if limit <= WATCH_ID_MAX else f"{limit:#x}"
    raise _Wrong(f"expected {what} of 0..{most}, not {text!r}")


def _type(word: str) -> int:
    type_ = _TYPES.get(word)
    if type_ is None:
        if not word[0].isdecimal():
            raise _Wrong(f"expected a type, one of {', '.join(_TYPES)}, not {word!r}")
        type_ = _number(word, _U32, "a type")
    return type_


def _subtypes(type_: int, text: str) -> int:
    if text == "*":
        return ALL_SUBTYPES
    if text == "none":
        return 0
    known = {member.name.lower(): int(member) for member in SUBTYPES.get(type_, ())}
    bits = 0
    for word in text.split(","):
        if word in known:
            bits |= 1 << known[word]
        elif word[:1].isdecimal():
            bits |= 1 << _number(word, 31, "a subtype")
        else:
            raise _Wrong(f"expected subtypes, some of {', '.join(known)}, or *, not {word!r}")
    return bits


def _option(option: str) -> tuple[int, int]:
    """info_filter and info_mask of `name=value/mask`."""
    name, equals, value = option.partition("=")
    if not equals or name not in _FIELDS:
        raise _Wrong(f"expected id=N, flags=N/MASK or info=N/MASK, not {option!r}")
    shift, limit = _FIELDS[name]
    value, slash, mask = value.partition("/")
    bits = _number(value, limit, "a watch ID" if name == "id" else name)
    care = _number(mask, limit, "a mask") if slash else limit if name == "id" else bits
    if bits & ~care:
        raise _Wrong(f"expected a value inside the mask {care:#x}, not {bits:#x}")
    return bits << shift, care << shift


def format(filter_: Filter | None) -> str:
    """The text that `parse` reads as the same filter; "" for none."""
    if filter_ is None:
        return ""
    return "".join([_line(rule) for rule in filter_.rules]) or "nothing\n"


def _line(rule: Rule) -> str:
    words = [TYPE_WORDS.get(rule.type) or str(rule.type), _subtype_words(rule)]
    rest_value, rest_mask = rule.info_filter, rule.info_mask
    for name, (shift, limit) in _FIELDS.items():
        mask = rest_mask >> shift & limit
        value = rest_value >> shift & limit
        if not mask:
            continue
        rest_mask &= ~(limit << shift)
        rest_value &= ~(limit << shift)
        if name == "id":
            words.append(f"id={value}" if mask == limit else f"id={value}/{mask:#x}")
        else:
            words.append(f"{name}={value:#x}/{mask:#x}")
    return " ".join(words) + "\n"


def _subtype_words(rule: Rule) -> str:
    if rule.subtypes == ALL_SUBTYPES:
        return "*"
    names = {int(member): member.name.lower() for member in SUBTYPES.get(rule.type, ())}
    bits = [bit for bit in range(32) if rule.subtypes >> bit & 1]
    return ",".join([names.get(bit) or str(bit) for bit in bits]) or "none"
