"""The daemon is killed on a kernel that cannot send requests again, or, with -o clone, as on one
(Device.read_on_clone). t3_older_kernel runs these tests on such a kernel."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import can_ask_again, kill, wait_for_checkpoint, wait_for_successor
from tests.tools import (
    LIMIT,
    Call,
    Mount,
    deliver,
    metric,
    names_below,
    numbers,
    opened,
    record,
    refused,
    running,
    wait_for_tracer,
    wait_until,
)  # fmt: skip


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Mount:
    made = mount_with("clone,depth=512" if can_ask_again() else "depth=512")
    wait_for_checkpoint(made.process.pid)
    return made


def succeed(mount: Mount) -> None:
    """Kill the daemon, and wait for its successor."""
    wait_for_successor(mount.process.pid, kill(mount))


def test_waiting_calls_end_with_an_error_and_everything_else_goes_on(mount: Mount) -> None:
    folder = mount.watch()
    with opened(folder / "events", os.O_RDONLY) as events, running("cat", folder / "queue") as cat:
        mount.wait_for_readers(folder)
        mount.post("mount /dev/sdb1 /mnt -t ext4")
        assert b"/mnt" in os.read(events, 4096)
        mount.wait_for_readers(folder)
        call = Call(os.read, events, 4096)
        wait_until(lambda: "wqfs_waiting_readers 2" in (mount.path / "metrics").read_text(), "both to wait")
        succeed(mount)
        assert cat.wait(LIMIT) == 1
        with refused(errno.ECONNABORTED):
            call.result()
        mount.post("umount /mnt")
        assert b'"unmount"' in os.read(events, 4096)  # the file is open as before
    assert mount.status(folder)["posted"] == 2
    assert mount.status(folder)["readers"] == 0


def test_poller_wakes_after(mount: Mount) -> None:
    folder = mount.watch()
    with opened(folder / "queue", os.O_RDONLY | os.O_NONBLOCK) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        polls = Call(poll.poll, LIMIT * 1000)
        mount.wait_for_pollers(folder)
        succeed(mount)
        deliver(mount, record(1))
        assert polls.result() == [(fd, select.POLLIN)]
        assert numbers(os.read(fd, 4096)) == [1]


def test_who_waits_after_is_answered_and_interrupted_as_ever(mount: Mount) -> None:
    folder = mount.watch()
    succeed(mount)
    with running("cat", folder / "queue") as cat:
        mount.wait_for_readers(folder)
        cat.send_signal(signal.SIGINT)
        assert cat.wait(LIMIT) == -signal.SIGINT
    with opened(folder / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(folder)
        deliver(mount, record(7))
        assert numbers(call.result()) == [7]


def test_nobody_but_the_daemon_has_what_it_reads_on(mount: Mount) -> None:
    """A copy elsewhere would keep the requests of a dead daemon."""
    succeed(mount)
    mount.watch()  # is answered by the successor
    wait_for_checkpoint(mount.process.pid)

    def devices(pid: int) -> int:
        return [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()].count("/dev/fuse")

    daemon = mount.daemon
    (checkpoint,) = (
        pid
        for pid in map(int, Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split())
        if Path(f"/proc/{pid}/comm").read_text().strip() == "wqfs-checkpoint"
    )
    assert [devices(pid) for pid in (mount.process.pid, daemon, checkpoint)] == [1, 2, 1]


def test_killed_at_random_no_record_comes_twice_and_those_of_ended_calls_alone_are_missing(mount: Mount) -> None:
    folder = mount.watch()
    got: list[int] = []
    ended_reads = 0
    unsure: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        nonlocal ended_reads
        with opened(folder / "queue", os.O_RDONLY | os.O_NONBLOCK) as fd:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            while not stop.is_set():
                poll.poll(50)
                try:
                    got.extend(numbers(os.read(fd, 64)))
                except BlockingIOError:
                    continue
                except OSError as error:
                    assert error.errno == errno.ECONNABORTED
                    ended_reads += 1

    def kill_often() -> None:
        for _ in range(12):
            time.sleep(0.15)
            succeed(mount)

    reader = threading.Thread(target=read)
    reader.start()
    with opened(mount.path / "sim/records", os.O_WRONLY) as fd:
        killer = threading.Thread(target=kill_often)
        killer.start()
        number = 0
        while killer.is_alive():
            try:
                os.write(fd, record(number))
            except OSError as error:
                assert error.errno == errno.ECONNABORTED
                unsure.add(number)
            number += 1
            time.sleep(0.0005)
        killer.join()
    wait_until(lambda: mount.status(folder)["queued"] == 0, "all to be read")
    stop.set()
    reader.join(LIMIT)
    assert got == sorted(set(got))
    missing = set(range(number)) - set(got) - unsure
    assert len(missing) <= ended_reads * 4  # a read of 64 bytes has four
    assert mount.status(folder)["lost"] == 0


def test_close_that_the_daemon_had_read_is_not_forgotten(mount: Mount, tmp_path: Path) -> None:
    """strace holds the daemon where the kernel has handed the close over, and there it is killed."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing (Debian package strace)")
    folder = mount.watch()
    fd = os.open(folder / "queue", os.O_RDWR)
    daemon = mount.daemon
    calls = tmp_path / "calls"
    calls.touch()
    hold = "inject=read:delay_exit=2000000"
    with running("strace", "-qq", "-o", calls, "-e", "trace=read", "-e", hold, "-p", str(daemon)):
        wait_for_tracer(daemon)
        os.close(fd)
        wait_until(lambda: "read(" in calls.read_text(), "the daemon to read")
        time.sleep(0.1)
        succeed(mount)
    assert mount.status(folder)["readers"] == 0
    assert metric(mount, "handles") == 1  # that of metrics


def test_it_ends_as_without(mount: Mount) -> None:
    succeed(mount)
    subprocess.run(["fusermount3", "-u", mount.path], check=True, timeout=LIMIT)
    assert mount.process.wait(LIMIT) == 0
    assert names_below(mount.process.pid) == []
