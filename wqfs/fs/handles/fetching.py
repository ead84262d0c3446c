"""IOC_WATCH_QUEUE_SET_FILTER by pointer: waiting until the filter was read out of the caller's memory."""

from __future__ import annotations

import errno
from collections.abc import Callable

from wqfs.abi import filters, fuse
from wqfs.abi.errors import Malformed
from wqfs.fs.handles.base import Caller, Complain, Handle, Source, Wait
from wqfs.queue import Queue

Fetch = Callable[[int, Caller, Callable[[bytes | OSError], object]], None]
"""(address, caller, take): reads the filter at an address of the caller, `take` gets it later. Raises OSError."""

_DONE = bytes(fuse.IOCTL_OUT.size - fuse.OUT_HEADER.size)
"""struct fuse_ioctl_out with result 0, as the body of a waiting request's answer."""


def set_filter_at(
    address: int, caller: Caller, queue: Queue, fetch: Fetch, complain: Complain, ready: list[Source]
) -> Wait:
    """Begin; the filter is set when the answer is given. Raises what `fetch` raises."""
    fetching = _Fetching(queue, caller, complain, _Arrival(queue, ready))
    fetch(address, caller, fetching.take)
    return Wait(fetching, fetching.arrival)


class _Arrival(Source):
    """Who waits for one answer. It comes within a few seconds, so a signal does not end the wait: in the kernel no
    signal ends this ioctl."""

    __slots__ = ()
    interruptible = False

    def arm(self) -> None:
        """Nothing to arm: `_Fetching.take` is called once."""


class _Fetching(Handle):
    """One call that waits."""

    __slots__ = ("_answer", "_caller", "_complain", "_queue", "arrival")

    def __init__(self, queue: Queue, caller: Caller, complain: Complain, arrival: Source) -> None:
        self._queue = queue
        self._caller = caller
        self._complain = complain
        self.arrival = arrival
        self._answer: bytes | OSError | None = None

    def take(self, answer: bytes | OSError) -> None:
        self._answer = answer
        self.arrival.ready.append(self.arrival)

    def read(self, offset: int, size: int, flags: int) -> bytes | int | None:
        if self._answer is None:
            return None
        try:
            if isinstance(self._answer, OSError):
                raise self._answer
            self._queue.filter = filters.decode(self._answer)
        except Malformed as error:
            self._complain("queue ioctl", str(error), self._caller)
            return -errno.EINVAL
        except OSError as error:
            code = error.errno or errno.EIO
            self._complain("queue ioctl", str(error.strerror), self._caller, code=code)
            return -code
        return _DONE
