"""The command language: a line becomes words as a shell would have it, the first words a command.

Words are parted by blanks and tabs. '...' takes everything as it is; in "..." a backslash stands
before " \\ $ ` alone; elsewhere a backslash takes the next character as it is, or with three octal
digits is a byte, as in mountinfo and fstab (\\040 is a blank). `#` at the beginning of a word ends
the line. Nothing is expanded. A newline, and a carriage return before it, end the line.

Commands stand in one table, made of the COMMANDS of the modules.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Sequence

from wqfs.sim import (
    clock_commands,
    device_commands,
    key_commands,
    key_request_commands,
    mount_commands,
    process_commands,
    sb_commands,
)
from wqfs.sim.command import Command
from wqfs.sim.errors import Refused

# Anything that needs more than str.split(): controls, quotes, backslash, #, what is not ASCII.
_SPECIAL = re.compile(r"""[^ \t!$-&(-\[\]-~]""").search
_PIECE = re.compile(
    r"""(?P<blank>[ \t]+)
      | (?P<plain>[^ \t'"\\]+)
      | '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | \\(?P<octal>[0-7]{3})
      | \\(?P<escaped>.)""",
    re.VERBOSE | re.DOTALL,
)
_IN_DOUBLE = re.compile(r'\\(["\\$`])')
_LOST_BYTES = re.compile("[\udc80-\udcff]+")


def split(line: str) -> list[str]:
    """The words of a line, none for an empty one or a comment.

    Bytes that are no UTF-8 stand in `line` and in the words as os.fsdecode() has them. Raises
    EINVAL, with the word, for a quote without its end, a backslash at the end, a NUL byte.
    """
    if _SPECIAL(line) is None:
        return line.split()
    if line[-1] == "\n":
        line = line[:-1]
    if line[-1:] == "\r":
        line = line[:-1]
    if _SPECIAL(line) is None:
        return line.split()
    return _split_slowly(line)


def _split_slowly(line: str) -> list[str]:
    words: list[str] = []
    if "\n" in line:
        raise Refused(errno.EINVAL, "expected one line, not several")
    pieces: list[str] | None = None  # of the word at hand; None between words
    at = 0
    while at < len(line):
        match = _PIECE.match(line, at)
        if match is None:
            what = "a character after the backslash" if line[at] == "\\" else f"a closing {line[at]}"
            raise Refused(errno.EINVAL, f"expected {what}", len(words) + 1)
        at = match.end()
        kind = match.lastgroup
        text = match[kind] if kind else ""
        if kind == "blank":
            if pieces is not None:
                words.append(_word(pieces, len(words) + 1))
                pieces = None
            continue
        if pieces is None:
            if kind == "plain" and text[0] == "#":
                break
            pieces = []
        if kind == "double":
            text = _IN_DOUBLE.sub(r"\1", text)
        elif kind == "octal":
            text = _byte(int(text, 8), len(words) + 1)
        pieces.append(text)
    if pieces is not None:
        words.append(_word(pieces, len(words) + 1))
    return words


def _byte(number: int, word: int) -> str:
    if number > 0xFF:
        raise Refused(errno.EINVAL, f"expected a byte \\001..\\377, not \\{number:03o}", word)
    return chr(number) if number < 0x80 else chr(0xDC00 + number)


def _word(pieces: list[str], number: int) -> str:
    word = "".join(pieces)
    if "\0" in word:
        raise Refused(errno.EINVAL, "expected no NUL byte", number)
    # Bytes written as octal numbers may be UTF-8 together.
    return _LOST_BYTES.sub(_joined, word) if not word.isascii() else word


def _joined(match: re.Match[str]) -> str:
    return match[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


_UNSAFE = re.compile(r"[\s\\#'\"\x00-\x1f\x7f]")


def quote(word: str) -> str:
    """A word so that `split` gives it back, escaped as in mountinfo: blanks become \\040."""
    if not word:
        return "''"
    return _UNSAFE.sub(_octal, word)


def _octal(match: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in match[0].encode("utf-8", "surrogateescape"))


# -- commands

COMMANDS: tuple[Command, ...] = (
    *mount_commands.COMMANDS,
    *sb_commands.COMMANDS,
    *device_commands.COMMANDS,
    *key_commands.COMMANDS,
    *key_request_commands.COMMANDS,
    *process_commands.COMMANDS,
    *clock_commands.COMMANDS,
)
_TABLE = {command.words: command for command in COMMANDS}
assert len(_TABLE) == len(COMMANDS)
_LONGEST = {first: max(len(words) for words in _TABLE if words[0] == first) for first, *_ in _TABLE}
"""Of the commands that begin with this word, how many words the longest has."""


def find(words: Sequence[str]) -> tuple[Command, int]:
    """The command that the words begin with, the longest, and how many words it takes.

    Raises EINVAL, naming the word that no command has and the commands that are like it.
    """
    for count in range(_LONGEST.get(words[0], 0), 0, -1):
        command = _TABLE.get(tuple(words[:count]))
        if command is not None:
            return command, len(command.words)
    raise _unknown(words)


def _unknown(words: Sequence[str]) -> Refused:
    following = [known[1] for known in _TABLE if len(known) > 1 and known[0] == words[0]]
    if not following:
        like = _like(words[0], sorted(_LONGEST))
        return Refused(errno.EINVAL, f"expected a command{like}, not {words[0]!r}", 1)
    if len(words) == 1:
        return Refused(errno.EINVAL, f"expected {', '.join(following)} after {words[0]}", 2)
    like = _like(words[1], following) or f": {', '.join(following)}"
    return Refused(errno.EINVAL, f"expected a command after {words[0]}{like}, not {words[1]!r}", 2)


def _like(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 3)
    return f" such as {', '.join(close)}" if close else ""
