"""Reading the filter that the caller of an ioctl points at: only that caller's memory, only what the ioctl defines,
with the caller's rights and no others.

A process of its own does it (caller_helper), as the caller's user. So a server of root is no means of reading what the
caller may not read, whatever program the process has become meanwhile; and a caller who puts the filter where reading
waits keeps that process waiting, not the server. A user's calls are served one after the other, and none while
a process that the user's memory holds up cannot be ended.

A process that has answered is kept for a while, for who sets one filter sets others, and starting one takes a hundred
times as long as asking it. It reads for callers with the same user and group alone, which is all the rights it has.
There is one of a user at most, KEPT_MAX of all, and in a process that took over from the server none: it starts its own
(checkpoint).

The pid of a request is that of the mounter's pid namespace, which is the server's own, and 0 for a caller outside
it: refused, for no number could be right. The kernel lets a thread neither end nor become another program before its
ioctl is answered, so the number names the caller until then; when the mount ends before, nobody gets the answer.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from wqfs.fs.caller_process import Answer, CallerProcess, not_allowed, rights_for
from wqfs.fs.handles.base import Caller

log = logging.getLogger(__name__)

PENDING_MAX: Final = 256
"""Calls of one user that may wait for their turn; one more is ENOMEM."""
KEPT_S: Final = 3.0
"""Seconds that a process is kept that has nothing to do."""
KEPT_MAX: Final = 8
"""Processes that are kept."""
_AT_ONCE: Final = 8
"""Users whose memory is read at the same time."""

Take = Callable[[Answer], object]


class CallerMemory:
    """The reads of one mount. `run` is a task; answered: called after each answer was taken."""

    def __init__(self, answered: Callable[[], object]) -> None:
        self._answered = answered
        self._asked: dict[int, deque[tuple[Caller, int, Take]]] = {}
        self._stuck: set[int] = set()
        self._new_users, self._users = trio.open_memory_channel[int](math.inf)
        self._limiter = trio.CapacityLimiter(_AT_ONCE)
        self._kept = _Kept()

    def fetch(self, address: int, caller: Caller, take: Take) -> None:
        """Read the filter at an address of the caller; `take` gets the answer later.

        Raises OSError: EPERM where it cannot be allowed, EFAULT while an earlier read of this user's cannot be
        ended, ENOMEM with PENDING_MAX waiting.
        """
        uid, _, pid = caller
        if pid <= 0:
            raise PermissionError(errno.EPERM, "the caller is in another pid namespace: use the sized ioctl")
        if os.geteuid() not in (0, uid):
            raise not_allowed()
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
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._kept.run)
                async for uid in self._users:
                    nursery.start_soon(self._serve, uid)
        finally:
            await self._kept.end_all()

    async def _serve(self, uid: int) -> None:
        asked = self._asked[uid]
        while asked:
            caller, address, take = asked[0]
            process: CallerProcess | None = None
            try:
                async with self._limiter:
                    try:
                        process = await self._kept.process_for(caller)
                        answer = await process.read(caller[2], address)
                    except OSError as error:  # no descriptor, no process to be had
                        answer = OSError(
                            errno.ENOMEM, f"no process can be started to read the filter: {error.strerror}"
                        )
                    else:
                        if process.is_fit:
                            await self._kept.keep(uid, process)
                            process = None
                asked.popleft()
                take(answer)
                self._answered()
                if process is not None and not process.has_ended:
                    await self._wait_for(process, uid)
            finally:
                if process is not None:
                    await process.end()
        del self._asked[uid]

    async def _wait_for(self, process: CallerProcess, uid: int) -> None:
        """Wait for the end of a process that was killed; nothing more is read for its user until then."""
        log.warning("reading the memory of user %d does not end: the user may set filters by value alone", uid)
        self._stuck.add(uid)
        for _, _, take in self._asked[uid]:
            take(OSError(errno.EFAULT, f"an earlier read of the memory of user {uid} has not ended"))
            self._answered()
        self._asked[uid].clear()
        try:
            await process.wait_ended()
        finally:
            self._stuck.discard(uid)


class _Kept:
    """Processes that have nothing to do, by their users. `run` is a task."""

    def __init__(self) -> None:
        self._processes: dict[int, tuple[CallerProcess, float]] = {}
        """Each with when it goes; the one that goes first is the first."""
        self._some = trio.Event()
        """Whether there may be any."""

    async def process_for(self, caller: Caller) -> CallerProcess:
        """A process with exactly this caller's rights, which is the taker's from now on. Raises OSError."""
        rights = rights_for(caller)
        process, _ = self._processes.pop(caller[0], (None, 0))
        if process is not None and (process.rights != rights or process.has_ended):
            await process.end()
            process = None
        return process or CallerProcess(rights)

    async def keep(self, uid: int, process: CallerProcess) -> None:
        """Have a process of a user who has none here."""
        self._processes[uid] = (process, trio.current_time() + KEPT_S)
        self._some.set()
        if len(self._processes) > KEPT_MAX:
            await self._end_first()

    async def run(self) -> None:
        """End each when it is time."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._processes:
                _, until = next(iter(self._processes.values()))
                if until <= trio.current_time():
                    await self._end_first()
                else:
                    await trio.sleep_until(until)

    async def end_all(self) -> None:
        """Let go of all, also when cancelled."""
        while self._processes:
            await self._end_first()

    async def _end_first(self) -> None:
        process, _ = self._processes.pop(next(iter(self._processes)))
        await process.end()


def fetch_nothing(address: int, caller: Caller, take: Take) -> None:
    """Instead of CallerMemory.fetch where the mount is somebody else's: the pids are of the mounter's pid namespace,
    and may name other processes here. Raises PermissionError."""
    raise PermissionError(
        errno.EPERM, "the mount was handed over, perhaps by another pid namespace: use the sized ioctl"
    )
