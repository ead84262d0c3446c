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
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.dying import daemon_of
from tests.tools import (
    LIMIT,
    MOUNT_COMMAND,
    ROOT,
    Call,
    Mount,
    children_of,
    deliver,
    is_mounted,
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
from wqfs.abi import fuse
from wqfs.fs.checkpoint import ATTEMPTS
from wqfs.fs.taking_over import DEADLY


def can_ask_again() -> bool:
    """Whether the kernel has FUSE_NOTIFY_RESEND (Linux 6.9)."""
    major, minor = map(int, re.findall(r"\d+", os.uname().release)[:2])
    return (major, minor) >= (6, 9)


pytestmark = pytest.mark.skipif(not can_ask_again(), reason="this kernel cannot send requests again (Linux 6.9)")


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Iterator[Mount]:
    made = mount_with("survive")
    wait_for_checkpoint(made)
    yield made


@pytest.fixture
def blamed(tmp_path: Path) -> Iterator[Mount]:
    """A mount that may log errors."""
    (tmp_path / "blamed").mkdir()
    made = Mount(tmp_path / "blamed", "survive", tmp_path / "blamed.log")
    try:
        wait_for_checkpoint(made)
        yield made
    finally:
        made.close()


def wait_for_checkpoint(mount: Mount) -> None:
    wait_until(lambda: "wqfs-checkpoint" in names_below(mount.process.pid), "a checkpoint")


def daemon(mount: Mount) -> int:
    """Its pid; for a moment, while a checkpoint is made, none is to be seen."""
    seen = [0]

    def sees() -> int:
        seen[0] = daemon_of(mount.process.pid)
        return seen[0]

    wait_until(sees, "a daemon")
    return seen[0]


def kill(mount: Mount, number: signal.Signals = signal.SIGKILL) -> int:
    """Kill the daemon; returns its pid."""
    pid = daemon(mount)
    os.kill(pid, number)
    return pid


def kill_checkpoint(mount: Mount) -> None:
    """Kill who waits to take over, and wait for another one, which is as the daemon is now."""
    wait_for_checkpoint(mount)
    found = subprocess.run(["pgrep", "-x", "wqfs-checkpoint"], capture_output=True, text=True, check=True)
    mine = [
        pid for pid in found.stdout.split() if str(mount.path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for pid in mine:
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine), "it to be gone")
    wait_for_checkpoint(mount)


def checkpoint_began(mount: Mount) -> float:
    """When the process that waits to take over was made: seconds since the machine's start, to a tick."""
    wait_until(lambda: children_of(daemon(mount)), "a checkpoint")
    ticks = [0]
    for pid in children_of(daemon(mount)):  # two, while the one follows the other
        with suppress(OSError):
            ticks.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]))
    return max(ticks) / os.sysconf("SC_CLK_TCK")


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
        wait_for_checkpoint(mount)
        return len(os.listdir(f"/proc/{daemon_of(mount.process.pid)}/fd"))

    folder = mount.watch()
    kill(mount)
    folder.stat()
    wait_for_checkpoint(mount)
    before = descriptors()
    for _ in range(5):
        pid = kill(mount)
        wait_until(lambda pid=pid: daemon_of(mount.process.pid) not in (0, pid), "a successor")  # type: ignore[misc]
        (folder / "status").read_text()
    wait_until(lambda: descriptors() <= before, f"the {before} descriptors of before")


def test_deaths_leave_no_buffer_behind(mount: Mount) -> None:
    sizes = []
    for number in range(8):
        mount.watch(f"w{number}")  # pyfuse3 has a buffer of a MiB for what it reads
        kill_checkpoint(mount)
        dead = kill(mount)
        wait_until(lambda dead=dead: daemon(mount) != dead, "a successor")  # type: ignore[misc]
        wait_for_checkpoint(mount)
        text = Path(f"/proc/{daemon(mount)}/status").read_text()
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
    daemon = daemon_of(mount.process.pid)
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
        me = daemon(mount)
        pids = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        (helper,) = (pid for pid in pids if not Path(f"/proc/{pid}/comm").read_text().startswith("wqfs"))
        wait_until(lambda: not Path(f"/proc/{helper}").exists(), "the process to end")
        (mount.path / "post").write_text(("#" + "x" * 1022 + "\n") * 2200)  # the journal is full once
        before = daemon(mount)
        kill(mount)
        wait_until(lambda: daemon(mount) != before, "a successor")
        assert (folder / "filter").read_text() == "key updated\n"


