"""An open `queue`: the notification pipe's read, write, poll and ioctl (ABI.md, 2 and 3)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wqfs.abi import filters, ioctls
from wqfs.abi.errors import Malformed
from wqfs.fs.handles.base import STREAM_FLAGS, Caller, Complain, Handle, Shown, Source, Wait
from wqfs.fs.handles.fetching import Fetch, set_filter_at
from wqfs.fs.handles.settling import settle
from wqfs.queue import BufferTooSmall, SizeRefused
from wqfs.watch import Watch

_U32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class QueueContext:
    """What every open queue of a mount shares.

    too_small: the errno for a record that does not fit; fetch: see Fetch; watch_object:
    (watch, words, watch ID, caller), adds or with -1 removes a watch, raises OSError; watch_key_as: the same for a
    key's serial number and the names of a simulated process and thread; deliver: puts a record, b"" for none, into
    one watch; released: called with the watch when one of its files is closed.
    """

    too_small: int
    fetch: Fetch
    watch_object: Callable[[Watch, tuple[str, ...], int, Caller], None]
    watch_key_as: Callable[[Watch, int, int, str, str, Caller], None]
    deliver: Callable[[Watch, bytes], None]
    released: Callable[[Watch], None]
    complain: Complain


class QueueHandle(Handle):
    """One open file description of a watch's queue.

    flags: the O_ flags of the open. A descriptor open for writing holds the write side.
    """

    __slots__ = ("_context", "_queue", "_reads", "_source", "_watch", "_writes")
    open_flags = STREAM_FLAGS

    def __init__(self, watch: Watch, source: Source, flags: int, context: QueueContext) -> None:
        self._watch = watch
        self._queue = watch.queue
        self._source = source
        self._context = context
        mode = flags & os.O_ACCMODE
        self._writes = mode != os.O_RDONLY
        self._reads = mode != os.O_WRONLY
        if self._writes:
            self._queue.hold()
        if self._reads:
            self._queue.readers += 1

    def read(self, offset: int, size: int, flags: int) -> bytes | int | None:
        try:
            return self._queue.read(size)
        except BufferTooSmall:
            return -self._context.too_small

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        return -errno.EXDEV

    def poll(self) -> int:
        return self._queue.poll() if self._reads else self._queue.poll_write_end()

    def source(self) -> Source:
        return self._source

    def release(self) -> None:
        if self._reads:
            self._queue.readers -= 1
            self._queue.tell_settlers()
        if self._writes:
            self._watch.let_go()
        self._context.released(self._watch)

    # -- ioctl

    def ioctl(self, command: int, argument: int, data: memoryview, caller: Caller) -> bytes | int | Wait:
        try:
            if command == ioctls.IOC_WATCH_QUEUE_SET_SIZE:
                self._queue.set_size(argument & _U32)
                return b""
            if command == ioctls.IOC_WATCH_QUEUE_SET_FILTER:
                if argument:
                    context, ready = self._context, self._source.ready
                    return set_filter_at(argument, caller, self._queue, context.fetch, context.complain, ready)
                self._queue.filter = None
                return b""
            if command in ioctls.SIZED_SET_FILTER:
                self._queue.filter = filters.decode(bytes(data)) if ioctls.SIZED_SET_FILTER[command] else None
                return b""
            if command == ioctls.WQFS_IOC_QUEUED:
                queue = self._queue
                return Shown(ioctls.Queued(len(queue), queue.bytes, int(queue.loss_next), queue.depth).encode())
            if command == ioctls.WQFS_IOC_SETTLE:
                return settle(self._watch, argument & _U32, self._source.ready)
            if command == ioctls.WQFS_IOC_WATCH_KEY_AS:
                key, watch_id, process, thread = ioctls.decode_watch_key_as(bytes(data))
                self._context.watch_key_as(self._watch, key, watch_id, process, thread, caller)
                return b""
            if command == ioctls.WQFS_IOC_DELIVER:
                self._context.deliver(self._watch, ioctls.decode_deliver(bytes(data)))
                return b""
            watched = _watched(command, bytes(data))
            if watched is None:
                return -errno.ENOTTY
            words, watch_id = watched
            self._context.watch_object(self._watch, words, watch_id, caller)
            return b""
        except Malformed as error:
            self._context.complain("queue ioctl", str(error), caller)
            return -errno.EINVAL
        except SizeRefused as error:
            code = error.errno or errno.EINVAL
            self._context.complain("queue ioctl SET_SIZE", str(error.strerror), caller, code=code)
            return -code
        except OSError as error:
            code = error.errno or errno.EIO
            self._context.complain("queue ioctl", str(error.strerror), caller, code=code)
            return -code


def _watched(command: int, data: bytes) -> tuple[tuple[str, ...], int] | None:
    """The object, in the words of `objects`, and the watch ID; None for a number of nobody's."""
    if command == ioctls.WQFS_IOC_WATCH_KEY:
        key, watch_id = ioctls.WATCH_KEY.unpack(data)
        return ("key", str(key)), watch_id
    if command in (ioctls.WQFS_IOC_WATCH_MOUNT, ioctls.WQFS_IOC_WATCH_SB):
        watch_id, path = ioctls.decode_watch_path(data)
        kind = "mount" if command == ioctls.WQFS_IOC_WATCH_MOUNT else "sb"
        return (kind, path.decode("utf-8", "surrogateescape")), watch_id
    if command == ioctls.WQFS_IOC_WATCH_DEVICES:
        return ("devices",), ioctls.WATCH_DEVICES.unpack(data)[0]
    return None
