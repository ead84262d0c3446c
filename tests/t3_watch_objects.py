"""A watch's `objects`: what is written, what is refused, and what a watch without any sees."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posting import Sight, last_error, read_queue, sh, wait_for, write_once
from tests.tools import Mount, refused
from wqfs.abi import records as r

# -- objects


def test_objects_written_are_read_back(shared: Mount, watch: Path) -> None:
    (watch / "objects").write_text("mount /\nsb / id=2\nkey @s id=3\ndevices id=4\nmount /some/where id=255\n")
    lines = (watch / "objects").read_text().splitlines()
    assert re.fullmatch(r"key \d+ id=3", lines.pop(2))
    assert lines == ["mount / id=0", "sb / id=2", "devices id=4", "mount /some/where id=255"]


def test_objects_give_events_their_ids(shared: Mount, watch: Path, sight: Sight) -> None:
    (watch / "objects").write_text("mount / id=1\nsb / id=2\nkey @s id=3\ndevices id=4\n")
    shared.post("mount none /ids -t tmpfs", "sb error / EIO", "key add user ids x @s", "device error /dev/sda io")
    assert [(line["type"], line["event"], line["id"]) for line in sight.lines()] == [
        ("mount", "new_mount", 1), ("sb", "error", 2), ("key", "linked", 3), ("block", "io", 4)
    ]  # fmt: skip


def test_objects_line_with_a_minus_removes_and_posts_removal(watch: Path, sight: Sight) -> None:
    (watch / "objects").write_text("mount / id=5\ndevices\n")
    (watch / "objects").write_text("-mount /\n")
    assert (watch / "objects").read_text() == "devices id=0\n"
    (line,) = sight.lines()
    assert (line["type"], line["event"], line["id"], line["object"]) == ("meta", "removal", 5, 21)
    assert read_queue(watch) == r.removal(21, 5)


@pytest.mark.parametrize(
    ("line", "number", "word", "said"),
    [
        ("bogus /", errno.EINVAL, 1, "expected mount, sb, key, devices or everything, not 'bogus'"),
        ("mount", errno.EINVAL, 2, "expected one word after mount"),
        ("mount / / /", errno.EINVAL, 3, "expected one word after mount"),
        ("mount / id=256", errno.EINVAL, 3, "expected a watch ID of 0..255, not '256'"),
        ("mount / id=-1", errno.EINVAL, 3, "expected a watch ID"),
        ("devices all", errno.EINVAL, 2, "expected nothing after devices"),
        ("mount relative", errno.EINVAL, 2, "expected"),
        ("sb nosuch", errno.EINVAL, 2, "expected a path, a source or an id"),
        ("key nosuch", errno.ENOKEY, 2, "nosuch"),
        ("sb /", errno.EBUSY, 2, "watched by this queue already"),
        ("-mount /", errno.EBADSLT, 2, "not watched by this queue"),
        ("-sb / id=9", errno.EBADSLT, 3, "id=7"),
    ],
)
def test_objects_wrong_line_is_refused_with_the_reason(
    shared: Mount, watch: Path, line: str, number: int, word: int, said: str
) -> None:
    (watch / "objects").write_text("sb / id=7\n")
    with refused(number):
        write_once(watch / "objects", line.encode() + b"\n")
    error = last_error(shared)
    assert re.match(rf"objects line 1 word {word}\b", error), error
    assert said in error
    assert f"[{errno.errorcode[number]}]" in error
    assert (watch / "objects").read_text() == "sb / id=7\n"


def test_objects_lines_before_a_wrong_one_count_and_none_after(watch: Path) -> None:
    with refused(errno.EINVAL):
        write_once(watch / "objects", b"mount /\nbogus\ndevices\n")
    assert (watch / "objects").read_text() == "mount / id=0\n"


def test_objects_line_without_newline_counts_at_the_close(watch: Path) -> None:
    assert sh('printf "mount / id=3" > "$1"', watch / "objects").returncode == 0
    wait_for(lambda: (watch / "objects").read_text() == "mount / id=3\n")


def test_objects_truncated_stay(watch: Path) -> None:
    (watch / "objects").write_text("mount /\n")
    assert sh('> "$1"', watch / "objects").returncode == 0
    assert (watch / "objects").read_text() == "mount / id=0\n"


def test_objects_beyond_max_objects_are_edquot(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_objects=2")
    objects = mount.watch() / "objects"
    objects.write_text("mount /\nsb /\n")
    with refused(errno.EDQUOT):
        write_once(objects, b"devices\n")


def test_objects_of_a_mount_that_goes_are_gone(shared: Mount, watch: Path, sight: Sight) -> None:
    shared.post("mount none /goes -t tmpfs")
    (watch / "objects").write_text("mount /goes id=6\nmount / id=7\n")
    sight.lines()
    shared.post("umount /goes")
    assert [(line["event"], line["id"]) for line in sight.lines()] == [("unmount", 7), ("removal", 6)]
    assert (watch / "objects").read_text() == "mount / id=7\n"


# -- the implicit watch


def test_watch_without_objects_sees_everything_with_id_0(shared: Mount, watch: Path, sight: Sight) -> None:
    assert (watch / "objects").read_text() == "everything id=0\n"
    shared.post(
        "mount none /implicit -t tmpfs", "sb error /implicit EIO", "key add user implicit x @s",
        "device error /dev/sda io",
    )  # fmt: skip
    lines = sight.lines()
    assert {line["type"] for line in lines} == {"mount", "sb", "key", "block"}
    assert {line["id"] for line in lines} == {0}


def test_watch_with_its_first_object_sees_that_alone_and_no_removal(shared: Mount, watch: Path, sight: Sight) -> None:
    (watch / "objects").write_text("devices id=3\n")
    assert sight.lines() == []
    shared.post("sb error / EIO", "device error /dev/sda io")
    assert [(line["type"], line["id"]) for line in sight.lines()] == [("block", 3)]


def test_watch_after_its_last_object_sees_nothing(shared: Mount, watch: Path, sight: Sight) -> None:
    (watch / "objects").write_text("devices id=3\n-devices\n")
    assert sight.names() == ["removal"]
    shared.post("sb error / EIO", "device error /dev/sda io")
    assert sight.lines() == []


def test_watch_with_an_object_refused_still_sees_everything(shared: Mount, watch: Path, sight: Sight) -> None:
    with refused(errno.ENOKEY):
        write_once(watch / "objects", b"key nosuch\n")
    shared.post("sb error / EIO")
    assert sight.names() == ["error"]


# -- strict


def test_strict_watch_sees_nothing_until_it_watches_something(strict_mount: Mount) -> None:
    watch = strict_mount.watch()
    sight = Sight(watch)
    try:
        (watch / "depth").write_text("32\n")
        strict_mount.post("sb error / EIO")
        assert (sight.lines(), strict_mount.status(watch)["posted"]) == ([], 0)
        (watch / "objects").write_text("sb / id=4\n")
        strict_mount.post("sb error / EIO")
        assert [line["id"] for line in sight.lines()] == [4]
        assert strict_mount.status(watch)["queued"] == 1
    finally:
        os.close(sight.fd)


def test_strict_queue_keeps_nothing_until_it_is_sized(strict_mount: Mount) -> None:
    watch = strict_mount.watch()
    (watch / "objects").write_text("sb /\n")
    strict_mount.post("sb error / EIO")
    assert (watch / "depth").read_text() == "0\n"
    (watch / "depth").write_text("32\n")
    assert strict_mount.status(watch)["queued"] == 0
    strict_mount.post("sb error / EIO")
    assert strict_mount.status(watch)["queued"] == 1


def test_strict_events_and_log_are_sized_from_the_start(strict_mount: Mount) -> None:
    watch = strict_mount.watch()
    sight = Sight(watch)
    try:
        (watch / "objects").write_text("sb /\n")
        strict_mount.post("sb error / EIO")
        assert sight.names() == ["error"]
        assert (watch / "log").read_text().count("\n") == 1
    finally:
        os.close(sight.fd)


def test_strict_watch_after_its_last_object_sees_nothing(strict_mount: Mount) -> None:
    watch = strict_mount.watch()
    (watch / "depth").write_text("32\n")
    (watch / "objects").write_text("sb / id=4\n-sb /\n")
    strict_mount.post("sb error / EIO")
    assert read_queue(watch) == r.removal(1, 4)


def test_objects_everything_is_what_a_watch_of_no_object_has(shared: Mount, watch: Path) -> None:
    assert (watch / "objects").read_text() == "everything id=0\n"
    (watch / "objects").write_text("-everything\n")
    assert (watch / "objects").read_text() == ""
    shared.post("mount a /mnt/unseen -t tmpfs")
    (watch / "objects").write_text("everything\n")
    shared.post("umount /mnt/unseen")
    assert shared.status(watch)["posted"] == 1
    (watch / "objects").write_text("mount / id=2\n")
    assert (watch / "objects").read_text() == "mount / id=2\n"
    for line, number in (("everything", errno.EBUSY), ("everything id=3", errno.EINVAL), ("-everything", errno.EBUSY)):
        with refused(number):
            write_once(watch / "objects", line.encode() + b"\n")
    (watch / "objects").write_text("-mount /\n")
    with refused(errno.EBADSLT):
        write_once(watch / "objects", b"-everything\n")


def test_objects_everything_on_a_strict_mount(strict_mount: Mount) -> None:
    folder = strict_mount.watch()
    assert (folder / "objects").read_text() == ""
    (folder / "depth").write_text("32\n")
    (folder / "objects").write_text("everything\n")
    strict_mount.post("mount a /mnt/seen -t tmpfs")
    assert strict_mount.status(folder)["posted"] == 1
