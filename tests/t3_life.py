"""What ends, how, and what is left of it."""

from __future__ import annotations

import errno
import os
import select
import subprocess
from pathlib import Path

import pytest

from tests.tools import LIMIT, Mount, wait_until


def polled(fd: int, limit_ms: int = 0) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    ready = poll.poll(limit_ms)
    return ready[0][1] if ready else 0


def detach(mount: Mount) -> None:
    subprocess.run(["fusermount3", "-uz", str(mount.path)], check=True, timeout=LIMIT)


def test_detached_mount_stays_hung_up_when_a_writer_closes(mount: Mount) -> None:
    folder = mount.watch()
    reader = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(folder / "queue", os.O_WRONLY)
    detach(mount)
    assert polled(reader, int(LIMIT * 1000)) == select.POLLHUP
    assert os.read(reader, 64) == b""
    os.close(writer)
    assert os.read(reader, 64) == b""
    assert polled(reader) == select.POLLHUP
    os.close(reader)
    mount.process.wait(LIMIT)


@pytest.mark.parametrize("name", ["watches/w/queue", "watches/w/events", "queue"])
def test_file_opened_in_a_detached_mount_is_at_its_end(mount: Mount, name: str) -> None:
    reader = os.open(mount.watch() / "queue", os.O_RDONLY)
    inside = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    detach(mount)
    assert polled(reader, int(LIMIT * 1000)) == select.POLLHUP
    late = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=inside)
    assert os.read(late, 64) == b""
    for fd in (late, inside, reader):
        os.close(fd)
    mount.process.wait(LIMIT)


def test_directory_removed_while_it_is_listed_is_gone(mount: Mount) -> None:
    folder = mount.watch("zz")
    with os.scandir(folder.parent) as listing:
        fd = os.open(folder / "queue", os.O_RDONLY)
        folder.rmdir()
        assert "zz" not in [entry.name for entry in listing]
    assert not folder.exists()
    os.close(fd)


def test_pollers_of_closed_files_are_forgotten(mount: Mount) -> None:
    folder = mount.watch()
    for _ in range(20):
        fd = os.open(folder / "queue", os.O_RDONLY)
        assert polled(fd, 1) == 0
        os.close(fd)
    wait_until(lambda: mount.status(folder)["pollers"] == 0, "no pollers")


@pytest.mark.parametrize("count", [500])
def test_closed_root_queues_leave_nothing(mount: Mount, count: int) -> None:
    for _ in range(count):
        os.close(os.open(mount.path / "queue", os.O_RDONLY))
    wait_until(lambda: "\nwqfs_queues 0\n" in (mount.path / "metrics").read_text(), "no queues")


def test_root_queues_of_one_user_are_bounded(mount_with) -> None:  # type: ignore[no-untyped-def]
    mount = mount_with("max_watches=3")
    fds = [os.open(mount.path / "queue", os.O_RDONLY) for _ in range(3)]
    with pytest.raises(OSError) as caught:
        os.open(mount.path / "queue", os.O_RDONLY)
    assert caught.value.errno == errno.EDQUOT
    os.close(fds.pop())
    wait_until(lambda: "\nwqfs_queues 2\n" in (mount.path / "metrics").read_text(), "one queue less")
    fds.append(os.open(mount.path / "queue", os.O_RDONLY))
    for fd in fds:
        os.close(fd)


def test_filter_keeps_a_bounded_text(mount: Mount) -> None:
    folder: Path = mount.watch()
    fd = os.open(folder / "filter", os.O_WRONLY)
    try:
        assert os.write(fd, b"#\n" * 30_000) == 60_000
        with pytest.raises(OSError) as caught:
            os.write(fd, b"#\n" * 30_000)
        assert caught.value.errno == errno.EINVAL
    finally:
        os.close(fd)
