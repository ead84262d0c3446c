"""Reading the filter that the caller of an ioctl points at: only that caller's memory, only what the ioctl defines,
with the caller's rights and no others.

A process of its own does it for each call (caller_helper), as the caller's user. So a server of root is no means of
reading what the caller may not read, whatever program the process has become meanwhile; and a caller who puts the
filter where reading waits keeps that process waiting, not the server. A user's calls are served one after the other,
and none while a process that the user's memory holds up cannot be ended.

The pid of a request is that of the mounter's pid namespace, which is the server's own, and 0 for a caller outside
it: refused, for no number could be right. The kernel lets a thread neither end nor become another program before its
ioctl is answered, so the number names the caller until then; when the mount ends before, nobody gets the answer.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from wqfs.fs.handles.base import Caller

log = logging.getLogger(__name__)

LIMIT: Final = 5.0
"""Seconds that a read may take."""
PENDING_MAX: Final = 256
"""Calls of one user that may wait for their turn; one more is ENOMEM."""
_AT_ONCE: Final = 8
"""Users whose memory is read at the same time."""
_PROGRAM: Final = """\
import sys
sys.path.insert(0, sys.argv[1])
from wqfs.fs.caller_helper import run
run(sys.argv[2:])
"""
_PACKAGE_FOLDER: Final = str(Path(__file__).resolve().parent.parent.parent)

Answer = bytes | OSError
"""The bytes of the filter, or of its header alone where that promises too many or no rules."""
Take = Callable[[Answer], object]


class CallerMemory:
    """The reads of one mount. `run` is a task; answered: called after each answer was taken."""

    def __init__(self, answered: Callable[[], object]) -> None:
        self._answered = answered
        self._asked: dict[int, deque[tuple[Caller, int, Take]]] = {}
        self._stuck: set[int] = set()
        self._new_users, self._users = trio.open_memory_channel[int](math.inf)
        self._limiter = trio.CapacityLimiter(_AT_ONCE)

    def fetch(self, address: int, caller: Caller, take: Take) -> None:
        """Read the filter at an address of the caller; `take` gets the answer later.

        Raises OSError: EPERM where it cannot be allowed, EFAULT while an earlier read of this user's cannot be
        ended, ENOMEM with PENDING_MAX waiting.
        """
        uid, _, pid = caller
        if pid <= 0:
            raise PermissionError(errno.EPERM, "the caller is in another pid namespace: use the sized ioctl")
        if os.geteuid() not in (0, uid):
            raise _not_allowed()
        if uid in self._stuck:
            raise OSError(errno.EFAULT, f"an earlier read of the memory of user {uid} has not ended")
        asked = self._asked.get(uid)
        if asked is None:
            asked = self._asked[uid] = deque()
            self._new_users.send_nowait(uid)
        if len(asked) >= PENDING_MAX:
            raise OSError(errno.ENOMEM, f"user {uid} has {PENDING_MAX} calls that wait for their filter to be read")
        asked.append((caller, address, take))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            async for uid in self._users:
                nursery.start_soon(self._serve, uid)

    async def _serve(self, uid: int) -> None:
        asked = self._asked[uid]
        while asked:
            caller, address, take = asked[0]
            process = None
            async with self._limiter:
                try:
                    process = _start(command(caller, address))
                    answer = await _answer_of(process, address)
                except OSError as error:  # no descriptor, no process to be had
                    answer = OSError(errno.ENOMEM, f"no process can be started to read the filter: {error.strerror}")
            asked.popleft()
            take(answer)
            self._answered()
            if process is not None and process.returncode is None:
                await self._wait_for(process, uid)
        del self._asked[uid]

    async def _wait_for(self, process: subprocess.Popen[bytes], uid: int) -> None:
        """Wait for the end of a process that was killed; nothing more is read for its user until then."""
        log.warning("reading the memory of user %d does not end: the user may set filters by value alone", uid)
        self._stuck.add(uid)
        for _, _, take in self._asked[uid]:
            take(OSError(errno.EFAULT, f"an earlier read of the memory of user {uid} has not ended"))
            self._answered()
        self._asked[uid].clear()
        try:
            await _end_of(process)
        finally:
            self._stuck.discard(uid)


def command(caller: Caller, address: int) -> list[str]:
    """The process that reads the filter at an address of the caller: see caller_helper."""
    uid, gid, pid = caller
    become = ("-", "-") if uid == os.geteuid() else (str(uid), str(gid))
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, _PACKAGE_FOLDER, str(pid), str(address), *become]


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    # Not trio's open_process: that has a thread of its own, which no fork would copy (checkpoint).
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={}
    )


async def _end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait for it."""
    pidfd = os.pidfd_open(process.pid)
    try:
        while process.poll() is None:
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _answer_of(process: subprocess.Popen[bytes], address: int) -> Answer:
    """What the process says; one that says nothing in time was killed, and may have ended or not."""
    data = b""
    assert process.stdout is not None
    with process.stdout:
        output = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
    async with output:
        with trio.move_on_after(LIMIT):
            while more := await output.receive_some():
                data += more
            await _end_of(process)
    if process.returncode is None:
        process.kill()
        with trio.move_on_after(1):
            await _end_of(process)
        return OSError(errno.EFAULT, f"expected a filter at address {address:#x}: no answer within {LIMIT:g} s")
    if process.returncode == 0:
        return data
    if process.returncode in (errno.EPERM, errno.EACCES):
        return _not_allowed()
    why = os.strerror(process.returncode) if process.returncode > 0 else f"ended by signal {-process.returncode}"
    return OSError(errno.EFAULT, f"expected a filter at address {address:#x}: {why}")


def _not_allowed() -> PermissionError:
    return PermissionError(
        errno.EPERM, "the caller's memory may not be read, by the rules of ptrace: use the sized ioctl"
    )


def fetch_nothing(address: int, caller: Caller, take: Take) -> None:
    """Instead of CallerMemory.fetch where the mount is somebody else's: the pids are of the mounter's pid namespace,
    and may name other processes here. Raises PermissionError."""
    raise PermissionError(
        errno.EPERM, "the mount was handed over, perhaps by another pid namespace: use the sized ioctl"
    )
