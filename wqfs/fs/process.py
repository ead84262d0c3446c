"""What a process of the mount is: its name, its descriptors, its copy. Where the standard library has not all of it."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from typing import Final

_PR_SET_NAME: Final = 15
_LIBC: Final = ctypes.PyDLL(None, use_errno=True)
"""Called without letting go of the interpreter's lock."""


def call_process(name: str) -> None:
    """What ps(1) and top(1) call this process; 15 bytes at most."""
    _LIBC.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def open_descriptors() -> set[int]:
    """The descriptors of this process."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the folder's own is closed by now
            os.fstat(fd)
            found.add(fd)
    return found


def fork() -> int:
    """As os.fork, for a line of processes each of which is the child of the one before, for ever.

    os.fork gives the child new locks for those that a thread which it does not have may hold, and never frees the
    old ones (_PyThread_at_fork_reinit in CPython's Python/thread.c): 0.5 kB that each generation inherits. Where there
    is one thread, its locks are free or its own, and the child has that same thread.
    """
    if threading.active_count() > 1:
        return os.fork()
    pid: int = _LIBC.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def return_memory() -> None:
    """Give free memory back to the kernel, which a child would inherit as its own; nothing where libc has no way."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
