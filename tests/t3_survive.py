"""-o survive: the daemon is killed, and nobody notices (wqfs.fs.checkpoint, recorder, supervisor)."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.daemons import (
    check_deaths,
    checkpoint_began,
    kill,
    kill_checkpoint,
    needs_resend,
    wait_for_checkpoint,
    wait_for_successor,
)  # fmt: skip
from tests.tools import (
    LIMIT,
    Call,
    Mount,
    children_of,
    deliver,
    metric,
    numbers,
    opened,
    record,
    refused,
    running,
    wait_for_tracer,
    wait_until,
)  # fmt: skip
from wqfs.abi import fuse
from wqfs.fs.session import LARGE
from wqfs.fs.taking_over import DEADLY

pytestmark = needs_resend


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Iterator[Mount]:
    made = mount_with("survive")
    wait_for_checkpoint(made.process.pid)
    yield made


@pytest.fixture
def blamed(tmp_path: Path) -> Iterator[Mount]:
    """A mount that may log errors."""
    (tmp_path / "blamed").mkdir()
    made = Mount(tmp_path / "blamed", "survive", tmp_path / "blamed.log")
    try:
        wait_for_checkpoint(made.process.pid)
        yield made
    finally:
        made.close()


def snapshot(mount: Mount) -> dict[str, object]:
    found: dict[str, object] = json.loads((mount.path / "sim/snapshot").read_text())
    return found


# -- nobody notices


def test_waiting_cat_gets_what_comes_after(mount: Mount, tmp_path: Path) -> None:
    folder = mount.watch()
    with open(tmp_path / "out", "wb") as out, running("cat", folder / "queue", stdout=out) as cat:
        mount.wait_for_readers(folder)
        for number in range(3):
            kill(mount)
            deliver(mount, record(number))
            wait_until(lambda number=number: (tmp_path / "out").stat().st_size == 16 * (number + 1), "the record")  # type: ignore[misc]
        folder.rmdir()
        assert cat.wait(LIMIT) == 0
    assert numbers((tmp_path / "out").read_bytes()) == [0, 1, 2]


def test_deaths_leave_no_descriptor_behind(mount: Mount) -> None:
    def descriptors() -> int:
        wait_for_checkpoint(mount.process.pid)
        return len(os.listdir(f"/proc/{mount.daemon}/fd"))

    folder = mount.watch()
    kill(mount)
    folder.stat()
    wait_for_checkpoint(mount.process.pid)
    before = descriptors()
    for _ in range(5):
        pid = kill(mount)
        wait_for_successor(mount.process.pid, pid)
        (folder / "status").read_text()
    wait_until(lambda: descriptors() <= before, f"the {before} descriptors of before")


def test_deaths_leave_no_buffer_behind(mount: Mount) -> None:
    sizes = []
    for number in range(8):
        mount.watch(f"w{number}")  # pyfuse3 has a buffer of a MiB for what it reads
        kill_checkpoint(mount)
        dead = kill(mount)
        wait_for_successor(mount.process.pid, dead)
        wait_for_checkpoint(mount.process.pid)
        text = Path(f"/proc/{mount.daemon}/status").read_text()
        sizes.append(int(re.findall(r"VmData:\s+(\d+) kB", text)[0]))
    assert sizes[-1] - sizes[1] < 3 * 1024, sizes


def test_daemon_at_rest_takes_a_checkpoint_also_after_one_command_that_was_long(mount: Mount) -> None:
    mount.post("mount -t tmpfs t /big")
    for start in range(0, 6000, 1000):
        mount.post("".join(f"mount -t tmpfs t /big/{number}\n" for number in range(start, start + 1000)))
    with opened(mount.path / "post", os.O_WRONLY) as post:
        for attempt in range(4):
            time.sleep(1.0)  # and whatever was due is taken
            os.write(post, f"mount --rbind /big /copy{attempt}\n".encode())
            ended = time.clock_gettime(time.CLOCK_BOOTTIME)
            wait_until(lambda ended=ended: checkpoint_began(mount) > ended, "a checkpoint")  # type: ignore[misc]


def test_daemon_at_rest_takes_a_checkpoint_so_that_what_it_changed_is_in_memory_once(mount: Mount) -> None:
    for _ in range(10):  # as the load ends, one may just have been taken
        until = time.process_time() + 0.15
        while time.process_time() < until:
            mount.post("key add user k v @s")
        ended = time.clock_gettime(time.CLOCK_BOOTTIME)
        time.sleep(0.5)
        if checkpoint_began(mount) > ended + 0.1:
            break
    else:
        pytest.fail("no checkpoint was taken at rest")
    before = checkpoint_began(mount)
    time.sleep(1.0)
    assert checkpoint_began(mount) == before, "and none without need"


def test_checkpoints_that_were_replaced_leave_no_process_behind(mount: Mount) -> None:
    mount.watch()
    for _ in range(60):
        deliver(mount, record(1, 127) * 500)  # each fills some of the journal
    daemon = mount.daemon
    children = Path(f"/proc/{daemon}/task/{daemon}/children")
    assert "its successor" not in mount.log()
    wait_until(lambda: len(children.read_text().split()) == 1, "a single child: the checkpoint")


def test_poller_wakes_after(mount: Mount) -> None:
    folder = mount.watch()
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    polls = Call(poll.poll, LIMIT * 1000)
    mount.wait_for_pollers(folder)
    kill(mount)
    deliver(mount, record(1))
    assert polls.result() == [(fd, select.POLLIN)]
    assert numbers(os.read(fd, 4096)) == [1]
    os.close(fd)


def test_waiting_read_is_interrupted_after(mount: Mount) -> None:
    folder = mount.watch()
    with running("cat", folder / "queue") as cat:
        mount.wait_for_readers(folder)
        kill(mount)
        mount.wait_for_readers(folder)
        cat.send_signal(signal.SIGINT)
        assert cat.wait(LIMIT) == -signal.SIGINT


def test_everything_is_as_it_was(mount: Mount) -> None:
    mount.post(
        "mount /dev/sdb1 /mnt -t ext4", "mount --make-shared /mnt", "key newring ring @s", "key add user k x ring",
        "key timeout k 1000", "process new p", "as p key add user own x @p", "device add /dev/sdc",
        "sb error /mnt EIO",
    )  # fmt: skip
    folder = mount.watch("kept")
    (folder / "objects").write_text("mount / id=3\n")
    (folder / "filter").write_text("mount new_mount,unmount\n")
    (folder / "depth").write_text("32\n")
    held = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    lines = [line for number in range(40) for line in (f"mount /dev/x{number} /x{number} -t ext4",)]
    mount.post(*lines, "key update k y", "sb readonly /mnt")
    with pytest.raises(OSError):
        mount.post("nonsense")
    before = [snapshot(mount), mount.status(folder), *texts(mount, folder)]
    kill(mount)
    assert [snapshot(mount), mount.status(folder), *texts(mount, folder)] == before
    data = os.read(held, 4096)
    assert len(data) == 32 * 24
    assert os.read(held, 4096) == b"\x00\x00\x00\x01\x08\x00\x00\x00"  # the loss mark
    os.close(held)
    mount.post("umount /x1", "as p key unlink own @p")
    assert (folder / "log").read_text().count("\n") == 41


def texts(mount: Mount, folder: Path) -> list[str]:
    files = [mount.path / "errors", *(mount.path / "sim" / name for name in ("mountinfo", "keys", "key-users"))]
    files += [folder / name for name in ("objects", "filter", "depth", "log")]
    return [re.sub(r"(expd|\b\d+[smhdw])\b", "T", file.read_text()) for file in files]


def test_open_directory_can_be_listed_after(mount: Mount) -> None:
    for name in "abc":
        mount.watch(name)
    with os.scandir(mount.path / "watches") as entries:
        first = next(entries).name
        kill(mount)
        assert sorted([first, *(entry.name for entry in entries)]) == ["a", "b", "c"]


def test_filter_by_pointer_is_kept(mount: Mount) -> None:
    """What the daemon read of a caller's memory is noted too."""

    folder = mount.watch()
    fd = os.open(folder / "queue", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(struct.pack("=IIIII8I", 1, 0, 1, 0, 0, 2, *[0] * 7))
    assert ctypes.CDLL(None).ioctl(fd, ctypes.c_ulong(0x5761), buffer) == 0
    before = (folder / "filter").read_text()
    kill(mount)
    assert (folder / "filter").read_text() == before == "key updated\n"
    os.close(fd)


def test_process_that_read_a_filter_has_ended_before_the_checkpoint_was_taken(mount: Mount) -> None:
    """The checkpoint before still has its socket open then, and trio's epoll instance lists it."""
    folder = mount.watch()
    with opened(folder / "queue", os.O_RDONLY) as fd:
        buffer = ctypes.create_string_buffer(struct.pack("=IIIII8I", 1, 0, 1, 0, 0, 2, *[0] * 7))
        assert ctypes.CDLL(None).ioctl(fd, ctypes.c_ulong(0x5761), buffer) == 0
        kill_checkpoint(mount)  # the next one has what the process has
        me = mount.daemon
        pids = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        (helper,) = (pid for pid in pids if not Path(f"/proc/{pid}/comm").read_text().startswith("wqfs"))
        wait_until(lambda: not Path(f"/proc/{helper}").exists(), "the process to end")
        (mount.path / "post").write_text(("#" + "x" * 1022 + "\n") * 2200)  # the journal is full once
        before = mount.daemon
        kill(mount)
        wait_for_successor(mount.process.pid, before)
        assert (folder / "filter").read_text() == "key updated\n"


def test_killed_at_random_moments_every_event_comes_once(mount: Mount) -> None:
    check_deaths(mount, 15, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_two_hundred_times_every_event_comes_once(mount_with: Callable[[str], Mount]) -> None:
    made = mount_with("survive,depth=512")
    wait_for_checkpoint(made.process.pid)
    check_deaths(made, 200, 2, limit=250)


@contextmanager
def dying_of(mount: Mount, call: str, what: str, at: int) -> Iterator[None]:
    """Let strace do something to the daemon at its `at`-th system call of that name, of which it dies."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing (Debian package strace)")
    pid = mount.daemon
    inject = f"inject={call}:{what}:when={at}"
    with running("strace", "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-p", str(pid), stderr=subprocess.DEVNULL):
        wait_for_tracer(pid)
        yield
    wait_for_successor(mount.process.pid, pid)


def killed_at_its_answer(mount: Mount, at: int) -> AbstractContextManager[None]:
    """The daemon's writes are its answers: it is killed at its `at`-th one, before the kernel has it."""
    return dying_of(mount, "write", "signal=SIGKILL", at)


def kill_who_is_at(mount: Mount, deadly: Call) -> int:
    """Kill every daemon as soon as it is at that call, until it has an answer; returns how many."""
    kills, dead = 0, 0
    while deadly.waits and kills < 2 * DEADLY:
        pid = mount.daemon
        if pid != dead and children_of(pid):
            time.sleep(0.02)  # it has its checkpoint, and is at it
            os.kill(pid, signal.SIGKILL)
            kills, dead = kills + 1, pid
    return kills


def test_look_over_which_every_daemon_dies_is_refused_and_who_came_after_is_not(blamed: Mount) -> None:
    """Both are pyfuse3's: what was read last is not what the daemon is at."""
    mount = blamed
    mount.post("mount /dev/a /t", *(f"mount /dev/a /t/{number}" for number in range(1500)))
    mount.post(*(f"mount --rbind /t /to{number}" for number in range(20)))
    kill_checkpoint(mount)  # the next one has not made the text of it
    deadly = Call(os.stat, mount.path / "sim/snapshot")
    time.sleep(0.005)
    behind = [Call(os.stat, mount.path / name) for name in ("post", "queue", "metrics", "errors", "watches")]
    kills = kill_who_is_at(mount, deadly)
    with refused(errno.EIO):
        deadly.result()
    for call in behind:
        call.result()
    assert DEADLY <= kills <= 2 * DEADLY


def test_request_over_which_every_daemon_dies_is_refused_and_the_mount_goes_on(blamed: Mount) -> None:
    mount = blamed
    mount.post("mount /dev/a /t", *(f"mount /dev/a /t/{number}" for number in range(1500)))
    tree = (mount.path / "sim/mountinfo").read_bytes()
    waits = Call(os.read, os.open(mount.watch() / "queue", os.O_RDONLY), 4096)
    kill_checkpoint(mount)
    post = os.open(mount.path / "post", os.O_WRONLY)
    deadly = Call(os.write, post, b"".join(b"mount --rbind /t /to%d\n" % number for number in range(40)))
    kills = kill_who_is_at(mount, deadly)
    with refused(errno.EIO):
        deadly.result()
    assert DEADLY <= kills <= 2 * DEADLY  # where the machine is busy some die before they have read it
    assert f"{DEADLY} daemons in a row died over one request (opcode {fuse.WRITE}, uid 0, pid " in mount.log()
    assert (mount.path / "sim/mountinfo").read_bytes() == tree
    os.close(post)
    deliver(mount, record(1))
    assert waits.result() == record(1)


@pytest.mark.parametrize("call", ["poll", "read"])
def test_fault_of_the_daemons_own_is_said_and_its_successor_goes_on(blamed: Mount, call: str) -> None:
    folder = blamed.watch()
    with opened(folder / "queue") as fd:
        waits = Call(os.read, fd, 4096)
        blamed.wait_for_readers(folder)
        with dying_of(blamed, call, "error=EIO", 1):
            deliver(blamed, record(1))
        assert waits.result() == record(1)
    assert "the daemon dies of a fault of its own" in blamed.log()
    assert "OSError: [Errno 5]" in blamed.log()
    assert "ended with exit code 2; its successor takes over" in blamed.log()


@pytest.mark.parametrize("at", [1, 2, 3, 4, 7])
def test_killed_between_noting_and_answering_loses_nothing(mount: Mount, at: int) -> None:
    folder = mount.watch()
    reader = os.open(folder / "queue", os.O_RDONLY)
    reads = Call(os.read, reader, 4096)
    mount.wait_for_readers(folder)
    with killed_at_its_answer(mount, at):
        for number in range(4):
            deliver(mount, record(number))
    got = numbers(reads.result())
    while len(got) < 4:
        got += numbers(os.read(reader, 4096))
    assert got == [0, 1, 2, 3]
    os.close(reader)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("edge", [False, True], ids=["poll", "edge"])
def test_poller_is_woken_though_its_notification_died(mount: Mount, at: int, edge: bool) -> None:
    """Nothing else comes that would wake it."""
    folder = mount.watch()
    queue, records = folder / "queue", mount.path / "sim/records"
    with opened(queue, os.O_RDONLY | os.O_NONBLOCK) as fd, opened(records, os.O_WRONLY) as to:
        if edge:
            epoll = select.epoll()
            epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            waits = Call(epoll.poll, 10.0)
        else:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            waits = Call(poll.poll, 10_000)
        mount.wait_for_pollers(folder)
        with killed_at_its_answer(mount, at):
            os.write(to, record(7))
            for _ in range(4):  # so that there is a fourth answer
                (folder / "log").stat()
        assert waits.result() == [(fd, select.POLLIN)]
        assert numbers(os.read(fd, 4096)) == [7]


def test_large_system_is_what_it_was(mount: Mount) -> None:
    """What its successor looks for of the life before can wait until those who wait are answered."""
    mount.post("mount -t tmpfs t /big", *(f"mount -t tmpfs t /big/{number}" for number in range(100)))
    mount.post(*(f"mount --rbind /big /copy{number}" for number in range(110)))
    before = snapshot(mount)
    assert len(before["mounts"]) > LARGE  # type: ignore[arg-type]
    for _ in range(2):
        kill(mount)
        assert snapshot(mount) == before
        time.sleep(1.0)  # at rest
    mount.post("umount -R /big")


@pytest.mark.parametrize("at", [1, 7, 60, 121, 180])
def test_killed_in_a_burst_of_opens_all_are_opened_once(mount: Mount, at: int) -> None:
    """Of each open there is a lookup of three names, which the kernel may know, and the open itself."""
    folder = mount.watch()
    with killed_at_its_answer(mount, at):
        calls = [Call(os.open, folder / "queue", os.O_RDONLY | os.O_NONBLOCK) for _ in range(100)]
        fds = [call.result() for call in calls]
        deliver(mount, record(1))
        for _ in range(100):  # so that the last of them are answered too
            (folder / "queue").stat()
            os.listdir(folder)
    assert numbers(os.read(fds[0], 4096)) == [1]
    for fd in fds:
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        os.close(fd)
    wait_until(lambda: metric(mount, "handles") == 1, "all to be closed")


@pytest.mark.parametrize("at", range(1, 7))
def test_killed_between_making_a_watch_and_saying_so_makes_it_once(mount: Mount, at: int) -> None:
    """The same for names: mkdir, rmdir and what the kernel asks beside them."""
    folder = mount.path / "watches/w"
    with killed_at_its_answer(mount, at):
        for _ in range(3):
            folder.mkdir()
            with opened(folder / "queue"):
                pass
            folder.rmdir()
    assert os.listdir(mount.path / "watches") == []
    assert (metric(mount, "queues"), metric(mount, "watches")) == (0, 0)


def test_large_write_goes_on_after(mount: Mount, tmp_path: Path) -> None:
    folder, enough, count = mount.watch(), tmp_path / "enough", 250_000
    block = b"".join(record(number) for number in range(count))
    program = """
import os, sys
fd, block, times = os.open(sys.argv[1], os.O_WRONLY), sys.stdin.buffer.read(), 0
while not os.path.exists(sys.argv[2]):
    data, times = block, times + 1
    while data:
        data = data[os.write(fd, data):]
print(times)
"""
    with running(
        sys.executable, "-c", program, str(mount.path / "sim/records"), str(enough),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as writer:  # fmt: skip
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.write(block)
        writer.stdin.close()
        seen = 0
        for _ in range(5):
            wait_until(lambda seen=seen: mount.status(folder)["posted"] > seen + 50_000, "the write to go on")  # type: ignore[misc]
            kill(mount)
            seen = mount.status(folder)["posted"]
        enough.touch()
        posted = count * int(writer.stdout.readline())
        assert writer.wait(LIMIT) == 0
    status = mount.status(folder)
    assert (status["posted"], status["delivered"] + status["queued"] + status["lost"]) == (posted, posted)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_killed_while_it_reads_large_requests_no_call_fails(mount: Mount) -> None:
    """The first requests of each successor go to pages that it has not touched: see wqfs.fs.journal."""
    comments = (b"#" + b"x" * 1022 + b"\n") * 128
    fd = os.open(mount.path / "post", os.O_WRONLY)
    outcomes: list[object] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            try:
                outcomes.append(os.write(fd, comments))
            except OSError as error:
                outcomes.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    dead = 0
    try:
        for _ in range(150):
            goal = len(outcomes) + random.randint(1, 10)
            wait_until(lambda goal=goal: len(outcomes) >= goal, "the writer to go on")  # type: ignore[misc]
            time.sleep(random.uniform(0, 0.002))
            wait_for_successor(mount.process.pid, dead)
            dead = kill(mount)
    finally:
        ended.set()
        writer.join(LIMIT)
        os.close(fd)
    assert [outcome for outcome in outcomes if outcome != len(comments)] == []
