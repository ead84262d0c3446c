"""Calls that a notification pipe refuses: nothing is consumed by any of them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.tools import LIMIT, NO_WAIT, Mount, deliver, new_watch, opened, record, refused, set_flags

libc = ctypes.CDLL(None, use_errno=True)
O_DIRECT = os.O_DIRECT


@pytest.fixture
def watch(shared: Mount, watch: Path) -> Path:
    """A watch with three records queued."""
    deliver(shared, record(1), record(2), record(3))
    return watch


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(NO_WAIT)
    try:
        yield ends
    finally:
        for end in ends:
            with suppress(OSError):
                os.close(end)


@contextmanager
def nothing_consumed(mount: Mount, watch: Path) -> Iterator[None]:
    """What is done inside leaves `status` as it was, and the three records to be read."""
    before = mount.status(watch)
    yield
    assert mount.status(watch) == before
    with opened(watch / "queue", NO_WAIT) as fd:
        assert os.read(fd, 4096) == record(1) + record(2) + record(3)
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def is_empty(pipe: tuple[int, int]) -> bool:
    try:
        return not os.read(pipe[0], 1)
    except BlockingIOError:
        return True


def tee(source: int, sink: int, size: int) -> int:
    count: int = libc.tee(source, sink, ctypes.c_size_t(size), 0)
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return count


Take = Callable[[int, int, int], object]
"""(queue, pipe, size): moves bytes from the queue into the pipe."""
TAKES: dict[str, Take] = {
    "splice": os.splice,
    "splice, not blocking": partial(os.splice, flags=os.SPLICE_F_NONBLOCK),
    "sendfile": lambda queue, pipe, size: libc_sendfile(pipe, queue, size),
    "tee": tee,
}


def libc_sendfile(sink: int, source: int, size: int) -> int:
    """sendfile(2) without an offset, as busybox calls it."""
    count: int = libc.sendfile(sink, source, None, ctypes.c_size_t(size))
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return count


# -- out of it


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
@pytest.mark.parametrize("size", [1, 16, 48, 4096, 1 << 20])
def test_take_into_a_pipe(shared: Mount, watch: Path, pipe: tuple[int, int], take: Take, size: int) -> None:
    with nothing_consumed(shared, watch):
        with opened(watch / "queue") as fd, refused(errno.EINVAL):
            take(fd, pipe[1], size)
        assert is_empty(pipe)


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_take_from_an_empty_queue_does_not_wait(shared: Mount, pipe: tuple[int, int], take: Take) -> None:
    with new_watch(shared) as watch, opened(watch / "queue") as fd, refused(errno.EINVAL):
        take(fd, pipe[1], 4096)


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_take_again_and_again(shared: Mount, watch: Path, pipe: tuple[int, int], take: Take) -> None:
    """The page cache keeps nothing of a refused read."""
    with nothing_consumed(shared, watch), opened(watch / "queue") as fd:
        for _ in range(3):
            with refused(errno.EINVAL):
                take(fd, pipe[1], 4096)
        assert is_empty(pipe)


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_take_after_the_rmdir(shared: Mount, watch: Path, pipe: tuple[int, int], take: Take) -> None:
    with opened(watch / "queue") as fd:
        watch.rmdir()
        with refused(errno.EINVAL):
            take(fd, pipe[1], 4096)
        assert os.read(fd, 4096) == record(1) + record(2) + record(3)


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_take_with_o_direct_set_later(shared: Mount, watch: Path, pipe: tuple[int, int], take: Take) -> None:
    """With O_DIRECT splice takes the way of read, and would steal."""
    with nothing_consumed(shared, watch):
        with opened(watch / "queue") as fd:
            set_flags(fd, add=O_DIRECT)
            with refused(errno.EINVAL):
                take(fd, pipe[1], 4096)
        assert is_empty(pipe)


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_take_from_the_root_queue(shared: Mount, pipe: tuple[int, int], take: Take) -> None:
    with opened(shared.path / "queue", NO_WAIT) as fd:
        deliver(shared, record(1))
        with refused(errno.EINVAL):
            take(fd, pipe[1], 4096)
        assert os.read(fd, 4096) == record(1)


def test_sendfile_into_a_file(shared: Mount, watch: Path, tmp_path: Path) -> None:
    with nothing_consumed(shared, watch):
        with opened(watch / "queue") as fd, opened(tmp_path / "copy", os.O_CREAT | os.O_WRONLY) as copy:
            with refused(errno.EINVAL):
                libc_sendfile(copy, fd, 4096)
        assert (tmp_path / "copy").stat().st_size == 0


def test_sendfile_into_a_socket(shared: Mount, watch: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, nothing_consumed(shared, watch), opened(watch / "queue") as fd, refused(errno.EINVAL):
        libc_sendfile(ours.fileno(), fd, 4096)


def test_sendfile_from_an_offset(shared: Mount, watch: Path, pipe: tuple[int, int]) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue") as fd, refused(errno.ESPIPE):
        os.sendfile(pipe[1], fd, 0, 4096)


def test_copy_file_range(shared: Mount, watch: Path, tmp_path: Path) -> None:
    """What `cp` tries first; it reads after this."""
    with nothing_consumed(shared, watch):
        with opened(watch / "queue") as fd, opened(tmp_path / "copy", os.O_CREAT | os.O_WRONLY) as copy:
            with pytest.raises(OSError) as caught:
                os.copy_file_range(fd, copy, 4096)
            assert caught.value.errno in (errno.EXDEV, errno.EINVAL)


# -- O_DIRECT


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_open_with_o_direct(shared: Mount, watch: Path, flags: int) -> None:
    with nothing_consumed(shared, watch), refused(errno.EINVAL):
        os.open(watch / "queue", flags | O_DIRECT)


def test_open_of_the_root_queue_with_o_direct(shared: Mount) -> None:
    with refused(errno.EINVAL):
        os.open(shared.path / "queue", os.O_RDONLY | O_DIRECT)


def test_read_with_o_direct_set_later_and_taken_back(shared: Mount, watch: Path) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue") as fd:
        set_flags(fd, add=O_DIRECT)
        with refused(errno.EINVAL):
            os.read(fd, 4096)
        set_flags(fd, take=O_DIRECT)
        assert os.read(fd, 0) == b""


# -- into it


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_splice_into_it(shared: Mount, watch: Path, pipe: tuple[int, int], flags: int) -> None:
    os.write(pipe[1], record(9))
    with nothing_consumed(shared, watch), opened(watch / "queue", flags) as fd, refused(errno.EXDEV):
        os.splice(pipe[0], fd, 16)


def test_sendfile_into_it(shared: Mount, watch: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(record(9))
    with nothing_consumed(shared, watch), opened(tmp_path / "source") as source:
        with opened(watch / "queue", os.O_WRONLY) as fd, refused(errno.EXDEV):
            libc_sendfile(fd, source, 16)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | NO_WAIT, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize("size", [1, 16, 1 << 20])
def test_write(shared: Mount, watch: Path, flags: int, size: int) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue", flags) as fd, refused(errno.EXDEV):
        os.write(fd, record(9).ljust(size)[:size])


def test_write_of_nothing(shared: Mount, watch: Path) -> None:
    """The kernel answers it and asks no server; a pipe says EXDEV (DESIGN.md has the list)."""
    with nothing_consumed(shared, watch), opened(watch / "queue", os.O_WRONLY) as fd:
        assert os.write(fd, b"") == 0


def test_write_to_a_descriptor_for_reading(shared: Mount, watch: Path) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue") as fd, refused(errno.EBADF):
        os.write(fd, b"x")


def test_write_after_the_rmdir(watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        watch.rmdir()
        with refused(errno.EXDEV):
            os.write(fd, b"x")


# -- places in it


@pytest.mark.parametrize("whence", [os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE])
def test_lseek(shared: Mount, watch: Path, whence: int) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue") as fd, refused(errno.ESPIPE):
        os.lseek(fd, 0, whence)


@pytest.mark.parametrize("offset", [0, 16, 4096])
def test_pread(shared: Mount, watch: Path, offset: int) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue") as fd, refused(errno.ESPIPE):
        os.pread(fd, 4096, offset)


def test_pwrite(shared: Mount, watch: Path) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue", os.O_WRONLY) as fd, refused(errno.ESPIPE):
        os.pwrite(fd, b"x", 0)


@pytest.mark.parametrize("protection", [mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE])
def test_mmap_shared(shared: Mount, watch: Path, protection: int) -> None:
    with nothing_consumed(shared, watch), opened(watch / "queue", os.O_RDWR) as fd, refused(errno.ENODEV):
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, protection)


# -- its size


@pytest.mark.parametrize("redirection", [">", ">>", "<>"])
def test_redirection_by_a_shell_does_nothing(shared: Mount, watch: Path, redirection: str) -> None:
    with nothing_consumed(shared, watch):
        subprocess.run(["sh", "-c", f': {redirection} "$0"', str(watch / "queue")], check=True, timeout=LIMIT)


def test_echo_by_a_shell_is_refused(shared: Mount, watch: Path) -> None:
    with nothing_consumed(shared, watch):
        done = subprocess.run(
            ["bash", "-c", 'echo x > "$0"', str(watch / "queue")],
            env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert (done.returncode, os.strerror(errno.EXDEV) in done.stderr) == (1, True)


def test_truncate_to_nothing_does_nothing(shared: Mount, watch: Path) -> None:
    with nothing_consumed(shared, watch):
        os.truncate(watch / "queue", 0)
        with opened(watch / "queue", os.O_WRONLY) as fd:
            os.ftruncate(fd, 0)


def test_fstat_says_a_regular_file_of_one_page(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        info = os.fstat(fd)
        assert (info.st_mode, info.st_size, info.st_blocks) == (0o100600, 4096, 8)
