"""A notification pipe as a Python object: a queue of a wqfs mount, or the kernel's own.

    with Queue.open("/run/wqfs") as queue:       # a fresh pipe, which watches everything
        for event in queue:
            print(event)

Waiting is always in poll(2), epoll(7) or the like, never in read(2): a host can go to sleep and a server be
stopped without holding up who waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import termios
import time
import warnings
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from wqfs.abi import filter_text, filters, ioctls
from wqfs.abi.filters import Filter, Rule
from wqfs.client.events import Event, parse_events
from wqfs.client.native import keyctl_watch_key

if TYPE_CHECKING:
    from wqfs.client.waiting import Waiting

_READ_SIZE: Final = 16 * 1024
_O_NOTIFICATION_PIPE: Final = os.O_EXCL
_NO_WATCH: Final = -1
_FOREVER: Final = None
_POLL_MAX_S: Final = 2e6  # poll(2) takes an int of milliseconds


class Queue:
    """One open notification pipe, itself a file for select(2) and the like.

    Made by `Queue.open` or `Queue.native`. Not to be used by several threads at once, but for several
    readers of one watch, each with a Queue of its own: each event then goes to one of them.

    Every method but `fileno`, `closed` and `close` raises ValueError when the queue is closed, and OSError with
    the errno of the system call: ENODEV, ENOTCONN or ECONNABORTED when the mount is gone.
    """

    def __init__(self, fd: int, *, write_end: int | None = None) -> None:
        """Take over an open descriptor of a queue file; write_end: of a kernel's pipe the other end."""
        self._fd = fd
        self._write_end = write_end
        self._native = write_end is not None
        self._pending: deque[Event] = deque()
        self._waiting: Waiting | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        depth: int | None = None,
        filter: Filter | Sequence[Rule] | str | None = None,
    ) -> Self:
        """A queue of wqfs.

        path: a file `queue`, or the folder with it: a mountpoint, where each open makes a fresh pipe, or a
        watch's folder `watches/NAME`. depth, filter: as for `set_depth`, `set_filter`; by default left as
        they are. Raises OSError, ENOTTY for a file that is no queue, and for a filter in words ValueError.
        """
        if os.path.isdir(path):
            path = os.path.join(path, "queue")
        queue = cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            queue.queued_bytes()
        except OSError as error:
            queue.close()
            if error.errno != errno.ENOTTY:
                raise
            raise OSError(errno.ENOTTY, "expected a queue of wqfs", os.fspath(path)) from None
        return queue._prepared(depth, filter)

    @classmethod
    def native(cls, *, depth: int = 256, filter: Filter | Sequence[Rule] | str | None = None) -> Self:
        """A notification pipe of the kernel: pipe2(O_NOTIFICATION_PIPE).

        It watches nothing yet, and hangs up when it is closed. Raises OSError: ENOPKG where the kernel was
        built without CONFIG_WATCH_QUEUE (Debian's), EINVAL before Linux 5.8.
        """
        reader, writer = os.pipe2(_O_NOTIFICATION_PIPE | os.O_NONBLOCK | os.O_CLOEXEC)
        return cls(reader, write_end=writer)._prepared(depth, filter)

    def _prepared(self, depth: int | None, filter: Filter | Sequence[Rule] | str | None) -> Self:
        try:
            if depth is not None:
                self.set_depth(depth)
            if filter is not None:
                self.set_filter(filter)
        except BaseException:
            self.close()
            raise
        return self

    # -- a file

    def fileno(self) -> int:
        """The descriptor, O_NONBLOCK; -1 when closed. Readable: there is an event, or the end."""
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def is_native(self) -> bool:
        """Whether it is a pipe of the kernel."""
        return self._native

    def close(self) -> None:
        """Close it; a fresh or native pipe's watches go with it. Again: nothing. A task that waits for events
        gets ValueError (trio: ClosedResourceError)."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._pending.clear()
        if self._waiting is not None:
            self._waiting.closing(fd)
        os.close(fd)
        if self._write_end is not None:
            os.close(self._write_end)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = "native" if self._native else "wqfs"
        return f"<Queue {kind} {'closed' if self.closed else f'fd={self._fd}'}>"

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError("the queue is closed")
        return self._fd

    # -- what it keeps and watches

    def set_depth(self, records: int) -> None:
        """How many records fit, 1..512, rounded up to a multiple of 32: IOC_WATCH_QUEUE_SET_SIZE.

        Once per queue. Raises OSError: EINVAL out of range, EBUSY when it was set before.
        """
        fcntl.ioctl(self._open_fd(), ioctls.IOC_WATCH_QUEUE_SET_SIZE, records)

    def set_filter(self, filter: Filter | Sequence[Rule] | str | None) -> None:
        """What may enter; None: everything. Replaces the one before; Loss and Removal always pass.

        filter: rules, or their text as in the file `filter` (`mount unmount,new_mount`, a rule a line; an
        empty one is None). Raises FilterTextError (a ValueError) for words that are no rule, OSError EINVAL
        for rules that the kernel refuses.
        """
        if isinstance(filter, str):
            filter = filter_text.parse(filter)
        fd = self._open_fd()
        if filter is None:
            fcntl.ioctl(fd, ioctls.IOC_WATCH_QUEUE_SET_FILTER, 0)
            return
        rules = filter.rules if isinstance(filter, Filter) else tuple(filter)
        # A rule for a type that nobody knows says "nothing" to a kernel, which has no other word for it.
        rules = rules or (Rule(0xFFFFFF),)
        if len(rules) > filters.FILTERS_MAX:
            raise OSError(errno.EINVAL, f"expected at most {filters.FILTERS_MAX} rules, not {len(rules)}")
        # By value to wqfs: its server may not be able to read this process's memory.
        command = ioctls.IOC_WATCH_QUEUE_SET_FILTER if self._native else ioctls.wqfs_ioc_set_filter(len(rules))
        fcntl.ioctl(fd, command, filters.encode(rules))

    def watch_key(self, key: int, watch_id: int = 0) -> None:
        """Watch a key or keyring: keyctl(KEYCTL_WATCH_KEY), or the same on the simulated keyring.

        key: serial number, or -3 for the session keyring (natively all of keyctl(2)'s special ones);
        watch_id: 0..255, stands in its events. Raises OSError: EBUSY when watched already, EACCES without
        View, ENOKEY, EKEYREVOKED, EDQUOT, EINVAL.
        """
        if self._native:
            keyctl_watch_key(key, self._open_fd(), watch_id)
        else:
            fcntl.ioctl(self._open_fd(), ioctls.WQFS_IOC_WATCH_KEY, ioctls.WATCH_KEY.pack(key, watch_id))

    def unwatch_key(self, key: int) -> None:
        """Watch it no more; a Removal follows. Raises OSError EBADSLT when it was not watched."""
        self.watch_key(key, _NO_WATCH)

    def watch_mount(self, path: str, watch_id: int = 0) -> None:
        """Watch the mounts at and below an absolute path of the simulated system.

        Raises OSError: EBUSY, EDQUOT, EINVAL; natively EOPNOTSUPP, for no released kernel can.
        """
        self._watch_path(ioctls.WQFS_IOC_WATCH_MOUNT, path, watch_id)

    def unwatch_mount(self, path: str) -> None:
        """Watch it no more; a Removal follows. Raises OSError EBADSLT when it was not watched."""
        self._watch_path(ioctls.WQFS_IOC_WATCH_MOUNT, path, _NO_WATCH)

    def watch_superblock(self, path: str, watch_id: int = 0) -> None:
        """Watch the superblock that is mounted at, or made from, a path of the simulated system; errors as
        `watch_mount`."""
        self._watch_path(ioctls.WQFS_IOC_WATCH_SB, path, watch_id)

    def unwatch_superblock(self, path: str) -> None:
        """Watch it no more; a Removal follows. Raises OSError EBADSLT when it was not watched."""
        self._watch_path(ioctls.WQFS_IOC_WATCH_SB, path, _NO_WATCH)

    def watch_devices(self, watch_id: int = 0) -> None:
        """Watch all block devices of the simulated system; errors as `watch_mount`."""
        self._ioctl(ioctls.WQFS_IOC_WATCH_DEVICES, ioctls.WATCH_DEVICES.pack(watch_id))

    def unwatch_devices(self) -> None:
        """Watch them no more; a Removal follows. Raises OSError EBADSLT when they were not watched."""
        self.watch_devices(_NO_WATCH)

    def _watch_path(self, command: int, path: str, watch_id: int) -> None:
        encoded = os.fsencode(path)
        if len(encoded) >= ioctls.PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        self._ioctl(command, ioctls.WATCH_PATH.pack(watch_id, encoded))

    def _ioctl(self, command: int, argument: bytes) -> None:
        if self._native:
            raise OSError(errno.EOPNOTSUPP, "a kernel's notification pipe watches keys alone")
        # A bytearray: fcntl copies immutable bytes to a buffer of 1024.
        fcntl.ioctl(self._open_fd(), command, bytearray(argument), True)

    def queued_bytes(self) -> int:
        """Bytes of records that wait in the queue, a loss mark not counted, nor what was read already."""
        if self._native:
            answer = fcntl.ioctl(self._open_fd(), termios.FIONREAD, bytes(4))
            return int.from_bytes(answer, sys.byteorder)
        answer = fcntl.ioctl(self._open_fd(), ioctls.WQFS_IOC_QUEUED, bytes(ioctls.QUEUED.size))
        return int(ioctls.QUEUED.unpack(answer)[1])

    # -- events

    def read_nowait(self) -> list[Event]:
        """What is there: one or more events, or [] at the end, when nothing more can come.

        Raises BlockingIOError (EAGAIN) when nothing is there yet.
        """
        if self._pending:
            events = list(self._pending)
            self._pending.clear()
            return events
        return parse_events(os.read(self._open_fd(), _READ_SIZE))

    def read(self, timeout: float | None = _FOREVER) -> list[Event]:
        """Wait for events: one or more of them, or [] at the end, when nothing more can come.

        timeout: seconds, None for ever; 0 looks without waiting. Raises TimeoutError when nothing came.
        A signal handler that raises ends the wait, as Ctrl-C does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._open_fd(), select.POLLIN)
        while True:
            try:
                return self.read_nowait()
            except BlockingIOError:
                pass
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, f"no event within {timeout:g} s")
            poll.poll(None if left is None else min(left, _POLL_MAX_S) * 1000)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event, waited for; the iteration ends when nothing more can come."""
        if not self._pending:
            self._pending.extend(self.read())
            if not self._pending:
                raise StopIteration
        return self._pending.popleft()

    # -- under trio and asyncio

    async def aread(self) -> list[Event]:
        """As `read`, in a task of trio or asyncio; a time limit is trio.fail_after or asyncio.timeout.

        Cancelled, nothing is lost. One task at a time: a second one gets trio.BusyResourceError, under
        asyncio RuntimeError.
        """
        while True:
            if not self._pending:
                await self._wait_readable()
            try:
                return self.read_nowait()
            except BlockingIOError:
                continue  # another reader of the watch was faster

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._pending:
            self._pending.extend(await self.aread())
            if not self._pending:
                raise StopAsyncIteration
        return self._pending.popleft()

    async def _wait_readable(self) -> None:
        if self._waiting is None:
            from wqfs.client.waiting import Waiting

            self._waiting = Waiting()
        await self._waiting.readable(self._open_fd())
