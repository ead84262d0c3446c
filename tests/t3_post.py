"""What is written: post, sim/records, and a watch's objects, filter and depth (issue 2, 4; DESIGN.md)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools import LIMIT, Mount, refused, wait_until
from wqfs.abi import ioctls
from wqfs.abi import records as r

PIECE = 128 * 1024
"""Bytes of one FUSE WRITE: larger writes arrive in pieces of this size."""
MAX_LINE = 4096


class Sight:
    """An open `events`, read without waiting: an event is there when the write that made it returns."""

    def __init__(self, folder: Path) -> None:
        self.fd = os.open(folder / "events", os.O_RDONLY | os.O_NONBLOCK)

    def lines(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        text = b""
        try:
            while data := os.read(self.fd, 65536):
                text += data
        except BlockingIOError:
            pass
        return [json.loads(line) for line in text.splitlines()]

    def names(self) -> list[str]:
        return [line["event"] for line in self.lines()]


@pytest.fixture
def sight(watch: Path) -> Iterator[Sight]:
    """The `events` of the watch, which watches everything."""
    sight = Sight(watch)
    yield sight
    os.close(sight.fd)


@pytest.fixture
def post(shared: Mount) -> Iterator[int]:
    """A descriptor of `post`."""
    fd = os.open(shared.path / "post", os.O_WRONLY)
    yield fd
    os.close(fd)


def write_once(path: Path, data: bytes) -> int:
    """open, one write, close. Returns the count; raises what write(2) says."""
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def last_error(mount: Mount) -> str:
    """The newest line of `errors`, from the file's name on."""
    line = (mount.path / "errors").read_text(errors="surrogateescape").splitlines()[-1]
    match = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ uid=(\d+) pid=(\d+) (.*)", line)
    assert match, line
    assert int(match[1]) == os.geteuid()
    return match[3]


def events_total(mount: Mount) -> int:
    match = re.search(r"^wqfs_events_total (\d+)$", (mount.path / "metrics").read_text(), re.MULTILINE)
    assert match
    return int(match[1])


def refusals_total(mount: Mount) -> int:
    match = re.search(r"^wqfs_refused_total (\d+)$", (mount.path / "metrics").read_text(), re.MULTILINE)
    assert match
    return int(match[1])


def sh(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script, "bash", *arguments], capture_output=True, text=True, timeout=LIMIT)


def read_queue(folder: Path) -> bytes:
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""
    finally:
        os.close(fd)


# -- post: lines


def test_post_line_makes_its_event(shared: Mount, sight: Sight) -> None:
    shared.post("mount /dev/sdb1 /line -t ext4 -o ro")
    (line,) = sight.lines()
    assert (line["event"], line["mountpoint"], line["flags"]) == ("new_mount", "/line", ["IS_NOW_RO"])


def test_post_issues_examples_make_their_events(shared: Mount, sight: Sight) -> None:
    shared.post("mount /dev/sdx1 /mnt/data -t ext4 -o ro", "sb error /mnt/data EIO", "umount /mnt/data")
    assert sight.names() == ["new_mount", "error", "unmount"]
    shared.post("key add user colour red @s", "key update colour blue")
    assert sight.names() == ["instantiated", "linked", "updated"]


def test_post_several_lines_in_one_write_all_happen(shared: Mount, sight: Sight) -> None:
    data = b"mount none /several -t tmpfs\nsb error /several EIO\numount /several\n"
    assert write_once(shared.path / "post", data) == len(data)
    assert sight.names() == ["new_mount", "error", "unmount"]


def test_post_wrong_line_is_einval_and_errors_says_line_word_and_what_was_expected(shared: Mount, sight: Sight) -> None:
    data = b"sb error / EIO\nsb explode /\nsb error / EIO\n"
    with refused(errno.EINVAL):
        write_once(shared.path / "post", data)
    assert sight.names() == ["error"], "the line before it has happened, the one after it has not"
    said = last_error(shared)
    assert said.startswith("post line 2 word 2 'explode': expected ")
    assert said.endswith(" [EINVAL]: sb explode /")


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        ("bogus", 1, "expected a command"),
        ("mout /dev/sda /x", 1, "mount"),
        ("sb error / NOSUCHERRNO", 4, "expected an errno"),
        ("sb network / sideways", 4, "expected up or down"),
        ("key add user a", 5, "expected PAYLOAD"),
        ("mount -q /dev/sda /x", 2, "expected an option"),
        ("umount", 2, "expected DIR"),
        ("device error /dev/sda gone", 4, "expected one of timeout"),
        ("mount 'unfinished", 2, "expected a closing '"),
    ],
)
def test_post_wrong_word_is_named_by_its_number(shared: Mount, line: str, word: int, expected: str) -> None:
    with refused(errno.EINVAL):
        shared.post(line)
    said = last_error(shared)
    assert re.match(rf"post line 1 word {word}\b", said), said
    assert expected in said
    assert "[EINVAL]" in said


