"""SET_FILTER by pointer, for tests: the call, and the processes of the server that read for it."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.tools import AT_ONCE, Mount, opened
from wqfs.abi import ioctls

SET_FILTER = ioctls.IOC_WATCH_QUEUE_SET_FILTER
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
needs_no_yama = pytest.mark.skipif(
    YAMA.exists() and YAMA.read_text().strip() != "0",
    reason="needs kernel.yama.ptrace_scope=0: no user may read the memory of what it has not started",
)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p


def ioctl(fd: int, address: int) -> int:
    """The errno of SET_FILTER with that pointer, 0 for none."""
    done: int = libc.ioctl(fd, ctypes.c_ulong(SET_FILTER), ctypes.c_void_p(address))
    return ctypes.get_errno() if done < 0 else 0


def rule(type_: int) -> ctypes.Array[ctypes.c_char]:
    """A filter that lets one type pass: with 1 the file `filter` says `key *`, with 2 `mount *`."""
    return ctypes.create_string_buffer(struct.pack("=II11I", 1, 0, type_, 0, 0, 0xFFFFFFFF, *[0] * 7), 52)


def answers(mount: Mount) -> None:
    """Assert that the server answers at once."""
    begin = time.monotonic()
    subprocess.run(["stat", mount.path / "metrics"], check=True, timeout=AT_ONCE, stdout=subprocess.DEVNULL)
    assert time.monotonic() - begin < AT_ONCE


def helpers_of(mount: Mount) -> list[int]:
    """The processes that the mount's server has started to read for it, and that live."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            name = (status.parent / "comm").read_text().strip()
            if int(parent) == mount.daemon and state != "Z" and name != "wqfs-checkpoint":
                found.append(int(status.parent.name))
    return found


@contextmanager
def mapped(path: Path) -> Iterator[int]:
    """The address of a page of a file, which nobody has touched."""
    with opened(path) as fd:
        address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
        assert address != ctypes.c_void_p(-1).value
        try:
            yield address
        finally:
            libc.munmap(ctypes.c_void_p(address), mmap.PAGESIZE)


@contextmanager
def stopped(mount: Mount) -> Iterator[None]:
    """A mount whose server does not answer."""
    pid = mount.daemon
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
