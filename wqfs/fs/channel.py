"""Which FUSE message goes where, and who waits: a function of bytes, in and out.

`receive` takes a request from the kernel and `answered` a reply from pyfuse3; both call `send` (to
the kernel) and `forward` (to pyfuse3) any number of times. No I/O and no task is in here, so it
can be replayed and fuzzed without a kernel.

The rules:
- READ, WRITE, POLL, IOCTL, INTERRUPT and RELEASE are answered here, at once; a read or an ioctl
  that must wait is an entry in a table (`waiting`: unique -> source). All others are pyfuse3's.
- Events that a request makes are queued everywhere first; then readers are filled, in the order of
  their arrival, and pollers notified; once a request.
- FUSE_INTERRUPT is answered with EINTR to the request that it names, if that waits here. The
  kernel sends no second one. One for a request answered already needs no reply.
- A bug in a handle answers EIO on that handle and is logged; nobody is left waiting.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable
from typing import Final

from wqfs.abi import fuse
from wqfs.fs.channel_limits import MAX_PAGES, MAX_WRITE
from wqfs.fs.handles.base import Caller, Handle, Shown, Source, Wait
from wqfs.fs.shares import Shares

log = logging.getLogger(__name__)

# What every request needs, without the way through modules and objects.
_LENGTH_AND_OPCODE = struct.Struct("=II").unpack_from
_READ_IN = fuse.READ_IN.unpack_from
_WRITE_IN = fuse.WRITE_IN.unpack_from
_POLL_IN = fuse.POLL_IN.unpack_from
_IOCTL_IN = fuse.IOCTL_IN.unpack_from
_CALLER = fuse.CALLER.unpack_from
_OUT = fuse.OUT_HEADER.pack
_OUT_SIZE = fuse.OUT_HEADER.size
_WRITE_OUT = fuse.WRITE_OUT.pack
_POLL_OUT = fuse.POLL_OUT.pack
assert fuse.WRITE_OUT.size == fuse.POLL_OUT.size == 24
_LOCKOWNER: Final = fuse.FUSE_READ_LOCKOWNER
_SCHEDULE_NOTIFY: Final = fuse.FUSE_POLL_SCHEDULE_NOTIFY
_O_DIRECT: Final = os.O_DIRECT
_WRITE_DATA_AT = fuse.WRITE_IN.size
_IOCTL_DATA_AT = fuse.IOCTL_IN.size


Server = Callable[[memoryview, int], None]
"""Serves a request in so many bytes of a message."""


class Channel:
    """The switch of one mount.

    send: takes the bytes of one reply or notification; forward: those of one request for pyfuse3.
    handles: open files by their number in FUSE messages, filled by who opens them. max_waiting:
    readers that may wait at once; one more gets ENOMEM. max_user_waiting, max_user_handles: readers of one user, None
    for all of max_waiting, and what one user may have open (asked by who opens); one more gets EDQUOT. clock:
    seconds, asked once per waiting read; None where no read has a deadline. on_started: called when INIT has been
    answered. show: takes, instead of `send`, replies for which nothing has changed: of texts, of refused reads.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        forward: Callable[[bytes], object],
        *,
        max_waiting: int = 16384,
        max_user_waiting: int | None = None,
        max_user_handles: int = 24576,
        clock: Callable[[], float] | None = None,
        on_started: Callable[[], object] | None = None,
        show: Callable[[bytes], object] | None = None,
    ) -> None:
        self._send = send
        self._show = show or send
        self._forward = forward
        self._max_waiting = max_waiting
        self._waits = Shares(max_waiting if max_user_waiting is None else max_user_waiting)
        self._waits_for: dict[int, int] = {}
        self.opened = Shares(max_user_handles)
        self.opened_by: dict[int, int] = {}
        """Of the handles that count for a user, the user; filled by who opens them, with `opened`."""
        self._clock = clock
        self.handles: dict[int, Handle] = {}
        self.ready: list[Source] = []
        """Sources that changed while somebody waited; emptied by `wake`."""
        self.waiting: dict[int, Source] = {}
        self._opening: set[int] = set()
        self._starting: set[int] = set()
        self._on_started = on_started
        self.servers = self._serving()

    def _serving(self) -> dict[int, tuple[Server, int]]:
        """Who serves what, with the least size: the buffer holds what was in it before, behind a request that is too
        short."""
        return {
            fuse.READ: (self._read, fuse.READ_IN.size),
            fuse.WRITE: (self._write, fuse.WRITE_IN.size),
            fuse.POLL: (self._poll, fuse.POLL_IN.size),
            fuse.IOCTL: (self._ioctl, fuse.IOCTL_IN.size),
            fuse.INTERRUPT: (self._interrupt, fuse.INTERRUPT_IN.size),
            fuse.RELEASE: (self._release, fuse.RELEASE_IN.size),
        }

    def __getstate__(self) -> dict[str, object]:
        """Without who waits, and what was asked of pyfuse3: all that was not answered is asked again."""
        made_anew = ("_clock", "_on_started", "_opening", "_starting", "_waits_for", "servers", "waiting")
        state = {name: value for name, value in self.__dict__.items() if name not in made_anew}
        return state | {"_waits": Shares(self._waits.most)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._clock = self._on_started = None
        self._opening, self._starting = set(), set()
        self._waits_for, self.waiting = {}, {}
        self.servers = self._serving()

    def speak_to(self, send: Callable[[bytes], object], show: Callable[[bytes], object]) -> None:
        """As `send` and `show` of a new one."""
        self._send, self._show = send, show

    def use_clock(self, clock: Callable[[], float] | None) -> None:
        """As `clock` of a new one."""
        self._clock = clock

    # -- from the kernel

    def receive(self, message: memoryview, size: int) -> None:
        """Serve the request in the first `size` bytes of `message`, which is reused afterwards."""
        length, opcode = _LENGTH_AND_OPCODE(message)
        served = self.servers.get(opcode)
        if served is None:
            self._pass_on(opcode, bytes(message[:size]))
            return
        serve, least = served
        try:
            if length != size or size < least:
                raise ValueError(f"expected a request of {max(length, least)} bytes, not {size}")
            serve(message, size)
        except Exception:
            _, _, unique = fuse.START.unpack_from(message)
            log.exception("request %d (opcode %d) failed: answered with EIO", unique, opcode)
            if opcode != fuse.INTERRUPT:
                self._error(unique, errno.EIO)
        if self.ready:
            self.wake()

    def _error(self, unique: int, number: int) -> None:
        self._send(_OUT(_OUT_SIZE, -number, unique))

    def _show_error(self, unique: int, number: int) -> None:
        """Of a read, which takes nothing then, or of an ioctl that nobody knows."""
        self._show(_OUT(_OUT_SIZE, -number, unique))

    def _read(self, message: memoryview, size: int) -> None:
        unique, fh, offset, wanted, read_flags, flags = _READ_IN(message)
        handle = self.handles.get(fh)
        if handle is None:
            self._show_error(unique, errno.EBADF)
            return
        if handle.paged:
            self._read_page(handle, unique, offset, wanted, flags)
            return
        if (not read_flags & _LOCKOWNER or flags & _O_DIRECT) and handle.open_flags & fuse.FOPEN_STREAM:
            # splice or sendfile, which must take nothing (ABI.md, 3): as on a notification pipe. A text may be read so,
            # and mapped.
            self._show_error(unique, errno.EINVAL)
            return
        data = handle.read(offset, wanted, flags)
        if data.__class__ is bytes:
            self._send(_OUT(_OUT_SIZE + len(data), 0, unique) + data)
        elif data is None:
            self._wait(unique, handle, wanted, flags, _CALLER(message)[0])
        elif data.__class__ is int:
            self._show(_OUT(_OUT_SIZE, data, unique))
        else:
            self._send(_OUT(_OUT_SIZE + len(data), 0, unique) + bytes(data))  # type: ignore[arg-type]

    def _read_page(self, handle: Handle, unique: int, offset: int, wanted: int, flags: int) -> None:
        data = handle.read(offset, wanted, flags)
        if data.__class__ is int:
            self._show(_OUT(_OUT_SIZE, data, unique))
        else:
            self._show(_OUT(_OUT_SIZE + len(data), 0, unique) + data)  # type: ignore[arg-type,operator]

    def _wait(self, unique: int, handle: Handle, size: int, flags: int, uid: int) -> None:
        source = handle.source()
        if source is None:
            raise TypeError(f"{handle!r} has nothing to wait for")
        if flags & os.O_NONBLOCK:
            self._show_error(unique, errno.EAGAIN)
        else:
            self._park(unique, handle, source, size, uid)

    def _park(self, unique: int, handle: Handle, source: Source, size: int, uid: int) -> None:
        """Let a request of the user wait until `source` is ready and `handle` has an answer."""
        if unique in self.waiting:
            raise ValueError(f"expected a number that no request has that waits, not {unique}")
        if len(self.waiting) >= self._max_waiting:
            log.warning("a call was refused: %d wait already, the limit max_waiting", self._max_waiting)
            self._error(unique, errno.ENOMEM)
        elif self._waits.full(uid):
            limit = self._waits.most
            log.warning("a call of user %d was refused: %d wait, the limit max_user_waiting", uid, limit)
            self._error(unique, errno.EDQUOT)
        else:
            self._waits.take(uid)
            self._waits_for[unique] = uid
            source.waiters[unique] = (handle, size, self._clock() if self._clock else 0.0)
            self.waiting[unique] = source
            source.arm()

    def _write(self, message: memoryview, size: int) -> None:
        unique, fh, offset, length = _WRITE_IN(message)
        handle = self.handles.get(fh)
        if handle is None:
            self._error(unique, errno.EBADF)
            return
        if _WRITE_DATA_AT + length != size:
            raise ValueError(f"expected {length} bytes to write, not {size - _WRITE_DATA_AT}")
        caller: Caller = _CALLER(message)
        count = handle.write(message[_WRITE_DATA_AT : _WRITE_DATA_AT + length], offset, caller)
        if self.ready:
            self.wake()  # before the writer's answer: who waited longest runs first
        if count < 0:
            self._send(_OUT(_OUT_SIZE, count, unique))
        else:
            self._send(_WRITE_OUT(24, 0, unique, count))

    def _poll(self, message: memoryview, size: int) -> None:
        unique, fh, kh, flags = _POLL_IN(message)
        handle = self.handles.get(fh)
        if handle is None:
            self._error(unique, errno.EBADF)
            return
        events = handle.poll()
        if flags & _SCHEDULE_NOTIFY:
            # Also when it is ready: epoll's edge-triggered form waits for the next record.
            source = handle.source()
            if source is not None:
                source.pollers[handle] = kh
                source.arm()
        self._send(_POLL_OUT(24, 0, unique, events))

    def _ioctl(self, message: memoryview, size: int) -> None:
        unique, fh, flags, command, argument, in_size = _IOCTL_IN(message)
        handle = self.handles.get(fh)
        if handle is None or flags & fuse.FUSE_IOCTL_DIR:
            self._show_error(unique, errno.ENOTTY)
            return
        if _IOCTL_DATA_AT + in_size != size:
            raise ValueError(f"expected {in_size} bytes with an ioctl, not {size - _IOCTL_DATA_AT}")
        caller: Caller = _CALLER(message)
        data = handle.ioctl(command, argument, message[_IOCTL_DATA_AT : _IOCTL_DATA_AT + in_size], caller)
        if data.__class__ is int:
            send = self._show if data == -errno.ENOTTY else self._send
            send(_OUT(_OUT_SIZE, data, unique))
        elif data.__class__ is Wait:
            self._park(unique, data.handle, data.source, 0, caller[0])
        else:
            send = self._show if data.__class__ is Shown else self._send
            out_size = fuse.IOCTL_OUT.size + len(data)  # type: ignore[arg-type]
            send(fuse.IOCTL_OUT.pack(out_size, 0, unique, 0, 0, 0, 0) + data)  # type: ignore[operator]

    def _interrupt(self, message: memoryview, size: int) -> None:
        (interrupted,) = fuse.INTERRUPT_IN.unpack_from(message)
        source = self.waiting.get(interrupted)
        if source is not None and source.interruptible:
            self.end_wait(interrupted, errno.EINTR)

    def _release(self, message: memoryview, size: int) -> None:
        unique, fh = fuse.RELEASE_IN.unpack_from(message)
        handle = self.drop(fh)
        try:
            if handle is not None:
                handle.release()
        finally:
            self._error(unique, 0)

    def drop(self, fh: int) -> Handle | None:
        """Forget an open file; returns it, for it does not know. None if there is none."""
        handle = self.handles.pop(fh, None)
        uid = self.opened_by.pop(fh, None)
        if uid is not None:
            self.opened.give(uid)
        if handle is not None:
            source = handle.source()
            if source is not None and source.pollers.pop(handle, None) is not None:
                source.arm()
        return handle

    # -- who waits

    def forget_waits(self) -> None:
        """Nobody waits: those who did ask again."""
        for source in set(self.waiting.values()):
            source.waiters.clear()
            source.arm()
        self.waiting.clear()
        for uid in self._waits_for.values():
            self._waits.give(uid)
        self._waits_for.clear()

    def forget_asked(self) -> None:
        """Nothing is asked of pyfuse3: it is another one now."""
        self._opening.clear()
        self._starting.clear()

    def end_wait(self, unique: int, number: int) -> None:
        """End the waiting read `unique` with the errno `number`; nothing if it does not wait here."""
        source = self.waiting.pop(unique, None)
        if source is not None:
            self._waits.give(self._waits_for.pop(unique))
            del source.waiters[unique]
            source.arm()
            self._error(unique, number)

    def end_waits_since(self, moment: float) -> None:
        """End with EINTR every read that has waited since `moment` or longer."""
        for unique in self.waits_since(moment):
            self.end_wait(unique, errno.EINTR)

    def waits_since(self, moment: float) -> list[int]:
        """The reads that have waited since `moment` or longer."""
        return [unique for unique, source in self.waiting.items() if source.waiters[unique][2] <= moment]

    def oldest_wait(self) -> float | None:
        """Since when the longest waiting read waits; None if none does."""
        for unique, source in self.waiting.items():
            return source.waiters[unique][2]
        return None

    def wake(self) -> None:
        """Fill waiting readers and notify pollers of everything that changed."""
        ready = self.ready
        while ready:
            self._wake_source(ready.pop(0))

    def _wake_source(self, source: Source) -> None:
        waiters = source.waiters
        while waiters:
            unique = next(iter(waiters))
            handle, size, _ = waiters[unique]
            try:
                data = handle.read(0, size, 0)
            except Exception:
                log.exception("waking the read %d failed: answered with EIO", unique)
                data = -errno.EIO
            if data is None:
                break
            del waiters[unique]
            del self.waiting[unique]
            self._waits.give(self._waits_for.pop(unique))
            if data.__class__ is int:
                self._send(_OUT(_OUT_SIZE, data, unique))
            else:
                self._send(_OUT(_OUT_SIZE + len(data), 0, unique) + data)  # type: ignore[arg-type,operator]
        for kh in source.pollers.values():
            self._send(fuse.NOTIFY_POLL_OUT.pack(fuse.NOTIFY_POLL_OUT.size, fuse.NOTIFY_POLL, 0, kh))
        source.pollers.clear()
        source.arm()

    # -- pyfuse3's part

    def _pass_on(self, opcode: int, message: bytes) -> None:
        if opcode == fuse.OPEN:
            self._opening.add(fuse.START.unpack_from(message)[2])
        elif opcode == fuse.INIT:
            self._starting.add(fuse.START.unpack_from(message)[2])
        self._forward(message)

    def answered(self, reply: bytes) -> bytes:
        """What the kernel gets for pyfuse3's `reply`: itself, but for INIT's and OPEN's."""
        if not self._opening and not self._starting:
            return reply
        _, error, unique = fuse.OUT_HEADER.unpack_from(reply)
        if unique in self._opening:
            self._opening.discard(unique)
            if not error:
                return self._opened(reply)
        elif unique in self._starting:
            self._starting.discard(unique)
            if not error:
                if self._on_started is not None:
                    self._on_started()
                return started(reply)
        return reply

    def _opened(self, reply: bytes) -> bytes:
        """OPEN's reply with the flags of its handle."""
        size, error, unique, fh, flags = fuse.OPEN_OUT.unpack_from(reply)
        handle = self.handles.get(fh)
        if handle is not None:
            flags = handle.open_flags
        return fuse.OPEN_OUT.pack(size, error, unique, fh, flags)


def started(reply: bytes) -> bytes:
    """INIT's reply with sizes that fit the socket to pyfuse3, as long as it came."""
    fields = list(fuse.INIT_OUT.unpack_from(reply, _OUT_SIZE))
    fields[2] = min(fields[2], MAX_WRITE)  # max_readahead
    fields[3] |= fuse.FUSE_MAX_PAGES
    fields[6] = MAX_WRITE
    fields[8] = MAX_PAGES
    head = reply[:_OUT_SIZE] + fuse.INIT_OUT.pack(*fields)
    return head + reply[len(head) :]