def test_post_counts_lines_from_the_open(shared: Mount, post: int) -> None:
    os.write(post, b"\n# one\n")
    with refused(errno.EINVAL):
        os.write(post, b"\nbogus\n")
    assert last_error(shared).startswith("post line 4 word 1")


def test_post_wrong_word_in_quotes_is_one_word(shared: Mount) -> None:
    with refused(errno.EINVAL):
        shared.post("mount -t tmpfs 'a b' /quoted 'c d'")
    assert last_error(shared).startswith("post line 1 word 4 'a b': ")


def test_post_goes_on_after_a_refused_line(sight: Sight, post: int) -> None:
    with refused(errno.EINVAL):
        os.write(post, b"bogus\n")
    os.write(post, b"sb error / EIO\n")
    assert sight.names() == ["error"]


def test_post_without_final_newline_runs_at_the_close(shared: Mount, sight: Sight) -> None:
    fd = os.open(shared.path / "post", os.O_WRONLY)
    try:
        assert os.write(fd, b"sb error / EIO") == 14
        assert sight.names() == []
    finally:
        os.close(fd)
    wait_for(lambda: sight.names() == ["error"])


def test_post_wrong_line_without_newline_is_only_in_errors(shared: Mount) -> None:
    before = refusals_total(shared)
    assert write_once(shared.path / "post", b"bogus at close") == 14
    wait_for(lambda: refusals_total(shared) == before + 1)
    assert last_error(shared).startswith("post line 1 word 1 'bogus': expected ")


def wait_for(condition: Callable[[], bool]) -> None:
    """A close does not wait for the server (RELEASE is sent in the background)."""
    wait_until(condition, "what the close brings about")


def test_post_line_split_over_writes_runs_once(sight: Sight, post: int) -> None:
    for piece in (b"sb er", b"ror", b" / E", b"IO"):
        os.write(post, piece)
        assert sight.names() == []
    os.write(post, b"\n")
    assert sight.names() == ["error"]


def test_post_lines_split_between_writes_are_three(sight: Sight, post: int) -> None:
    os.write(post, b"sb error / EIO\nsb error")
    assert sight.names() == ["error"]
    os.write(post, b" / ENOSPC\nsb error / EROFS\n")
    assert [line["error"] for line in sight.lines()] == ["ENOSPC", "EROFS"]


def test_post_halves_of_two_descriptors_do_not_mix(shared: Mount, sight: Sight, post: int) -> None:
    other = os.open(shared.path / "post", os.O_WRONLY)
    try:
        os.write(post, b"sb error")
        os.write(other, b"sb error / ENOSPC\n")
        os.write(post, b" / EIO\n")
    finally:
        os.close(other)
    assert [line["error"] for line in sight.lines()] == ["ENOSPC", "EIO"]


def test_post_writev_is_one_write(sight: Sight, post: int) -> None:
    assert os.writev(post, [b"sb er", b"ror / E", b"IO\n"]) == 15
    assert sight.names() == ["error"]


@pytest.mark.parametrize(
    "data",
    [
        b"sb error / EIO\r\n",
        b"  sb\terror  /   EIO  \n",
        b"sb error / EIO # why\n",
        b"sb \"error\" '/' E\\IO\n",
    ],
    ids=["crlf", "blanks", "comment-behind", "quotes"],
)
def test_post_line_in_another_dress_is_the_same(shared: Mount, sight: Sight, data: bytes) -> None:
    write_once(shared.path / "post", data)
    (line,) = sight.lines()
    assert (line["error"], line["text"]) == ("EIO", "")


@pytest.mark.parametrize("data", [b"\n", b"\r\n", b"# a comment\n", b"   \n", b"  # bogus\n", b"\n\n\n\n"])
def test_post_line_without_words_does_nothing(shared: Mount, sight: Sight, data: bytes) -> None:
    before = refusals_total(shared)
    assert write_once(shared.path / "post", data) == len(data)
    assert sight.lines() == []
    assert refusals_total(shared) == before


def test_post_of_nothing_is_0(shared: Mount, post: int) -> None:
    assert os.write(post, b"") == 0


# -- post: size

LINE = b"sb error / EIO\n"


def test_post_64_kib_in_one_write_all_happen(shared: Mount, post: int) -> None:
    count = 65536 // len(LINE)
    data = LINE * count
    data += b"#" * (65536 - len(data) - 1) + b"\n"
    before = events_total(shared)
    assert os.write(post, data) == 65536
    assert events_total(shared) == before + count


