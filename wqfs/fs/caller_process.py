"""One process that reads callers' memory (caller_helper), from the side of the server.

What it says is not trusted: it is its user's, who may stop it, end it, and, where the server is that user too, make it
say anything. So a process that does not answer in time, and as expected, is ended, and nothing that it may still say is
heard. A number in each request and answer says which belongs to which.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from wqfs.fs.caller_helper import ANSWER, ANSWER_MAX, NOT_ALLOWED, REQUEST
from wqfs.fs.handles.base import Caller

LIMIT: Final = 5.0
"""Seconds that a read may take."""
_ENDING_S: Final = 1.0
"""Seconds that a process may take to end that was killed, until it counts as one that cannot be ended."""
_PROGRAM: Final = """\
import sys
sys.path.insert(0, sys.argv[1])
from wqfs.fs.caller_helper import run
run(sys.argv[2:])
"""
_PACKAGE_FOLDER: Final = str(Path(__file__).resolve().parent.parent.parent)

Answer = bytes | OSError
"""The bytes of the filter, or of its header alone where that promises too many or no rules."""
Rights = tuple[int, int] | None
"""All the rights of a process that reads: it has this user, this group, and nothing else; None for the server's own."""


def rights_for(caller: Caller) -> Rights:
    """Those of the process that may read for this caller."""
    uid, gid, _ = caller
    return None if uid == os.geteuid() else (uid, gid)


def command(rights: Rights) -> list[str]:
    """The process that reads with these rights for this one: see caller_helper. Its standard input is a socket."""
    become = ("-", "-") if rights is None else tuple(map(str, rights))
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, _PACKAGE_FOLDER, str(os.getpid()), *become]


class CallerProcess:
    """A process that reads with these rights, until `end`. Raises OSError where none can be started."""

    def __init__(self, rights: Rights) -> None:
        self.rights = rights
        self.is_fit = True
        """Whether it has answered all that it was asked."""
        self._asked = 0
        self._server = os.getpid()
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                self._socket.setblocking(False)
                # Not trio's open_process: that has a thread of its own, which no fork would copy (checkpoint).
                self._process = subprocess.Popen(
                    command(rights),
                    stdin=its.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env={},
                )  # fmt: skip
            except OSError:
                self._socket.close()
                raise
        try:
            self._pidfd = os.pidfd_open(self._process.pid)  # now: later there may be no descriptor to wait with
        except OSError:
            self._process.kill()
            self._socket.close()
            raise

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    async def read(self, pid: int, address: int) -> Answer:
        """The filter at an address of a process. Afterwards it `is_fit` for another, or was killed; then it
        `has_ended`, or cannot be ended."""
        self.is_fit = False
        answer: Answer | None = None
        with trio.move_on_after(LIMIT) as scope:
            answer = await self._ask(pid, address)
        if answer is not None:
            self.is_fit = True
            return answer
        await self._kill()
        code = self._process.returncode  # its own, if it has ended by itself
        if scope.cancelled_caught or code is None:
            why = f"no answer within {LIMIT:g} s"
        elif code == NOT_ALLOWED:
            return not_allowed()
        elif code > 0:
            return OSError(errno.ENOMEM, f"the process that was to read the filter ended with exit code {code}")
        else:
            why = f"ended by signal {-code}" if code else "no answer"
        return OSError(errno.EFAULT, f"expected a filter at address {address:#x}: {why}")

    async def _ask(self, pid: int, address: int) -> Answer | None:
        """None where what comes is no answer to this."""
        self._asked += 1
        number = self._asked & 0xFFFFFFFF
        try:
            self._socket.send(REQUEST.pack(number, pid, address))
            await trio.lowlevel.wait_readable(self._socket)
            data_untrusted = self._socket.recv(ANSWER_MAX)
        except OSError:
            data_untrusted = b""
        if len(data_untrusted) < ANSWER.size:
            return None
        its_number, code = ANSWER.unpack_from(data_untrusted)
        if its_number != number:
            return None
        if not code:
            return data_untrusted[ANSWER.size :]
        if code in (errno.EPERM, errno.EACCES):
            return not_allowed()
        return OSError(errno.EFAULT, f"expected a filter at address {address:#x}: {os.strerror(code)}")

    async def wait_ended(self) -> None:
        """Wait until it has."""
        while not self.has_ended:
            await trio.lowlevel.wait_readable(self._pidfd)

    async def _kill(self) -> None:
        self._process.kill()
        with trio.move_on_after(_ENDING_S, shield=True):
            await self.wait_ended()

    async def end(self) -> None:
        """Let go of it, also when cancelled: kill it, and wait a moment. In a process that took over from the server
        (checkpoint) it is somebody else's child, and has been told."""
        if os.getpid() == self._server and not self.has_ended:
            await self._kill()
        self._socket.close()
        os.close(self._pidfd)


def not_allowed() -> PermissionError:
    """The errno where the kernel would not let this caller read it."""
    return PermissionError(
        errno.EPERM, "the caller's memory may not be read, by the rules of ptrace: use the sized ioctl"
    )
