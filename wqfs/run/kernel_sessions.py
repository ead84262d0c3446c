"""Which keyring of the kernel's a process means by -3, -4 or -5.

Nobody but a process itself can ask for its session keyring. The supervisor knows its own, with which the program
began; that a process joined another is seen by the keyring that came to be. A child has what its parent had when it
was forked. What cannot be known so (a session joined by one of several threads, or given by a child to its parent;
whose parent has ended) is None, and never guessed. Thread and process keyrings cannot be known at all.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

from wqfs.run import descendants
from wqfs.run.kernel_state import SEARCH, SESSION, USER, USER_SESSION, Kernel, Look
from wqfs.run.tasks import Task, look

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_UNNAMED: Final = "_ses"


@dataclass(frozen=True, slots=True)
class _Joined:
    """A thread got another session keyring. at: in ticks since the machine began; serial: None for one that is not
    known; alone: whether the process had no other thread."""

    at: int
    tid: int
    serial: int | None
    alone: bool


class Sessions:
    """The session keyrings of a run's processes. To be made when the program is the only child."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._own = kernel.keyring_id(SESSION)
        self._program = frozenset(descendants.of(os.getpid()))
        self._joined: dict[tuple[int, int], list[_Joined]] = {}  # by pid and when it began
        self._anybody = False

    def resolve(self, task: Task, name: int, now: Look) -> int | None:
        """The serial number that a thread means; None where that is not known."""
        if name > 0:
            return name
        if name == SESSION:
            return self._session(task)
        if name in (USER, USER_SESSION):
            if task.uid == os.geteuid():
                try:
                    return self._kernel.keyring_id(name)
                except OSError:
                    return None
            called = now.called("keyring", f"_uid{'' if name == USER else '_ses'}.{task.uid}")
            return called.pop() if len(called) == 1 else None
        return None

    def _session(self, task: Task) -> int | None:
        if not self._anybody:
            return self._own
        try:
            began, parent = _about(f"/proc/{task.pid}/task/{task.tid}")
            mine = self._joined.get((task.pid, _about(f"/proc/{task.pid}")[0]), [])
            if mine:
                own = [each for each in mine if each.tid == task.tid]
                if own:
                    return own[-1].serial
                before = [each for each in mine if each.at <= began]
                return before[-1].serial if before and before[-1].alone else None
            began = _about(f"/proc/{task.pid}")[0]
            pid = task.pid
            while pid not in self._program:
                if parent <= 1 or parent == os.getpid():
                    return None  # its parent has ended
                pid = parent
                parents_began, parent = _about(f"/proc/{pid}")
                theirs = self._joined.get((pid, parents_began), [])
                before = [each for each in theirs if each.at <= began]
                if before:
                    return before[-1].serial if before[-1].alone else None
                began = parents_began
        except OSError:
            return None
        return self._own

    # -- another session

    def has(self, task: Task, serial: int | None, at: int) -> None:
        """A thread has another session keyring, None for one that cannot be known; at: when it stopped to get it.

        As it was stopped since, a child that it began later has that too.
        """
        self._anybody = True
        try:
            began = _about(f"/proc/{task.pid}")[0]
            alone = len(os.listdir(f"/proc/{task.pid}/task")) == 1
        except OSError:
            return  # it has ended, and whoever it started has a parent of which nothing is known
        self._joined.setdefault((task.pid, began), []).append(_Joined(at, task.tid, serial, alone))
        if len(self._joined) % 256 == 0:
            self._forget_ended()

    def lose(self, pid: int) -> None:
        """A process has a session keyring that cannot be known. Raises OSError when there is no such process."""
        if pid > 1 and pid != os.getpid():
            self.has(look(pid), None, _now())

    def _forget_ended(self) -> None:
        for pid, began in list(self._joined):
            try:
                there = _about(f"/proc/{pid}")[0] == began
            except OSError:
                there = False
            if not there:
                del self._joined[(pid, began)]

    def joining(self, task: Task, name: str | None, before: Look) -> Joining:
        """For a thread that is about to join the session keyring `name`, None for a fresh one."""
        return Joining(self, task, _UNNAMED if name is None else name, before, fresh=name is None)


class Joining:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING) from before to after."""

    def __init__(self, sessions: Sessions, task: Task, name: str, before: Look, *, fresh: bool) -> None:
        self._sessions = sessions
        self._task = task
        self._name = name
        self._at = _now()
        self._known = before.called("keyring", name)
        # A keyring that is there is joined by who may search it without possessing it.
        self._there = []
        if not fresh:
            self._there = [each for each in self._known if _may_be_joined(before, each, task)]

    def is_seen(self, after: Look) -> bool:
        """Whether the thread has a fresh keyring by now, which is then its own."""
        fresh = [
            each
            for each in after.called("keyring", self._name) - self._known
            if after.rows()[each].uid == self._task.uid
        ]
        if fresh:
            self._sessions.has(self._task, fresh[0] if len(fresh) == 1 else None, self._at)
        return bool(fresh)

    def is_over_unseen(self) -> None:
        """The call is over and there is no fresh keyring: the thread has one that was there, or it was refused."""
        if self._there:
            self._sessions.has(self._task, self._there[0] if len(self._there) == 1 else None, self._at)


def _may_be_joined(before: Look, serial: int, task: Task) -> bool:
    state = before.state(serial)
    if state.error:
        return False
    bits = state.perm >> 16 if state.uid == task.uid else state.perm
    return bool(bits & SEARCH)


def _now() -> int:
    """In ticks since the machine began."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_A_SECOND)


def _about(folder: str) -> tuple[int, int]:
    """When a process or thread began, in ticks since the machine did, and its parent. Raises OSError."""
    with open(f"{folder}/stat", "rb", buffering=0) as file:
        words = file.read().rpartition(b")")[2].split()
    return int(words[19]), int(words[1])
