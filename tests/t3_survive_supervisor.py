"""-o survive: who ends whom, and what is said and unmounted then (wqfs.fs.supervisor)."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.daemons import descendants, kill, kill_checkpoint, needs_resend, wait_for_checkpoint
from tests.dying import daemon_of
from tests.tools import (
    LIMIT,
    MOUNT_COMMAND,
    Call,
    Mount,
    children_of,
    deliver,
    is_mounted,
    names_below,
    numbers,
    opened,
    record,
    running,
    wait_until,
)  # fmt: skip
from wqfs.fs.checkpoint import ATTEMPTS
from wqfs.fs.mounting import device_at

pytestmark = needs_resend


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Mount:
    made = mount_with("survive")
    wait_for_checkpoint(made.process.pid)
    return made


def test_death_is_said_with_its_reason(mount: Mount) -> None:
    pid = kill(mount, signal.SIGSEGV)
    wait_until(lambda: "its successor takes over" in mount.log(), "the line")
    assert f"the daemon (pid {pid}) was killed by SIGSEGV; its successor takes over" in mount.log()


def test_order_to_stop_is_no_death(mount: Mount) -> None:
    kill(mount)
    mount.watch()
    mount.process.terminate()
    assert mount.process.wait(LIMIT) == 0
    assert "stopping on SIGTERM" in mount.log()
    assert mount.log().count("its successor takes over") == 1
    assert names_below(mount.process.pid) == []


def test_no_checkpoint_is_taken_while_the_mount_ends(
    mount_with: Callable[[str], Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_fusermount(tmp_path, monkeypatch)
    mount = mount_with("survive")
    wait_for_checkpoint(mount.process.pid)
    post = os.open(mount.path / "post", os.O_WRONLY)
    mount.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "wqfs-checkpoint" not in names_below(mount.process.pid), "its dismissal")
    # A thread unmounts by now. What a checkpoint inherits of that could hold it for ever.
    written = 0
    with suppress(OSError):
        while written < 3 << 20:  # more than the journal has room for
            written += os.write(post, b"# nothing\n" * 10_000)
            assert "wqfs-checkpoint" not in names_below(mount.process.pid)
    assert written > 3 << 19
    os.close(post)
    assert mount.process.wait(LIMIT) == 0


def test_daemon_that_is_killed_while_it_stops_has_let_readers_end_and_that_is_no_failure(
    mount_with: Callable[[str], Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_fusermount(tmp_path, monkeypatch)
    mount = mount_with("survive")
    wait_for_checkpoint(mount.process.pid)
    folder = mount.watch()
    with running("cat", folder / "queue") as cat:
        mount.wait_for_readers(folder)
        daemon = mount.daemon
        mount.process.terminate()
        assert cat.wait(LIMIT) == 0
        wait_until(lambda: "wqfs-checkpoint" not in names_below(mount.process.pid), "its dismissal")
        os.kill(daemon, signal.SIGKILL)
    assert mount.process.wait(LIMIT) == 0
    assert "killed while it stopped; unmounted" in mount.log()
    assert not is_mounted(mount.path)


def test_checkpoint_that_was_stopped_takes_over_all_the_same(mount: Mount) -> None:
    (checkpoint,) = children_of(mount.daemon)
    os.kill(checkpoint, signal.SIGSTOP)
    kill(mount)
    assert mount.watch().is_dir()
    assert "its successor goes on" in mount.log()


def slow_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let unmounting take two seconds."""
    slow = tmp_path / "bin/fusermount3"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n[ "$1" != -u ] || sleep 2\nexec {shutil.which("fusermount3")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")


def test_unmounting_ends_all(mount: Mount) -> None:
    kill(mount)
    mount.watch()
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert mount.process.wait(LIMIT) == 0


def test_checkpoint_that_is_killed_is_replaced(mount: Mount) -> None:
    folder = mount.watch()
    deliver(mount, record(1))
    kill_checkpoint(mount)
    kill(mount)
    assert mount.status(folder)["queued"] == 1


def test_all_killed_at_once_is_said_and_unmounted(mount_with: Callable[[str], Mount], tmp_path: Path) -> None:
    path, log = tmp_path / "alone", tmp_path / "log"
    path.mkdir()
    with open(log, "wb") as out, running(*MOUNT_COMMAND, path, "-f", "-o", "survive", stdout=out, stderr=out) as front:
        wait_for_checkpoint(front.pid)
        pids = subprocess.run(["pgrep", "-f", str(path)], capture_output=True, text=True, check=True).stdout.split()
        for pid in reversed(pids):
            if int(pid) != front.pid:
                os.kill(int(pid), signal.SIGKILL)
        assert front.wait(LIMIT) == 2
    assert "unmounted, its users find it gone" in log.read_text()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()


def test_supervisor_has_nothing_loaded_that_serves(mount: Mount) -> None:
    def loaded(pid: int) -> set[str]:
        libraries = re.findall(r"\S+\.so\S*", Path(f"/proc/{pid}/maps").read_text())
        return {name for name in ("pyfuse3", "libfuse3") for path in libraries if name in path}

    assert loaded(mount.daemon) == {"pyfuse3", "libfuse3"} and loaded(mount.process.pid) == set()


def test_supervisor_that_is_killed_is_not_missed(mount: Mount) -> None:
    folder = mount.watch()
    below = descendants(mount.process.pid)
    fd = os.open(folder / "queue", os.O_RDONLY)
    waits = Call(os.read, fd, 4096)
    mount.wait_for_readers(folder)
    mount.process.kill()
    mount.process.wait()
    (pid,) = (pid for pid in below if Path(f"/proc/{pid}/comm").read_text() == "wqfs\n")
    os.kill(pid, signal.SIGKILL)
    deliver(mount, record(1))
    assert numbers(waits.result()) == [1]
    os.close(fd)
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    wait_until(lambda: not running_with(str(mount.path)), "all to end")


def running_with(argument: str) -> list[str]:
    """The processes with it in their command line, as pgrep sees them."""
    found = subprocess.run(["pgrep", "-f", argument], capture_output=True, text=True, check=False)
    return found.stdout.split()


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Mount]:
    """A mount whose place another one gets."""
    (tmp_path / "place").mkdir()
    made = Mount(tmp_path / "place", "survive", tmp_path / "first")
    try:
        wait_for_checkpoint(made.process.pid)
        yield made
    finally:
        made.close()


