"""One notification pipe: ring, depth, loss, filter, and what read and poll answer.

The rules, each from kernel/watch_queue.c and fs/pipe.c of Linux 6.12:
- The depth is 1..512, rounded up to a multiple of 32, and set once. Before that nothing is kept,
  unless the queue has a default depth, which it takes at the first record.
- A record that does not fit into the ring is dropped and the newest queued record is marked. When
  a marked record has been read out, a loss record comes next, before any later record.
- A read takes whole records only, as many as fit. A first record that does not fit is an error and
  stays queued. A loss record waiting is not reported by poll.
- When no write side is left, reads drain the ring and then give end of file.

Nothing here waits, reads a clock or does I/O: who serves readers is told by `on_change`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from select import POLLERR, POLLHUP
from typing import Protocol

from wqfs.abi.filters import Filter
from wqfs.abi.polling import READABLE, WRITABLE
from wqfs.abi.records import LOSS

DEPTH_MAX = 512
DEPTH_UNIT = 32  # notes in a page: 4096 bytes of 128 each
UNSIZED_ROOM = 16  # a pipe's slots before it is sized (PIPE_DEF_BUFFERS)


class BufferTooSmall(Exception):
    """The next record needs `needed` bytes of buffer, 8..127; it stays queued."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"expected a buffer of at least {needed} bytes")
        self.needed = needed


class SizeRefused(OSError):
    """The depth cannot be set: EBUSY, it was set before; EINVAL, outside 1..512."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of records since the queue was made, and what is queued now (records, bytes)."""

    queued: int
    bytes: int
    posted: int
    delivered: int
    lost: int
    filtered: int


class Records(Protocol):
    """Many records, of which the first are made for who has room: see wqfs.together.Part."""

    count: int

    def records(self, count: int, /) -> list[bytes]: ...


