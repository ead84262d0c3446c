"""What is read as text: events, log, and the files of sim/, with the tools that people read files with."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.tools import LIMIT, Mount, wait_until

ERROR = "sb error / EIO"
PROMISED = ["seq", "time", "id", "type", "event", "flags"]


def metric(mount: Mount, name: str) -> int:
    match = re.search(rf"^wqfs_{name} (\d+)$", (mount.path / "metrics").read_text(), re.MULTILINE)
    assert match, name
    return int(match[1])


def wait_for_reads(mount: Mount, count: int = 1) -> None:
    """Wait until so many reads wait, on whatever file."""
    wait_until(lambda: metric(mount, "waiting_readers") >= count, f"{count} waiting reads")


@contextmanager
def running(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(LIMIT)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def drain(fd: int, size: int = 65536) -> bytes:
    """All there is, by reads of `size` bytes."""
    parts = []
    try:
        while data := os.read(fd, size):
            parts.append(data)
    except BlockingIOError:
        pass
    return b"".join(parts)


def parsed(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def run(*command: str | Path) -> bytes:
    """A tool's standard output; it must end with 0."""
    done = subprocess.run(command, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def refused(call: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno or 0


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
        assert refused(os.read, fd, 100) == errno.EAGAIN
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
        assert refused(os.write, fd, b"x") == errno.EBADF
        assert refused(os.lseek, fd, 0, os.SEEK_SET) == errno.ESPIPE
        assert refused(os.pread, fd, 1, 0) == errno.ESPIPE


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
                assert refused(os.sendfile, target, fd, None, 100) == errno.EINVAL
            assert len(parsed(drain(fd))) == 1
    finally:
        os.close(reader)
        os.close(writer)


def test_events_splice_is_einval_and_takes_nothing(shared: Mount, watch: Path) -> None:
    reader, writer = os.pipe()
    try:
        with opened(watch / "events", os.O_NONBLOCK) as fd:
            shared.post(ERROR)
            assert refused(os.splice, fd, writer, 100) == errno.EINVAL
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


# -- events: tools

THREE = [ERROR, "device error /dev/sda io", "sb error / EROFS"]
TOOLS = [
    ("jq -c --unbuffered .event", ["error", "io", "error"]),
    ("jq -c --unbuffered '[.type, .error]'", ["sb,EIO", "block,null", "sb,EROFS"]),
    ('sed -u \'s/.*"event":"\\([a-z]*\\)".*/\\1/\'', ["error", "io", "error"]),
    ('grep --line-buffered -o \'"event":"[a-z]*"\'', ["error", "io", "error"]),
    ("awk -F'\"' '{ print $14; fflush() }'", ["error", "io", "error"]),
    ("cat", ["error", "io", "error"]),
    ("busybox cat", ["error", "io", "error"]),
    ("dd bs=1 status=none", ["error", "io", "error"]),
    ("dd bs=4096 status=none", ["error", "io", "error"]),
    ("timeout 60 cat", ["error", "io", "error"]),
    ("{ xxd -p | xxd -r -p; }", ["error", "io", "error"]),
    ("tee /dev/null", ["error", "io", "error"]),
    ("head -n 3", ["error", "io", "error"]),
    ("cut -c1-", ["error", "io", "error"]),
    ("sort", ["error", "io", "error"]),
    ('while read -r line; do printf "%s\\n" "$line"; done', ["error", "io", "error"]),
    ('{ mapfile -t a; printf "%s\\n" "${a[@]}"; }', ["error", "io", "error"]),
    ('{ mapfile -t -n 2 a; printf "%s\\n" "${a[@]}"; }', ["error", "io"]),
]


@pytest.mark.parametrize("redirect", ["| cat", ""], ids=["pipe", "file"])
@pytest.mark.parametrize(("tool", "words"), TOOLS, ids=[tool for tool, _ in TOOLS])
def test_events_are_read_by_tools_to_their_end(
    shared: Mount, watch: Path, tmp_path: Path, tool: str, words: list[str], redirect: str
) -> None:
    with running(
        "bash", "-c", f'{tool} < "$1" {redirect} > "$2"', "bash", watch / "events", tmp_path / "out"
    ) as process:
        wait_for_reads(shared)
        shared.post(*THREE)
        watch.rmdir()
        assert process.wait(LIMIT) == 0
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        for part in word.split(","):
            assert part in line


def has_lines(file: Path, count: int) -> bool:
    return file.read_text().count("error") >= count


@pytest.mark.parametrize(
    "tool",
    ["jq -c --unbuffered .event", "sed -u s/x/x/", "grep --line-buffered error", "cat", "busybox cat",
     "awk -W interactive '{ print; fflush() }'", "dd bs=1 status=none", "tee",
     'while read -r line; do echo "$line"; done'],
)  # fmt: skip
def test_events_come_out_of_tools_as_they_happen(shared: Mount, watch: Path, tmp_path: Path, tool: str) -> None:
    out = tmp_path / "out"
    with running("bash", "-c", f'{tool} < "$1" > "$2"', "bash", watch / "events", out) as process:
        for count in (1, 2):
            wait_for_reads(shared)
            shared.post(ERROR)
            wait_until(partial(has_lines, out, count), f"line {count}")
        assert process.poll() is None


@pytest.mark.parametrize(
    "tool",
    ["head -n 1", "head -c 20", "dd bs=20 count=1 status=none", "xxd -l 20", "grep -m1 seq", "sed -u 1q",
     "jq -cn input", "read -r line"],
)  # fmt: skip
def test_events_tools_that_want_little_end_by_themselves(shared: Mount, watch: Path, tool: str) -> None:
    with running("bash", "-c", f'{tool} < "$1"', "bash", watch / "events", stdout=subprocess.DEVNULL) as process:
        wait_for_reads(shared)
        shared.post(ERROR)
        assert process.wait(LIMIT) == 0


def test_events_under_timeout_end_with_124(watch: Path) -> None:
    assert subprocess.run(["timeout", "0.2", "cat", watch / "events"], timeout=LIMIT).returncode == 124


# -- log


def test_log_begins_when_the_watch_is_made(shared: Mount, watch: Path) -> None:
    assert (watch / "log").read_bytes() == b""
    shared.post(ERROR, "sb error / EROFS")
    assert [line["error"] for line in parsed((watch / "log").read_bytes())] == ["EIO", "EROFS"]


def test_log_has_its_true_size(shared: Mount, watch: Path) -> None:
    shared.post(*THREE)
    size = (watch / "log").stat().st_size
    assert size == len((watch / "log").read_bytes()) > 0
    assert int(run("wc", "-c", watch / "log").split()[0]) == size


def test_log_is_seekable(shared: Mount, watch: Path) -> None:
    shared.post(*THREE)
    whole = (watch / "log").read_bytes()
    with opened(watch / "log") as fd:
        assert os.pread(fd, 10, 5) == whole[5:15]
        assert os.lseek(fd, -7, os.SEEK_END) == len(whole) - 7
        assert os.read(fd, 100) == whole[-7:]


def test_log_open_sees_later_events_at_its_end(shared: Mount, watch: Path) -> None:
    with opened(watch / "log") as fd:
        assert os.read(fd, 100) == b""
        shared.post(ERROR)
        assert len(parsed(drain(fd))) == 1
        assert os.read(fd, 100) == b""


def test_log_grows_by_what_events_says(shared: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_NONBLOCK) as fd:
        shared.post(*THREE)
        assert (watch / "log").read_bytes() == drain(fd)


@pytest.mark.parametrize(
    "command",
    ["cat", "busybox cat", "tail -n +1", "tail -c +1", "head -n 9", "grep seq", "sed s/x/x/", "awk 1",
     "jq -c .", "busybox tail -n 9", "dd status=none if="],
)  # fmt: skip
def test_log_is_read_by_tools(shared: Mount, watch: Path, command: str) -> None:
    shared.post(*THREE)
    *words, last = command.split()
    arguments = [*words, f"{last}{watch / 'log'}"] if last == "if=" else [*words, last, watch / "log"]
    assert run(*arguments) == (watch / "log").read_bytes()


@pytest.mark.parametrize("command", [["cp"], ["busybox", "cp"], ["install"]], ids=" ".join)
def test_log_is_copied_by_tools(shared: Mount, watch: Path, tmp_path: Path, command: list[str]) -> None:
    shared.post(*THREE)
    run(*command, watch / "log", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (watch / "log").read_bytes()


def test_log_is_sent_by_sendfile(shared: Mount, watch: Path) -> None:
    shared.post(*THREE)
    whole = (watch / "log").read_bytes()
    reader, writer = os.pipe()
    try:
        with opened(watch / "log") as fd:
            assert os.sendfile(writer, fd, 0, 65536) == len(whole)
            assert os.read(reader, 65536) == whole
            shared.post(ERROR)
            os.fstat(fd)  # sendfile goes as far as the size that the kernel heard of last
            assert os.sendfile(writer, fd, len(whole), 65536) > 0
            assert os.read(reader, 65536) == (watch / "log").read_bytes()[len(whole) :]
    finally:
        os.close(reader)
        os.close(writer)


def test_log_is_counted_by_grep(shared: Mount, watch: Path) -> None:
    shared.post(*THREE)
    assert run("grep", "-c", '"event":"error"', watch / "log") == b"2\n"


def test_log_is_paged_by_less(shared: Mount, watch: Path) -> None:
    shared.post(*THREE)
    assert run("sh", "-c", 'less -f "$1" | cat', "sh", watch / "log") == (watch / "log").read_bytes()


def test_log_is_paged_by_less_on_a_terminal(shared: Mount, watch: Path) -> None:
    shared.post(*THREE)
    out = run("script", "-qec", f"TERM=xterm LESS= less -S -E -X '{watch / 'log'}'", "/dev/null")
    assert out.count(b'{"seq":') == 3, out


def test_log_is_followed_by_tail(shared: Mount, watch: Path, tmp_path: Path) -> None:
    shared.post(ERROR)
    out = tmp_path / "out"
    with (
        open(out, "wb") as output,
        running("tail", "-f", "-s", "0.05", "-n", "+1", watch / "log", stdout=output),
    ):
        wait_until(lambda: out.read_bytes().count(b"\n") == 1, "the first line")
        shared.post("sb error / EROFS")
        wait_until(lambda: out.read_bytes().count(b"\n") == 2, "the line that came later")
    assert out.read_bytes() == (watch / "log").read_bytes()


def test_log_is_followed_by_tail_after_it_was_cut(mount_with: Callable[[str], Mount], tmp_path: Path) -> None:
    mount = mount_with("log_events=5")
    watch = mount.watch()
    mount.post(*[ERROR] * 5)
    out = tmp_path / "out"
    command = ["tail", "-f", "-s", "0.05", "-n", "1", str(watch / "log")]
    with open(out, "wb") as output, running(*command, stdout=output, stderr=subprocess.DEVNULL):
        wait_until(lambda: out.read_bytes().count(b"\n") == 1, "the last line")
        mount.post("sb error / EROFS")
        wait_until(lambda: b"EROFS" in out.read_bytes(), "the line after the cut")
        mount.post("sb error / ENOSPC")
        wait_until(lambda: b"ENOSPC" in out.read_bytes(), "a line after that")
    assert [line["seq"] for line in parsed(out.read_bytes())] == [5, 5, 6, 7]


def test_log_at_its_limit_is_cut_and_says_so(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("log_events=3")
    watch = mount.watch()
    mount.post(*[ERROR] * 3)
    assert [line["seq"] for line in parsed((watch / "log").read_bytes())] == [1, 2, 3]
    before = (watch / "log").stat().st_size
    mount.post(ERROR)
    cut, fourth = parsed((watch / "log").read_bytes())
    assert (cut["type"], cut["event"], cut["cut"], fourth["seq"]) == ("meta", "cut", 3, 4)
    assert (watch / "log").stat().st_size < before


def test_log_after_rmdir_is_read_through_its_descriptor(shared: Mount, watch: Path) -> None:
    shared.post(ERROR)
    with opened(watch / "log") as fd:
        watch.rmdir()
        assert len(parsed(drain(fd))) == 1


# -- sim/


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
    assert refused(shared.post, "bogus") == errno.EINVAL
    assert (metric(shared, "events_total"), metric(shared, "refused_total")) == (before[0] + 1, before[1] + 1)


def test_status_has_the_promised_lines(shared: Mount, watch: Path) -> None:
    shared.post(ERROR)
    assert (watch / "status").read_text() == (
        "queued 1\nbytes 24\nposted 1\ndelivered 0\nlost 0\nfiltered 0\nreaders 0\npollers 0\n"
    )
