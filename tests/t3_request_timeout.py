"""A mount where an administrator limits the age of FUSE requests: it outlives its waiting readers."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools import LIMIT, Call, Mount, deliver, opened, record, running, wait_until

SYSCTL = Path("/proc/sys/fs/fuse/max_request_timeout")
TIMEOUT = 15
"""Seconds; the kernel looks every 15 s, so a smaller value means no less."""
BEYOND = 35.0
"""Seconds after which the kernel has ended a mount that left a request unanswered (seen: 29.5 s)."""

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def request_timeout() -> Iterator[int]:
    """The limit in force for mounts made by the test, in seconds."""
    if not SYSCTL.exists():
        pytest.skip(f"{SYSCTL} is missing: needs Linux 6.15 or later")
    if os.geteuid():
        pytest.skip(f"needs root: {SYSCTL} is to be set")
    before = SYSCTL.read_text()
    SYSCTL.write_text(f"{TIMEOUT}\n")
    try:
        yield TIMEOUT
    finally:
        SYSCTL.write_text(before)


def read_once(fd: int) -> tuple[str, float]:
    """(errno's name or "", seconds it took) of one read(2), which Python's os.read would repeat."""
    begin = time.monotonic()
    count = libc.read(fd, ctypes.create_string_buffer(4096), ctypes.c_size_t(4096))
    name = errno.errorcode[ctypes.get_errno()] if count < 0 else ""
    return name, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(120)
def test_mount_with_a_request_timeout_lives_on(request_timeout: int, mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("")
    watch = mount.watch()
    with opened(watch / "queue") as fd, running("cat", watch / "queue") as cat:
        begin = time.monotonic()
        reading = Call(read_once, fd)
        mount.wait_for_readers(watch, 2)
        name, seconds = reading.result(2 * TIMEOUT)
        assert (name, 0 < seconds < request_timeout) == ("EINTR", True)

        # cat reads again after EINTR, so somebody waits all the time.
        again = Call(read_once, fd)
        wait_until(
            lambda: time.monotonic() >= begin + BEYOND or mount.process.poll() is not None,
            f"{BEYOND:g} s to pass",
            BEYOND + LIMIT,
        )
        assert mount.process.poll() is None
        assert cat.poll() is None
        assert again.result()[0] == "EINTR"
        mount.wait_for_readers(watch, 1)
        cat.kill()
        cat.wait(LIMIT)

        wait_until(lambda: mount.status(watch)["readers"] == 0, "cat's read to be given up")
        deliver(mount, record(1))
        assert os.read(fd, 4096) == record(1)
    assert "max_request_timeout" in mount.log()
