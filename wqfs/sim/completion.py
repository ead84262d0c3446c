"""What may come next at the end of a line of the command language, from the table that parses.

`data` is the table for who completes elsewhere; `candidates` completes a line here, and `next_words` words that a
shell has parted already, with the names of a system when they are given: from a System, or from its snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class Names:
    """What a simulated system has, by name. keys: of each its type and its description."""

    mounts: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    processes: tuple[str, ...] = ()

    @classmethod
    def of_system(cls, system: System) -> Names:
        return cls(
            tuple(mount.path for mount in system.mounts.by_id.values()),
            tuple(sb.source for sb in system.superblocks.by_id.values()),
            tuple(system.superblocks.devices.by_name),
            tuple((key.type.name, key.description) for key in system.keys.by_serial.values()),
            tuple(process.name for process in system.processes),
        )

    @classmethod
    def of_snapshot(cls, snapshot: Mapping[str, Any]) -> Names:
        """From the document of sim/snapshot. Raises KeyError and TypeError for another."""
        return cls(
            tuple(mount["mountpoint"] for mount in snapshot["mounts"]),
            tuple(sb["source"] for sb in snapshot["superblocks"]),
            tuple(device["name"] for device in snapshot["devices"]),
            tuple((key["type"], key["description"]) for key in snapshot["keys"]),
            tuple(process["name"] for process in snapshot["processes"]),
        )


NOTHING = Names()


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
    names = NOTHING if system is None else Names.of_system(system)
    return sorted({quote(word) for word in next_words(words, prefix, names)})


def next_words(words: Sequence[str], prefix: str, names: Names = NOTHING) -> list[str]:
    """The words that may come after `words` and begin with `prefix`, sorted, as they are: not quoted."""
    given = list(words)
    while given[:1] == ["as"] and len(given) > 1:
        del given[:2]
    return sorted({word for word in _following(given, prefix, names) if word.startswith(prefix)})


def summary_of(words: Sequence[str]) -> str:
    """What a command does, by its words, in a few; "" for what is no whole command."""
    found = next((command.summary for command in COMMANDS if command.words == tuple(words)), "")
    return re.split(r"[.;:](?: |$)", found, maxsplit=1)[0]


def _following(words: list[str], prefix: str, names: Names) -> Iterable[str]:
    fitting = [command for command in COMMANDS if list(command.words[: len(words)]) == words]
    if any(len(command.words) > len(words) for command in fitting):
        return [command.words[len(words)] for command in fitting if len(command.words) > len(words)]
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return _arguments(command, words[len(command.words) :], prefix, names)
    return ()


def _arguments(command: Command, given: list[str], prefix: str, names: Names) -> Iterable[str]:
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
        return _names(command, expected[len(positional)].removesuffix("..."), names)
    if expected and expected[-1].endswith("..."):
        return _names(command, expected[-1].removesuffix("..."), names)
    return ()


def _value(meaning: str, prefix: str) -> Iterable[str]:
    """The values of an option; of a list with commas the last word is completed."""
    if meaning != "options":
        return _VALUES.get(meaning, ())
    before, comma, _ = prefix.rpartition(",")
    return [before + comma + word for word in OPTION_WORDS]


def _names(command: Command, kind: str, names: Names) -> Iterable[str]:
    if "|" in kind and kind.islower():
        return kind.split("|")
    if kind == "TYPE":
        return _KEY_TYPES
    if kind == "ERRNO":
        return _ERRNOS
    if kind.endswith("=N"):
        return (kind[:-1],)
    if kind in _KEY_KINDS:
        return key_names(names, rings=kind != "KEY")
    if command.words[0] in ("process", "as"):
        return names.processes if kind.startswith("NAME") and command.words[1:] != ("new",) else ()
    if kind in ("DIR", "SUPERBLOCK", "DIR|SOURCE"):
        return [*names.mounts, *(names.sources if "S" in kind else ())]
    if kind in ("DEVICE", "SOURCE"):
        return [*names.devices, *(names.mounts if kind == "SOURCE" else ())]  # a mount of --bind
    return ()


_KEY_KINDS = frozenset(("KEY", "KEYRING", "FROM", "TO", "DESTINATION"))


def key_names(names: Names, *, rings: bool) -> list[str]:
    """How keys can be named; rings: those that are keyrings alone."""
    return [*SPECIAL, *(f"%{type_}:{description}" for type_, description in names.keys
                        if not rings or type_ == "keyring")]  # fmt: skip
