"""What happened since the last checkpoint, in memory that outlives the process that wrote it.

Two buffers and a number, in one anonymous shared mapping, which a fork inherits. The number says which checkpoint
counts: a process that was forked as generation G holds the state as it was then, and the buffer of G (the one, or
the other, in turn) has what came after. All is little-endian words of 8 bytes, each written at once.

    header   which counts: the generation, 32 bits, and the pid of the checkpoint; of either buffer its mark; the
             request that a daemon died over, and how many did in a row
    entry    time in nanoseconds; mark 32 bits, kind 8 bits, bytes of payload 24 bits; payload, filled up to a word

Requests are read from /dev/fuse straight into it, so the pages that the next ones go to are put in place before.
Where the kernel would have to fetch one while it hands a request over, it gives up if the daemon is being killed at
that moment, and whoever made the request gets EIO (fuse_copy_fill in fs/fuse/dev.c, get_user_pages(9)).

An entry's second word is written last, so that a writer killed at any moment leaves whole entries alone. What a
buffer had before is told from what it has now by the mark, drawn anew for each generation.
"""

from __future__ import annotations

import errno
import mmap
import secrets
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from wqfs.fs.channel_limits import BUFFER_SIZE

_COUNTS: Final = 0
_MARKS: Final = (1, 2)
_DEADLY: Final = 3
_DEATHS: Final = 4
_WORD: Final = 8
_DATA_AT: Final = mmap.PAGESIZE
_HEAD: Final = 2 * _WORD
_SIZE_MAX: Final = 0xFFFFFF
_AHEAD: Final = 1 << 16
"""Bytes of pages that are put in place at a time."""
_MADV_POPULATE_WRITE: Final = 23

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
    """The journal of one mount; pages far behind what was written take no memory."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        """memory: of another Journal, to look at it as a successor does."""
        self.memory = mmap.mmap(-1, _DATA_AT + 2 * SIZE) if memory is None else memory
        self._bytes = memoryview(self.memory)
        self._words = self._bytes.cast("Q")
        self.is_full = self.is_due = self.is_worn = False
        """Whether there is no room for requests; whether a checkpoint is due, for that or for BUSY_S; and
        whether one is due at rest, for WORN_S."""
        self.room: memoryview
        """Where the payload of the next entry belongs: what is read to there need not be copied. Until the
        journal is full it has BUFFER_SIZE bytes, and their pages are in place. Its first word is 0 until something is
        read, so that a successor does not take what was there before for a request."""
        self._start_at(0, _DATA_AT)

    def _start_at(self, side: int, at: int) -> None:
        start = _DATA_AT + side * SIZE
        self._mark = self._words[_MARKS[side]] << 32
        self._word_at = at // _WORD
        self._full_at = start + FULL
        self._end_at = start + SIZE
        now = time.process_time()
        self._busy_until, self._worn_at, self.is_worn = now + BUSY_S, now + WORN_S, False
        self._in_place_to = at & -mmap.PAGESIZE
        self._come_to(at)
        self.room = self._bytes[at + _HEAD : min(at + _HEAD + BUFFER_SIZE, self._end_at)]

    def _come_to(self, at: int) -> None:
        """See to what is due where the next entry begins there; sets where something is due again."""
        self.is_full = self.is_due = at >= self._full_at
        self.look()
        due_at = at + _AHEAD if self.is_full else min(at + _AHEAD, self._full_at)
        self._due_word = due_at // _WORD
        end = min(due_at + _HEAD + BUFFER_SIZE + mmap.PAGESIZE - 1 & -mmap.PAGESIZE, self._end_at)
        if end > self._in_place_to:
            _put_in_place(self.memory, self._in_place_to, end)
            self._in_place_to = end

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
        """Write one entry. Raises OverflowError when there is no room, which the slack above FULL prevents."""
        size = len(payload)
        data = self._word_at * _WORD + _HEAD
        if data + size > self._end_at:
            raise OverflowError(f"the journal holds {SIZE} bytes, and a checkpoint is overdue")
        self.memory[data : data + size] = payload
        self.commit(kind, now_ns, size)

    def commit(self, kind: int, now_ns: int, size: int) -> None:
        """Write one entry, whose payload is in the first `size` bytes of `room` already."""
        words, at = self._words, self._word_at
        words[at] = now_ns
        words[at + 1] = self._mark | kind << 24 | size
        at += size + 23 >> 3
        self._word_at = at
        words[at + 2] = 0
        data = at * 8 + 16
        self.room = self._bytes[data : data + BUFFER_SIZE]
        if at >= self._due_word:
            self._come_to(at * 8)

    def turn_to(self, generation: int, pid: int = 0) -> None:
        """From now on checkpoint `generation`, which waits in the process `pid`, counts, and what is appended comes
        after it."""
        side = generation & 1
        self._words[_MARKS[side]] = 1 + secrets.randbelow(0xFFFFFFFF)
        at = _DATA_AT + side * SIZE
        self._words[at + _HEAD >> 3] = 0
        self._start_at(side, at)
        self._words[_COUNTS] = generation << 32 | pid

    def go_on(self, generation: int) -> None:
        """In a successor from that checkpoint: append after what is there."""
        side = generation & 1
        at = _DATA_AT + side * SIZE
        for end, _ in self._entries(generation):
            at = end
        self._start_at(side, at)

    def died_over(self, unique: int) -> int:
        """A daemon died over the request `unique`: it had read that last, and not noted it. Returns how many in a row
        have died over that one."""
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
        words, mark = self._words, self._words[_MARKS[side]]
        at, end = _DATA_AT + side * SIZE, _DATA_AT + (side + 1) * SIZE
        while at + _HEAD <= end and (word := words[at // _WORD + 1]) >> 32 == mark:
            size, now_ns = word & _SIZE_MAX, words[at // _WORD]
            data = at + _HEAD
            at = (data + size + 7) & -8
            yield at, Entry(word >> 24 & 0xFF, now_ns, self.memory[data : data + size])


def _put_in_place(memory: mmap.mmap, start: int, end: int) -> None:
    """Have the pages from `start` to `end` where this process can write to them without waiting. What fails, fails
    when they are written to."""
    try:
        memory.madvise(_MADV_POPULATE_WRITE, start, end - start)
    except OSError as error:
        if error.errno == errno.EINVAL:  # before Linux 5.14
            for at in range(start, end, mmap.PAGESIZE):
                memory[at] = memory[at]
