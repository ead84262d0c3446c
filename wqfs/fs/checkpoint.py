"""A process that waits to take over: the state as it is now, kept by a fork.

Taking a checkpoint is a fork, which copies nothing until somebody writes; the child waits, without using a
processor, for one of two things. If the daemon dies, it forks once more, and that child is the daemon from then on:
the checkpoint itself stays, for the new daemon may die too before it has a checkpoint of its own. If the daemon has a
newer checkpoint, it is dismissed. Which of two counts while one follows the other is the journal's number, and
nothing else.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import Final

from wqfs.fs.journal import Journal
from wqfs.fs.process import call_process, fork
from wqfs.fs.supervisor import HAND_OVER, Told

ATTEMPTS: Final = 20
"""Successors that a checkpoint tries in a row, each of which died before it had a checkpoint of its own."""
_BACK_OFF_S: Final = 0.01
"""Before the second one; doubled each time, up to _LONGEST_S."""
_LONGEST_S: Final = 0.5
_OF_THE_GROUP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, HAND_OVER)


class TakeOver(BaseException):
    """Raised in the process that is the daemon now. generation: the checkpoint that it comes from."""

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.generation = generation


class Checkpoints:
    """The checkpoints of one daemon, of which one waits at a time. journal: None where none is ever taken."""

    def __init__(self, journal: Journal | None, told: Told | None) -> None:
        self._journal = journal
        self._told = told
        self._dismiss = -1
        """A descriptor of the one that waits: written to, it ends."""
        self.clone_fd = -1
        """A descriptor that only the daemon may have: see Device.read_on_clone."""
        self.waiting_fd = -1
        """A descriptor that poll(2) calls readable when the one that waits has ended, and another one is wanted."""
        self.leaving_fd = -1
        """The same of the one that was dismissed last: it wants to be reaped."""
        self._over = False

    def take(self) -> None:
        """Let a new checkpoint wait instead of the one before. In one that takes over it raises TakeOver. Raises
        OSError where there is no descriptor or no process to be had: the one before goes on waiting. After `end` it
        does nothing but note anew."""
        assert self._journal is not None
        if self._over:
            self.go_without()
            return
        generation = self._journal.generation + 1
        fds: list[int] = []
        call_process("wqfs-checkpoint")  # so that the child is never called anything else
        try:
            fds.append(os.pidfd_open(os.getpid()))
            fds += os.pipe2(os.O_CLOEXEC)
            pid = fork()
        except OSError:
            call_process("wqfs")
            for fd in fds:
                os.close(fd)
            raise
        me, dismissed, dismiss = fds
        if not pid:
            try:
                for fd in (self.clone_fd, self._dismiss, self.waiting_fd, self.leaving_fd, dismiss):
                    if fd >= 0:
                        os.close(fd)
                self._wait(generation, me, dismissed)
            except OSError:
                os._exit(1)  # else it would go on as the daemon, beside it
        call_process("wqfs")
        for fd in (me, dismissed):
            os.close(fd)
        self._journal.turn_to(generation, pid)
        self.dismiss()
        self._dismiss = dismiss
        self.waiting_fd = os.pidfd_open(pid)

    def go_without(self) -> None:
        """Note anew, though no checkpoint could be taken: until one is, nobody takes over."""
        assert self._journal is not None
        self._journal.turn_to(self._journal.generation + 1)
        self.dismiss()

    def has_gone(self) -> None:
        """The one that waited has ended: nobody takes over until there is another one."""
        self.reap()
        self.leaving_fd, self.waiting_fd = self.waiting_fd, -1
        self.reap()

    def dismiss(self) -> None:
        """The one that waits shall end."""
        fd, self._dismiss = self._dismiss, -1
        if fd >= 0:
            with suppress(OSError):
                os.write(fd, b".")
            os.close(fd)
        if self.waiting_fd >= 0:
            self.reap()
            self.leaving_fd, self.waiting_fd = self.waiting_fd, -1

    def end(self) -> None:
        """Let nobody take over from now on: the mount ends. Threads may be used then, which no checkpoint must see: it
        would hold open what one of them waits to be closed."""
        self._over = True
        self.dismiss()

    def reap(self) -> None:
        """Let go of the one that was dismissed."""
        if self.leaving_fd >= 0:
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.leaving_fd, os.WEXITED | os.WNOHANG)
            os.close(self.leaving_fd)
            self.leaving_fd = -1

    # -- in the checkpoint

    def _wait(self, generation: int, daemon: int, dismissed: int) -> None:
        """Until dismissed, or until the daemon dies: then raises TakeOver in a new process. What ends the daemon's
        process group is for the daemon alone, and ignored here."""
        assert self._journal is not None
        for number in _OF_THE_GROUP:
            signal.signal(number, signal.SIG_IGN)
        pid = attempt = 0  # pid: of the daemon, where that is a child of this process
        while True:
            if not _dies(daemon, dismissed):
                os._exit(0)
            os.close(daemon)
            os.close(dismissed)
            if pid and self._told is not None:
                self._told.has_died(pid, os.waitpid(pid, 0)[1])
            if not self._journal.counts(generation, os.getpid()):
                os._exit(0)  # a newer one waits, or this one was never waited for
            started = None
            while started is None:
                if attempt == ATTEMPTS:
                    if self._told is not None:
                        self._told.gives_up(attempt)
                    os._exit(1)
                if attempt:
                    time.sleep(min(_BACK_OFF_S * 2 ** (attempt - 1), _LONGEST_S))
                attempt += 1
                started = self._start(generation)
            pid, daemon, dismissed = started

    def _start(self, generation: int) -> tuple[int, int, int] | None:
        """Start a successor. Here it returns its pid, a descriptor of it, and where it dismisses this one; None where
        there is no process or no descriptor to be had. There it raises TakeOver."""
        fds: list[int] = []
        pid = -1
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            dismissed, dismiss = fds
            pid = fork()
            if not pid:
                os.close(dismissed)
                self._dismiss = dismiss
                self.clone_fd = self.waiting_fd = self.leaving_fd = -1
                call_process("wqfs")
                signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)  # until somebody listens
                for number in _OF_THE_GROUP:
                    signal.signal(number, signal.SIG_DFL)
                raise TakeOver(generation)
            os.close(fds.pop())
            return pid, os.pidfd_open(pid), dismissed
        except OSError:
            if not pid:
                os._exit(1)
            for fd in fds:
                os.close(fd)
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return None


def _dies(daemon: int, dismissed: int) -> bool:
    """Wait: True when the daemon has died, False when the checkpoint is dismissed."""
    poll = select.poll()
    poll.register(daemon, select.POLLIN)
    poll.register(dismissed, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if dismissed in ready:  # first, for the daemon may have died since
            if os.read(dismissed, 1) == b".":
                return False
            poll.unregister(dismissed)  # its end comes a moment before that of the process
        if daemon in ready:
            return True
