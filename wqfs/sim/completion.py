"""What may come next at the end of a line of the command language, from the table that parses.

`data` is the table for who completes elsewhere (a shell); `candidates` completes here, with the
names of a system when it is given one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from wqfs.abi.errors import ERRNO_NAMES
from wqfs.sim.command import Command
from wqfs.sim.errors import Refused
from wqfs.sim.key_table import SPECIAL
from wqfs.sim.keys import TYPES
from wqfs.sim.language import COMMANDS, quote, split
from wqfs.sim.mount_options import WORDS as OPTION_WORDS
from wqfs.sim.superblocks import DEVICE_TYPES, NODEV_TYPES

if TYPE_CHECKING:
    from wqfs.sim.system import System

_FSTYPES = tuple(sorted(DEVICE_TYPES | NODEV_TYPES))
_ERRNOS = tuple(sorted(ERRNO_NAMES.values()))
_VALUES = {"type": _FSTYPES, "options": OPTION_WORDS}
"""What the value of an option may be, by what the option means."""
_KEY_TYPES = tuple(TYPES)


def kinds(command: Command) -> tuple[str, ...]:
    """What each argument of a command is, as its usage has it: `DIR`, `KEYRING`, `up|down`; the last
    may end in `...`. Options stand apart: see Command.flags and Command.valued."""
    usage = command.usage.partition(" | ")[0].split()[len(command.words) :]
    words = [word.strip("[]") for word in usage]
    return tuple(word for at, word in enumerate(words) if not word.startswith("-") and not _is_value(words, at))


def _is_value(words: list[str], at: int) -> bool:
    """Whether a word of the usage is the value of the option before it."""
    return at > 0 and words[at - 1] in ("-t", "-o")


def data() -> list[dict[str, object]]:
    """The table as JSON has it: a member for each command with its words, usage, summary, events, errors, the kinds of
    its arguments, its options, and of those with a value what the value is."""
    return [
        {
            "words": list(command.words),
            "usage": command.usage,
            "summary": command.summary,
            "events": command.events,
            "errors": command.errors,
            "arguments": list(kinds(command)),
            "options": sorted(command.flags),
            "options_with_value": {option: _VALUES.get(meaning, ()) for option, meaning in command.valued.items()},
        }
        for command in COMMANDS
    ]


def candidates(line: str, system: System | None = None) -> list[str]:
    """The words that may stand where `line` ends, sorted: beginnings that the last word has, or all if
    `line` ends with a blank. They are quoted as `split` reads them. Empty for a line with an open quote."""
    try:
        words = split(line)
    except Refused:
        return []
    prefix = "" if not words or line[-1:] in (" ", "\t") else words.pop()
    found = _following(words, prefix, system)
    return sorted({quote(word) for word in found if word.startswith(prefix)})


def _following(words: list[str], prefix: str, system: System | None) -> Iterable[str]:
    fitting = [command for command in COMMANDS if list(command.words[: len(words)]) == words]
    if any(len(command.words) > len(words) for command in fitting):
        return [command.words[len(words)] for command in fitting if len(command.words) > len(words)]
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return _arguments(command, words[len(command.words) :], prefix, system)
    return ()


def _arguments(command: Command, given: list[str], prefix: str, system: System | None) -> Iterable[str]:
    if given and given[-1] in command.valued:
        return _value(command.valued[given[-1]], prefix)
    if prefix.startswith("-"):
        return [*command.flags, *command.valued]
    positional = [
        word
        for at, word in enumerate(given)
        if not (word.startswith("-") and len(word) > 1) and not (at and given[at - 1] in command.valued)
    ]
    expected = kinds(command)
    if len(positional) < len(expected):
        return _names(command, expected[len(positional)].removesuffix("..."), system)
    if expected and expected[-1].endswith("..."):
        return _names(command, expected[-1].removesuffix("..."), system)
    return ()


def _value(meaning: str, prefix: str) -> Iterable[str]:
    """The values of an option; of a list with commas the last word is completed."""
    if meaning != "options":
        return _VALUES.get(meaning, ())
    before, comma, _ = prefix.rpartition(",")
    return [before + comma + word for word in OPTION_WORDS]


def _names(command: Command, kind: str, system: System | None) -> Iterable[str]:
    if "|" in kind and kind.islower():
        return kind.split("|")
    if kind == "TYPE":
        return _KEY_TYPES
    if kind == "ERRNO":
        return _ERRNOS
    if kind.endswith("=N"):
        return (kind[:-1],)
    if kind in _KEY_KINDS:
        return [*SPECIAL, *_descriptions(system, rings=kind != "KEY")]
    if system is None:
        return ()
    if kind in ("DIR", "NEW", "OLD", "SUPERBLOCK", "DIR|SOURCE"):
        sources = [sb.source for sb in system.superblocks.by_id.values()] if "S" in kind else []
        return [*(mount.path for mount in system.mounts.by_id.values()), *sources]
    if kind in ("DEVICE", "SOURCE"):
        paths = [mount.path for mount in system.mounts.by_id.values()] if kind == "SOURCE" else []  # of --bind
        return [*system.superblocks.devices.by_name, *paths]
    return ()


_KEY_KINDS = frozenset(("KEY", "KEYRING", "FROM", "TO", "DESTINATION"))


def _descriptions(system: System | None, *, rings: bool) -> Iterable[str]:
    if system is None:
        return ()
    keys = system.keys.by_serial.values()
    return [f"%{k.type.name}:{k.description}" for k in keys if not rings or k.type.name == "keyring"]