class Queue:
    """A notification pipe.

    default_depth: the depth taken at the first record while the queue is not sized; 0 for none,
    as the kernel. The queue starts with no write side: `writers` is counted by its holders.
    """

    __slots__ = (
        "_capacity",
        "_default_depth",
        "_delivered",
        "_ended",
        "_loss_next",
        "_marks",
        "_ring",
        "_sized",
        "bytes",
        "filter",
        "filtered",
        "lost",
        "on_change",
        "readers",
        "settlers",
        "writers",
    )

    def __init__(self, default_depth: int = 0) -> None:
        self._capacity = 0
        self._default_depth = default_depth
        self._sized = False
        # A list, not a deque, whose first record takes half a KiB: what many queues hold is little, and a daemon that
        # forks has it twice. At most DEPTH_MAX are moved when some are taken.
        self._ring: list[bytes] | tuple[()] = ()
        # Positions, counted from the first record ever queued, after which records were lost.
        self._marks: deque[int] | tuple[()] = ()
        self._loss_next = False
        self._delivered = 0
        self._ended = False
        self.bytes = 0
        """Bytes of the queued records, the loss record not counted (FIONREAD)."""
        self.filter: Filter | None = None
        self.filtered = 0
        """Records that the filter kept out; counted by who posts (watch.py)."""
        self.lost = 0
        self.readers = 0
        """Read sides: the directory entry and descriptors open for reading; only poll asks."""
        self.writers = 0
        self.on_change: Callable[[Queue], object] | None = None
        """Called when a record was queued or the last write side went; None while nobody waits."""
        self.settlers: dict[Callable[[], object], None] | None = None
        """Called when the queue was drained; None while nobody waits for that."""

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        """Without settlers: who waits asks again."""
        return None, {name: getattr(self, name) if name != "settlers" else None for name in self.__slots__}

    # -- the writing side

    def post(self, record: bytes) -> None:
        """Queue `record`, a whole one, or note its loss. The filter has been asked already."""
        ring = self._ring
        if len(ring) >= self._capacity:
            if self._capacity or not self._default_depth:
                self._lose()
                return
            self._make_ring(self._default_depth)
            ring = self._ring
        ring.append(record)  # type: ignore[union-attr]  # a full `()` never gets here
        self.bytes += len(record)
        if self.on_change is not None:
            self.on_change(self)

    def post_part(self, part: Records) -> None:
        """`post` for many at once."""
        count = part.count
        if not count:
            return
        if not self._capacity:
            if not self._default_depth:
                return  # not sized: no record, no mark
            self._make_ring(self._default_depth)
        ring = self._ring
        taken = min(count, max(0, self._capacity - len(ring)))  # it may hold more: it was sized after a default depth
        if taken:
            records = part.records(taken)
            ring.extend(records)  # type: ignore[union-attr]  # it was made
            self.bytes += sum(map(len, records))
        if count > taken:
            self._lose(count - taken)
        if taken and self.on_change is not None:
            self.on_change(self)

    def _lose(self, count: int = 1) -> None:
        if not self._capacity:
            return  # not sized: no record, no mark
        self.lost += count
        newest = self._delivered + len(self._ring) - 1
        if not self._marks:
            self._marks = deque((newest,))
        elif self._marks[-1] != newest:
            self._marks.append(newest)

    def set_size(self, depth: int) -> None:
        """IOC_WATCH_QUEUE_SET_SIZE. depth 1..512, rounded up to a multiple of 32.

        Raises SizeRefused; a refused call does not count. What a default depth let in stays.
        """
        if self._sized:
            raise SizeRefused(errno.EBUSY, f"the depth is set already, to {self._capacity}")
        if not 1 <= depth <= DEPTH_MAX:
            raise SizeRefused(errno.EINVAL, f"expected a depth of 1..{DEPTH_MAX}, not {depth}")
        self._make_ring(depth)
        self._sized = True

    def _make_ring(self, depth: int) -> None:
        self._capacity = -(-depth // DEPTH_UNIT) * DEPTH_UNIT
        if self._ring == ():
            self._ring = []

    def hold(self) -> None:
        """One more write side: a directory entry, or a descriptor open for writing."""
        self.writers += 1

    def let_go(self) -> None:
        """One write side less; the last one hangs up."""
        self.writers -= 1
        if not self.writers:
            self._tell()

    def hang_up(self) -> None:
        """Hang up for good, whoever holds the write side: the end of the mount."""
        self._ended = True
        self._tell()
        self.tell_settlers()

    @property
    def ended(self) -> bool:
        """Whether it was hung up for good."""
        return self._ended

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    @property
    def hung_up(self) -> bool:
        """Whether no write side is left: readers drain the ring and find end of file."""
        return self._ended or not self.writers

    # -- the reading side

    def read(self, size: int) -> bytes | None:
        """Whole records of at most `size` bytes together; b"" at end of file or for size 0.

        None while there is nothing to read. Raises BufferTooSmall, with nothing consumed.
        """
        if self._marks or self._loss_next or self.bytes > size or not size:
            return self._read_by_record(size)
        ring = self._ring
        if not ring:
            return b"" if self.hung_up else None
        count = len(ring)
        data = ring[0] if count == 1 else b"".join(ring)
        ring.clear()
        self._delivered += count
        self.bytes = 0
        if self.settlers:
            self.tell_settlers()
        return data

    def _read_by_record(self, size: int) -> bytes | None:
        """The loop of pipe_read(), for what the short way in `read` leaves out."""
        if not size:
            return b""
        ring, marks = self._ring, self._marks
        taken: list[bytes] = []
        room = size
        at = 0  # the record in the ring that comes next
        needed = 0
        while True:
            if self._loss_next:
                if room < len(LOSS):
                    needed = len(LOSS)
                    break
                taken.append(LOSS)
                room -= len(LOSS)
                self._loss_next = False
            if at == len(ring):
                break
            record = ring[at]
            if len(record) > room:
                needed = len(record)
                break
            taken.append(record)
            room -= len(record)
            at += 1
            if marks and marks[0] == self._delivered:
                marks.popleft()
                self._loss_next = True
            self._delivered += 1
            if not room or at == len(ring):
                break  # a loss record after the last record waits for the next read
        if at:
            self.bytes -= sum(map(len, ring[:at]))
            del ring[:at]  # type: ignore[union-attr]  # it is not empty
        if needed and not taken:
            raise BufferTooSmall(needed)
        if not taken:
            return b"" if self.hung_up else None
        if self.settlers and self.drained:
            self.tell_settlers()
        return b"".join(taken)

    def tell_settlers(self) -> None:
        """Let those who wait for the queue to be drained look again."""
        for settler in tuple(self.settlers or ()):
            settler()

    def poll(self) -> int:
        """The events of poll(2) on the read end: POLLIN | POLLRDNORM, POLLHUP."""
        mask = READABLE if self._ring else 0
        return mask | POLLHUP if self.hung_up else mask

    def poll_write_end(self) -> int:
        """The events of poll(2) on the write end, which takes no write: POLLOUT | POLLWRNORM while
        a pipe of this depth would have room, POLLERR when no read side is left."""
        room = self._capacity // DEPTH_UNIT or UNSIZED_ROOM
        mask = WRITABLE if len(self._ring) < room else 0
        return mask if self.readers else mask | POLLERR

    # -- looking

    @property
    def depth(self) -> int:
        """Records that fit; 0 while the queue has no ring yet."""
        return self._capacity

    @property
    def loss_next(self) -> bool:
        """Whether the next thing to be read is a loss record."""
        return self._loss_next

    @property
    def drained(self) -> bool:
        """Whether all that was queued has been read, the loss record too."""
        return not (self._ring or self._loss_next)

    def __len__(self) -> int:
        return len(self._ring)

    def statistics(self) -> Statistics:
        queued = len(self._ring)
        return Statistics(
            queued=queued,
            bytes=self.bytes,
            posted=self._delivered + queued + self.lost,
            delivered=self._delivered,
            lost=self.lost,
            filtered=self.filtered,
        )
