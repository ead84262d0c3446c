"""Ending all that a process has started, itself not."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress


def of(pid: int, keep: frozenset[int] = frozenset()) -> list[int]:
    """The descendants of a process that live, but for those in `keep` and theirs."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in b"ZX":
                    children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    stack = [pid]
    while stack:
        for child in children.get(stack.pop(), ()):
            if child not in keep:
                found.append(child)
                stack.append(child)
    return found


def tell(pid: int, number: signal.Signals) -> None:
    """Send a signal to all descendants of a process."""
    for each in of(pid):
        with suppress(ProcessLookupError):
            os.kill(each, number)


def end(pid: int, keep: frozenset[int] = frozenset()) -> None:
    """Kill all descendants of a process but those in `keep`, and wait until they are gone: also those that they
    start meanwhile. Those that are this process's children are reaped."""
    deadline = time.monotonic() + 10
    while (left := of(pid, keep)) and time.monotonic() < deadline:
        for each in left:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.005)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
