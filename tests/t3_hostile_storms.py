"""Storms on a mount: what a hostile or a hasty user can do; docs/reference/hostile-input.md has what is decided."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import LIMIT, Mount, deliver, metric, numbers, opened, record, wait_until

MIB = 1 << 20


def memory(mount: Mount) -> int:
    """Bytes that the daemon has in memory."""
    with open(f"/proc/{mount.daemon}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def wait_for_handles(mount: Mount, count: int = 1) -> None:
    """Wait until `count` files are open, metrics itself among them: a close does not wait for the server."""
    wait_until(lambda: metric(mount, "handles") == count, f"{count} open files")


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """Let this process have `count` open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"the hard limit of open files is {hard}, {count} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def deliver_often(mount: Mount, block: bytes, times: int) -> None:
    for _ in range(times):
        deliver(mount, block)


HOLD = """
import os, sys
path, count = sys.argv[1], int(sys.argv[2])
fds = []
try:
    for _ in range(count):
        fds.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    said = 0
except OSError as error:
    said = error.errno
print(len(fds), said, flush=True)
sys.stdin.read()
"""


@contextmanager
def held_open(path: Path, count: int) -> Iterator[list[tuple[int, int]]]:
    """`count` descriptors of `path` in processes of 15,000 each; yields what each got, and the errno that ended it."""
    holders = []
    try:
        for left in range(count, 0, -15_000):
            holders.append(
                subprocess.Popen(
                    [sys.executable, "-S", "-c", HOLD, path, str(min(left, 15_000))],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    preexec_fn=lambda: resource.setrlimit(
                        resource.RLIMIT_NOFILE, (16_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
                    ),
                )
            )  # fmt: skip
        yield [(int(count), int(number)) for count, number in (line(holder).split() for holder in holders)]
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def line(holder: subprocess.Popen[str]) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline()


def close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def test_readers_that_never_read_cost_what_their_rings_hold(mount: Mount) -> None:
    folders = [mount.watch(f"w{n}") for n in range(20)]
    idle = [os.open(folder / name, os.O_RDONLY) for folder in folders for name in ("queue", "events") for _ in range(5)]
    try:
        block = b"".join(record(0, 127) for _ in range(500))
        deliver_often(mount, block, 20)
        full = memory(mount)
        deliver_often(mount, block, 400)
        assert memory(mount) < full + 8 * MIB
        status = mount.status(folders[0])
        assert status["queued"] == 256 and status["lost"] == 21 * 20 * 500 - 256
        with opened(mount.path / "queue", os.O_RDONLY | os.O_NONBLOCK) as fd:
            deliver(mount, record(7))
            assert numbers(os.read(fd, 4096)) == [7], "who reads is not disturbed"
    finally:
        close_all(idle)


def test_poller_storm_wakes_every_one_and_leaves_nothing(mount: Mount) -> None:
    folder = mount.watch()
    fds: list[int] = []
    with many_files(2000), select.epoll() as level, select.epoll() as edge:
        try:
            for _ in range(1500):
                fds.append(os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK))
                level.register(fds[-1], select.EPOLLIN)
                edge.register(fds[-1], select.EPOLLIN | select.EPOLLET)
            assert not level.poll(0) and not edge.poll(0)
            for number in range(5):
                deliver(mount, record(number))
                woken: set[int] = set()
                wait_until(
                    lambda woken=woken: woken.update(fd for fd, _ in edge.poll(0.1, 5000)) or len(woken) == 1500,  # type: ignore[misc]
                    "1500 edges",
                )
                assert len(level.poll(LIMIT, 5000)) == 1500
                assert numbers(os.read(fds[number], 4096)) == [number]
                wait_until(lambda: not level.poll(0, 5000), "an empty queue")
        finally:
            close_all(fds)
    wait_for_handles(mount)
    assert mount.status(folder)["pollers"] == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_hundred_thousand_opens_succeed_where_allowed_and_cost_nothing_afterwards(
    mount_with: Callable[[str], Mount],
) -> None:
    mount = mount_with("max_handles=110000,max_user_handles=110000")
    folder = mount.watch()
    before = 0
    for turn in range(2):
        with held_open(folder / "queue", 100_000) as held:
            assert sum(count for count, _ in held) == 100_000
            assert metric(mount, "handles") == 100_001
            with opened(folder / "queue", os.O_RDONLY | os.O_NONBLOCK) as fd:
                deliver(mount, record(turn))
                assert numbers(os.read(fd, 100)) == [turn]
            assert memory(mount) < (before + 16 * MIB if turn else 300 * MIB)
            before = memory(mount)
        wait_for_handles(mount)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "most", "refused"),
    [("", 24_576, errno.EDQUOT), ("max_user_handles=40000", 32_768, errno.ENFILE)],
    ids=["of-a-user", "of-all"],
)
def test_opens_beyond_the_limits_are_refused_and_everything_else_goes_on(
    mount_with: Callable[[str], Mount], options: str, most: int, refused: int
) -> None:
    mount = mount_with(options)
    records = os.open(mount.path / "sim/records", os.O_WRONLY)
    with opened(mount.path / "queue", os.O_RDONLY | os.O_NONBLOCK) as queue:
        with held_open(mount.path / "metrics", 40_000) as held:
            assert sum(count for count, _ in held) == most - 2
            assert refused in {number for _, number in held} <= {0, refused}
            mount.watch("other").rmdir()
            os.write(records, record(1))
            assert numbers(os.read(queue, 100)) == [1]
        os.close(records)
        wait_for_handles(mount, 2)


