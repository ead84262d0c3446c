"""What the channel expects of an open file, and where its waiting readers and pollers stand.

An answer to a read is bytes; None while there is nothing, then the source says when to ask again; or
a negative errno. The other calls
answer a value or a negative errno, as a FUSE reply does. A handle never blocks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Protocol

from wqfs.abi.fuse import FOPEN_DIRECT_IO, FOPEN_NOFLUSH, FOPEN_STREAM
from wqfs.abi.polling import READABLE, WRITABLE

Caller = tuple[int, int, int]
"""uid, gid, pid of a request, as the kernel gives them to the mounter's namespaces."""

STREAM_FLAGS = FOPEN_DIRECT_IO | FOPEN_STREAM | FOPEN_NOFLUSH
TEXT_FLAGS = FOPEN_DIRECT_IO | FOPEN_NOFLUSH
ALWAYS_READY = READABLE | WRITABLE


class Complain(Protocol):
    """Takes a refused line for `errors`."""

    def __call__(self, where: str, reason: str, caller: Caller, *, line: str = "", number: int = 0,
                 word: int = 0, code: int = errno.EINVAL) -> None: ...  # fmt: skip


class Changing(Protocol):
    """What can be waited for: a queue or a stream of events."""

    on_change: Callable[[Any], object] | None


class Source:
    """Who waits for one queue or stream: readers in the order of their arrival, and pollers.

    waiters: unique of the READ -> (handle, size, since); pollers: open files that want one
    notification, with the kernel's `kh` of each. `target.on_change` is set only while somebody waits, and
    fires once: many records in one write wake once.
    """

    __slots__ = ("pollers", "ready", "target", "waiters")
    interruptible = True
    """Whether a signal ends the waits; not where they are short and the kernel's own cannot be interrupted."""

    def __init__(self, target: Changing, ready: list[Source]) -> None:
        self.target = target
        self.ready = ready
        self.waiters: dict[int, tuple[Handle, int, float]] = {}
        self.pollers: dict[Handle, int] = {}

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        """Without readers: who waits asks again."""
        return None, {"target": self.target, "ready": self.ready, "pollers": self.pollers, "waiters": {}}

    def arm(self) -> None:
        self.target.on_change = self._changed if self.waiters or self.pollers else None

    def _changed(self, _: object) -> None:
        self.target.on_change = None
        self.ready.append(self)


class Wait:
    """The answer to an ioctl that must wait: what to ask, again each time `source` is ready."""

    __slots__ = ("handle", "source")

    def __init__(self, handle: Handle, source: Source) -> None:
        self.handle = handle
        self.source = source


class Shown(bytes):
    """What an ioctl answers that has only looked."""

    __slots__ = ()


class Handle:
    """An open file. `open_flags` goes into the reply to OPEN."""

    __slots__ = ()
    open_flags: int = TEXT_FLAGS
    paged = False
    """Whether reads through the page cache (splice, sendfile, mmap) may be answered."""
    poll_changes = False
    """Whether a poll changes what the next one says."""

    def read(self, offset: int, size: int, flags: int) -> bytes | bytearray | memoryview | int | None:
        """Up to `size` bytes. flags: the file's O_ flags at this moment."""
        return -errno.EBADF

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        """The count of bytes taken. offset: where this piece begins in the caller's write."""
        return -errno.EBADF

    def poll(self) -> int:
        """The events of poll(2) that hold now."""
        return ALWAYS_READY

    def ioctl(self, command: int, argument: int, data: memoryview, caller: Caller) -> bytes | int | Wait:
        """The bytes that go back with result 0."""
        return -errno.ENOTTY

    def release(self) -> None:
        """The last descriptor is closed."""

    def source(self) -> Source | None:
        """Where this handle's readers and pollers wait; None if they never do."""
        return None