def kill_below(supervisor: int) -> bool:
    """Kill all that there is now; one that was being made meanwhile takes over, until the next time."""
    for pid in reversed(descendants(supervisor)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


@contextmanager
def left_alone(first: Mount, log: Path) -> Iterator[None]:
    """Another mount at the place of the first one, whose processes are killed after the block, but for the supervisor:
    when that gives up, the other one is still there."""
    second = Mount(first.path, "nosurvive", log)
    try:
        yield
        wait_until(lambda: kill_below(first.process.pid) and first.process.poll() is not None, "the first to give up")
        assert first.process.returncode == 2
        assert is_mounted(first.path) and (first.path / "metrics").read_text()
    finally:
        second.close()


def test_supervisor_that_gives_up_leaves_alone_what_else_is_mounted_there(first: Mount, tmp_path: Path) -> None:
    with opened(first.path / "metrics"):
        subprocess.run(["fusermount3", "-uz", first.path], check=True)
        wait_until(lambda: "detached" in first.log(), "the first to notice")
        with left_alone(first, tmp_path / "second"):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only umount2(2) asks the stopped server nothing")
def test_supervisor_that_gives_up_leaves_alone_the_next_mount_there_which_has_its_number(
    first: Mount, tmp_path: Path
) -> None:
    number = device_at(str(first.path))
    os.kill(first.daemon, signal.SIGSTOP)  # it does not hear of its end
    assert ctypes.CDLL(None).umount2(bytes(first.path), 0) == 0
    with left_alone(first, tmp_path / "second"):
        assert device_at(str(first.path)) == number, "the kernel gives the lowest one that is free"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a tmpfs over it")
@pytest.mark.parametrize("made", ["later", "before, and moved there"])
def test_supervisor_that_gives_up_says_what_is_mounted_over_it(tmp_path: Path, made: str) -> None:
    """Where the kernel lists mounts in the order of their making, one that was moved comes before what it covers."""
    path, elsewhere = tmp_path / "covered", tmp_path / "elsewhere"
    path.mkdir()
    elsewhere.mkdir()
    if made != "later":
        subprocess.run(["mount", "-t", "tmpfs", "none", elsewhere], check=True)
    mount = Mount(path, "survive", tmp_path / "log")
    try:
        wait_for_checkpoint(mount.process.pid)
        below = descendants(mount.process.pid)
        how = ["-t", "tmpfs", "none"] if made == "later" else ["--move", elsewhere]
        subprocess.run(["mount", *how, path], check=True)
        (path / "theirs").touch()
        for pid in reversed(below):
            os.kill(pid, signal.SIGKILL)
        assert mount.process.wait(LIMIT) == 2
        assert "cannot be unmounted: another filesystem is mounted over it" in mount.log()
        assert (path / "theirs").exists()
    finally:
        for place in (path, elsewhere):
            subprocess.run(["umount", place], check=False, capture_output=True)
        mount.close()


def test_successors_that_die_before_they_serve_are_tried_twenty_times(tmp_path: Path) -> None:
    path, log = tmp_path / "alone", tmp_path / "log"
    path.mkdir()
    with open(log, "wb") as out, running(*MOUNT_COMMAND, path, "-f", stdout=out, stderr=out) as front:
        wait_for_checkpoint(front.pid)
        began = time.monotonic()
        while front.poll() is None:
            if pid := daemon_of(front.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert time.monotonic() - began > 3  # 10, 20 ... 320 and 500 ms lie between them
        assert front.returncode == 2
    assert f"{ATTEMPTS} successors in a row died before they served; unmounted" in log.read_text()
    assert log.read_text().count("was killed by SIGKILL") >= ATTEMPTS  # one more, but for the limit of the log
    assert not is_mounted(path)


def test_background_form_survives_too(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    subprocess.run([*MOUNT_COMMAND, path, "-o", "survive"], check=True, timeout=LIMIT)
    try:
        found = subprocess.run(["pgrep", "-f", str(path)], capture_output=True, text=True, check=True).stdout.split()
        supervisor = next(int(pid) for pid in found if daemon_of(int(pid)))
        (path / "watches/w").mkdir()
        os.kill(daemon_of(supervisor), signal.SIGKILL)
        assert (path / "watches/w").is_dir()
    finally:
        subprocess.run(["fusermount3", "-uz", path], check=False)
    wait_until(
        lambda: subprocess.run(["pgrep", "-f", str(path)], capture_output=True, check=False).returncode == 1, "the end"
    )
