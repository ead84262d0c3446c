"""The command language: words, commands, options; and the lines of `objects`."""

from __future__ import annotations

import errno
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wqfs.abi import records as r
from wqfs.sim import objects
from wqfs.sim.arguments import parse
from wqfs.sim.command import ROOT, Actor, Command
from wqfs.sim.errors import Refused
from wqfs.sim.keys import Need
from wqfs.sim.language import COMMANDS, find, quote, split
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Watches

# -- words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("\n", []),
        ("\r\n", []),
        ("  \t ", []),
        ("# comment", []),
        ("  # it's \"open", []),
        ("a  b\tc\n", ["a", "b", "c"]),
        ("a b\r\n", ["a", "b"]),
        ("a b # c", ["a", "b"]),
        ("a b#c", ["a", "b#c"]),
        ("a \\#b '#'c", ["a", "#b", "#c"]),
        ("'a b' \"c d\" e\\ f", ["a b", "c d", "e f"]),
        ("'' \"\" x''", ["", "", "x"]),
        ("a'b \"c'd", ['ab "cd']),
        (r'"a\"b\\c\d" \q', [r'a"b\c\d', "q"]),
        (r"'a\040b' /my\040dir", [r"a\040b", "/my dir"]),
        (r"\303\251 \303", ["é", "\udcc3"]),
        ("é\u00a0x y", ["é\u00a0x", "y"]),
        ("a\rb", ["a\rb"]),
        ("a\x0bb", ["a\x0bb"]),
        ("\udcff x", ["\udcff", "x"]),
    ],
)
def test_split_as_a_shell_would(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("a 'b", 2),
        ('a b"', 2),
        ('a b c "d\\"', 4),
        ("a \\", 2),
        ("\\", 1),
        ("a b\0", 2),
        ("\\000", 1),
        ("a \\777", 2),
        ("a\nb", 0),
    ],
)
def test_split_of_what_is_no_line_names_the_word(line: str, word: int) -> None:
    with pytest.raises(Refused) as caught:
        split(line)
    assert (caught.value.errno, caught.value.word) == (errno.EINVAL, word)


TEXT = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]))


@given(st.lists(TEXT))
def test_split_gives_back_what_shlex_quoted(words: list[str]) -> None:
    assert split(shlex.join(words) + "\n") == words


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_split_gives_back_what_quote_made(words: list[str]) -> None:
    assert split(" ".join(map(quote, words))) == words


@given(st.binary())
def test_split_gives_back_any_bytes(raw: bytes) -> None:
    word = raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    assert split(quote(word)) == [word]


@given(st.text("ab \t'\"\\#01\r", max_size=12))
@example("a\\ ")
def test_split_agrees_with_shlex_but_for_octal_escapes(line: str) -> None:
    if "\\0" in line or "\\1" in line or "#" in line or line.endswith("\r"):
        return  # shlex knows no octal escapes, and begins a comment inside a word too
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    expected = None
    try:
        expected = list(lexer)
    except ValueError:
        pass
    if expected is None:
        with pytest.raises(Refused):
            split(line)
    else:
        assert split(line) == expected


# -- commands


def test_find_takes_the_longest_command() -> None:
    command, count = find(["sb", "error", "/"])
    assert (command.words, count) == (("sb", "error"), 2)


@pytest.mark.parametrize(
    ("line", "word", "hint"),
    [
        ("moutn a b", 1, "mount"),
        ("sb eror / EIO", 2, "error"),
        ("sb", 2, "edquot"),
        ("key", 2, "add"),
        ("key frob x", 2, "add"),
        ("xyzzy", 1, "expected a command, not 'xyzzy'"),
    ],
)
def test_find_unknown_names_the_word_and_what_is_like_it(line: str, word: int, hint: str) -> None:
    with pytest.raises(Refused) as caught:
        find(line.split())
    assert (caught.value.errno, caught.value.word) == (errno.EINVAL, word)
    assert hint in caught.value.reason


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_command_usage_begins_with_its_words(command: Command) -> None:
    assert command.usage.split()[: len(command.words)] == list(command.words)
    assert command.summary.endswith(".") and command.events


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
@given(arguments=st.lists(st.one_of(st.sampled_from(["/", "-", "--", "-o", "@s", "0", "EIO"]), TEXT), max_size=4))
def test_command_with_any_arguments_runs_or_is_refused(command: Command, arguments: list[str]) -> None:
    system = System(Watches(), now_ns=0)
    line = shlex.join([*command.words, *arguments])
    try:
        system.run(line, Actor(1000, 1000), 1)
    except Refused as refused:
        assert refused.errno and 0 <= refused.word <= len(command.words) + len(arguments) + 1  # one is missing


def test_run_of_an_empty_line_changes_nothing() -> None:
    system = System(Watches(), now_ns=0)
    changed = system.changed
    for line in ("", "  # nothing", "\r\n"):
        system.run(line, ROOT, 0)
    assert (system.changed, system.watches.last_event) == (changed, 0)


def test_run_of_a_command_moves_changed() -> None:
    system = System(Watches(), now_ns=0)
    changed = system.changed
    system.run("mount -t tmpfs none '/my dir'", ROOT, 0)
    assert system.changed > changed and system.mounts.mounted_at("/my dir").id == 22


def test_run_collects_keys_that_expired_300_seconds_ago() -> None:
    system = System(Watches(), now_ns=0)
    system.run("key add user colour red @u", ROOT, 0)
    system.run("key timeout colour 5", ROOT, 0)
    (serial,) = [key.serial for key in system.keys.by_serial.values() if key.description == "colour"]
    system.run("sb edquot /", ROOT, 304_000_000_000)
    assert serial in system.keys.by_serial
    system.run("sb edquot /", ROOT, 305_000_000_000)
    assert serial not in system.keys.by_serial


