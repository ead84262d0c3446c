"""One stopped call: who makes it, its arguments, and the caller's memory and descriptors.

Arguments and memory are copied once, and decided on as copied: a thread of the program that changes them
meanwhile hurts nobody but itself. Each reading and writing is the caller's own, by the rules of ptrace(2): a
program that made itself undumpable (prctl(2)) is answered EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from wqfs.fs import vm
from wqfs.run.listener import Calls, Gone, Stopped
from wqfs.run.numbers import PIDFD_GETFD, PIDFD_THREAD
from wqfs.run.progress import Progress
from wqfs.run.tasks import Task

PAGE: Final = 4096
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def signed(argument: int) -> int:
    """An argument that the kernel takes as int."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low


def unsigned(argument: int) -> int:
    """An argument that the kernel takes as unsigned int."""
    return argument & 0xFFFFFFFF


class Answered(int):
    """What a call has returned already, together with a descriptor."""


class Call:
    """A call that is being answered. name: of the call; arguments: six, as they came; task: who calls."""

    def __init__(self, calls: Calls, stopped: Stopped, name: str, task: Task) -> None:
        self._calls = calls
        self.stopped = stopped
        self.name = name
        self.arguments = stopped.arguments
        self.task = task
        self.texts: dict[int, bytes] = {}
        """Arguments that were read as texts, by their position, to show them."""
        self._pending = calls.is_pending
        self.waits_for = 0
        """The serial number of the key that the call requested, and whose construction it waits for."""

    def progress(self) -> Progress:
        """To see when the call is over, once it goes on in the kernel."""
        return Progress(self.stopped.tid, self._pending)

    # -- memory

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the caller's memory. Raises OSError EFAULT, EPERM; Gone."""
        if not size:
            return b""
        if not address:
            raise _errno(errno.EFAULT)
        data = self._copied(address, size)
        if len(data) != size:
            raise _errno(errno.EFAULT)
        return data

    def read_text(self, address: int, limit: int) -> bytes:
        """A text of less than `limit` bytes, without the zero byte at its end, as strndup_user() copies it.

        Raises OSError: EINVAL for a longer one, EFAULT, EPERM; Gone.
        """
        if not address:
            raise _errno(errno.EFAULT)
        text = b""
        while len(text) < limit:
            here = address + len(text)
            # Never across the end of a page that may be the last one.
            piece = self._copied(here, min(limit - len(text), PAGE - here % PAGE))
            end = piece.find(b"\0")
            if end >= 0:
                return text + piece[:end]
            text += piece
        raise _errno(errno.EINVAL)

    def _copied(self, address: int, size: int) -> bytes:
        try:
            data = vm.read(self.stopped.tid, address, size)
        except OSError as error:
            raise self._refused(error) from None
        if not self._calls.is_waiting(self.stopped):
            raise Gone  # the number may mean another thread by now
        return data

    def write(self, address: int, data: bytes) -> None:
        """Put `data` into the caller's memory. Raises OSError EFAULT, EPERM; Gone."""
        if not self._calls.is_waiting(self.stopped):
            raise Gone
        try:
            vm.write(self.stopped.tid, address, data)
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> BaseException:
        if error.errno == errno.ESRCH:
            return Gone()
        return _errno(error.errno if error.errno == errno.EPERM else errno.EFAULT)

    def link(self, name: str) -> str:
        """What the link `name` in /proc/TID of the caller says: cwd, root. Raises OSError EPERM; Gone."""
        try:
            said = os.readlink(f"/proc/{self.stopped.tid}/{name}")
        except PermissionError:
            raise _errno(errno.EPERM) from None
        except OSError:
            raise Gone from None
        if not self._calls.is_waiting(self.stopped):
            raise Gone
        return said

    # -- descriptors

    @contextmanager
    def borrowed(self, fd: int) -> Iterator[int]:
        """The caller's descriptor `fd` as one of this process, closed at the end. Raises OSError EBADF, EPERM; Gone."""
        mine = self._taken(fd)
        try:
            yield mine
        finally:
            os.close(mine)

    def _taken(self, fd: int) -> int:
        try:
            # The thread itself, which may have descriptors of its own (unshare(2)); before Linux 6.9 its leader.
            pidfd = os.pidfd_open(self.stopped.tid, PIDFD_THREAD)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise Gone from None
            pidfd = os.pidfd_open(self.task.pid, 0)
        try:
            mine = int(_libc.syscall(ctypes.c_long(PIDFD_GETFD), pidfd, fd, 0))
            number = ctypes.get_errno()
        finally:
            os.close(pidfd)
        if mine < 0:
            raise _errno(number)
        if not self._calls.is_waiting(self.stopped):
            os.close(mine)
            raise Gone
        return mine

    def free_numbers(self, count: int) -> bool:
        """Whether the caller may have so many descriptors more: what two of them need is known before the first."""
        soft = int(_limit_of_files(self.stopped.tid))
        taken = {int(name) for name in os.listdir(f"/proc/{self.stopped.tid}/fd")}
        number = free = 0
        while number < soft and free < count:
            free += number not in taken
            number += 1
        return free == count

    def give(self, fd: int, *, cloexec: bool) -> int:
        """Give the caller `fd`; returns its number there. Raises OSError EMFILE; Gone."""
        return self._calls.add_fd(self.stopped, fd, cloexec=cloexec)

    def give_as_answer(self, fd: int, *, cloexec: bool) -> Answered:
        """As `give`, and the number is what the call returns: nothing can come between."""
        return Answered(self._calls.add_fd(self.stopped, fd, cloexec=cloexec, send=True))


def _limit_of_files(tid: int) -> str:
    with open(f"/proc/{tid}/limits", encoding="ascii") as file:
        for line in file:
            if line.startswith("Max open files"):
                soft = line.split()[3]
                return soft if soft != "unlimited" else str(1 << 20)
    raise _errno(errno.ESRCH)


def _errno(number: int | None) -> OSError:
    return OSError(number, os.strerror(number or 0))
