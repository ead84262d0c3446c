"""What happened since the last checkpoint, in memory that outlives the process that wrote it.

A room for one request, two buffers and a number, in one anonymous shared mapping, which a fork inherits. The number
says which checkpoint counts: a process that was forked as generation G holds the state as it was then, and the buffer
of G (the one, or the other, in turn) has what came after. All begins at whole words of 8 bytes, in this machine's
order.

    header   which counts: the generation, 32 bits, and the pid of the checkpoint; of either buffer its mark; the
             request that a daemon died over, and how many did in a row; the head of the request that pyfuse3 is at
    room     the request that was read last, noted or not; its first word is 0 where there is none
    entry    time in nanoseconds; kind 8 bits, bytes of payload 24 bits; mark 32 bits; payload, filled up to a word

Requests are read from /dev/fuse straight into the room, whose pages are put in place before. Where the kernel would
have to fetch one while it hands a request over, it gives up if the daemon is being killed at that moment, and whoever
made the request gets EIO (fuse_copy_fill in fs/fuse/dev.c, get_user_pages(9)).

An entry's mark is written last, and whole, so that a writer killed at any moment leaves whole entries alone. What a
buffer had before is told from what it has now by the mark, drawn anew for each generation.
"""

from __future__ import annotations

import errno
import mmap
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from wqfs.fs.channel_limits import BUFFER_SIZE

_COUNTS: Final = 0
_MARKS: Final = (1, 2)
_DEADLY: Final = 3
_DEATHS: Final = 4
_AT_WORK: Final = 5
_AT_WORK_WORDS: Final = 5
_WORD: Final = 8
_ROOM_AT: Final = mmap.PAGESIZE
_DATA_AT: Final = _ROOM_AT + (BUFFER_SIZE + mmap.PAGESIZE - 1 & -mmap.PAGESIZE)
_HEAD: Final = struct.Struct("@lII")
"""Time, kind and size, mark. In the machine's own form each is stored at once, and in this order."""
assert _HEAD.size == 2 * _WORD
_NOTE: Final = _HEAD.pack_into
_SIZE_MAX: Final = 0xFFFFFF
_LOOK_EVERY: Final = 1 << 16
"""Bytes between two looks at how much was done."""
_MADV_POPULATE_WRITE: Final = 23

REQUEST: Final = 0
"""The kind of an entry that is a request, as it came; others are for who notes to tell apart."""

SIZE: Final = 3 << 20
"""Bytes of either buffer."""
FULL: Final = SIZE - (1 << 20)
"""From here on a checkpoint is due; what is above is for what cannot wait for it."""
BUSY_S: Final = 0.2
"""After so many seconds of processor time a checkpoint is due as well: a successor has to do all of that again, but for
the system calls, while everybody waits. A checkpoint takes some milliseconds."""
WORN_S: Final = 0.05
"""After so many a checkpoint is worth its while once the daemon is at rest: what it has changed since is in memory
twice, and is not where both have it alike."""


class Entry(NamedTuple):
    kind: int
    now_ns: int
    payload: bytes


