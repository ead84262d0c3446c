"""A mount that is made here and served elsewhere: `wqfs handover` and `--fuse-fd`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import LIMIT, MOUNT_COMMAND, is_mounted, wait_until
from wqfs.abi import filters
from wqfs.abi.ioctls import IOC_WATCH_QUEUE_SET_FILTER
from wqfs.client import Queue, Rule

WQFS = (sys.executable, "-m", "wqfs.cli")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a new pid namespace without a user namespace needs root")


@contextmanager
def handed_over(folder: Path, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """`wqfs handover` with a server that `before` starts, once it is ready."""
    path = folder / "mnt"
    path.mkdir()
    reader, writer = os.pipe()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*WQFS, "handover", path, "--", *before, *MOUNT_COMMAND, "--fuse-fd", "3", "-f", "handed"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(writer)
    os.close(reader)
    try:
        wait_until(lambda: "mounted" in (folder / "log").read_text() or process.poll() is not None, "the server")
        assert process.poll() is None, (folder / "log").read_text()
        yield process
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False, timeout=LIMIT)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(LIMIT)


def use(path: Path) -> None:
    """What a mount must do."""
    with Queue.open(path, depth=32, filter=[Rule(2)]) as queue:
        (path / "post").write_text("mount a /mnt/a -t tmpfs\n")
        assert len(queue.read(LIMIT)) == 1


def test_handed_over_mount_works_and_ends_with_its_server(tmp_path: Path) -> None:
    with handed_over(tmp_path) as process:
        use(tmp_path / "mnt")
        process.terminate()
        assert process.wait(LIMIT) == 0
        assert not is_mounted(tmp_path / "mnt")


def test_killed_server_leaves_no_mount_and_no_waiting_reader(tmp_path: Path) -> None:
    with handed_over(tmp_path) as process, Queue.open(tmp_path / "mnt") as queue:
        (server,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        os.kill(server, signal.SIGKILL)
        with pytest.raises(OSError) as gone:
            queue.read(LIMIT)
        assert gone.value.errno in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
        assert process.wait(LIMIT) == 128 + signal.SIGKILL
        assert not is_mounted(tmp_path / "mnt")


@needs_root
def test_server_without_privilege_in_namespaces_of_its_own(tmp_path: Path) -> None:
    """No /dev/fuse, no capability, another user, pid, mount and network namespaces."""
    with handed_over(
        tmp_path, "unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--net",
        "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh",
    ):  # fmt: skip
        use(tmp_path / "mnt")


def test_filter_by_pointer_is_refused_and_by_value_works(tmp_path: Path) -> None:
    import fcntl

    with handed_over(tmp_path):
        with Queue.open(tmp_path / "mnt") as queue:
            with pytest.raises(PermissionError):
                fcntl.ioctl(queue, IOC_WATCH_QUEUE_SET_FILTER, bytearray(filters.encode([Rule(2)])), True)
            queue.set_filter([Rule(2)])
        said = (tmp_path / "mnt/errors").read_text()
        assert "handed over" in said and "sized ioctl" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["handover", "/nowhere/at/all", "--", "true"], "does not exist"),
        (["handover", "{mnt}", "-o", "bogus", "--", "true"], "Unknown option 'bogus'"),
        (["handover", "{mnt}", "--", "/no/such/program"], "cannot run /no/such/program"),
        (["handover", "{mnt}"], "COMMAND"),
    ],
)
def test_wrong_use_is_a_sentence_and_leaves_no_mount(tmp_path: Path, words: list[str], said: str) -> None:
    words = [word.replace("{mnt}", str(tmp_path)) for word in words]
    done = subprocess.run([*WQFS, *words], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert not is_mounted(tmp_path)


def test_exit_code_of_the_command_is_passed_on(tmp_path: Path) -> None:
    done = subprocess.run([*WQFS, "handover", tmp_path, "--", "sh", "-c", "exit 7"], timeout=LIMIT, check=False)
    assert done.returncode == 7 and not is_mounted(tmp_path)


def test_fuse_fd_that_is_no_fuse_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MOUNT_COMMAND, "--fuse-fd", "0", "-f", "x"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1 and "not one of /dev/fuse" in done.stderr
