"""Who calls: a process's user, its life, and what it is called in the simulated system.

Processes are not trapped when they begin, replace their program or end, for that would cost each of them. So a
process is heard of when it first makes a call about keys: then it gets what its parent has at that moment, and
so does the parent, and its parent, up to one that is known. That it replaced its program is seen at its next call
by the sixteen random bytes that the kernel gives each program (AT_RANDOM), and its end by its pidfd.
"""

from __future__ import annotations

import os
import select
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from wqfs.fs import vm
from wqfs.run.simulated import System

_AUXV = struct.Struct("=QQ")
_AT_RANDOM: Final = 25
_RANDOM_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Task:
    """A thread, and the process that it belongs to, as the kernel tells of them at one moment.

    tid, pid, parent: numbers as the supervisor sees them; uid, gid: of the thread, those that count for files
    (and keys); groups: the further ones.
    """

    tid: int
    pid: int
    parent: int
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def thread(self) -> str:
        """What the simulated system calls the thread: "" for a process's first."""
        return "" if self.tid == self.pid else str(self.tid)


def look(tid: int) -> Task:
    """Read /proc/TID/status. Raises OSError when there is no such thread (any more)."""
    with open(f"/proc/{tid}/status", "rb", buffering=0) as file:
        text = file.read()
    values: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        values[name] = value
    return Task(
        tid,
        int(values[b"Tgid"]),
        int(values[b"PPid"]),
        int(values[b"Uid"].split()[3]),
        int(values[b"Gid"].split()[3]),
        tuple(map(int, values[b"Groups"].split())),
    )


@dataclass
class _Known:
    """A process of the simulated system. name: there; program: see _program; threads: those heard of."""

    name: str
    pidfd: int
    program: bytes
    threads: set[int] = field(default_factory=set)


class Tasks:
    """The processes of a run that were heard of. poll: gets their pidfds, for `ended`."""

    def __init__(self, system: System, poll: select.epoll) -> None:
        self._system = system
        self._poll = poll
        self._known: dict[int, _Known] = {}
        self._by_pidfd: dict[int, int] = {}

    def name(self, task: Task) -> str:
        """What the process of `task` is called in the simulated system, which hears of it first if it is new.

        Raises OSError when it has ended.
        """
        known = self._known.get(task.pid)
        if known is None:
            return self._begin(task).name
        program = _program(task.pid)
        if program and known.program and program != known.program:
            known.threads.clear()
            self._system.call(task, "", "process_exec", known.name)
        known.program = program or known.program
        if task.thread:
            self._end_threads(known, task)
            known.threads.add(task.tid)
        return known.name

    def known_name(self, pid: int) -> str | None:
        """What a process is called that was heard of; None for any other."""
        known = self._known.get(pid)
        return None if known is None else known.name

    def _begin(self, task: Task) -> _Known:
        parent = "" if task.parent in (0, 1, os.getpid()) else self._parent_name(task.parent)
        pidfd = os.pidfd_open(task.pid, 0)
        try:
            name = self._forked(task, parent)
        except BaseException:
            os.close(pidfd)
            raise
        known = _Known(name, pidfd, _program(task.pid), {task.tid} if task.thread else set())
        self._known[task.pid] = known
        self._by_pidfd[pidfd] = task.pid
        self._poll.register(pidfd, select.EPOLLIN)
        return known

    def _forked(self, task: Task, parent: str) -> str:
        """Make it in the simulated system, under a name that nobody has: of two runs on one mount that see
        different pid namespaces each may have a process of that number."""
        for number in range(100):
            name = f"pid.{task.pid}" + (f".{number}" if number else "")
            with suppress(FileExistsError):
                self._system.call(task, "", "process_fork", parent, name)
                return name
        raise FileExistsError

    def _parent_name(self, pid: int) -> str:
        if pid in self._known:
            return self._known[pid].name
        try:
            return self._begin(look(pid)).name
        except OSError:
            return ""  # it has just ended

    def _end_threads(self, known: _Known, task: Task) -> None:
        for tid in list(known.threads):
            if not os.path.exists(f"/proc/{task.pid}/task/{tid}"):
                known.threads.discard(tid)
                with suppress(OSError):
                    self._system.call(task, "", "process_exit_thread", known.name, str(tid))

    def ended(self, pidfd: int) -> bool:
        """A descriptor of `poll` is ready: whether it was a process's, whose end the simulated system now hears."""
        pid = self._by_pidfd.pop(pidfd, None)
        if pid is None:
            return False
        known = self._known.pop(pid)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        with suppress(OSError):
            self._system.call(None, "", "process_exit", known.name)
        return True

    def close(self) -> None:
        """All that is known ends: the supervisor does."""
        for pidfd in list(self._by_pidfd):
            self.ended(pidfd)


def _program(pid: int) -> bytes:
    """What tells one program of a process from the next, b"" where it may not be known."""
    try:
        with open(f"/proc/{pid}/auxv", "rb", buffering=0) as file:
            auxv = file.read()
        for at in range(0, len(auxv) - _AUXV.size + 1, _AUXV.size):
            kind, value = _AUXV.unpack_from(auxv, at)
            if kind == _AT_RANDOM:
                return vm.read(pid, value, _RANDOM_SIZE)
    except OSError:
        pass
    return b""
