"""Writes docs/commands.md and docs/man/wqfs-commands.5 from the table that parses.

python -m scripts.commands_page
"""

from __future__ import annotations

from pathlib import Path

from wqfs.sim import language, mount_options
from wqfs.sim.command import Command

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """\
# The command language

Lines for `post`, one command each; a test holds this page against the table that parses.

Words are parted by blanks and tabs. `'...'` takes everything as it is; in `"..."` a backslash stands
before `"`, `\\`, `$` and the backquote alone; elsewhere a backslash takes the next character as it is,
or with three octal digits is a byte, as in mountinfo (`\\040` is a blank). `#` at the beginning of a
word ends the line. An empty line does nothing; a carriage return before the newline is left out.

A refused command changes nothing (but `umount` of several, or with `-R` or `-A`, keeps what it has done by
then, as umount(8) does): the write fails with the errno that the kernel's interface would
give (EINVAL for a line that makes no sense), and `errors` says which line, which word, and what was
expected. Who gives a command is the user who writes it.

KEY is a serial number, `@t` `@p` `@s` `@u` `@us` (thread, process, session, user, user-session
keyring), `%TYPE:DESCRIPTION` or `%:KEYRING` as in keyctl(1), or a bare description, which is looked
for in the keyrings of the process. A command without `as` is that of the user's login process.

"""


def options(command: Command) -> str:
    """The options that it takes, those of one meaning together; "" for none."""
    by_meaning: dict[str, list[str]] = {}
    for option, meaning in command.flags.items():
        by_meaning.setdefault(meaning, []).append(f"`{option}`")
    without_effect = by_meaning.pop("", [])
    by_value: dict[str, list[str]] = {}
    for option, meaning in command.valued.items():
        by_value.setdefault(meaning, []).append(f"`{option}`")
    parts = [f"{' '.join(words)} {meaning.upper()}" for meaning, words in by_value.items()]
    parts += [f"{' '.join(words)} ({meaning})" for meaning, words in by_meaning.items()]
    if without_effect:
        parts.append(f"taken without effect: {' '.join(without_effect)}")
    return "; ".join(parts)


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for command in language.COMMANDS:
        events = command.events.rstrip(".")
        parts.append(f"## `{' '.join(command.words)}`\n\n")
        parts.append(f"```text\n{command.usage.strip()}\n```\n")
        parts.append(f"\n{command.summary}\n\n")
        if taken := options(command):
            parts.append(f"Options: {taken}.\n\n")
        if "options" in command.valued.values():
            words = ", ".join(f"`{word}`" for word in mount_options.WORDS)
            parts.append(f"Words of `-o`: {words}; any other is the filesystem's own.\n\n")
        parts.append(f"Events: {events}.\n\n")
        parts.append(f"Errors: {command.errors}.\n\n")
    return "".join(parts).rstrip("\n") + "\n"


MAN_HEAD = r"""
.\" Written by scripts/commands_page.py from the table that parses.
.TH WQFS-COMMANDS 5 2026-11-26 "wqfs 0.1.0" "File Formats"
.\" Words are not cut: readonly and read-only are two things here.
.nh
.ad l
.SH NAME
wqfs-commands \- the commands of a wqfs mount's simulated system
.SH DESCRIPTION
Lines for
.I post
of a wqfs mount, for
.B wqfs post
and for the steps of
.BR wqfs-scenario (5),
one command each.
.PP
Words are parted by blanks and tabs.
.B \(aq...\(aq
takes everything as it is; in
.B \(dq...\(dq
a backslash stands before \(dq, \e, $ and \(ga alone; elsewhere a backslash takes the next character as it is, or
with three octal digits is a byte, as in mountinfo (\e040 is a blank).
.B #
at the beginning of a word ends the line.
An empty line does nothing.
.PP
A refused command changes nothing: the write fails with the errno that the kernel's interface would give (EINVAL for
a line that makes no sense), and
.I errors
says which line, which word, and what was expected.
Who gives a command is the user who writes it.
.PP
.I KEY
is a serial number, @t @p @s @u @us (thread, process, session, user, user-session keyring), %TYPE:DESCRIPTION or
%:KEYRING as in
.BR keyctl (1),
or a bare description, which is looked for in the keyrings of the process.
A command without
.B as
is that of the user's login process.
.SH COMMANDS
"""
MAN_TAIL = r"""
.SH SEE ALSO
.BR keyctl (1),
.BR wqfs (1),
.BR wqfs (5),
.BR wqfs-scenario (5),
.BR mount (8)
"""


def man_page() -> str:
    """wqfs-commands(5) as it should be."""
    parts = [MAN_HEAD.lstrip("\n")]
    for command in language.COMMANDS:
        usage = _roff(command.usage.strip()).replace("|", "|\\:")  # where it may be broken
        parts.append(f".SS {_roff(' '.join(command.words))}\n.RS 4\n{usage}\n.RE\n")
        parts.append(f".PP\n{_roff(command.summary)}\n")
        parts.append(f".PP\nEvents: {_roff(command.events.rstrip('.'))}.\n.PP\nErrors: {_roff(command.errors)}.\n")
    return "".join(parts) + MAN_TAIL.lstrip("\n")


_ROFF = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})


def _roff(text: str) -> str:
    """A line of text, each character as it is."""
    made = text.translate(_ROFF)
    return "\\&" + made if made.startswith(".") else made


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(page())
    (DOCS / "man/wqfs-commands.5").write_text(man_page())
