"""WQFS_IOC_SETTLE: waiting until the readers of a queue have drained it."""

from __future__ import annotations

import errno

from wqfs.abi import fuse, ioctls
from wqfs.fs.handles.base import Handle, Source, Wait
from wqfs.queue import Queue
from wqfs.watch import Watch

_SETTLED = bytes(fuse.IOCTL_OUT.size - fuse.OUT_HEADER.size)
"""struct fuse_ioctl_out with result 0, as the body of a waiting request's answer."""


def settle(watch: Watch, flags: int, ready: list[Source]) -> bytes | int | Wait:
    """The answer to the ioctl: at once, or when the queue is drained. EINVAL for unknown flags."""
    if flags & ~ioctls.WQFS_SETTLE_READERS:
        return -errno.EINVAL
    settling = _Settling(watch, bool(flags & ioctls.WQFS_SETTLE_READERS))
    if settling.done:
        return b""
    return Wait(settling, _Drain(watch.queue, ready))


class _Drain(Source):
    """Who waits for a queue to be drained: one call, for each has a condition of its own."""

    __slots__ = ()

    def __init__(self, queue: Queue, ready: list[Source]) -> None:
        super().__init__(queue, ready)

    def arm(self) -> None:
        queue = self.target
        assert isinstance(queue, Queue)
        if self.waiters:
            queue.settlers = queue.settlers or {}
            queue.settlers[self._changed] = None
        elif queue.settlers:
            queue.settlers.pop(self._changed, None)

    def _changed(self, _: object = None) -> None:
        self.ready.append(self)


class _Settling(Handle):
    """One call that waits."""

    __slots__ = ("_readers", "_watch")

    def __init__(self, watch: Watch, readers: bool) -> None:
        self._watch = watch
        self._readers = readers

    @property
    def done(self) -> bool:
        queue = self._watch.queue
        # A named watch's directory entry counts as one reader: see Watches.make.
        return queue.drained or (self._readers and queue.readers <= bool(self._watch.name))

    def read(self, offset: int, size: int, flags: int) -> bytes | int | None:
        if self.done:
            return _SETTLED
        return -errno.EPIPE if self._watch.queue.ended else None
