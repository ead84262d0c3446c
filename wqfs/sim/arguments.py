"""Arguments of a command in the way of getopt(3): options anywhere, short ones together, long ones
with `=`, `--` ends them."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from wqfs.sim.errors import Refused

Word = tuple[str, int]
"""A word and its number in the line, from 1."""


def parse(
    arguments: Sequence[str], first: int, flags: Mapping[str, str], valued: Mapping[str, str]
) -> tuple[list[tuple[str, str, int]], list[Word]]:
    """Split arguments into options (meaning, value, word) and the rest.

    first: the number of the first argument's word. flags, valued: `-r` or `--read-only` -> what it
    means, without and with a value. Raises EINVAL with the word, also of one that is missing.
    """
    options: list[tuple[str, str, int]] = []
    rest: list[Word] = []
    index = 0
    count = len(arguments)
    while index < count:
        argument = arguments[index]
        word = first + index
        index += 1
        if argument[:1] != "-" or argument == "-":
            rest.append((argument, word))
        elif argument == "--":
            rest += [(each, first + at) for at, each in enumerate(arguments[index:], index)]
            break
        elif argument in flags:
            options.append((flags[argument], "", word))
        else:
            meaning, value, missing = _with_value(argument, word, flags, valued, options)
            if missing:
                if index == count:
                    raise Refused(errno.EINVAL, f"expected a value after {argument}", word + 1)
                value = arguments[index]
                word = first + index
                index += 1
            if meaning:
                options.append((meaning, value, word))
    return options, rest


def _with_value(
    argument: str, word: int, flags: Mapping[str, str], valued: Mapping[str, str],
    options: list[tuple[str, str, int]],
) -> tuple[str, str, bool]:  # fmt: skip
    """The meaning of an option that is not a flag alone, its value, and whether that is the next word.
    Flags in front of it go into `options`; "" if there are only flags."""
    if argument[:2] == "--":
        name, equals, value = argument.partition("=")
        meaning = valued.get(name)
        if meaning is None:
            raise Refused(errno.EINVAL, f"expected an option, not {argument}", word)
        return meaning, value, not equals
    for at, letter in enumerate(argument[1:], 1):
        meaning = valued.get("-" + letter)
        if meaning is not None:
            value = argument[at + 1 :]
            return meaning, value, not value
        flag = flags.get("-" + letter)
        if flag is None:
            raise Refused(errno.EINVAL, f"expected an option, not -{letter}", word)
        options.append((flag, "", word))
    return "", "", False


class Count:
    """How many arguments a usage such as `key unlink KEY [KEYRING]` takes after its first `words` words."""

    def __init__(self, usage: str, words: int) -> None:
        self._usage = usage
        self._words = words
        given = usage.split()[words:]
        self._names = [name.strip("[]") if name.startswith("[") else name for name in given]
        self._least = sum(not name.startswith("[") for name in given)

    def check(self, arguments: Sequence[str]) -> None:
        """Raises EINVAL, with the word, for one too few or too many."""
        count, most = len(arguments), len(self._names)
        if count < self._least:
            what = f"expected {self._names[count]} as argument {count + 1}"
        elif count > most:
            what = f"expected no more than {most} arguments, found {arguments[most]!r}"
        else:
            return
        raise Refused(errno.EINVAL, f"{what}: {self._usage}", self._words + 1 + min(count, most))
