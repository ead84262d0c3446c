"""A watch's `filter` and `depth`: what is written, what is refused, and what counts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posting import Sight, last_error, read_queue, sh, wait_for, write_once
from tests.tools import Mount, refused
from wqfs.abi import ioctls
from wqfs.abi import records as r

# -- filter


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("mount unmount,new_mount\n", "mount new_mount,unmount\n"),
        ("key * id=3\n", "key * id=3\n"),
        ("sb error flags=0x1/0x1\n", "sb error flags=0x1/0x1\n"),
        ("# all keys\n\nkey\n", "key *\n"),
        ("mount *\nkey *\nsb *\nblock io\n", "mount *\nkey *\nsb *\nblock io\n"),
        ("nothing\n", "nothing\n"),
        ("99 *\n", "nothing\n"),
        ("\n", ""),
    ],
)
def test_filter_written_is_read_back(watch: Path, text: str, back: str) -> None:
    (watch / "filter").write_text(text)
    assert (watch / "filter").read_text() == back


def test_filter_lets_only_its_records_pass(shared: Mount, watch: Path, sight: Sight) -> None:
    (watch / "filter").write_text("mount unmount\nsb error\n")
    shared.post("mount none /filtered -t tmpfs", "sb error / EIO", "umount /filtered")
    assert sight.names() == ["error", "unmount"]
    assert shared.status(watch)["filtered"] == 1
    assert [record.type for record in r.decode(read_queue(watch))] == [3, 2]
    assert [json.loads(line)["event"] for line in (watch / "log").open()] == ["error", "unmount"]


def test_filter_by_id_sees_the_watchs_id(shared: Mount, watch: Path, sight: Sight) -> None:
    (watch / "objects").write_text("sb / id=2\ndevices id=3\n")
    (watch / "filter").write_text("sb * id=2\nblock * id=4\n")
    shared.post("sb error / EIO", "device error /dev/sda io")
    assert sight.names() == ["error"]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("bogus *\n", 1, 1),
        ("key *\nmount bogus\n", 2, 2),
        ("key * id=256\n", 1, 3),
        ("key *\n\nsb error flags=0x2/0x1\n", 3, 3),
        ("key *\n" * 17, 17, 0),
        ("key * info=0x1/0x1\n", 1, 3),
    ],
)
def test_filter_wrong_is_einval_and_the_old_one_stays(
    shared: Mount, watch: Path, text: str, line: int, word: int
) -> None:
    (watch / "filter").write_text("sb error\n")
    with refused(errno.EINVAL):
        write_once(watch / "filter", text.encode())
    where = f"filter line {line}" + (f" word {word} " if word else ": expected")
    assert last_error(shared).startswith(where), last_error(shared)
    assert (watch / "filter").read_text() == "sb error\n"


@pytest.mark.parametrize("script", ['> "$1"', ': > "$1"', 'truncate -s 0 "$1"', 'echo > "$1"', 'cp /dev/null "$1"'])
def test_filter_emptied_is_removed(shared: Mount, watch: Path, sight: Sight, script: str) -> None:
    (watch / "filter").write_text("nothing\n")
    done = sh(script, watch / "filter")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: (watch / "filter").read_text() == "")
    shared.post("sb error / EIO")
    assert sight.names() == ["error"]


def test_filter_without_newline_counts_at_the_close(watch: Path) -> None:
    assert sh('printf "key updated" > "$1"', watch / "filter").returncode == 0
    wait_for(lambda: (watch / "filter").read_text() == "key updated\n")


def test_filter_in_two_writes_of_one_open_is_both(watch: Path) -> None:
    assert sh('{ echo key updated; echo sb error; } > "$1"', watch / "filter").returncode == 0
    assert (watch / "filter").read_text() == "key updated\nsb error\n"


def test_filter_written_again_is_replaced(watch: Path) -> None:
    (watch / "filter").write_text("key updated\n")
    assert sh('echo sb error > "$1"', watch / "filter").returncode == 0
    assert (watch / "filter").read_text() == "sb error\n"


def test_filter_replaced_by_a_wrong_one_in_the_shell_stays(watch: Path) -> None:
    (watch / "filter").write_text("key updated\n")
    assert sh('echo bogus > "$1"', watch / "filter").returncode == 1
    assert (watch / "filter").read_text() == "key updated\n"


def test_filter_truncated_and_written_never_opens_in_between(shared: Mount, watch: Path, sight: Sight) -> None:
    (watch / "filter").write_text("key updated\n")
    fd = os.open(watch / "filter", os.O_WRONLY | os.O_TRUNC)
    try:
        shared.post("sb error / EIO")
        os.write(fd, b"key linked\n")
    finally:
        os.close(fd)
    assert sight.lines() == []


# -- depth


def test_depth_before_anything_is_0(watch: Path) -> None:
    assert (watch / "depth").read_text() == "0\n"


@pytest.mark.parametrize(("asked", "got"), [("1", 32), ("32", 32), ("33", 64), ("100", 128), ("512", 512)])
def test_depth_written_is_rounded_as_the_kernel_rounds(watch: Path, asked: str, got: int) -> None:
    (watch / "depth").write_text(asked + "\n")
    assert (watch / "depth").read_text() == f"{got}\n"


def test_depth_written_twice_is_ebusy(shared: Mount, watch: Path) -> None:
    (watch / "depth").write_text("32\n")
    with refused(errno.EBUSY):
        write_once(watch / "depth", b"64\n")
    assert last_error(shared).startswith("depth line 1")
    assert (watch / "depth").read_text() == "32\n"


@pytest.mark.parametrize("text", ["0", "513", "-1", "x", "1e2", "0x20", "1 2", "99999999999999999999", "٣"])
def test_depth_outside_is_einval_and_does_not_count(shared: Mount, watch: Path, text: str) -> None:
    with refused(errno.EINVAL):
        write_once(watch / "depth", text.encode() + b"\n")
    assert "1..512" in last_error(shared)
    (watch / "depth").write_text("64\n")


def test_depth_and_ioctl_are_the_same(watch: Path) -> None:
    (watch / "depth").write_text("32\n")
    fd = os.open(watch / "queue", os.O_RDONLY)
    try:
        with refused(errno.EBUSY):
            fcntl.ioctl(fd, ioctls.IOC_WATCH_QUEUE_SET_SIZE, 64)
    finally:
        os.close(fd)


def test_depth_without_newline_counts_at_the_close(watch: Path) -> None:
    assert sh('printf 32 > "$1"', watch / "depth").returncode == 0
    wait_for(lambda: (watch / "depth").read_text() == "32\n")


def test_default_depth_is_taken_at_the_first_event(shared: Mount, watch: Path) -> None:
    shared.post("sb error / EIO")
    assert (watch / "depth").read_text() == "256\n"


def test_default_depth_is_the_option(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("depth=40")
    watch = mount.watch()
    mount.post(*["sb error / EIO"] * 65)
    assert (watch / "depth").read_text() == "64\n"
    assert (mount.status(watch)["queued"], mount.status(watch)["lost"]) == (64, 1)


def test_default_depth_then_set_size_succeeds_once_and_keeps_what_is_queued(shared: Mount, watch: Path) -> None:
    shared.post(*["sb error / EIO"] * 40)
    (watch / "depth").write_text("32\n")
    assert shared.status(watch)["queued"] == 40
    with refused(errno.EBUSY):
        write_once(watch / "depth", b"64\n")
    assert len(list(r.decode(read_queue(watch)))) == 40
