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

from tests.tools import LIMIT, MOUNT_COMMAND, is_mounted, running, wait_until
from wqfs.client import Queue, Rule

WQFS = (sys.executable, "-m", "wqfs.cli")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a new pid namespace without a user namespace needs root")


@contextmanager
def handed_over(folder: Path, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """`wqfs handover` with a server that `before` starts, once it is ready."""
    path = folder / "mnt"
    path.mkdir()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*WQFS, "handover", path, "--", *before, *MOUNT_COMMAND, "--fuse-fd", "3", "-f", "handed"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
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
    with handed_over(tmp_path):
        assert subprocess.run([sys.executable, "-c", FILTERS, tmp_path / "mnt"], timeout=LIMIT).returncode == 0
        said = (tmp_path / "mnt/errors").read_text()
        assert "handed over" in said and "sized ioctl" in said


FILTERS = """
import fcntl, sys
from wqfs.abi import filters
from wqfs.abi.ioctls import IOC_WATCH_QUEUE_SET_FILTER
from wqfs.client import Queue, Rule

with Queue.open(sys.argv[1], depth=32, filter="mount unmount") as queue:
    try:
        fcntl.ioctl(queue, IOC_WATCH_QUEUE_SET_FILTER, bytearray(filters.encode([Rule(2)])), True)
        sys.exit("by pointer it works")
    except PermissionError:
        pass
    with open(sys.argv[1] + "/post", "w") as post:
        post.write("mount a /mnt/f -t tmpfs\\numount /mnt/f\\n")
    (event,) = queue.read(5)
    assert event.subtype.name == "UNMOUNT", event
"""
"""A client whose filter must have been set by value, for by pointer it is refused."""

OWN_PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@needs_root
@pytest.mark.parametrize("client", [(), OWN_PIDS], ids=["client here", "client in a pid namespace"])
@pytest.mark.parametrize("how", ["handed over", "by itself"])
def test_client_sets_filters_by_value_where_the_server_has_other_pids(
    tmp_path: Path, how: str, client: tuple[str, ...]
) -> None:
    """how: a server in a pid namespace of its own serves a mount that was made here, or one that it made."""
    command = [*client, sys.executable, "-c", FILTERS, str(tmp_path / "mnt")]
    with handed_over(tmp_path, *OWN_PIDS) if how == "handed over" else mounted_in_own_pids(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stderr


@contextmanager
def mounted_in_own_pids(folder: Path) -> Iterator[None]:
    """A daemon in a pid namespace of its own, whose mount is seen here."""
    path = folder / "mnt"
    path.mkdir()
    command = ("unshare", "--pid", "--fork", "--kill-child", *MOUNT_COMMAND, path, "-f")
    with open(folder / "log", "wb") as log, running(*command, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: "mounted" in (folder / "log").read_text() or process.poll() is not None, "the mount")
            yield
        finally:
            subprocess.run(["fusermount3", "-quz", "--", path], check=False, timeout=LIMIT)


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


def test_descriptors_of_the_starter_reach_the_server(tmp_path: Path) -> None:
    """So that --ready-fd can be used behind handover."""
    reader, writer = os.pipe()
    path = tmp_path / "mnt"
    path.mkdir()
    server = (*MOUNT_COMMAND, "--fuse-fd", "3", "--ready-fd", str(writer), "-f", "x")
    with running(*WQFS, "handover", path, "--", *server, pass_fds=[writer], stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        with open(reader, "rb") as ready:
            assert ready.readline() == b"ready\n"
        use(path)
        process.terminate()
        assert process.wait(LIMIT) == 0


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


def test_mount_of_another_cannot_survive(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    server = [*MOUNT_COMMAND, "--fuse-fd", "3", "-f", "-o", "survive", "handed"]
    done = subprocess.run(
        [*WQFS, "handover", tmp_path / "mnt", "--", *server], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1
    assert "not for one that was handed over" in done.stderr
    assert not is_mounted(tmp_path / "mnt")
