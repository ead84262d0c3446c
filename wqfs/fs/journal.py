"""What happened since the last checkpoint, in memory that outlives the process that wrote it.

Two buffers and a number, in one anonymous shared mapping, which a fork inherits. The number says which checkpoint
counts: a process that was forked as generation G holds the state as it was then, and the buffer of G (the one, or
the other, in turn) has what came after. An entry counts once its buffer's length says so; that is written last, so
that a writer killed at any moment leaves whole entries alone.

    header   which counts u64: the generation, 32 bits, and the pid of the checkpoint; length of either buffer u64
    entry    bytes of payload u32, kind u32, time in nanoseconds u64, payload
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_U64 = struct.Struct("=Q")
_HEAD = struct.Struct("=IIQ")
_GENERATION_AT: Final = 0
_LENGTH_AT: Final = (8, 16)
_DATA_AT: Final = mmap.PAGESIZE

SIZE: Final = 2 << 20
"""Bytes of either buffer: what a successor has to do again is at most this much."""
FULL: Final = SIZE - (1 << 20)
"""From here on a checkpoint is due; what is above is for what cannot wait for it."""


class Entry(NamedTuple):
    kind: int
    now_ns: int
    payload: bytes


class Journal:
    """The journal of one mount; pages that are not written to take no memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _DATA_AT + 2 * SIZE)
        self._side = 0
        self._end = 0

    @property
    def generation(self) -> int:
        """The checkpoint that counts."""
        return int(_U64.unpack_from(self._memory, _GENERATION_AT)[0]) >> 32

    def counts(self, generation: int, pid: int) -> bool:
        """Whether the checkpoint with that generation, which waits in the process `pid`, is the one that counts. The
        number alone would not do: a daemon that died while it took one leaves another with the number of the next."""
        return bool(_U64.unpack_from(self._memory, _GENERATION_AT)[0] == generation << 32 | pid)

    @property
    def is_full(self) -> bool:
        """Whether a checkpoint is due."""
        return self._end >= FULL

    def append(self, kind: int, now_ns: int, payload: bytes | memoryview) -> None:
        """Write one entry. Raises OverflowError when there is no room, which the slack above FULL prevents."""
        size = len(payload)
        at = self._end
        end = at + _HEAD.size + size
        if end > SIZE:
            raise OverflowError(f"the journal holds {SIZE} bytes, and a checkpoint is overdue")
        memory, base = self._memory, _DATA_AT + self._side * SIZE + at
        _HEAD.pack_into(memory, base, size, kind, now_ns)
        base += _HEAD.size
        memory[base : base + size] = payload
        self._end = end
        _U64.pack_into(memory, _LENGTH_AT[self._side], end)

    def turn_to(self, generation: int, pid: int = 0) -> None:
        """From now on checkpoint `generation`, which waits in the process `pid`, counts, and what is appended comes
        after it."""
        self._side = generation & 1
        self._end = 0
        _U64.pack_into(self._memory, _LENGTH_AT[self._side], 0)
        _U64.pack_into(self._memory, _GENERATION_AT, generation << 32 | pid)

    def go_on(self, generation: int) -> None:
        """In a successor from that checkpoint: append after what is there."""
        self._side = generation & 1
        self._end = int(_U64.unpack_from(self._memory, _LENGTH_AT[self._side])[0])

    def entries(self, generation: int) -> Iterator[Entry]:
        """What came after checkpoint `generation`, which must be the one that counts."""
        side = generation & 1
        length = int(_U64.unpack_from(self._memory, _LENGTH_AT[side])[0])
        at, end = _DATA_AT + side * SIZE, _DATA_AT + side * SIZE + length
        while at < end:
            size, kind, now_ns = _HEAD.unpack_from(self._memory, at)
            at += _HEAD.size
            yield Entry(kind, now_ns, self._memory[at : at + size])
            at += size
