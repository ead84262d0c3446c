"""Open files that are text: a view that is made when it is read, `events`, and `log`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from select import POLLERR, POLLPRI

from wqfs.abi.polling import READABLE
from wqfs.event import Log, NoRoom, Stream
from wqfs.fs.handles.base import STREAM_FLAGS, Handle, Source
from wqfs.kept import Account
from wqfs.watch import Watch


class TextHandle(Handle):
    """A view, made anew at each read from offset 0, as the kernel's seq_file does.

    It is kept from the first read to the one that reaches its end. A read is ENOMEM when too many texts are kept
    already.
    """

    __slots__ = ("_counted", "_end", "_kept", "_released", "_text", "_view")

    def __init__(
        self, view: Callable[[], bytes], released: Callable[[], None] | None = None, kept: Account | None = None
    ) -> None:
        """released: called at the close; kept: where the text is counted while it is kept."""
        self._view = view
        self._released = released
        self._kept = kept
        self._text: bytes | None = None
        self._counted = 0
        self._end: int | None = None

    def read(self, offset: int, size: int, flags: int) -> bytes | int:
        text = self._text
        if not offset or text is None:
            if offset and self._end is not None and offset >= self._end:
                return b""
            self._let_go()
            text = self._view()
        if offset + size >= len(text):
            self._end = len(text)
            self._let_go()
        elif self._text is None:
            if self._kept is not None:
                if not self._kept.take(len(text)):
                    return -errno.ENOMEM
                self._counted = len(text)
            self._text = text
        return text[offset : offset + size]

    def _let_go(self) -> None:
        self._text = None
        if self._kept is not None:
            self._kept.give_back(self._counted)
            self._counted = 0

    def release(self) -> None:
        self._let_go()
        if self._released is not None:
            self._released()


class ChangingTextHandle(TextHandle):
    """A view whose changes poll reports as /proc/self/mountinfo's: POLLERR | POLLPRI, once a change.

    version: a number that grows with each change.
    """

    __slots__ = ("_seen", "_source", "_version")
    poll_changes = True

    def __init__(self, view: Callable[[], bytes], version: Callable[[], int], source: Source, kept: Account) -> None:
        super().__init__(view, kept=kept)
        self._version = version
        self._seen = version()
        self._source = source

    def poll(self) -> int:
        version = self._version()
        if version == self._seen:
            return READABLE
        self._seen = version
        return READABLE | POLLERR | POLLPRI

    def source(self) -> Source:
        return self._source


class EventsHandle(Handle):
    """An open `events`: the watch's events from the open on, as a stream of bytes that any buffer
    size can read. It ends where the watch ends. A read is ENOMEM when too many texts are kept already, and the rest of
    a long line would be one more."""

    __slots__ = ("_released", "_source", "_stream", "_watch")
    open_flags = STREAM_FLAGS

    def __init__(self, watch: Watch, stream: Stream, source: Source, released: Callable[[Watch], None]) -> None:
        self._watch = watch
        self._stream = stream
        self._source = source
        self._released = released
        watch.sinks = (*watch.sinks, stream)

    def read(self, offset: int, size: int, flags: int) -> bytes | int | None:
        try:
            data = self._stream.read(size)
        except NoRoom:
            return -errno.ENOMEM
        if data is None and self._watch.queue.hung_up:
            return b""
        return data

    def poll(self) -> int:
        return self._stream.poll(hung_up=self._watch.queue.hung_up)

    def source(self) -> Source:
        return self._source

    def release(self) -> None:
        sinks = self._watch.sinks
        at = sinks.index(self._stream)  # soon found where a process ends: that closes the first first
        self._watch.sinks = sinks[:at] + sinks[at + 1 :]
        self._stream.close()
        self._released(self._watch)


class LogHandle(Handle):
    """An open `log`: a plain file that grows. It may be read through the page cache."""

    __slots__ = ("_log", "_released", "_watch")
    paged = True

    def __init__(self, watch: Watch, log: Log, released: Callable[[Watch], None]) -> None:
        self._watch = watch
        self._log = log
        self._released = released

    def read(self, offset: int, size: int, flags: int) -> bytes:
        return bytes(memoryview(self._log.text())[offset : offset + size])

    def release(self) -> None:
        self._released(self._watch)
