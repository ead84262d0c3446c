"""ioctl(2) on a queue: SET_SIZE, how much is queued, and numbers that are nobody's."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.queue_ioctls import QUEUED, SET_SIZE
from tests.tools import NO_WAIT, Mount, deliver, opened, record, refused

# -- SET_SIZE


@pytest.mark.parametrize(("size", "depth"), [(1, 32), (32, 32), (33, 64), (200, 224), (512, 512)])
def test_set_size_rounds_up_to_a_multiple_of_32(watch: Path, size: int, depth: int) -> None:
    with opened(watch / "queue") as fd:
        assert fcntl.ioctl(fd, SET_SIZE, size) == 0
    assert (watch / "depth").read_text() == f"{depth}\n"


@pytest.mark.parametrize("size", [0, 513, -1])
def test_set_size_outside_its_range(watch: Path, size: int) -> None:
    with opened(watch / "queue") as fd:
        with refused(errno.EINVAL):
            fcntl.ioctl(fd, SET_SIZE, size)
        assert fcntl.ioctl(fd, SET_SIZE, 64) == 0  # a refused one does not count
    assert (watch / "depth").read_text() == "64\n"


def test_set_size_twice(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        fcntl.ioctl(fd, SET_SIZE, 64)
        with refused(errno.EBUSY):
            fcntl.ioctl(fd, SET_SIZE, 64)
    assert (watch / "depth").read_text() == "64\n"


def test_set_size_after_the_file_depth(watch: Path) -> None:
    (watch / "depth").write_text("64\n")
    with opened(watch / "queue") as fd, refused(errno.EBUSY):
        fcntl.ioctl(fd, SET_SIZE, 64)


def test_set_size_of_a_queue_in_use_keeps_what_is_queued(shared: Mount, watch: Path) -> None:
    """The depth taken by default does not count as sizing."""
    with opened(watch / "queue") as fd:
        deliver(shared, record(1))
        assert fcntl.ioctl(fd, SET_SIZE, 64) == 0
        assert os.read(fd, 4096) == record(1)
        with refused(errno.EBUSY):
            fcntl.ioctl(fd, SET_SIZE, 64)


def test_set_size_on_the_write_end(watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        assert fcntl.ioctl(fd, SET_SIZE, 64) == 0
    assert (watch / "depth").read_text() == "64\n"


def test_set_size_of_one_root_queue_leaves_the_others(shared: Mount) -> None:
    with opened(shared.path / "queue") as first, opened(shared.path / "queue") as second:
        fcntl.ioctl(first, SET_SIZE, 64)
        assert fcntl.ioctl(second, SET_SIZE, 64) == 0


def test_set_size_strict_queue_keeps_nothing_before(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("strict")
    watch = mount.watch()
    (watch / "objects").write_text("devices id=3\n")
    with opened(watch / "queue", NO_WAIT) as fd:
        deliver(mount, record(1))
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
        fcntl.ioctl(fd, SET_SIZE, 32)
        deliver(mount, record(2))
        assert os.read(fd, 4096) == record(2)


# -- wqfs's own: how much is queued


def queued(fd: int) -> tuple[int, ...]:
    """(records, bytes, loss, depth)."""
    answer = bytearray(16)
    assert fcntl.ioctl(fd, QUEUED, answer) == 0
    return struct.unpack("=IIII", answer)


def test_queued_of_a_new_queue(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        assert queued(fd) == (0, 0, 0, 0)


def test_queued_counts_records_and_bytes(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd:
        deliver(shared, record(1, 20), record(2, 127))
        assert queued(fd) == (2, 147, 0, 256)
        os.read(fd, 20)
        assert queued(fd) == (1, 127, 0, 256)


def test_queued_tells_of_a_loss_that_comes_next(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd:
        fcntl.ioctl(fd, SET_SIZE, 32)
        deliver(shared, *[record(n) for n in range(33)])
        assert queued(fd) == (32, 512, 0, 32)
        os.read(fd, 512)
        assert queued(fd) == (0, 0, 1, 32)
        os.read(fd, 8)
        assert queued(fd) == (0, 0, 0, 32)


def test_queued_on_the_write_end(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        deliver(shared, record(1))
        assert queued(fd)[:2] == (1, 16)


def test_fionread_is_the_kernels_answer_for_a_file(shared: Mount, watch: Path) -> None:
    """It never reaches a server (ABI.md, 3); this test says so if one day it does."""
    with opened(watch / "queue") as fd:
        deliver(shared, record(1))
        answer = bytearray(4)
        fcntl.ioctl(fd, termios.FIONREAD, answer)
        assert struct.unpack("=i", answer) == (4096,)


# -- nobody's


@pytest.mark.parametrize(
    "command", [0x5762, 0x576F, 0x80045775, 0x40045775, 0xC0045775, 0x80105773, 0x40045760, 0x12345678]
)
def test_ioctl_unknown(shared: Mount, watch: Path, command: int) -> None:
    with opened(watch / "queue") as fd:
        deliver(shared, record(1))
        before = shared.status(watch)
        with refused(errno.ENOTTY):
            fcntl.ioctl(fd, command, bytearray(64))
        assert shared.status(watch) == before


def test_ioctl_of_a_terminal(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        assert not os.isatty(fd)
        with pytest.raises(termios.error) as caught:
            termios.tcgetattr(fd)
        assert caught.value.args[0] == errno.ENOTTY
