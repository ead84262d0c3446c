"""post: writes of any size, lines of any length, and bytes that are no text."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.posting import LINE, MAX_LINE, PIECE, Sight, last_error, write_once
from tests.tools import Mount, metric, refused

# -- post: size


def test_post_64_kib_in_one_write_all_happen(shared: Mount, post: int) -> None:
    count = 65536 // len(LINE)
    data = LINE * count
    data += b"#" * (65536 - len(data) - 1) + b"\n"
    before = metric(shared, "events_total")
    assert os.write(post, data) == 65536
    assert metric(shared, "events_total") == before + count


def test_post_300_kib_in_one_write_all_happen(shared: Mount, post: int) -> None:
    data = LINE * (300 * 1024 // len(LINE))
    assert PIECE % len(LINE), "a line is to be split between two pieces"
    before = metric(shared, "events_total")
    assert os.write(post, data) == len(data)
    assert metric(shared, "events_total") == before + len(data) // len(LINE)


def test_post_with_a_later_piece_refused_returns_the_count_taken(shared: Mount, post: int) -> None:
    good = 200 * 1024 // len(LINE)
    data = LINE * good + b"bogus\n" + LINE * (100 * 1024 // len(LINE))
    before = metric(shared, "events_total")
    assert os.write(post, data) == PIECE
    assert metric(shared, "events_total") == before + good, "all lines before it, none after it"
    assert last_error(shared).startswith(f"post line {good + 1} word 1 'bogus'")


def test_post_line_of_the_longest_length_is_taken(sight: Sight, post: int) -> None:
    line = b"sb error / EIO #".ljust(MAX_LINE, b"x")
    assert os.write(post, line + b"\n") == MAX_LINE + 1
    assert sight.names() == ["error"]


@pytest.mark.parametrize("end", [b"\n", b""], ids=["with-newline", "without"])
def test_post_line_too_long_is_einval(shared: Mount, sight: Sight, post: int, end: bytes) -> None:
    line = b"sb error / EIO #".ljust(MAX_LINE + 1, b"x")
    with refused(errno.EINVAL):
        os.write(post, line + end)
    assert sight.names() == []
    assert last_error(shared) == f"post line 1: expected a line of at most {MAX_LINE} bytes, not 4097 [EINVAL]"


def test_post_line_grown_too_long_over_writes_is_einval(shared: Mount, post: int) -> None:
    for _ in range(4):
        os.write(post, b"#" + b"x" * 1023)
    with refused(errno.EINVAL):
        os.write(post, b"x")


def test_post_line_length_is_max_lines(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_line=64")
    mount.post("#" + "x" * 63)
    with refused(errno.EINVAL):
        mount.post("#" + "x" * 64)


# -- post: bytes


def test_post_bytes_that_are_no_utf8_are_kept(shared: Mount, sight: Sight) -> None:
    write_once(shared.path / "post", b"mount /dev/sdc1 /odd/\xff\xfe\xc3 -t ext4\n")
    table = (shared.path / "sim" / "mountinfo").read_bytes()
    assert b" /odd/\xff\xfe\xc3 rw,relatime - ext4 /dev/sdc1 rw\n" in table
    (line,) = sight.lines()
    assert os.fsencode(line["mountpoint"]) == b"/odd/\xff\xfe\xc3"


def test_post_utf8_is_kept(shared: Mount) -> None:
    shared.post("mount /dev/sdd1 /mnt/ünï -t ext4")
    assert " /mnt/ünï ".encode() in (shared.path / "sim" / "mountinfo").read_bytes()


def test_post_octal_escapes_are_bytes_as_in_fstab(shared: Mount, sight: Sight) -> None:
    shared.post(r"mount /dev/sde1 /two\040words -t ext4")
    assert rb" /two\040words " in (shared.path / "sim" / "mountinfo").read_bytes()
    assert sight.lines()[0]["mountpoint"] == "/two words"


def test_post_nul_byte_is_einval(shared: Mount, sight: Sight, post: int) -> None:
    with refused(errno.EINVAL):
        os.write(post, b"mount none /nul\0byte -t tmpfs\n")
    assert sight.names() == []
    said = last_error(shared)
    assert said.startswith("post line 1 word 3")
    assert "expected no NUL byte" in said
    assert "\0" not in said


def test_post_wrong_bytes_that_are_no_utf8_are_shown_escaped(shared: Mount, post: int) -> None:
    with refused(errno.EINVAL):
        os.write(post, b"\xff\xfe\n")
    raw = (shared.path / "errors").read_bytes()
    assert raw.isascii()
    assert r"expected a command" in last_error(shared)


def test_post_wrong_line_with_controls_stays_one_line_of_errors(shared: Mount, post: int) -> None:
    before = len((shared.path / "errors").read_bytes().split(b"\n"))
    with refused(errno.EINVAL):
        os.write(post, b"bogus\r\x1b[2J\x0b\x0c\n")
    raw = (shared.path / "errors").read_bytes()
    assert len(raw.split(b"\n")) in (before, before + 1)  # the oldest is dropped at 100
    assert len(raw.decode().splitlines()) == raw.count(b"\n"), "no control character of the line is in it"
    assert b"\x1b" not in raw
