"""The files of sim/, `metrics` and `status`, in the formats that people's tools read."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import select
from pathlib import Path

import pytest

from tests.reading import ERROR, parsed, run
from tests.tools import LIMIT, Mount, drain, metric, opened, refused


def test_snapshot_says_the_last_event_it_includes(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as fd:
        shared.post("mount /dev/sdy1 /snapped -t ext4")
        snapshot = json.loads((shared.path / "sim/snapshot").read_bytes())
        (line,) = parsed(drain(fd))
        assert snapshot["seq"] == line["seq"]
        (found,) = (mount for mount in snapshot["mounts"] if mount["mountpoint"] == "/snapped")
        assert (found["id"], found["changed"]) == (line["auxiliary_mount"], line["seq"])
        shared.post(ERROR)
        assert parsed(drain(fd))[0]["seq"] == snapshot["seq"] + 1


def test_snapshot_is_read_by_jq(shared: Mount) -> None:
    assert run("jq", "-r", ".mounts[0].mountpoint", shared.path / "sim/snapshot") == b"/\n"
    assert run("jq", "-e", ".superblocks[0].id == 1 and (.keys | length > 0)", shared.path / "sim/snapshot")


def test_mountinfo_is_read_by_findmnt(shared: Mount) -> None:
    shared.post(r"mount /dev/sdw1 /found\040it -t ext4 -o ro,nosuid")
    table = shared.path / "sim/mountinfo"
    out = run(
        "findmnt",
        "--kernel",
        "--tab-file",
        table,
        "-P",
        "-o",
        "TARGET,SOURCE,FSTYPE,OPTIONS",
        "-S",
        "/dev/sdw1",
    )
    assert out.strip() == b'TARGET="/found it" SOURCE="/dev/sdw1" FSTYPE="ext4" OPTIONS="ro,nosuid,relatime"'


def test_mountinfo_has_the_kernels_fields(shared: Mount) -> None:
    for line in (shared.path / "sim/mountinfo").read_bytes().splitlines():
        assert re.fullmatch(rb"\d+ \d+ \d+:\d+ /\S* /\S* \S+ (\S+ )*- \S+ \S+ \S+", line)


def test_mountinfo_read_again_from_0_gives_the_new_text(shared: Mount) -> None:
    with opened(shared.path / "sim/mountinfo") as fd:
        before = drain(fd)
        shared.post("mount none /reread -t tmpfs")
        os.lseek(fd, 0, os.SEEK_SET)
        after = drain(fd)
    assert b" /reread " not in before
    assert after.startswith(before)
    assert b" /reread " in after


def test_mountinfo_read_in_pieces_is_one_moment(shared: Mount) -> None:
    with opened(shared.path / "sim/mountinfo") as fd:
        whole = (shared.path / "sim/mountinfo").read_bytes()
        begin = os.read(fd, 10)
        shared.post("mount none /meanwhile -t tmpfs")
        assert begin + drain(fd, 10) == whole


@pytest.mark.parametrize(
    "line", ["mount none /changes -t tmpfs", "mount -o remount,bind,ro /changes", "umount /changes"]
)
def test_mountinfo_poll_reports_a_change_once(shared: Mount, line: str) -> None:
    with opened(shared.path / "sim/mountinfo") as fd:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        assert poller.poll(0) == []
        shared.post(line)
        assert poller.poll(LIMIT * 1000) == [(fd, select.POLLERR | select.POLLPRI)]
        assert poller.poll(0) == []


@pytest.mark.parametrize("line", [ERROR, "key add user pollless x @s", "device error /dev/sda io"])
def test_mountinfo_poll_reports_nothing_else(shared: Mount, line: str) -> None:
    with opened(shared.path / "sim/mountinfo") as fd:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        shared.post(line)
        assert poller.poll(0) == []


def test_mountinfo_is_always_readable_for_poll(shared: Mount) -> None:
    with opened(shared.path / "sim/mountinfo") as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(0) == [(fd, select.POLLIN)]


def test_mountinfo_wakes_a_waiting_epoll(shared: Mount) -> None:
    with opened(shared.path / "sim/mountinfo") as fd, select.epoll() as poller:
        poller.register(fd, select.EPOLLPRI | select.EPOLLET)
        assert poller.poll(0) == []
        shared.post("mount none /epolled -t tmpfs")
        ((_, events),) = poller.poll(LIMIT)
        assert events & select.EPOLLPRI


def test_mountinfo_change_is_reported_to_each_descriptor(shared: Mount) -> None:
    with opened(shared.path / "sim/mountinfo") as one, opened(shared.path / "sim/mountinfo") as two:
        shared.post("mount none /each -t tmpfs")
        for fd in (one, two):
            poller = select.poll()
            poller.register(fd, select.POLLPRI)
            assert poller.poll(0) == [(fd, select.POLLERR | select.POLLPRI)]


def test_superblocks_are_a_line_each(shared: Mount) -> None:
    shared.post("mount /dev/sdv1 /blocks -t xfs -o ro", "sb error /blocks EIO")
    (line,) = (line for line in (shared.path / "sim/superblocks").read_text().splitlines() if "sdv1" in line)
    assert re.fullmatch(r"\d+ \d+:\d+ xfs error ro /dev/sdv1", line)


def test_keys_have_the_format_of_proc_keys(shared: Mount) -> None:
    shared.post("key add user listed x @s")
    text = (shared.path / "sim/keys").read_text()
    (line,) = (line for line in text.splitlines() if "listed" in line)
    assert re.fullmatch(r"[0-9a-f]{8} I--Q---     1 perm 3f010000 +\d+ +\d+ user      listed: 1", line)


def test_key_users_have_the_format_of_proc_key_users(shared: Mount) -> None:
    for line in (shared.path / "sim/key-users").read_text().splitlines():
        assert re.fullmatch(r" *\d+: +\d+ \d+/\d+ \d+/\d+ \d+/\d+", line)


def test_metrics_are_prometheus_text(shared: Mount) -> None:
    kinds: dict[str, str] = {}
    values: dict[str, int] = {}
    for line in (shared.path / "metrics").read_text().splitlines():
        if match := re.fullmatch(r"# HELP (wqfs_[a-z_]+) \S.*", line):
            assert match[1] not in kinds
        elif match := re.fullmatch(r"# TYPE (wqfs_[a-z_]+) (counter|gauge)", line):
            kinds[match[1]] = match[2]
        else:
            match = re.fullmatch(r"(wqfs_[a-z_]+) (\d+)", line)
            assert match, line
            values[match[1]] = int(match[2])
    assert set(values) == set(kinds)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())


def test_metrics_count_events_and_refusals(shared: Mount) -> None:
    before = metric(shared, "events_total"), metric(shared, "refused_total")
    shared.post(ERROR)
    with refused(errno.EINVAL):
        shared.post("bogus")
    assert (metric(shared, "events_total"), metric(shared, "refused_total")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("name", ["sim/mountinfo", "sim/snapshot", "sim/keys", "metrics", "errors"])
def test_text_can_be_mapped_and_sent(shared: Mount, tmp_path: Path, name: str) -> None:
    """As a plain file: through the page cache, where nothing is taken."""
    with pytest.raises(OSError):
        shared.post("nonsense")  # so that `errors` is not empty
    path = shared.path / name
    with opened(path) as fd, open(tmp_path / "copy", "w+b") as copy:
        text = os.pread(fd, 1 << 20, 0)
        with mmap.mmap(fd, len(text), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
            assert mapped[:20] == text[:20] and len(mapped) == len(text)
        sent = 0
        while count := os.sendfile(copy.fileno(), fd, sent, 1 << 20):
            sent += count
        copy.seek(0)
        assert copy.read()[:20] == text[:20] and sent > len(text) // 2


def test_status_has_the_promised_lines(shared: Mount, watch: Path) -> None:
    shared.post(ERROR)
    assert (watch / "status").read_text() == (
        "queued 1\nbytes 24\nposted 1\ndelivered 0\nlost 0\nfiltered 0\nreaders 0\npollers 0\n"
    )
