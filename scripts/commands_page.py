"""Writes docs/commands.md from the table that parses: `python scripts/commands_page.py > docs/commands.md`."""

from __future__ import annotations

from wqfs.sim import language, mount_options
from wqfs.sim.command import Command

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
        parts.append("".join(f"    {line.strip()}\n" for line in [command.usage]))
        parts.append(f"\n{command.summary}\n\n")
        if taken := options(command):
            parts.append(f"Options: {taken}.\n\n")
        if "options" in command.valued.values():
            words = ", ".join(f"`{word}`" for word in mount_options.WORDS)
            parts.append(f"Words of `-o`: {words}; any other is the filesystem's own.\n\n")
        parts.append(f"Events: {events}.\n\n")
        parts.append(f"Errors: {command.errors}.\n\n")
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(page(), end="")
