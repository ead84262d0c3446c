"""Readiness and watchdog, against a notify socket of the test's own, as systemd has one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemons import wait_for_checkpoint, wait_for_successor
from tests.dying import daemon_of
from tests.tools import LIMIT, MOUNT_COMMAND, is_mounted, names_below, wait_until

WATCHDOG_S = 0.6


class Manager:
    """What a service manager hears. said: all words so far."""

    def __init__(self, address: str) -> None:
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)

    def listen(self, seconds: float) -> bool:
        """Hear one message; whether one came in time."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            self.said += self._socket.recv(4096).decode().splitlines()
        except TimeoutError:
            return False
        return True

    def wait(self, word: str) -> None:
        wait_until(lambda: word in self.said or (self.listen(0.1), word in self.said)[1], word)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def service(
    folder: Path, address: str, options: str = "survive", **env: str
) -> Iterator[tuple[Manager, subprocess.Popen[bytes]]]:
    """A mount in the foreground that was started as systemd starts one."""
    path = folder / "mnt"
    path.mkdir()
    name = "\0" + address[1:] if address.startswith("@") else address
    manager = Manager(name)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*MOUNT_COMMAND, path, "-f", "-o", options],
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": address, **env},
            start_new_session=True,
        )
    try:
        yield manager, process
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False, timeout=LIMIT)
        process.kill()
        process.wait(LIMIT)
        manager.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_when_the_mount_answers_and_stopping_at_the_end(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@wqfs-test-{os.getpid()}"
    with service(tmp_path, address) as (manager, process):
        manager.wait("READY=1")
        assert is_mounted(tmp_path / "mnt") and (tmp_path / "mnt/metrics").read_text()
        assert not manager.listen(0.3)  # no watchdog was asked for
        process.terminate()
        manager.wait("STOPPING=1")
        assert process.wait(LIMIT) == 0
        assert manager.said.index("READY=1") < manager.said.index("STOPPING=1")
        assert f"STATUS=mounted at {tmp_path / 'mnt'}" in manager.said


def test_watchdog_is_fed_while_the_mount_answers_and_only_then(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    usec = str(int(WATCHDOG_S * 1_000_000))
    with service(tmp_path, address, "nosurvive", WATCHDOG_USEC=usec) as (manager, process):
        manager.wait("READY=1")
        end = time.monotonic() + 3 * WATCHDOG_S
        while time.monotonic() < end:
            manager.listen(0.1)
        assert manager.said.count("WATCHDOG=1") >= 3
        process.send_signal(signal.SIGSTOP)
        while manager.listen(0.2):
            pass  # what was under way
        assert not manager.listen(2 * WATCHDOG_S)
        # What systemd does then: the traceback goes to the journal.
        process.send_signal(signal.SIGABRT)
        process.send_signal(signal.SIGCONT)
        assert process.wait(LIMIT) == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in (tmp_path / "log").read_text()


def test_watchdog_is_fed_while_others_are_answered_before_who_looks(tmp_path: Path) -> None:
    """Who asks very much makes the look wait; that is no hanging server."""
    usec = str(int(WATCHDOG_S * 1_000_000))
    with service(tmp_path, str(tmp_path / "notify"), "nosurvive", WATCHDOG_USEC=usec) as (manager, process):
        manager.wait("WATCHDOG=1")
        (looks,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        os.kill(looks, signal.SIGSTOP)
        while manager.listen(WATCHDOG_S):
            pass  # what was under way
        assert not manager.listen(2 * WATCHDOG_S), "nobody asks anything"
        before = manager.said.count("WATCHDOG=1")
        end = time.monotonic() + 3 * WATCHDOG_S
        while time.monotonic() < end:
            (tmp_path / "mnt/watches/none").exists()
            manager.listen(0.05)
        assert manager.said.count("WATCHDOG=1") >= before + 3
        os.kill(looks, signal.SIGCONT)


def test_who_looks_ends_by_sigterm_though_the_server_was_killed(tmp_path: Path) -> None:
    """A manager sends SIGTERM to all of a service, and waits for all of it."""
    with service(tmp_path, str(tmp_path / "notify"), "nosurvive", WATCHDOG_USEC="600000000") as (manager, process):
        manager.wait("WATCHDOG=1")
        (looks,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        process.kill()
        process.wait(LIMIT)
        os.kill(looks, signal.SIGTERM)
        wait_until(lambda: has_ended(looks), "its end")


def test_watchdog_is_fed_by_successors_too(tmp_path: Path) -> None:
    with service(tmp_path, str(tmp_path / "notify"), WATCHDOG_USEC=str(int(WATCHDOG_S * 1_000_000))) as (
        manager,
        process,
    ):
        manager.wait("WATCHDOG=1")
        wait_for_checkpoint(process.pid)
        before = daemon_of(process.pid)
        os.kill(before, signal.SIGKILL)
        wait_for_successor(process.pid, before)
        while manager.listen(0.01):
            pass  # what the one before had said
        heard = len(manager.said)
        wait_until(lambda: (manager.listen(0.1), manager.said[heard:].count("WATCHDOG=1") >= 3)[1], "signs of life")
        process.terminate()
        assert process.wait(LIMIT) == 0


def test_watchdog_is_not_fed_while_the_daemon_hangs(tmp_path: Path) -> None:
    with service(tmp_path, str(tmp_path / "notify"), WATCHDOG_USEC=str(int(WATCHDOG_S * 1_000_000))) as (
        manager,
        process,
    ):
        manager.wait("WATCHDOG=1")
        daemon = daemon_of(process.pid)
        os.kill(daemon, signal.SIGSTOP)
        while manager.listen(0.2):
            pass  # what was under way
        assert not manager.listen(2 * WATCHDOG_S)
        # What systemd does then, to the main process: the daemon's traceback goes to the journal, and all of it ends.
        process.send_signal(signal.SIGABRT)
        os.kill(daemon, signal.SIGCONT)
        assert process.wait(LIMIT) == -signal.SIGABRT
        log = (tmp_path / "log").read_text()
        assert "Fatal Python error: Aborted" in log and "ended by a watchdog" in log
        assert not is_mounted(tmp_path / "mnt")
        assert names_below(process.pid) == []


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


def test_watchdog_of_another_process_is_not_fed(tmp_path: Path) -> None:
    with service(tmp_path, str(tmp_path / "notify"), WATCHDOG_USEC="100000", WATCHDOG_PID="1") as (manager, _):
        manager.wait("READY=1")
        assert not manager.listen(0.4)
        assert "WATCHDOG=1" not in manager.said


def test_nothing_looks_after_a_mount_that_nobody_asked_about(tmp_path: Path) -> None:
    with service(tmp_path, str(tmp_path / "notify"), "nosurvive", NOTIFY_SOCKET="") as (_, process):
        wait_until(lambda: is_mounted(tmp_path / "mnt") and "mounted" in (tmp_path / "log").read_text(), "the mount")
        assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""


def test_ready_fd_has_a_line_when_the_mount_answers(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    reader, writer = os.pipe()
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [*MOUNT_COMMAND, path, "-f", "--ready-fd", str(writer)], pass_fds=[writer], stdout=log, stderr=log
        )
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as ready:
            assert ready.read() == b"ready\n"
        assert (path / "metrics").read_text()
    finally:
        process.terminate()
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("number", ["99", "x", "-1", ""])
def test_ready_fd_that_is_not_open_is_usage(tmp_path: Path, number: str) -> None:
    done = subprocess.run(
        [*MOUNT_COMMAND, tmp_path, f"--ready-fd={number}"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1 and "open descriptor" in done.stderr
