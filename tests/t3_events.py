"""A watch's `events`: what is in a line, a stream of bytes, slow readers."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reading import ERROR, parsed
from tests.tools import LIMIT, Mount, drain, opened, refused

PROMISED = ["seq", "time", "id", "type", "event", "flags"]

# -- events: what is in a line


def test_events_lines_have_the_promised_members_first(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as fd:
        shared.post("mount /dev/sdb1 /members -t ext4 -o ro", "key add user colour red @s", "device error /dev/sda io")
        lines = parsed(drain(fd))
    assert lines
    for line in lines:
        assert list(line)[:6] == PROMISED
        assert abs(line["time"] - time.time()) < LIMIT


@pytest.mark.parametrize(
    ("line", "members"),
    [
        (
            "mount /dev/sdq1 /named -t ext4 -o ro",
            {"type": "mount", "event": "new_mount", "flags": ["IS_NOW_RO"], "triggered_on": 21,
             "mountpoint": "/named", "source": "/dev/sdq1", "fstype": "ext4", "parent": "/"},
        ),
        ("umount /named", {"event": "unmount", "mountpoint": "/named", "triggered_on": 21}),
        (
            "sb error / EDQUOT cookie=7 over the limit",
            {"type": "sb", "event": "error", "sb": 1, "error": "EDQUOT", "error_text": "Disk quota exceeded",
             "cookie": 7, "text": "over the limit", "source": "/dev/root", "mountpoint": "/"},
        ),
        ("sb edquot / user 1000", {"type": "sb", "event": "edquot", "sb": 1, "user": 1000}),
        (
            "device error /dev/sda no_space sector=8",
            {"type": "block", "event": "no_space", "sector": 8, "device": "8:0", "source": "/dev/sda"},
        ),
    ],
)  # fmt: skip
def test_events_name_what_happened(shared: Mount, watch: Path, line: str, members: dict[str, object]) -> None:
    with opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as fd:
        shared.post(line)
        got = parsed(drain(fd))[0]
    assert {name: got.get(name) for name in members} == members


def test_events_of_keys_name_key_and_description(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as fd:
        shared.post("key add user hue red @s")
        made, linked = parsed(drain(fd))
    assert (made["event"], made["description"], made["key_type"]) == ("instantiated", "hue", "user")
    assert (linked["event"], linked["aux"], linked["aux_description"]) == ("linked", made["key"], "hue")


def test_events_ids_are_those_of_the_files(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as fd:
        shared.post("mount /dev/sdz1 /idfiles -t ext4", "sb error /idfiles EIO")
        mounted, failed = parsed(drain(fd))
    table = {line.split()[4]: line.split()[0] for line in (shared.path / "sim/mountinfo").read_text().splitlines()}
    assert table["/idfiles"] == str(mounted["auxiliary_mount"])
    blocks = {line.split()[5]: line.split()[0] for line in (shared.path / "sim/superblocks").read_text().splitlines()}
    assert blocks["/dev/sdz1"] == str(failed["sb"])


def test_events_begin_at_the_open(shared: Mount, watch: Path) -> None:
    shared.post(ERROR)
    with opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as fd:
        with refused(errno.EAGAIN):
            os.read(fd, 100)
        shared.post("sb error / EROFS")
        assert [line["error"] for line in parsed(drain(fd))] == ["EROFS"]


def test_events_numbers_are_the_same_on_all_watches_and_increase(shared: Mount, watch: Path) -> None:
    second = shared.watch("second")
    try:
        (second / "objects").write_text("sb / id=9\n")
        with opened(watch / "events", os.O_NONBLOCK) as one, opened(second / "events", os.O_NONBLOCK) as two:
            shared.post(ERROR, "device error /dev/sda io", "sb error / EROFS")
            first, other = parsed(drain(one)), parsed(drain(two))
    finally:
        second.rmdir()
    numbers = [line["seq"] for line in first]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert [line["seq"] for line in other] == [numbers[0], numbers[2]]
    assert [line["id"] for line in other] == [9, 9]


# -- events: a stream of bytes


@pytest.mark.parametrize("size", [1, 2, 7, 64, 4096])
def test_events_read_in_any_size_are_the_same_bytes(shared: Mount, watch: Path, size: int) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as small, opened(watch / "events", os.O_NONBLOCK) as large:
        shared.post(ERROR, "device error /dev/sda io", "sb error / EROFS")
        assert drain(small, size) == drain(large)


def test_events_read_of_size_0_is_empty(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as fd:
        assert os.read(fd, 0) == b""
        shared.post(ERROR)
        assert os.read(fd, 0) == b""
        assert len(parsed(drain(fd))) == 1


def test_events_of_one_descriptor_are_shared_by_a_forked_reader(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_RDONLY) as fd:
        shared.post(ERROR, ERROR)
        line = subprocess.run(["head", "-c", "20"], stdin=fd, capture_output=True, timeout=LIMIT).stdout
        assert line.startswith(b'{"seq":')


def test_events_end_with_end_of_file_at_rmdir(shared: Mount, watch: Path) -> None:
    with opened(watch / "events") as fd:
        shared.post(ERROR)
        watch.rmdir()
        assert len(parsed(drain(fd))) == 1
        assert os.read(fd, 100) == b""


def test_events_reading_takes_nothing_from_queue(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as fd:
        shared.post(ERROR, ERROR)
        before = (watch / "status").read_text()
        assert len(parsed(drain(fd))) == 2
        assert (watch / "status").read_text() == before
    assert shared.status(watch)["queued"] == 2


def test_events_write_and_lseek_are_refused(shared: Mount, watch: Path) -> None:
    with opened(watch / "events") as fd:
        with refused(errno.EBADF):
            os.write(fd, b"x")
        with refused(errno.ESPIPE):
            os.lseek(fd, 0, os.SEEK_SET)
        with refused(errno.ESPIPE):
            os.pread(fd, 1, 0)


def test_events_poll_reports_what_is_there(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(0) == []
        shared.post(ERROR)
        assert poller.poll(0) == [(fd, select.POLLIN)]
        drain(fd)
        assert poller.poll(0) == []
        watch.rmdir()
        assert poller.poll(0) == [(fd, select.POLLHUP)]


@pytest.mark.parametrize("mode", [0, select.EPOLLET], ids=["level", "edge"])
def test_events_wake_epoll(shared: Mount, watch: Path, mode: int) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as fd, select.epoll() as poller:
        poller.register(fd, select.EPOLLIN | mode)
        for _ in range(2):
            assert poller.poll(0) == []
            shared.post(ERROR)
            assert poller.poll(LIMIT) == [(fd, select.EPOLLIN)]
            drain(fd)
        watch.rmdir()
        ((_, events),) = poller.poll(LIMIT)
        assert events & select.EPOLLHUP


def test_events_sendfile_is_einval_and_takes_nothing(shared: Mount, watch: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        with (
            opened(watch / "events", os.O_NONBLOCK) as fd,
            opened(tmp_path / "out", os.O_WRONLY | os.O_CREAT) as out,
        ):
            shared.post(ERROR)
            for target in (writer, out):
                with refused(errno.EINVAL):
                    os.sendfile(target, fd, None, 100)
            assert len(parsed(drain(fd))) == 1
    finally:
        os.close(reader)
        os.close(writer)


def test_events_splice_is_einval_and_takes_nothing(shared: Mount, watch: Path) -> None:
    reader, writer = os.pipe()
    try:
        with opened(watch / "events", os.O_NONBLOCK) as fd:
            shared.post(ERROR)
            with refused(errno.EINVAL):
                os.splice(fd, writer, 100)
            assert len(parsed(drain(fd))) == 1
    finally:
        os.close(reader)
        os.close(writer)


# -- events: slow readers


def test_events_slow_reader_does_not_slow_another(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=4")
    watch = mount.watch()
    with opened(watch / "events", os.O_NONBLOCK) as slow, opened(watch / "events", os.O_NONBLOCK) as fast:
        seen = []
        for _ in range(12):
            mount.post(ERROR)
            seen += [line["seq"] for line in parsed(drain(fast))]
        assert seen == list(range(1, 13))
        assert [line["seq"] for line in parsed(drain(slow))] == [1, 2, 3, 4, 12]


def test_events_missed_are_one_line_that_says_how_many(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=4")
    watch = mount.watch()
    with opened(watch / "events", os.O_NONBLOCK) as fd:
        mount.post(*[ERROR] * 10)
        lost = parsed(drain(fd))[-1]
        assert (lost["type"], lost["event"], lost["lost"], lost["seq"]) == ("meta", "lost", 6, 10)
        mount.post(ERROR)
        assert [line["seq"] for line in parsed(drain(fd))] == [11]