def test_post_300_kib_in_one_write_all_happen(shared: Mount, post: int) -> None:
    data = LINE * (300 * 1024 // len(LINE))
    assert PIECE % len(LINE), "a line is to be split between two pieces"
    before = events_total(shared)
    assert os.write(post, data) == len(data)
    assert events_total(shared) == before + len(data) // len(LINE)


def test_post_with_a_later_piece_refused_returns_the_count_taken(shared: Mount, post: int) -> None:
    good = 200 * 1024 // len(LINE)
    data = LINE * good + b"bogus\n" + LINE * (100 * 1024 // len(LINE))
    before = events_total(shared)
    assert os.write(post, data) == PIECE
    assert events_total(shared) == before + good, "all lines before it, none after it"
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


# -- post: state


def test_post_umount_of_a_busy_mount_is_ebusy(shared: Mount, sight: Sight) -> None:
    shared.post("mount none /busy -t tmpfs", "mount none /busy/below -t tmpfs")
    sight.lines()
    with refused(errno.EBUSY):
        shared.post("umount /busy")
    assert sight.lines() == []
    said = last_error(shared)
    assert said.startswith("post line 1 word 2 '/busy': ")
    assert said.endswith("[EBUSY]: umount /busy")


def test_post_umount_of_what_is_not_mounted_is_einval(shared: Mount) -> None:
    with refused(errno.EINVAL):
        shared.post("umount /not/mounted")


def test_post_update_of_a_missing_key_is_enokey(shared: Mount) -> None:
    with refused(errno.ENOKEY):
        shared.post("key update nosuch blue")
    assert last_error(shared).startswith("post line 1 word 3 'nosuch': ")


def test_post_update_of_a_revoked_key_is_ekeyrevoked(shared: Mount) -> None:
    shared.post("key add user withdrawn x @s", "key revoke withdrawn")
    with refused(errno.EKEYREVOKED):
        shared.post("key update %user:withdrawn y")


def test_post_state_error_ends_the_write_after_the_lines_before(shared: Mount, sight: Sight, post: int) -> None:
    data = LINE + b"key update nosuch x\n" + LINE
    with refused(errno.ENOKEY):
        os.write(post, data)
    assert sight.names() == ["error"]
    assert last_error(shared).startswith("post line 2 word 3")


# -- post: shells and tools


def test_post_shell_redirect_of_a_right_line_ends_with_0(shared: Mount, sight: Sight) -> None:
    done = sh('echo sb error / EIO > "$1"', shared.path / "post")
    assert (done.returncode, done.stderr) == (0, "")
    assert sight.names() == ["error"]


def test_post_shell_redirect_of_a_wrong_line_ends_with_1(shared: Mount) -> None:
    done = sh('echo bogus > "$1"', shared.path / "post")
    assert done.returncode == 1
    assert "Invalid argument" in done.stderr


def test_post_shell_redirect_of_a_state_error_says_it(shared: Mount) -> None:
    done = sh('echo key update nosuch x > "$1"', shared.path / "post")
    assert done.returncode == 1
    assert "Required key not available" in done.stderr


def test_post_truncated_by_the_shell_does_nothing(shared: Mount, sight: Sight) -> None:
    assert sh('> "$1"; : > "$1"; truncate -s 0 "$1"', shared.path / "post").returncode == 0
    assert sight.lines() == []


@pytest.mark.parametrize(
    "script",
    [
        'printf "sb error / EIO\\nsb error / EIO\\n" > "$1"',
        'printf "sb error / EIO\\nsb error / EIO\\n" >> "$1"',
        'printf "sb error / EIO\\nsb error / EIO\\n" | tee "$1" > /dev/null',
        'printf "sb error / EIO\\nsb error / EIO\\n" | dd of="$1" bs=1 status=none',
        'printf "sb error / EIO\\nsb error / EIO\\n" | cat > "$1"',
        "cat > \"$1\" <<< $'sb error / EIO\\nsb error / EIO'",
        '{ echo sb error / EIO; echo sb error / EIO; } > "$1"',
        'printf "sb error / EIO\\nsb error / EIO\\n" > "$2"; cp --no-preserve=all "$2" "$1"',
    ],
    ids=["printf", "append", "tee", "dd", "cat", "here", "group", "cp"],
)
def test_post_takes_lines_from_tools(shared: Mount, sight: Sight, tmp_path: Path, script: str) -> None:
    done = sh(script, shared.path / "post", tmp_path / "lines")
    assert (done.returncode, done.stderr) == (0, "")
    assert sight.names() == ["error", "error"]


def test_errors_keeps_the_last_hundred(shared: Mount) -> None:
    for number in range(101):
        with refused(errno.EINVAL):
            shared.post(f"bogus{number}")
    lines = (shared.path / "errors").read_text().splitlines()
    assert len(lines) == 100
    assert lines[0].endswith("bogus1")
    assert lines[-1].endswith("bogus100")


# -- sim/records


RAW = (
    r.encode(2, 1, r.MOUNT_BODY.pack(5, 6), flags=0x30000, watch_id=9),
    r.encode(77, 200, b"\x00\xff\x01"),
    r.encode(0xFFFFFF, 255, b"x" * 119, flags=0xFFFF0000, watch_id=255),
    r.LOSS,
    r.removal(7, 3),
)


def test_records_are_delivered_byte_for_byte(shared: Mount, watch: Path) -> None:
    data = b"".join(RAW)
    assert write_once(shared.path / "sim" / "records", data) == len(data)
    assert read_queue(watch) == data


def test_records_keep_id_and_type_in_events(shared: Mount, sight: Sight) -> None:
    write_once(shared.path / "sim" / "records", b"".join(RAW))
    got = [(line["type"], line["event"], line["id"]) for line in sight.lines()]
    assert got == [
        ("mount", "unmount", 9), (77, 200, 0), (0xFFFFFF, 255, 255), ("meta", "loss", 0),
        ("meta", "removal", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (struct.pack("=II", 1, 7), "expected a length of 8..127 bytes, not 7"),
        (struct.pack("=II", 1, 0x80), "expected a length of 8..127 bytes, not 0"),
        (struct.pack("=II", 1, 24) + bytes(15), "expected 24 bytes of record, not 23"),
        (bytes(5), "expected a header of 8 bytes, not 5"),
    ],
    ids=["length-7", "length-0", "beyond-the-end", "header-cut"],
)
def test_records_malformed_are_einval_and_none_is_delivered(shared: Mount, watch: Path, bad: bytes, said: str) -> None:
    data = RAW[0] + RAW[1] + bad
    with refused(errno.EINVAL):
        write_once(shared.path / "sim" / "records", data)
    assert read_queue(watch) == b""
    assert last_error(shared) == f"sim/records: at byte {len(RAW[0]) + len(RAW[1])}: {said} [EINVAL]"


def test_records_split_over_two_writes_are_einval(shared: Mount, watch: Path) -> None:
    fd = os.open(shared.path / "sim" / "records", os.O_WRONLY)
    try:
        with refused(errno.EINVAL):
            os.write(fd, RAW[0][:12])
        assert os.write(fd, RAW[0]) == len(RAW[0])
    finally:
        os.close(fd)
    assert read_queue(watch) == RAW[0]


@pytest.mark.parametrize("record", [r.encode(1, 1, bytes(8)), r.encode(2, 1, bytes(16)), RAW[2]], ids=len)
def test_records_of_300_kib_are_all_delivered(shared: Mount, watch: Path, record: bytes) -> None:
    count = 300 * 1024 // len(record)
    data = record * count
    before = events_total(shared)
    fd = os.open(shared.path / "sim" / "records", os.O_WRONLY)
    try:
        while data:  # a write may return short, after a whole record
            written = os.write(fd, data)
            assert written % len(record) == 0
            data = data[written:]
    finally:
        os.close(fd)
    assert events_total(shared) == before + count
    assert shared.status(watch)["posted"] == count
    assert read_queue(watch)[: len(record)] == record


def test_records_malformed_at_the_end_of_a_whole_piece_are_einval(shared: Mount, watch: Path) -> None:
    data = r.encode(1, 1, bytes(8)) * (PIECE // 16 - 1) + struct.pack("=II", 1, 7) + bytes(8)
    before = events_total(shared)
    with refused(errno.EINVAL):
        write_once(shared.path / "sim" / "records", data)
    assert events_total(shared) == before


def test_records_with_a_later_piece_malformed_return_the_count_taken(shared: Mount, watch: Path) -> None:
    record = r.encode(1, 1, bytes(8))
    data = record * (200 * 1024 // 16) + struct.pack("=II", 1, 7) + record * 5000
    before = events_total(shared)
    assert write_once(shared.path / "sim" / "records", data) == PIECE
    assert events_total(shared) == before + PIECE // 16, "nothing of the refused piece"


def test_records_pass_through_the_filter_but_meta_does_not_ask_it(shared: Mount, watch: Path) -> None:
    (watch / "filter").write_text("key *\n")
    key = r.encode(1, 1, bytes(8))
    write_once(shared.path / "sim" / "records", b"".join(RAW) + key)
    assert read_queue(watch) == RAW[3] + RAW[4] + key


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
