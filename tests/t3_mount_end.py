"""How a mount ends: by fusermount3, by a signal, killed; and what its readers and pollers are told."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounting import processes_of, run, unmount
from tests.tools import LIMIT, Mount, is_mounted, opened, refused, wait_until
from wqfs.fs import mounting


def test_fusermount3_u_ends_the_daemon_with_0(mount: Mount) -> None:
    assert unmount(mount.path).returncode == 0
    assert mount.process.wait(LIMIT) == 0
    assert not is_mounted(mount.path)
    assert processes_of(mount.path) == []


def test_fusermount3_u_with_a_reader_says_busy_and_harms_nothing(
    mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    watch = mount.watch()
    cat = reader(watch / "events")
    waiting = reader(watch / "queue")
    mount.wait_for_readers(watch)
    done = unmount(mount.path)
    assert done.returncode != 0
    assert "busy" in done.stderr
    mount.post("sb error / EIO")
    assert waiting.stdout is not None
    ready, _, _ = select.select([waiting.stdout], [], [], LIMIT)
    assert ready and len(os.read(waiting.stdout.fileno(), 100)) == 24
    assert cat.poll() is None and mount.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_signal_ends_the_mount_and_its_readers(
    mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    watch = mount.watch()
    readers = [
        reader(watch / "queue"),
        reader(watch / "queue"),
        reader(watch / "events"),
        reader(mount.path / "queue"),
    ]
    mount.wait_for_readers(watch, 2)
    wait_until(lambda: "wqfs_waiting_readers 4" in (mount.path / "metrics").read_text(), "four readers")
    mount.process.send_signal(number)
    assert [each.wait(LIMIT) for each in readers] == [0, 0, 0, 0], "they find end of file"
    assert mount.process.wait(LIMIT) == 0
    assert not is_mounted(mount.path)
    assert processes_of(mount.path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signal_ends_the_mount_and_its_pollers(mount: Mount, number: signal.Signals) -> None:
    watch = mount.watch()
    fds = [os.open(watch / name, os.O_RDONLY | os.O_NONBLOCK) for name in ("queue", "events")]
    try:
        with select.epoll() as poller:
            for fd in fds:
                poller.register(fd, select.EPOLLIN)
            mount.wait_for_pollers(watch)
            mount.process.send_signal(number)
            hung_up: set[int] = set()
            end = time.monotonic() + LIMIT
            while hung_up != set(fds) and time.monotonic() < end:
                hung_up |= {fd for fd, events in poller.poll(1) if events & select.EPOLLHUP}
            assert hung_up == set(fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert mount.process.wait(LIMIT) == 0
    assert not is_mounted(mount.path)


def test_signal_ends_an_idle_mount_soon(mount: Mount) -> None:
    begin = time.monotonic()
    mount.process.terminate()
    assert mount.process.wait(LIMIT) == 0
    assert time.monotonic() - begin < 5
    assert not is_mounted(mount.path)


def test_signal_ends_a_mount_whose_folder_is_somebodys_cwd(mount: Mount) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=mount.path) as sleeper:
        try:
            mount.process.terminate()
            assert mount.process.wait(LIMIT) == 0
            assert not is_mounted(mount.path)
        finally:
            sleeper.kill()


def test_fusermount3_uz_gives_waiting_readers_end_of_file(
    mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    watch = mount.watch()
    readers = [reader(watch / "queue"), reader(watch / "queue"), reader(watch / "events")]
    mount.wait_for_readers(watch, 2)
    wait_until(lambda: "wqfs_waiting_readers 3" in (mount.path / "metrics").read_text(), "three readers")
    assert unmount(mount.path, "-z").returncode == 0
    assert [each.wait(LIMIT) for each in readers] == [0, 0, 0]
    assert mount.process.wait(LIMIT) == 0
    assert processes_of(mount.path) == []


def test_fusermount3_uz_lets_readers_drain_what_is_queued(mount: Mount) -> None:
    watch = mount.watch()
    fd = os.open(watch / "queue", os.O_RDONLY)
    try:
        mount.post("sb error / EIO")
        assert unmount(mount.path, "-z").returncode == 0
        assert len(os.read(fd, 4096)) == 24
        assert os.read(fd, 4096) == b""
    finally:
        os.close(fd)
    assert mount.process.wait(LIMIT) == 0


def test_dead_mount_is_replaced(mount_with: Callable[[str], Mount], folder: Path) -> None:
    mount = mount_with("nosurvive")
    mount.process.kill()
    mount.process.wait(LIMIT)
    with refused(errno.ENOTCONN):
        os.stat(mount.path)
    done = run(mount.path)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert "post" in os.listdir(mount.path)
    finally:
        assert unmount(mount.path).returncode == 0
        wait_until(lambda: not processes_of(mount.path), "the daemon's end")


def test_killed_daemon_leaves_no_reader_waiting(
    mount_with: Callable[[str], Mount], reader: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    mount = mount_with("nosurvive")
    watch = mount.watch()
    cat = reader(watch / "queue")
    mount.wait_for_readers(watch)
    mount.process.kill()
    assert cat.wait(LIMIT) == 1


def test_unmount_of_what_somebody_else_unmounted_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mount: Mount
) -> None:
    assert mounting.unmount(str(tmp_path), lazy=True)
    with opened(mount.path / "metrics"):
        assert not mounting.unmount(str(mount.path), lazy=False)
    assert caplog.text == ""
