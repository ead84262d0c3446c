"""`wqfs post`: make things happen in the simulated system."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from wqfs.cli.command import EXIT_ERROR, EXIT_OK, CommandFailed, Parser, parser
from wqfs.cli.finding import find_mount
from wqfs.cli.watching import refusal
from wqfs.sim import language

_WIDTH = 100
_GRAMMAR = (
    "Words are parted by blanks and quoted as in a shell: '...', \"...\", \\040 for a blank. `#` begins a comment. "
    "KEY is a serial number, @t @p @s @u @us (thread, process, session, user, user-session keyring), "
    "%TYPE:DESCRIPTION, %:KEYRING, or a bare description."
)


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "post",
        "Carry out a command of the simulated system, given as words, or each line of standard input. Several\n"
        "words are one command, quoted as they are; a single one with blanks in it is a whole line:\n\n"
        "    wqfs post mount /dev/sdb1 '/mnt/my data' -t ext4\n"
        "    wqfs post 'sb error /mnt/data EIO'\n"
        "    wqfs post < commands\n\n"
        "`wqfs post --commands` says what commands there are. Options stand before the first word.",
        "exit codes: 0 all of it happened; 1 error or usage, or a line was refused: it is said why, and none after\n"
        "it happened",
    )
    options.add_argument("--keep-going", "-k", action="store_true", help="go on with the next line after a refused one")
    options.add_argument(
        "--commands",
        action="store_true",
        help="list the commands that there are, with WORD (mount, sb, key ...) those that begin so; nothing is done",
    )
    options.add_argument("--quiet", "-q", action="store_true", help="do not say why a line was refused")
    options.add_argument(
        "words", metavar="WORD", nargs="...", help="the command; without one the lines of standard input"
    )
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    words = given.words[1:] if given.words[:1] == ["--"] else given.words
    if given.commands:
        return _list(tuple(words))
    mount = find_mount(given.mount)
    if not words and sys.stdin.isatty():
        print("wqfs post: a command on each line; Ctrl-D ends", file=sys.stderr)
    try:
        post = os.open(mount / "post", os.O_WRONLY)
    except OSError as error:
        raise CommandFailed(f"cannot open {mount / 'post'}: {error.strerror}.") from None
    code = EXIT_OK
    try:
        for line in _lines(words):
            said = _post(mount, post, line)
            if said is None:
                continue
            code = EXIT_ERROR
            if not given.quiet:
                print(f"wqfs post: {said}", file=sys.stderr)
            if not given.keep_going:
                break
    finally:
        os.close(post)
    return code


def _list(words: tuple[str, ...]) -> int:
    found = [command for command in language.COMMANDS if command.words[: len(words)] == words]
    if not found:
        known = ", ".join(dict.fromkeys(command.words[0] for command in language.COMMANDS))
        raise CommandFailed(f"there is no command {' '.join(words)!r}; there are {known}.")
    if not words:
        print(textwrap.fill(_GRAMMAR, _WIDTH) + "\n")
    for command in found:
        print(command.usage)
        for text in (command.summary, f"Events: {command.events.rstrip('.')}.", f"Errors: {command.errors}."):
            print(textwrap.indent(textwrap.fill(text, _WIDTH, break_on_hyphens=False), "    "))
    return EXIT_OK


def _lines(words: Sequence[str]) -> Iterator[bytes]:
    if words:
        line = words[0] if len(words) == 1 else " ".join([language.quote(word) for word in words])
        yield os.fsencode(line)
        return
    for raw in sys.stdin.buffer:
        yield raw.rstrip(b"\n")


def _post(mount: Path, post: int, line: bytes) -> str | None:
    """Why it was refused, None if it was not."""
    if b"\n" in line:
        return "expected one line, not several: give them on standard input"
    try:
        os.write(post, line + b"\n")
    except OSError as error:
        return refusal(mount, error, os.fsdecode(line))
    return None
