"""The process that outlives the daemon: it holds /dev/fuse, and says who died of what.

It starts the daemon and waits. A daemon that dies has left a checkpoint, which takes over by itself (checkpoint); the
supervisor hears of it, and passes orders to stop on to it from then on. It gives up, and unmounts, when there is nobody
left to take over: the checkpoint was killed too, or it gave up on successors that died before they served.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from wqfs.fs import mounting

log = logging.getLogger(__name__)

HAND_OVER: Final = signal.SIGUSR2
"""The order to leave the mount to the service manager, for the next process of the service: see wqfs.fs.store."""
_HAND_OVER_S: Final = 30.0
"""For the daemon to do that; until then other orders wait."""
_HAND_OVER_TIMES: Final = 3
"""How often it is ordered, where a daemon dies over it."""
_SUCCESSOR_S: Final = 10.0
_ABORTED_S: Final = 1.0
"""For a daemon to say where it hung."""
_SET_CHILD_SUBREAPER: Final = 36


class Told:
    """The daemon's end of the pipe on which it tells its supervisor: a line each, whole."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def is_daemon(self) -> None:
        """This process is the daemon now."""
        self._say(f"pid {os.getpid()}")

    def has_started(self) -> None:
        """The mount answers."""
        self._say("started 0")

    def is_ready(self) -> None:
        """A read through the mount was answered."""
        self._say("ready 0")

    def has_died(self, pid: int, status: int) -> None:
        """A daemon died that was a child of this checkpoint; status: as of waitpid(2)."""
        self._say(f"died {pid}:{status}")

    def gives_up(self, successors: int) -> None:
        """So many successors died one after the other before one had a checkpoint of its own."""
        self._say(f"tried {successors}")

    def stays(self) -> None:
        """The mount could not be left to the manager: all goes on."""
        self._say("stays 0")

    def has_ended(self, code: int) -> None:
        """The mount has ended in good order; this process is about to, with that exit code."""
        self._say(f"ended {code}")

    def _say(self, line: str) -> None:
        with suppress(OSError):
            os.write(self._fd, line.encode() + b"\n")


def supervise(
    mountpoint: str,
    fuse_fd: int,
    daemon: Callable[[Told], int],
    stop_signals: Collection[signal.Signals],
    on_started: Callable[[], object],
    on_ready: Callable[[], object],
    try_unmount: Callable[[str, bool], str] | None = None,
    device: str = "",
    of_the_daemon: Collection[int] = (),
) -> int:
    """Run `daemon` in a child process, and those that follow it, until the mount ends; returns the exit code.

    fuse_fd: of the mount; stop_signals: blocked by the caller; they go to the daemon. on_started: called when the
    first daemon's mount answers; on_ready: when a look through it was answered. try_unmount, device: see
    mounting.unmount. of_the_daemon: descriptors that this process does not keep.
    """
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {HAND_OVER})  # as the others, until somebody listens
    hears, tells = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        os.close(hears)
        code = 2
        try:
            told = Told(tells)
            code = daemon(told)
            told.has_ended(code)
        finally:
            os._exit(code)
    for fd in (tells, *of_the_daemon):
        os.close(fd)
    return _Supervisor(mountpoint, fuse_fd, pid, hears, on_started, on_ready, try_unmount, device).wait(stop_signals)