def comments(mount: Mount, size: int) -> None:
    """Write `size` bytes of comments to `post`: lines of all lengths, in writes of 128 KiB."""
    lines = b"".join(b"# " + b"x" * (n % 200) + b"\n" for n in range(5000))
    block = (lines * (131072 // len(lines) + 1))[: 131072 - 1] + b"\n"
    with opened(mount.path / "post", os.O_WRONLY) as fd:
        for _ in range(size // len(block)):
            assert os.write(fd, block) == len(block)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_gigabyte_of_comments_happens_not_and_leaves_others_their_turn(mount: Mount) -> None:
    comments(mount, 4 * MIB)
    before = memory(mount)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            comments(mount, 1024 * MIB)
            code = 0
        finally:
            os._exit(code)
    slowest = 0.0
    try:
        with opened(mount.path / "queue", os.O_RDONLY) as fd:
            number = 0
            while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                start = time.monotonic()
                deliver(mount, record(number))
                assert numbers(os.read(fd, 100)) == [number]
                slowest = max(slowest, time.monotonic() - start)
                number += 1
    except BaseException:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise
    assert ended == (pid, 0)  # all of it was taken
    assert number > 10 and slowest < 2.0
    assert memory(mount) < before + 8 * MIB
    assert metric(mount, "refused_total") == 0


def test_line_without_end_is_refused_at_max_line(mount: Mount) -> None:
    with opened(mount.path / "post", os.O_WRONLY) as fd:
        with pytest.raises(OSError) as caught:
            for _ in range(100):
                os.write(fd, b"x" * 1000)
        assert caught.value.errno == errno.EINVAL
        os.write(fd, b"mount -t tmpfs t /m\n")
    assert " /m " in (mount.path / "sim/mountinfo").read_text()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fifty_thousand_watches_are_made_listed_told_and_removed(mount_with: Callable[[str], Mount]) -> None:
    count = 50_000
    mount = mount_with(f"max_watches={count},max_queues={count},log_events=1")
    watches = mount.path / "watches"
    for number in range(count):
        os.mkdir(watches / f"w{number}")
    with pytest.raises(OSError) as caught:
        os.mkdir(watches / "more")
    assert caught.value.errno == errno.EDQUOT
    names = os.listdir(watches)
    assert len(names) == count and set(names) == {f"w{number}" for number in range(count)}
    deliver(mount, record(1))
    assert mount.status(watches / "w0")["queued"] == mount.status(watches / f"w{count - 1}")["queued"] == 1
    for entry in os.scandir(watches):  # while it is read
        os.rmdir(entry.path)
    assert not os.listdir(watches) and metric(mount, "queues") == 0


def test_listing_has_each_once_while_others_come_and_go(mount: Mount) -> None:
    watches = mount.path / "watches"
    for number in range(400):
        (watches / f"stays{number}").mkdir()
        (watches / f"goes{number}").mkdir()
    seen = []
    for entry in os.scandir(watches):
        seen.append(entry.name)
        if entry.name.startswith("goes"):
            (watches / entry.name).rmdir()
            (watches / f"new{entry.name}").mkdir()
    assert len(seen) == len(set(seen))
    assert {f"stays{number}" for number in range(400)} <= set(seen)


RACE = """
import errno, os, sys
name, until = sys.argv[1], int(sys.argv[2])
made = removed = 0
for _ in range(until):
    try:
        os.mkdir(name)
        made += 1
    except FileExistsError:
        pass
    try:
        fd = os.open(name + "/queue", os.O_RDONLY | os.O_NONBLOCK)
        os.close(fd)
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ESTALE), error
    try:
        os.rmdir(name)
        removed += 1
    except FileNotFoundError:
        pass
print(made, removed)
"""


def test_race_of_fifty_on_one_name_makes_and_removes_each_watch_once(mount: Mount) -> None:
    name = mount.path / "watches/one"
    racers = [
        subprocess.Popen([sys.executable, "-S", "-c", RACE, name, "40"], stdout=subprocess.PIPE, text=True)
        for _ in range(50)
    ]
    try:
        outs = [racer.communicate(timeout=50)[0].split() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert all(len(out) == 2 for out in outs)
    made, removed = (sum(int(out[at]) for out in outs) for at in range(2))
    assert made - removed == name.exists() and made > 0
    if name.exists():
        name.rmdir()
    wait_for_handles(mount)
    assert metric(mount, "queues") == 0


@pytest.mark.slow
def test_hoard_of_long_events_is_cut_at_max_memory_and_every_event_is_accounted_for(
    mount_with: Callable[[str], Mount],
) -> None:
    """Watches that each keep other events, as long as events can be: without a bound 250 MiB in their logs alone."""
    mount = mount_with("max_memory=32")
    path = "/" + "/".join(["x" * 250] * 15)
    lines = "".join(f"mount -t tmpfs {'s' * 120} {path}\numount {path}\n" for _ in range(16))
    mount.post(f"mount -t tmpfs t {path}", f"umount {path}")
    before = memory(mount)
    folders = []
    with opened(mount.path / "post", os.O_WRONLY) as post:
        for number in range(30):
            folders.append(mount.watch(f"w{number}"))
            for _ in range(32):
                assert os.write(post, lines.encode()) == len(lines)
            (folders[-1] / "filter").write_text("nothing\n")
            assert metric(mount, "kept_bytes") <= 16 * MIB
    assert memory(mount) < before + 64 * MIB
    for folder in folders:
        logged = [json.loads(event) for event in (folder / "log").read_bytes().splitlines()]
        assert sum(event.get("cut", 1) for event in logged) == 1024
    assert memory(mount) < before + 64 * MIB