class Journal:
    """The journal of one mount."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        """memory: of another Journal, to look at it as a successor does."""
        self.memory = mmap.mmap(-1, _DATA_AT + 2 * SIZE) if memory is None else memory
        whole = memoryview(self.memory)
        self._words = whole.cast("Q")
        if memory is None:
            self._words[_MARKS[0]] = _new_mark()
        self.is_full = self.is_due = self.is_worn = False
        """Whether there is no room for requests; whether a checkpoint is due, for that or for BUSY_S; and
        whether one is due at rest, for WORN_S."""
        self.room = whole[_ROOM_AT : _ROOM_AT + BUFFER_SIZE]
        """Where requests are read to. Its pages are in place."""
        _put_in_place(self.memory, _ROOM_AT, _DATA_AT)
        self._start_at(0, _DATA_AT)

    def _start_at(self, side: int, at: int) -> None:
        start = _DATA_AT + side * SIZE
        self._mark = self._words[_MARKS[side]]
        self._at = at
        self._full_at = start + FULL
        self._end_at = start + SIZE
        now = time.process_time()
        self._busy_until, self._worn_at, self.is_worn = now + BUSY_S, now + WORN_S, False
        self._come_to(at)

    def _come_to(self, at: int) -> None:
        """See to what is due where the next entry begins there; sets where something is due again."""
        self.is_full = self.is_due = at >= self._full_at
        self.look()
        self._due_at = at + _LOOK_EVERY if self.is_full else min(at + _LOOK_EVERY, self._full_at)

    def look(self) -> None:
        """See whether a checkpoint is due by now for what was done."""
        now = time.process_time()
        if now >= self._worn_at:
            self.is_worn = True
            if now >= self._busy_until:
                self.is_due = True

    @property
    def generation(self) -> int:
        """The checkpoint that counts."""
        return self._words[_COUNTS] >> 32

    def counts(self, generation: int, pid: int) -> bool:
        """Whether the checkpoint with that generation, which waits in the process `pid`, is the one that counts. The
        number alone would not do: a daemon that died while it took one leaves another with the number of the next."""
        return self._words[_COUNTS] == generation << 32 | pid

    def append(self, kind: int, now_ns: int, payload: bytes | memoryview) -> None:
        """Write one entry, of a kind above REQUEST. Raises OverflowError when there is no room, which the slack above
        FULL prevents."""
        size = len(payload)
        if self._at + _HEAD.size + size > self._end_at:
            raise OverflowError(f"the journal holds {SIZE} bytes, and a checkpoint is overdue")
        self.note(now_ns, size, kind, payload)

    def note(self, now_ns: int, size: int, kind: int = REQUEST, payload: bytes | memoryview = b"") -> None:
        """Write one entry: the request in the first `size` bytes of `room`, or what else it is."""
        memory, at = self.memory, self._at
        kind_and_size = size
        if kind:
            memory[at + 16 : at + 16 + size] = payload
            kind_and_size |= kind << 24
        else:
            memory.move(at + 16, _ROOM_AT, size)
        _NOTE(memory, at, now_ns, kind_and_size, self._mark)
        self._at = at = at + (size + 23 & -8)
        if at >= self._due_at:
            self._come_to(at)

    @property
    def at_work(self) -> bytes:
        """The head of the request that somebody else carries out for the daemon; zeros for none."""
        start = _AT_WORK * _WORD
        return self.memory[start : start + _AT_WORK_WORDS * _WORD]

    @at_work.setter
    def at_work(self, head: bytes) -> None:
        start = _AT_WORK * _WORD
        self.memory[start : start + _AT_WORK_WORDS * _WORD] = head.ljust(_AT_WORK_WORDS * _WORD, b"\0")

    def empty_room(self) -> None:
        """What was read last is seen to."""
        self._words[_ROOM_AT // _WORD] = 0

    def turn_to(self, generation: int, pid: int = 0) -> None:
        """From now on checkpoint `generation`, which waits in the process `pid`, counts, and what is appended comes
        after it. What was read last must be seen to."""
        is_at_rest = not self.is_due
        side = generation & 1
        if is_at_rest:
            self._give_back(side)
        self._words[_MARKS[side]] = _new_mark()
        self.empty_room()
        self._start_at(side, _DATA_AT + side * SIZE)
        self._words[_COUNTS] = generation << 32 | pid
        if is_at_rest:
            self._give_back(1 - side)

    def _give_back(self, side: int) -> None:
        """Let a buffer that nobody needs take no memory, until it is written to."""
        with suppress(OSError):
            self.memory.madvise(mmap.MADV_REMOVE, _DATA_AT + side * SIZE, SIZE)

    def go_on(self, generation: int) -> None:
        """In a successor from that checkpoint: append after what is there."""
        side = generation & 1
        at = _DATA_AT + side * SIZE
        for end, _ in self._entries(generation):
            at = end
        _put_in_place(self.memory, _ROOM_AT, _DATA_AT)  # a fork copies no pages of shared memory
        self._start_at(side, at)

    def died_over(self, unique: int) -> int:
        """A daemon died over the request `unique`, as far as can be told. Returns how many in a row have died over that
        one."""
        words = self._words
        words[_DEATHS] = words[_DEATHS] + 1 if words[_DEADLY] == unique else 1
        words[_DEADLY] = unique
        return words[_DEATHS]

    def entries(self, generation: int) -> Iterator[Entry]:
        """What came after checkpoint `generation`, which must be the one that counts."""
        for _, entry in self._entries(generation):
            yield entry

    def _entries(self, generation: int) -> Iterator[tuple[int, Entry]]:
        """The same, each with where the next one would begin."""
        side = generation & 1
        mark = self._words[_MARKS[side]]
        at, end = _DATA_AT + side * SIZE, _DATA_AT + (side + 1) * SIZE
        while at + _HEAD.size <= end:
            now_ns, kind_and_size, its_mark = _HEAD.unpack_from(self.memory, at)
            if its_mark != mark:
                return
            size = kind_and_size & _SIZE_MAX
            data = at + _HEAD.size
            at = data + size + 7 & -8
            yield at, Entry(kind_and_size >> 24, now_ns, self.memory[data : data + size])


def _new_mark() -> int:
    return 1 + secrets.randbelow(0xFFFFFFFF)


def _put_in_place(memory: mmap.mmap, start: int, end: int) -> None:
    """Have the pages from `start` to `end` where this process can write to them without waiting. What fails, fails
    when they are written to."""
    try:
        memory.madvise(_MADV_POPULATE_WRITE, start, end - start)
    except OSError as error:
        if error.errno == errno.EINVAL:  # before Linux 5.14
            for at in range(start, end, mmap.PAGESIZE):
                memory[at] = memory[at]
