"""WQFS_IOC_SETTLE on a real mount: the barrier that waits until the readers of a queue have drained it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import Call, Mount, new_watch, opened, wait_for_any_readers
from wqfs.abi import records as r

SETTLE = 0x5775
READERS = 1


@pytest.fixture
def here(mount: Mount) -> Iterator[Path]:
    with new_watch(mount) as path:
        yield path


def settle(fd: int, flags: int = 0) -> int:
    return fcntl.ioctl(fd, SETTLE, flags)


def post(mount: Mount, count: int) -> None:
    (mount.path / "post").write_text("sb error / EIO\n" * count)


def test_settle_of_an_empty_queue_returns_at_once(here: Path) -> None:
    with opened(here / "queue", os.O_RDONLY) as fd:
        assert settle(fd) == 0


def test_settle_waits_until_the_last_record_was_read(mount: Mount, here: Path) -> None:
    with opened(here / "queue", os.O_RDONLY) as fd, opened(here / "queue", os.O_WRONLY) as other:
        post(mount, 3)
        call = Call(settle, other)
        wait_for_any_readers(mount, 1)
        for _ in range(2):
            os.read(fd, 40)  # one record of 24 bytes
            assert call.waits
        os.read(fd, 40)
        assert call.result() == 0


def test_settle_waits_for_the_loss_record_too(mount: Mount, here: Path) -> None:
    with opened(here / "queue", os.O_RDONLY) as fd:
        (here / "depth").write_text("32\n")
        post(mount, 33)
        call = Call(settle, fd)
        wait_for_any_readers(mount, 1)
        assert len(os.read(fd, 4096)) == 32 * 24
        assert call.waits
        assert os.read(fd, 4096) == r.LOSS
        assert call.result() == 0


def test_settle_is_interrupted_by_a_signal(mount: Mount, here: Path) -> None:
    post(mount, 1)

    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with opened(here / "queue", os.O_WRONLY) as fd:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Interrupted):
                settle(fd)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_for_any_readers(mount, 0)


def test_settle_of_a_queue_that_nobody_has_open_returns_if_asked_for_readers(mount: Mount, here: Path) -> None:
    post(mount, 1)
    with opened(here / "queue", os.O_WRONLY) as fd:
        assert settle(fd, READERS) == 0


def test_settle_for_readers_returns_when_the_last_reader_goes(mount: Mount, here: Path) -> None:
    post(mount, 1)
    with opened(here / "queue", os.O_WRONLY) as fd:
        reader = os.open(here / "queue", os.O_RDONLY)
        call = Call(settle, fd, READERS)
        wait_for_any_readers(mount, 1)
        os.close(reader)
        assert call.result() == 0


def test_two_settlers_with_other_conditions_do_not_wait_for_each_other(mount: Mount, here: Path) -> None:
    post(mount, 1)
    with opened(here / "queue", os.O_WRONLY) as fd:
        reader = os.open(here / "queue", os.O_RDONLY)
        plain = Call(settle, fd)
        wait_for_any_readers(mount, 1)
        for_readers = Call(settle, fd, READERS)
        wait_for_any_readers(mount, 2)
        os.close(reader)
        assert for_readers.result() == 0
        assert plain.waits
        with opened(here / "queue", os.O_RDONLY) as again:
            os.read(again, 4096)
        assert plain.result() == 0


def test_settle_with_unknown_flags_is_einval(here: Path) -> None:
    with opened(here / "queue", os.O_RDONLY) as fd, pytest.raises(OSError) as refused:
        settle(fd, 2)
    assert refused.value.errno == errno.EINVAL


def test_settle_of_a_removed_watch_still_waits_for_its_reader(mount: Mount, here: Path) -> None:
    post(mount, 1)
    with opened(here / "queue", os.O_RDONLY) as fd:
        here.rmdir()
        call = Call(settle, fd)
        wait_for_any_readers(mount, 1)
        assert len(os.read(fd, 4096)) > r.RECORD_MIN
        assert call.result() == 0


def test_settle_ends_with_the_mount(mount: Mount, here: Path) -> None:
    post(mount, 1)
    with opened(here / "queue", os.O_WRONLY) as fd:
        call = Call(settle, fd)
        wait_for_any_readers(mount, 1)
        mount.process.terminate()
        with pytest.raises(OSError) as refused:
            call.result()
    assert refused.value.errno == errno.EPIPE


def test_post_then_settle_then_the_reader_has_everything(mount: Mount, here: Path) -> None:
    taken: list[bytes] = []

    def take(fd: int) -> None:
        while data := os.read(fd, 4096):
            taken.append(data)

    with opened(here / "queue", os.O_RDONLY) as fd, opened(here / "queue", os.O_WRONLY) as other:
        reader = threading.Thread(target=take, args=(fd,))
        reader.start()
        for _ in range(200):
            post(mount, 5)
            settle(other)
        here.rmdir()
    reader.join(10)
    assert not reader.is_alive()
    assert sum(len(r.split(data)) for data in taken) == 1000
