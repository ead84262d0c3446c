"""post: lines, what is refused and why, and the shells and tools that write them (issue 2, 4; DESIGN.md)."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from tests.posting import LINE, Sight, last_error, sh, wait_for, write_once
from tests.tools import Mount, metric, refused

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
    before = metric(shared, "refused_total")
    assert write_once(shared.path / "post", b"bogus at close") == 14
    wait_for(lambda: metric(shared, "refused_total") == before + 1)
    assert last_error(shared).startswith("post line 1 word 1 'bogus': expected ")


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
    before = metric(shared, "refused_total")
    assert write_once(shared.path / "post", data) == len(data)
    assert sight.lines() == []
    assert metric(shared, "refused_total") == before


def test_post_of_nothing_is_0(shared: Mount, post: int) -> None:
    assert os.write(post, b"") == 0


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
