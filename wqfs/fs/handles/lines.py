"""Open files that take text or records: post, objects, filter, depth, sim/records.

Text is taken line by line, each when its newline arrives; a last line without one counts at the
close, when an error of it has nowhere to go but the file `errors`. A line may come in pieces. The
first line that is refused ends the write with its errno: the lines before it have counted, none
after it does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from wqfs.abi import records
from wqfs.abi.errors import Malformed
from wqfs.fs.channel_limits import MAX_WRITE
from wqfs.fs.handles.base import Caller, Complain
from wqfs.fs.handles.text import TextHandle
from wqfs.kept import Account


class LineRefused(Exception):
    """A line that was refused: errno, why, the word at fault counted from 1 (0: the whole); and,
    where it is not the line at hand, which line it was and its number since the open."""

    def __init__(self, code: int, reason: str, word: int = 0, *, line: str = "", number: int = 0) -> None:
        super().__init__(reason)
        self.errno = code
        self.reason = reason
        self.word = word
        self.line = line
        self.number = number


@dataclass(frozen=True, slots=True)
class LineContext:
    """max_line: bytes of a line, its newline not counted; complain: see Complain; texts: see TextHandle."""

    max_line: int
    complain: Complain
    texts: Account


class LineHandle(TextHandle):
    """A file that runs each line written to it.

    name: how `errors` calls the file; view: what reading gives; run: takes a line without its
    newline, raises LineRefused; released: called at the close.
    """

    __slots__ = ("_caller", "_context", "_count", "_name", "_rest", "_run", "truncated")

    def __init__(
        self,
        name: str,
        view: Callable[[], bytes],
        run: Callable[[str, Caller], None],
        context: LineContext,
        released: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(view, released, context.texts)
        self._name = name
        self._run = run
        self._context = context
        self._rest = b""
        self._count = 0
        self._caller: Caller = (0, 0, 0)
        self.truncated = False
        """Whether the file was cut to nothing through this descriptor, as `>` does."""

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        self._caller = caller
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        try:
            for line in lines:
                self._line(line, caller)
            if len(self._rest) > self._context.max_line:
                self._line(self._rest, caller)
            if lines:
                self._finish(caller)
        except _Refused as refused:
            self._rest = b""
            return -refused.code
        return len(data)

    def _line(self, raw: bytes, caller: Caller) -> None:
        self._count += 1
        text = ""
        try:
            if len(raw) > self._context.max_line:
                limit = self._context.max_line
                raise LineRefused(errno.EINVAL, f"expected a line of at most {limit} bytes, not {len(raw)}")
            text = raw.decode("utf-8", "surrogateescape")
            self._take(text, caller)
        except LineRefused as error:
            self._refuse(error, text, caller)

    def _take(self, text: str, caller: Caller) -> None:
        """A whole line."""
        self._run(text, caller)

    def _refuse(self, error: LineRefused, text: str, caller: Caller) -> NoReturn:
        self._context.complain(
            self._name,
            error.reason,
            caller,
            line=error.line or text,
            number=error.number or self._count,
            word=error.word,
            code=error.errno,
        )
        raise _Refused(error.errno) from error

    def _finish(self, caller: Caller) -> None:
        """After the last line of a write or at the close."""

    def release(self) -> None:
        rest, self._rest = self._rest, b""
        try:
            if rest:
                self._line(rest, self._caller)
            if rest or (self.truncated and not self._count):
                self._finish(self._caller)
        except _Refused:
            pass
        finally:
            super().release()


MAX_TEXT: Final = 64 * 1024
"""Bytes that a file whose lines count together takes from one open."""


_LINE_BYTES: Final = 64
"""What a line takes besides its text."""


class _Refused(Exception):
    """A refusal that is in `errors` already; only its errno is still wanted."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _nothing(line: str, caller: Caller) -> None:
    """For lines that are kept."""


class WholeTextHandle(LineHandle):
    """A file whose lines count together: the text written since the open replaces what was.

    replace: takes all lines, raises LineRefused with the line and its number.
    """

    __slots__ = ("_bytes", "_counted_lines", "_lines", "_replace")

    def __init__(
        self,
        name: str,
        view: Callable[[], bytes],
        replace: Callable[[Sequence[str], Caller], None],
        context: LineContext,
        released: Callable[[], None] | None = None,
    ) -> None:
        self._lines: list[bytes] = []  # a string may take four times as much
        self._bytes = 0
        self._counted_lines = 0
        self._replace = replace
        super().__init__(name, view, _nothing, context, released)

    def _take(self, text: str, caller: Caller) -> None:
        self._lines.append(text.encode("utf-8", "surrogateescape"))

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        if self._bytes + len(data) > MAX_TEXT:
            self._context.complain(self._name, f"expected at most {MAX_TEXT} bytes since the open", caller)
            return -errno.EINVAL
        size = len(data) + _LINE_BYTES * (bytes(data).count(b"\n") + 1)
        if not self._context.texts.take(size):
            return -errno.ENOMEM
        self._counted_lines += size
        before = len(self._lines)
        count = super().write(data, offset, caller)
        if count < 0:
            del self._lines[before:]
            self._give_back(size)
        else:
            self._bytes += count
        return count

    def _give_back(self, size: int) -> None:
        self._counted_lines -= size
        self._context.texts.give_back(size)

    def release(self) -> None:
        super().release()
        self._give_back(self._counted_lines)

    def _finish(self, caller: Caller) -> None:
        try:
            self._replace([line.decode("utf-8", "surrogateescape") for line in self._lines], caller)
        except LineRefused as error:
            self._refuse(error, "", caller)


class RecordsHandle(TextHandle):
    """sim/records: raw notification records, delivered exactly as they are.

    A write is delivered whole or, if a record of it is malformed, not at all. A write larger than
    one message comes in pieces: a piece takes the whole records of it, so that write(2) returns
    short and who goes on from there loses nothing.
    """

    __slots__ = ("_complain", "_deliver")

    def __init__(self, deliver: Callable[[list[bytes]], None], complain: Complain) -> None:
        super().__init__(bytes)
        self._deliver = deliver
        self._complain = complain

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        raw = bytes(data)
        size = len(raw)
        try:
            split = records.split(raw)
        except Malformed as error:
            # The record that a piece of a larger write cuts is its last; what is before it counts.
            if size != MAX_WRITE or not error.offset or not _is_cut(raw, error.offset):
                self._complain("sim/records", str(error), caller)
                return -errno.EINVAL
            size = error.offset
            split = records.split(raw[:size])
        self._deliver(split)
        return size


def _is_cut(raw: bytes, at: int) -> bool:
    """Whether the record at `at`, which the bytes end within, may go on after them."""
    if len(raw) - at < records.RECORD_MIN:
        return True
    info = int(records.HEADER.unpack_from(raw, at)[1])
    return info & records.WATCH_INFO_LENGTH >= records.RECORD_MIN
