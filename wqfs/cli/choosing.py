"""Which events a command shows: `-e`, and the rules of a notification pipe that it comes to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from wqfs.abi.filters import ALL_SUBTYPES, Filter, Rule
from wqfs.abi.records import SUBTYPES, TYPE_WORDS, KeySubtype, WatchType
from wqfs.cli.command import CommandFailed

_TYPES = {word: type_ for type_, word in TYPE_WORDS.items()}
KEYCTL_LETTERS = {
    "i": KeySubtype.INSTANTIATED,
    "p": KeySubtype.UPDATED,
    "l": KeySubtype.LINKED,
    "n": KeySubtype.UNLINKED,
    "c": KeySubtype.CLEARED,
    "r": KeySubtype.REVOKED,
    "v": KeySubtype.INVALIDATED,
    "s": KeySubtype.SETATTR,
}
"""The letters of keyctl(1)'s watch commands."""

HELP = (
    "show these events alone, may be repeated: TYPE (mount, sb, key, block, meta), EVENT (new_mount, ...),"
    " TYPE:EVENT,EVENT, or key: and keyctl's letters iplncrvs"
)


def events_filter(chosen: Sequence[str]) -> Filter | None:
    """The filter that lets pass what `-e` names, None for none. Raises CommandFailed, naming the word."""
    bits: dict[int, int] = {}
    for word in chosen:
        type_word, colon, events = word.partition(":")
        if colon and type_word not in _TYPES:
            raise _unknown(type_word, _TYPES)
        if colon:
            type_ = _TYPES[type_word]
            for event in events.split(","):
                bits[type_] = bits.get(type_, 0) | _of_type(type_, event)
        elif word in _TYPES:
            bits[_TYPES[word]] = ALL_SUBTYPES
        else:
            named = [(type_, _bits(type_, word)) for type_ in SUBTYPES if _bits(type_, word)]
            if not named:
                near = difflib.get_close_matches(word, event_words(), 1)
                hint = f"; did you mean {near[0]}" if near else ""
                raise CommandFailed(
                    f"-e: expected a type ({', '.join(_TYPES)}) or an event such as new_mount, not {word!r}{hint}."
                )
            for type_, bit in named:
                bits[type_] = bits.get(type_, 0) | bit
    return Filter([Rule(type_, mask) for type_, mask in bits.items()]) if bits else None


def event_words() -> list[str]:
    """All that `-e` takes without a colon, for completion."""
    return [*_TYPES, *_all_events()]


def _all_events() -> list[str]:
    return list(dict.fromkeys(member.name.lower() for subtypes in SUBTYPES.values() for member in subtypes))


def _bits(type_: int, event: str) -> int:
    return sum(1 << member for member in SUBTYPES[type_] if member.name.lower() == event)


def _of_type(type_: int, event: str) -> int:
    bit = _bits(type_, event)
    if not bit and type_ == WatchType.KEY_NOTIFY and event and not set(event) - set(KEYCTL_LETTERS):
        return sum(1 << KEYCTL_LETTERS[letter] for letter in set(event))
    if not bit:
        letters = [f"the letters {''.join(KEYCTL_LETTERS)}"] if type_ == WatchType.KEY_NOTIFY else []
        raise _unknown(event, [member.name.lower() for member in SUBTYPES[type_]] + letters)
    return bit


def _unknown(word: str, known: Sequence[str] | dict[str, int]) -> CommandFailed:
    return CommandFailed(f"-e: expected one of {', '.join(known)}, not {word!r}.")