# -- options

FLAGS = {"-l": "lazy", "--lazy": "lazy", "-r": "ro"}
VALUED = {"-t": "type", "--types": "type"}


@pytest.mark.parametrize(
    ("words", "options", "rest"),
    [
        (["a", "-l", "b"], [("lazy", "", 3)], [("a", 2), ("b", 4)]),
        (["-lr", "a"], [("lazy", "", 2), ("ro", "", 2)], [("a", 3)]),
        (["-rt", "x", "a"], [("ro", "", 2), ("type", "x", 3)], [("a", 4)]),
        (["-tx", "--types=y", "--types", "z"], [("type", "x", 2), ("type", "y", 3), ("type", "z", 5)], []),
        (["--types=", "-"], [("type", "", 2)], [("-", 3)]),
        (["--lazy", "--", "-l"], [("lazy", "", 2)], [("-l", 4)]),
    ],
)
def test_parse_options(words: list[str], options: list[tuple[str, str, int]], rest: list[tuple[str, int]]) -> None:
    assert parse(words, 2, FLAGS, VALUED) == (options, rest)


@pytest.mark.parametrize(
    ("words", "word"),
    [(["-x"], 2), (["a", "-lx"], 3), (["--lazy=1"], 2), (["--what"], 2), (["a", "-t"], 4), (["--types"], 3)],
)
def test_parse_options_wrong_names_the_word(words: list[str], word: int) -> None:
    with pytest.raises(Refused) as caught:
        parse(words, 2, FLAGS, VALUED)
    assert (caught.value.errno, caught.value.word) == (errno.EINVAL, word)


# -- objects


def watching(*lines: str) -> tuple[System, Watch]:
    system = System(Watches(), now_ns=0)
    watch = system.watches.make("", 0, 0, 0)
    system.run("mount -t tmpfs none '/my dir'", ROOT, 0)
    for line in lines:
        objects.apply(system, watch, line, ROOT, 0)
    return system, watch


def test_objects_are_shown_as_they_are_written() -> None:
    lines = ["mount / id=1", "mount /my\\040dir/x id=255", "sb /my\\040dir id=2", "devices id=4"]
    _, watch = watching(*lines)
    assert objects.text(watch) == "".join(line + "\n" for line in lines)


def test_objects_show_a_key_by_its_serial_number() -> None:
    system, watch = watching("key @s id=3")
    key, _ = system.keys.lookup(ROOT, "@s", Need.VIEW, 0)
    assert objects.text(watch) == f"key {key.serial} id=3\n"


def test_objects_without_id_have_0() -> None:
    _, watch = watching("mount /", "", "# comment")
    assert objects.text(watch) == "mount / id=0\n"


def test_objects_shown_can_be_removed_by_the_same_line() -> None:
    lines = ["mount / id=1", "mount /my\\040dir id=2", "sb / id=3", "devices id=4", "key @u id=5"]
    system, watch = watching(*lines)
    for line in objects.text(watch).splitlines():
        objects.apply(system, watch, "-" + line, ROOT, 0)
    assert watch.entries == ()


def test_objects_remove_what_something_else_covers_by_now() -> None:
    system, watch = watching("mount /a id=1")
    system.run("mount -t tmpfs none /a", ROOT, 0)
    objects.apply(system, watch, "-mount /a", ROOT, 0)
    assert watch.entries == ()


def test_objects_remove_posts_removal() -> None:
    system, watch = watching("mount / id=9")
    objects.apply(system, watch, "-mount /", ROOT, 0)
    *_, record = r.decode(watch.queue.read(4096) or b"")
    assert (record.watch_id, r.REMOVAL_BODY.unpack(record.body)[0]) == (9, 21)


@pytest.mark.parametrize(
    ("line", "expected", "word"),
    [
        ("mount", errno.EINVAL, 2),
        ("mount a id=1", errno.EINVAL, 2),
        ("mount / /", errno.EINVAL, 3),
        ("mount / id=256", errno.EINVAL, 3),
        ("mount / id=-1", errno.EINVAL, 3),
        ("mount / id=", errno.EINVAL, 3),
        ("mount / 1", errno.EINVAL, 3),
        ("mnt /", errno.EINVAL, 1),
        ("-", errno.EINVAL, 1),
        ("devices all", errno.EINVAL, 2),
        ("sb nothing", errno.EINVAL, 2),
        ("key 7", errno.ENOKEY, 2),
        ("mount /a id=2", errno.EBUSY, 2),
        ("-mount /b", errno.EBADSLT, 2),
        ("-mount /a id=2", errno.EBADSLT, 3),
        ("-key 7", errno.ENOKEY, 2),
    ],
)
def test_objects_line_that_is_refused(line: str, expected: int, word: int) -> None:
    system, watch = watching("mount /a id=1")
    with pytest.raises(Refused) as caught:
        objects.apply(system, watch, line, ROOT, 0)
    assert (caught.value.errno, caught.value.word) == (expected, word)
    assert objects.text(watch) == "mount /a id=1\n"


def test_objects_too_many_are_refused() -> None:
    system, watch = watching()
    for n in range(system.watches.limits.objects):
        objects.apply(system, watch, f"mount /{n}", ROOT, 0)
    with pytest.raises(Refused) as caught:
        objects.apply(system, watch, "mount /one/more", ROOT, 0)
    assert caught.value.errno == errno.EDQUOT


def test_objects_of_a_key_need_view_permission() -> None:
    system, watch = watching("key @u id=1")
    (entry,) = watch.entries
    with pytest.raises(Refused) as caught:
        objects.apply(system, watch, f"key {entry.target.watch_object_id}", Actor(1000, 1000), 0)
    assert (caught.value.errno, caught.value.word) == (errno.EACCES, 2)
