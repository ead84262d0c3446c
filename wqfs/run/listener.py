"""The descriptor on which stopped calls arrive and are answered: seccomp_unotify(2).

seccompy answers and puts descriptors into the caller; receiving is done here, for it may find that the call is
gone and must then neither wait for the next one nor lose it.
"""

from __future__ import annotations

import errno
import fcntl
import select
import signal
import struct
from typing import Final, NamedTuple

from seccompy.notify import AddFdFlag, FdFlag, Listener, RespFlag

_NOTIF = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; nr, arch, instruction pointer, arguments
assert _NOTIF.size == 80
_NOTIF_RECV: Final = 0xC0502100
_LIMIT: Final = 0.5
"""Seconds that a receive may take: it takes none, unless the call has gone since poll(2) saw it."""


class Stopped(NamedTuple):
    """A call that stopped. id: names it in answers; tid: the thread; number, arch: which call; arguments: six."""

    id: int
    tid: int
    number: int
    arch: int
    arguments: tuple[int, ...]


class Gone(Exception):
    """The call is over: its thread was killed, or a signal took it away, and it comes again."""


class Calls:
    """Stopped calls of a program and all its children."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._poll = select.poll()
        self._poll.register(listener.fileno(), select.POLLIN)
        signal.signal(signal.SIGALRM, lambda number, frame: None)  # only to interrupt
        try:
            listener.set_flags(FdFlag.SYNC_WAKE_UP)  # 6.6: supervisor and program take turns on one CPU
        except OSError:
            pass

    def fileno(self) -> int:
        return self._listener.fileno()

    def receive(self) -> Stopped | None:
        """The next stopped call, after poll(2) said that there is one; None if it is gone."""
        buffer = bytearray(_NOTIF.size)
        # The kernel's receive knows no O_NONBLOCK, and a kill between poll and here leaves nothing to receive.
        signal.setitimer(signal.ITIMER_REAL, _LIMIT, _LIMIT)
        try:
            fcntl.ioctl(self._listener.fileno(), _NOTIF_RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        id_, tid, _, number, arch, _, *arguments = _NOTIF.unpack(buffer)
        return Stopped(id_, tid, number, arch, tuple(arguments))

    def is_pending(self) -> bool:
        """Whether a call has stopped that was not received."""
        return bool(self._poll.poll(0))

    def is_waiting(self, stopped: Stopped) -> bool:
        """Whether the call still waits for its answer: what was read of its thread until now was its own."""
        return self._listener.valid(stopped.id)

    def answer(self, stopped: Stopped, value: int = 0, error: int = 0) -> None:
        """Let the call return `value`, or fail with the errno `error`. Raises Gone."""
        self._respond(stopped, value, error, RespFlag.NONE)

    def go_on(self, stopped: Stopped) -> None:
        """Let the kernel carry the call out. Raises Gone."""
        self._respond(stopped, 0, 0, RespFlag.CONTINUE)

    def _respond(self, stopped: Stopped, value: int, error: int, flags: RespFlag) -> None:
        try:
            self._listener.respond(stopped.id, val=value, error=error, flags=flags)
        except OSError as refused:
            if refused.errno == errno.ENOENT:
                raise Gone from None
            raise

    def add_fd(self, stopped: Stopped, fd: int, *, cloexec: bool, send: bool = False) -> int:
        """Give the caller `fd` under its lowest free number, which is returned; send: as the call's answer, in one.

        Raises Gone, and OSError: EMFILE.
        """
        try:
            return self._listener.addfd(
                stopped.id,
                fd,
                flags=AddFdFlag.SEND if send else AddFdFlag.NONE,
                newfd_flags=0o2000000 if cloexec else 0,
            )
        except OSError as refused:
            if refused.errno == errno.ENOENT:
                raise Gone from None
            raise
