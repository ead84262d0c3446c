"""A watch's `log`: a file with its true size, for tools that seek, copy and follow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reading import ERROR, THREE, parsed, run, running
from tests.tools import Mount, drain, opened, wait_until


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
