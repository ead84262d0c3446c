"""Notification pipes: pipe2 makes one, and what a file cannot answer as a pipe is answered here.

A call about any other descriptor goes on in the kernel, but for the two ioctls on an ordinary pipe, which a kernel
that has them refuses in its own way. So does on a queue what the mount answers itself; IOC_WATCH_QUEUE_SET_FILTER
does not: its filter is in the caller's memory, which the mount's server may not be able to read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Final

from wqfs.abi import filters, ioctls
from wqfs.abi.errors import Malformed
from wqfs.run.call import PAGE, Call, signed, unsigned
from wqfs.run.numbers import F_SETPIPE_SZ, FIONREAD, O_NOTIFICATION_PIPE
from wqfs.run.simulated import System

GO_ON: Final = None
"""The answer to a call that is the kernel's to carry out."""
_PIPE2_FLAGS: Final = O_NOTIFICATION_PIPE | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT
_OF_THE_KERNEL: Final = (ioctls.IOC_WATCH_QUEUE_SET_SIZE, ioctls.IOC_WATCH_QUEUE_SET_FILTER)
_UNSIZED_SLOTS: Final = 16  # PIPE_DEF_BUFFERS
_NUMBERS = struct.Struct("=ii")
_INT = struct.Struct("=i")


class Pipes:
    """Answers for pipe2, ioctl, fcntl and write. Each takes a Call and returns its value or GO_ON; raises OSError
    with the errno, Gone."""

    def __init__(self, system: System) -> None:
        self._system = system

    def pipe2(self, call: Call) -> int:
        """pipe2(int fds[2], int flags) with O_NOTIFICATION_PIPE."""
        address, flags = call.arguments[0], unsigned(call.arguments[1])
        if flags & ~_PIPE2_FLAGS:
            raise OSError(errno.EINVAL, f"expected no flags but O_CLOEXEC and O_NONBLOCK, not {flags:#x}")
        # Nothing may be refused once the caller has the first descriptor: there is no taking it back.
        call.write(address, call.read(address, _NUMBERS.size))
        if not call.free_numbers(2):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        ends = self._system.new_queue(flags & os.O_NONBLOCK)
        try:
            cloexec = bool(flags & os.O_CLOEXEC)
            given = [call.give(end, cloexec=cloexec) for end in ends]
        finally:
            for end in ends:
                os.close(end)
        call.write(address, _NUMBERS.pack(*given))
        return 0

    def ioctl(self, call: Call) -> int | None:
        """FIONREAD, and the ioctls of type 'W'."""
        with call.borrowed(signed(call.arguments[0])) as fd:
            command, address = unsigned(call.arguments[1]), call.arguments[2]
            if not self._system.is_queue(fd):
                if command in _OF_THE_KERNEL and stat.S_ISFIFO(os.fstat(fd).st_mode):
                    raise OSError(errno.ENODEV, "an ordinary pipe is no notification pipe")
                return GO_ON
            if command == FIONREAD:
                call.write(address, _INT.pack(self._system.queued(fd).size))
                return 0
            if command == ioctls.IOC_WATCH_QUEUE_SET_FILTER:
                self._system.set_filter(fd, *_filter_at(call, address))
                return 0
            if command == ioctls.IOC_WATCH_QUEUE_SET_SIZE or command in ioctls.OF_WQFS:
                return GO_ON
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def fcntl(self, call: Call) -> int | None:
        """F_SETPIPE_SZ, which a notification pipe refuses, and F_GETPIPE_SZ."""
        with call.borrowed(signed(call.arguments[0])) as fd:
            if not self._system.is_queue(fd):
                return GO_ON
            if unsigned(call.arguments[1]) == F_SETPIPE_SZ:
                raise OSError(errno.EBUSY, "a notification pipe is sized by IOC_WATCH_QUEUE_SET_SIZE")
            return (self._system.queued(fd).depth or _UNSIZED_SLOTS) * PAGE

    def write(self, call: Call) -> int | None:
        """A write of nothing, which a file takes and a notification pipe does not."""
        with call.borrowed(signed(call.arguments[0])) as fd:
            if self._system.is_queue(fd) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                raise OSError(errno.EXDEV, "nobody writes to a notification pipe")
            return GO_ON


def _filter_at(call: Call, address: int) -> tuple[bytes, int]:
    """The filter at an address, checked as far as its number of rules, and that number; 0 for a null pointer."""
    if not address:
        return b"\0" * filters.FILTER_HEADER.size, 0
    head = call.read(address, filters.FILTER_HEADER.size)
    try:
        count = filters.decode_count(head)
    except Malformed as error:
        raise OSError(errno.EINVAL, str(error)) from None
    return head + call.read(address + len(head), count * filters.FILTER_RULE.size), count
