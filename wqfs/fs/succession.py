"""When the daemon has a new checkpoint taken, and how it goes on where none is to be had.

One is due when the journal says so, and is taken as soon as no task of trio's can go on; a process that has just begun
has one before it serves anything. And at rest, where the daemon has changed enough since the last one that its memory
is worth having only once.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from wqfs.fs.checkpoint import Checkpoints, TakeOver
from wqfs.fs.recorder import Recorder

log = logging.getLogger(__name__)

_TRY_AGAIN_S: Final = 1.0
_LOOK_EVERY: Final = 8
"""Rounds of the loop between two looks at how much was done since the checkpoint: a look is a system call."""
_REST_S: Final = 0.25
"""Seconds without a request after which the daemon is at rest."""


class Succession:
    """The checkpoints of one daemon, taken from its loop; poll: what that waits with, which is told of them."""

    def __init__(self, recorder: Recorder, checkpoints: Checkpoints, poll: select.poll) -> None:
        self._recorder = recorder
        self._journal = recorder.journal
        self._checkpoints = checkpoints
        self._poll = poll
        self._epoll_fd = -1
        self._wanted = False
        self._impossible: OSError | None = None
        """Why no checkpoint can be taken, where that is for good."""
        self._try_at = 0.0
        """Not before that is a checkpoint tried again that could not be taken."""
        self._unseen = False
        """Whether something was served since the journal has looked how much was done."""
        self._rounds = 0
        self.once_at_rest: Callable[[], object] | None = None
        """What can wait until the daemon is at rest."""

    def begin(self, epoll_fd: int) -> None:
        """The loop runs. epoll_fd: trio's instance, which a process that takes over must have for itself."""
        self._epoll_fd = epoll_fd

    def want(self) -> None:
        """Let a checkpoint be taken before anything else is served."""
        self._wanted = True

    def never(self, why: OSError) -> None:
        """No checkpoint can be taken any more."""
        self._impossible = why

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is to be taken."""
        return self._wanted or self._journal.is_due

    @property
    def comes_first(self) -> bool:
        """Whether it is wanted before anything else is served, and was not tried in vain."""
        return self._wanted and not self._try_at

    # -- how much was done

    @property
    def waits_for_rest(self) -> bool:
        """Whether something may be due once the daemon is at rest."""
        may_be = self._impossible is None and (self._unseen or self._journal.is_worn)
        return may_be or self.once_at_rest is not None

    def next_at(self, now: float, deadline: float, *, at_rest: bool) -> float:
        """The time to wait until, at most `deadline`: when one is tried again, or, with at_rest, the rest begins."""
        if self._wanted:
            return min(deadline, self._try_at)
        return min(deadline, now + _REST_S) if at_rest else deadline

    def serves(self) -> None:
        """Something is served now."""
        self._unseen = True

    def is_at_rest(self) -> None:
        """Nothing was, for _REST_S."""
        task, self.once_at_rest = self.once_at_rest, None
        if task is not None:
            task()
        self._look()
        self._wanted = self._wanted or self._journal.is_worn

    def has_served(self) -> None:
        """A round of the loop has ended."""
        self._rounds += 1
        if not self._rounds % _LOOK_EVERY:
            self._look()

    def _look(self) -> None:
        self._journal.look()
        self._unseen = False

    # -- taking one

    def see_to(self, *, all_wait: bool) -> None:
        """Take the checkpoint that is due, if it can be taken now. all_wait: no task of trio's can go on; one that
        could would go on in the process that takes over as well. In that process it raises TakeOver."""
        may_try = self._journal.is_full or time.monotonic() >= self._try_at
        if all_wait and self._recorder.may_fork and may_try and self.is_due:
            self._take()

    def _take(self) -> None:
        checkpoints = self._checkpoints
        self._forget()
        try:
            if self._impossible is not None:
                raise self._impossible
            registered = _registered(self._epoll_fd)
            checkpoints.take()
            self._wanted = False
            self._try_at = 0.0
        except OSError as error:
            self._go_without(error)
        except TakeOver:
            # The instance that trio had is that of all processes since the fork, as the last of them left it. It may
            # list what was closed since, while another checkpoint still had it open.
            with select.epoll() as ours:
                for fd, events in registered:
                    with suppress(OSError):
                        ours.register(fd, events)
                os.dup2(ours.fileno(), self._epoll_fd, inheritable=False)
            raise
        self._wait_for_ends()

    def _go_without(self, error: OSError) -> None:
        """Nothing stops because there is no descriptor or no process to be had: it is tried again."""
        if not self._try_at:
            then = "tried again while this goes on" if self._impossible is None else "nobody takes over"
            log.warning("no successor can be kept (%s): %s", error.strerror, then)
        self._try_at = time.monotonic() + _TRY_AGAIN_S
        self._wanted = self._impossible is None
        if self._journal.is_full:
            self._checkpoints.go_without()

    def end(self) -> None:
        """Let nobody take over from now on: the mount ends."""
        self._forget()
        self._checkpoints.end()
        self._wait_for_ends()

    # -- their ends

    def sees_end(self, fd: int) -> bool:
        """Whether a descriptor that poll(2) calls readable tells that a checkpoint has ended; if so, it is seen to."""
        if fd == self._checkpoints.waiting_fd:
            self._forget()
            self._checkpoints.has_gone()
            self._wanted = True
        elif fd == self._checkpoints.leaving_fd:
            self._poll.unregister(fd)
            self._checkpoints.reap()
        else:
            return False
        return True

    def _wait_for_ends(self) -> None:
        for fd in (self._checkpoints.waiting_fd, self._checkpoints.leaving_fd):
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)

    def _forget(self) -> None:
        """No longer wait for the end of any."""
        for fd in (self._checkpoints.waiting_fd, self._checkpoints.leaving_fd):
            if fd >= 0:
                self._poll.unregister(fd)


def _registered(epoll_fd: int) -> list[tuple[int, int]]:
    """What an epoll instance waits for: descriptors, and the events of each (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{epoll_fd}", encoding="ascii") as file:
        fields = [line.split() for line in file if line.startswith("tfd:")]
    return [(int(fd), int(events, 16)) for _, fd, _, events, *_ in fields]
