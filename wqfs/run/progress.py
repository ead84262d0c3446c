"""Whether a call that went on in the kernel is over. Nobody tells the supervisor, but the thread shows it in /proc.

It is over when the thread waits somewhere else, has ended or was stopped, or has had the processor for longer
than any call about keys takes; before it has run at all, it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_RAN_NS: Final = 3_000_000
_BLOCKED_S: Final = 0.05
"""Seconds that a thread may wait within its call (for a lock, or for /sbin/request-key) before it is left to it."""
_LIMIT_S: Final = 2.0
_LOOK_S: Final = 0.00005


class Progress:
    """The progress of one thread in the call that it stopped at. pending: whether another call has stopped."""

    def __init__(self, tid: int, pending: Callable[[], bool]) -> None:
        self._folder = f"/proc/{tid}"
        self._pending = pending
        began = time.monotonic()
        while self._state() == "R" and time.monotonic() - began < _LIMIT_S:
            time.sleep(_LOOK_S)  # it tells of its call before it sleeps: only then its figures stand still
        self._call = self._read("syscall")
        self._switches = self._count_switches()
        self._ran = self._ran_ns()
        self._began = time.monotonic()

    def is_over(self) -> bool:
        """Whether the thread has come out of its call."""
        state = self._state()
        if state in "ZXTt":
            return True
        call = self._read("syscall")
        if call and not call.startswith("running") and state not in "R":
            # The same call again looks the same, but for another one that has stopped and a further wait.
            return call != self._call or (self._count_switches() > self._switches and self._pending())
        ran = self._ran_ns()
        return ran is not None and self._ran is not None and ran - self._ran > _RAN_NS

    def is_given_up(self) -> bool:
        """Whether there is no more waiting for it: it waits within the call, or cannot be seen."""
        waited = time.monotonic() - self._began
        return waited > (_BLOCKED_S if self._state() in "SD" or self._ran is None else _LIMIT_S)

    def _read(self, name: str) -> str:
        try:
            with open(f"{self._folder}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def _state(self) -> str:
        """The letter of ps(1); X for a thread that is gone."""
        return (self._read("stat").rpartition(")")[2].split() or ["X"])[0]

    def _count_switches(self) -> int:
        for line in self._read("status").splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                return int(line.split()[1])
        return 0

    def _ran_ns(self) -> int | None:
        """Nanoseconds that the thread has had a processor; None where the kernel does not count them."""
        words = self._read("schedstat").split()
        return int(words[0]) if words else None
