"""Of docs/reference/errnos.md the errnos that want a mount of their own."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.tools import LIMIT, Mount, deliver, opened, record, refused, waiting


def test_record_that_does_not_fit_is_enobufs_with_enobufs(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("enobufs")
    watch = mount.watch()
    deliver(mount, record(1))
    with opened(watch / "queue") as fd, refused(errno.ENOBUFS):
        os.read(fd, 8)


def test_file_and_folder_beyond_max_handles_are_enfile(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_handles=2")
    with opened(mount.path / "metrics"), opened(mount.path / "errors"):
        with refused(errno.ENFILE):
            os.open(mount.path / "metrics", os.O_RDONLY)
        with refused(errno.ENFILE):
            os.open(mount.path / "watches", os.O_RDONLY | os.O_DIRECTORY)
    with opened(mount.path / "watches", os.O_RDONLY | os.O_DIRECTORY), opened(mount.path / "sim", os.O_RDONLY):
        with refused(errno.ENFILE):
            os.open(mount.path / "queue", os.O_RDONLY)
    os.listdir(mount.path / "watches")


def test_file_and_folder_beyond_max_user_handles_are_edquot(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_user_handles=2")
    with opened(mount.path / "metrics"), opened(mount.path / "watches", os.O_RDONLY | os.O_DIRECTORY):
        for name in ("metrics", "queue", "sim"):
            with refused(errno.EDQUOT):
                os.open(mount.path / name, os.O_RDONLY)
    with opened(mount.path / "metrics"):
        os.listdir(mount.path / "watches")


def test_calls_beyond_max_user_waiting_are_edquot(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_user_waiting=1")
    watch = mount.watch()
    with opened(watch / "queue") as fd, waiting(mount, lambda: os.read(fd, 100)) as asked:
        with refused(errno.EDQUOT):
            os.read(fd, 100)
        deliver(mount, record(1))
        assert asked.result() == record(1)


def test_texts_read_in_parts_beyond_max_memory_are_enomem(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_memory=1")
    mount.post(*(f"mount -t tmpfs {'s' * 250} /{'m' * 250}{n}" for n in range(100)))
    size = len((mount.path / "sim/snapshot").read_bytes())
    with ExitStack() as files:
        fds = [
            files.enter_context(opened(mount.path / "sim/snapshot")) for _ in range((1 << 19) * 3 // 4 // size + 1)
        ]  # one user's
        for fd in fds[:-1]:
            os.read(fd, 100)
        with refused(errno.ENOMEM):
            os.read(fds[-1], 100)
        while os.read(fds[0], 65536):
            pass
        assert os.read(fds[-1], 100)


def test_texts_of_one_user_beyond_max_user_memory_are_enomem(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_memory=8,max_user_memory=1")
    mount.post(*(f"mount -t tmpfs {'s' * 250} /{'m' * 250}{n}" for n in range(100)))
    size = len((mount.path / "sim/snapshot").read_bytes())
    with ExitStack() as files:
        fds = [files.enter_context(opened(mount.path / "sim/snapshot")) for _ in range((1 << 20) // size + 1)]
        for fd in fds[:-1]:
            os.read(fd, 100)
        with refused(errno.ENOMEM):
            os.read(fds[-1], 100)


def test_keys_of_one_user_beyond_max_user_keys_and_max_user_key_bytes_are_edquot(
    mount_with: Callable[[str], Mount],
) -> None:
    mount = mount_with("max_user_keys=5,max_user_key_bytes=300")
    mount.post("process new sh uid=1000", *(f"as sh key add user {n} v @p" for n in range(4)))
    with refused(errno.EDQUOT):
        mount.post("as sh key add user one-more v @p")
    with refused(errno.EDQUOT):
        mount.post(f"as sh key add user 1 {'v' * 290} @p")
    assert " 5/5 " in (mount.path / "sim/key-users").read_text()
    mount.post("key add user of-root v @s")


def test_thread_beyond_max_threads_is_enomem(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_threads=2")
    mount.post("process new sh", "as sh/one key add user a v @t", "as sh/two key add user a v @t")
    with refused(errno.ENOMEM):
        mount.post("as sh/three key add user a v @t")
    assert "the limit max_threads" in (mount.path / "errors").read_text()
    mount.post("process new other", "as other/one key add user a v @t")


def test_watch_beyond_max_queues_is_enospc(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_queues=2")
    watch = mount.watch()
    with opened(mount.path / "queue"):
        with refused(errno.ENOSPC):
            (mount.path / "watches/one").mkdir()
        with refused(errno.ENOSPC):
            os.open(mount.path / "queue", os.O_RDONLY)
    mount.watch("one").rmdir()
    watch.rmdir()


def test_changes_are_erofs_with_ro(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("ro")
    with refused(errno.EROFS):
        mount.watch()
    with refused(errno.EROFS):
        mount.post("umount /")


def test_killed_daemon_ends_waiting_reads_and_leaves_a_dead_mount(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd, opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as other:
        with waiting(mount, lambda: os.read(fd, 100)) as call:
            os.killpg(mount.process.pid, signal.SIGKILL)
            mount.process.wait(LIMIT)
            with refused(errno.ECONNABORTED):
                call.result()
        with refused(errno.ENOTCONN):
            os.read(other, 100)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(0) == [(fd, select.POLLERR)]
        with refused(errno.ENOTCONN):
            os.statvfs(mount.path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signalled_daemon_gives_end_of_file_and_then_enotconn(mount: Mount, number: signal.Signals) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        with waiting(mount, lambda: os.read(fd, 100)) as call:
            mount.process.send_signal(number)
            assert call.result() == b""
        mount.process.wait(LIMIT)
        with refused(errno.ENOTCONN):
            os.read(fd, 100)