def test_killed_at_random_moments_every_event_comes_once(mount: Mount) -> None:
    check_deaths(mount, 15, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_two_hundred_times_every_event_comes_once(mount_with: Callable[[str], Mount]) -> None:
    made = mount_with("survive,depth=512")
    wait_for_checkpoint(made)
    check_deaths(made, 200, 2, limit=250)


def check_deaths(mount: Mount, kills: int, seed: int, limit: float = 50) -> None:
    command = [sys.executable, "-m", "tests.dying", str(mount.path), str(mount.process.pid), str(kills), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{kills} kills, 0 faults"


@contextmanager
def killed_at_its_answer(mount: Mount, at: int) -> Iterator[None]:
    """The daemon's writes are its answers: strace kills it at its `at`-th one, before the kernel has it."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing (Debian package strace)")
    pid = daemon(mount)
    inject = f"inject=write:signal=SIGKILL:when={at}"
    with running("strace", "-f", "-qq", "-e", "trace=write", "-e", inject, "-p", str(pid), stderr=subprocess.DEVNULL):
        wait_for_tracer(pid)
        yield
    assert daemon(mount) != pid


def kill_who_is_at(mount: Mount, deadly: Call) -> int:
    """Kill every daemon as soon as it is at that call, until it has an answer; returns how many."""
    kills, dead = 0, 0
    while deadly.waits and kills < 2 * DEADLY:
        pid = daemon(mount)
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
            wait_until(lambda dead=dead: daemon(mount) != dead, "the next daemon")  # type: ignore[misc]
            dead = kill(mount)
    finally:
        ended.set()
        writer.join(LIMIT)
        os.close(fd)
    assert [outcome for outcome in outcomes if outcome != len(comments)] == []


# -- who ends whom


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
    slow = tmp_path / "bin/fusermount3"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n[ "$1" != -u ] || sleep 2\nexec {shutil.which("fusermount3")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    mount = mount_with("survive")
    wait_for_checkpoint(mount)
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
        wait_until(lambda: "wqfs-checkpoint" in names_below(front.pid), "a checkpoint")
        pids = subprocess.run(["pgrep", "-f", str(path)], capture_output=True, text=True, check=True).stdout.split()
        for pid in reversed(pids):
            if int(pid) != front.pid:
                os.kill(int(pid), signal.SIGKILL)
        assert front.wait(LIMIT) == 2
    assert "unmounted, its users find it gone" in log.read_text()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()


def descendants(pid: int) -> list[int]:
    """All that the process has started, and those that they have, in that order."""
    found = [pid]
    for each in found:
        found += children_of(each)
    return found[1:]


def test_supervisor_has_nothing_loaded_that_serves(mount: Mount) -> None:
    def loaded(pid: int) -> set[str]:
        libraries = re.findall(r"\S+\.so\S*", Path(f"/proc/{pid}/maps").read_text())
        return {name for name in ("pyfuse3", "libfuse3") for path in libraries if name in path}

    assert loaded(daemon(mount)) == {"pyfuse3", "libfuse3"} and loaded(mount.process.pid) == set()


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


def test_supervisor_that_gives_up_leaves_alone_what_else_is_mounted_there(tmp_path: Path) -> None:
    path = tmp_path / "twice"
    path.mkdir()
    first = Mount(path, "survive", tmp_path / "first")
    try:
        wait_for_checkpoint(first)
        held = os.open(path / "metrics", os.O_RDONLY)
        subprocess.run(["fusermount3", "-uz", path], check=True)
        wait_until(lambda: "detached" in first.log(), "the first to notice")
        second = Mount(path, "nosurvive", tmp_path / "second")
        try:
            for pid in reversed(descendants(first.process.pid)):
                os.kill(pid, signal.SIGKILL)
            assert first.process.wait(LIMIT) == 2
            assert is_mounted(path) and (path / "metrics").read_text()
        finally:
            second.close()
    finally:
        first.close()
    os.close(held)


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
        wait_for_checkpoint(mount)
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
        wait_until(lambda: "wqfs-checkpoint" in names_below(front.pid), "a checkpoint")
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