class _Supervisor:
    def __init__(
        self,
        mountpoint: str,
        fuse_fd: int,
        pid: int,
        hears: int,
        on_started: Callable[[], object],
        on_ready: Callable[[], object],
        try_unmount: Callable[[str, bool], str] | None,
        device: str,
    ) -> None:
        self._mountpoint = mountpoint
        self._fuse_fd = fuse_fd
        self._device = device
        self._try_unmount = try_unmount
        self._daemon = pid
        self._hears = hears
        self._on_started = on_started
        self._on_ready = on_ready
        self._rest = b""
        self._ended: int | None = None
        self._followed: set[int] = set()
        """Daemons whose successor has said that it is the daemon, and whose death has not been seen yet."""
        self._stopping = 0
        """The last order to stop, which a daemon may have died over."""
        self._tried = 0
        """Successors in a row that died before they served, once nobody tries another one."""
        self._got: deque[int] = deque()
        self._handing_over_since = 0.0
        """When the daemon was ordered to; 0 where it was not, or has refused."""
        self._handing_over_times = 0

    def wait(self, stop_signals: Collection[signal.Signals]) -> int:
        os.set_blocking(self._hears, False)
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (*stop_signals, signal.SIGABRT, signal.SIGCHLD, HAND_OVER):
            signal.signal(number, lambda number, frame: self._got.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*stop_signals, signal.SIGCHLD, HAND_OVER})
        poll = select.poll()
        poll.register(self._hears, select.POLLIN)
        poll.register(woken, select.POLLIN)
        nobody_left = False
        while True:
            ready = dict(poll.poll(100 if self._got or self._is_handing_over() else None))
            if woken.fileno() in ready:
                with suppress(BlockingIOError):
                    woken.recv(4096)
            if ready.get(self._hears, 0) & select.POLLHUP and not ready[self._hears] & select.POLLIN:
                poll.unregister(self._hears)
                nobody_left = True
            self._hear()
            self._pass_on_orders()
            code = self._reap()
            if code is None and nobody_left:
                code = self._ended if self._ended is not None else self._give_up("nobody is left to take over")
            if code is not None:
                signal.pthread_sigmask(signal.SIG_BLOCK, {*stop_signals, signal.SIGCHLD, HAND_OVER})
                signal.set_wakeup_fd(-1)
                return code

    def _is_handing_over(self) -> bool:
        return bool(self._handing_over_since) and time.monotonic() < self._handing_over_since + _HAND_OVER_S

    def _pass_on_orders(self) -> None:
        """To the daemon, those that may not wait. SIGCHLD is no order, but has woken us."""
        later = []
        while self._got:
            order = self._got.popleft()
            if order not in (signal.SIGABRT, signal.SIGCHLD) and self._is_handing_over():
                if order != HAND_OVER:
                    later.append(order)
                continue
            if order == HAND_OVER:
                self._handing_over_since = time.monotonic()
                self._handing_over_times += 1
            if order not in (HAND_OVER, signal.SIGABRT, signal.SIGCHLD):
                self._stopping = order
            if order != signal.SIGCHLD:
                with suppress(ProcessLookupError):
                    os.kill(self._daemon, order)
            if order == signal.SIGABRT:
                self._abort()
        self._got.extend(later)

    def _abort(self) -> None:
        """A manager's watchdog has struck: the daemon has been told, so that its traceback says where it hung; end as
        the manager expects it of the main process."""
        log.error("%s: ended by a watchdog; the daemon (pid %d) did not answer", self._mountpoint, self._daemon)
        with suppress(ProcessLookupError):
            os.kill(self._daemon, signal.SIGCONT)  # one that was stopped has not had it yet
        with suppress(ChildProcessError):
            end = time.monotonic() + _ABORTED_S
            while time.monotonic() < end and os.waitpid(self._daemon, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        self._unmount()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)

    def _hear(self) -> None:
        """What daemons have told."""
        with suppress(BlockingIOError):
            self._rest += os.read(self._hears, 65536)
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            what, number = line.split()
            if what == b"pid":
                self._followed.add(self._daemon)
                self._daemon = int(number)
                if self._stopping:
                    self._got.append(self._stopping)
                if self._is_handing_over() and self._handing_over_times < _HAND_OVER_TIMES:
                    self._got.appendleft(HAND_OVER)  # to who has taken over
                self._handing_over_since = 0.0
            elif what == b"stays":
                self._handing_over_since, self._handing_over_times = 0.0, 0
            elif what == b"died":
                pid, status = map(int, number.split(b":"))
                self._died(pid, os.waitstatus_to_exitcode(status))
            elif what == b"tried":
                self._tried = int(number)
            elif what == b"started":
                self._on_started()
            elif what == b"ready":
                self._on_ready()
            else:
                self._ended = int(number)

    def _reap(self) -> int | None:
        """The exit code when it is over before everybody is gone, else None."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if not pid:
                return None
            self._hear()
            if self._ended is not None:
                continue  # until nobody is left
            if pid == self._daemon or pid in self._followed:
                self._died(pid, os.waitstatus_to_exitcode(status))
                if pid == self._daemon and not self._has_successor(pid):
                    return self._give_up("nobody took over")
                self._followed.discard(pid)

    def _died(self, pid: int, code: int) -> None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        log.warning("%s: the daemon (pid %d) %s; its successor takes over", self._mountpoint, pid, how)

    def _has_successor(self, dead: int) -> bool:
        """Wait until somebody else says that it is the daemon. A checkpoint may have been stopped."""
        for pid in _children_of_ours():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + _SUCCESSOR_S
        poll = select.poll()
        poll.register(self._hears, select.POLLIN)
        while self._daemon == dead and (left := deadline - time.monotonic()) > 0:
            if any(events == select.POLLHUP for _, events in poll.poll(left * 1000)):
                return False
            self._hear()
        return self._daemon != dead

    def _kill_the_rest(self) -> None:
        """What lives on of daemons and checkpoints would keep the connection, and all who wait in it."""
        while ours := _children_of_ours():
            for pid in ours:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in ours:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)  # its own children are ours now

    def _give_up(self, why: str) -> int:
        if self._tried:
            why = f"{self._tried} successors in a row died before they served"
        if self._stopping:
            log.warning("%s: killed while it stopped; unmounted", self._mountpoint)
        else:
            log.error("%s: %s; unmounted, its users find it gone", self._mountpoint, why)
        self._unmount()
        return 0 if self._stopping else 2

    def _unmount(self) -> None:
        """Once nobody serves it: not where it is gone already, and another mount may have its place and its number."""
        self._kill_the_rest()
        if mounting.is_connected(self._fuse_fd):
            mounting.unmount(self._mountpoint, lazy=True, by=self._try_unmount, device=self._device)


def _children_of_ours() -> list[int]:
    """Daemons and checkpoints among the children of this process; none where the kernel has no list of them."""
    me, found = os.getpid(), []
    with suppress(OSError):
        for pid in map(int, Path(f"/proc/{me}/task/{me}/children").read_text().split()):
            if Path(f"/proc/{pid}/comm").read_text().startswith("wqfs"):
                found.append(pid)
    return found
