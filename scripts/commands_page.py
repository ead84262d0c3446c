"""Writes docs/commands.md from the table that parses: `python -m scripts.commands_page`."""

from __future__ import annotations

from pathlib import Path

from wqfs.sim import language

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """\
# The command language

Lines for `post`, one command each; a test holds this page against the table that parses.

Words are parted by blanks and tabs. `'...'` takes everything as it is; in `"..."` a backslash stands
before `"`, `\\`, `$` and the backquote alone; elsewhere a backslash takes the next character as it is,
or with three octal digits is a byte, as in mountinfo (`\\040` is a blank). `#` at the beginning of a
word ends the line. An empty line does nothing; a carriage return before the newline is left out.

A refused command changes nothing: the write fails with the errno that the kernel's interface would
give (EINVAL for a line that makes no sense), and `errors` says which line, which word, and what was
expected. Who gives a command is the user who writes it.

KEY is a serial number, `@t` `@p` `@s` `@u` `@us` (thread, process, session, user, user-session
keyring), `%TYPE:DESCRIPTION` or `%:KEYRING` as in keyctl(1), or a bare description, which is looked
for in the keyrings of the process. A command without `as` is that of the user's login process.

"""


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for command in language.COMMANDS:
        events = command.events.rstrip(".")
        parts.append(f"## `{' '.join(command.words)}`\n\n")
        parts.append(f"```text\n{command.usage.strip()}\n```\n")
        parts.append(f"\n{command.summary}\n\nEvents: {events}.\n\n")
        parts.append(f"Errors: {command.errors}.\n\n")
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(page())
