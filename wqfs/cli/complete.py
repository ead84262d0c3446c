"""`wqfs --complete KIND ...`: what the shells' completion asks, not for people.

    wqfs --complete KIND WORD...        the words of the command line after `wqfs`, to the cursor, as the shell
                                        would hand them over; the last is the one to complete, "" for a new one
    wqfs --complete KIND --line LINE    the same from the text of the line, for bash

prints the words that fit, a line each, after a tab what it is, and always ends with 0: a shell that waits for its
prompt wants no error. A mount that does not answer is given up after a moment.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wqfs.cli.command import EXIT_OK, CommandFailed
from wqfs.cli.deadline import TimedOut, within
from wqfs.cli.finding import named_mount, wqfs_mounts
from wqfs.fs.options import option_words
from wqfs.sim.completion import Names, key_names, next_words, summary_of
from wqfs.sim.language import quote

_CURSOR = "\0"
_LIMIT = 1.0  # seconds that a mount may take; a Tab should not take longer

Found = Iterable[tuple[str, str]]
"""Words, each with what it is or ""."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns 0."""
    kind, *words = arguments if arguments else [""]
    if words[:1] == ["--line"]:
        words = split_line(words[1] if len(words) > 1 else "")
    complete = KINDS.get(kind)
    if complete is not None and words:
        for word, what in complete(words):
            if word.startswith(words[-1]) and word.isprintable():
                sys.stdout.write(f"{word}\t{what}\n" if what else f"{word}\n")
    return EXIT_OK


def split_line(line: str) -> list[str]:
    """The words of a command line after the program, to its end, as a shell parts them; a quote may be open."""
    for closing in ("", "'", '"'):
        # The cursor as a character: the word that has it is the one to complete, also one that begins there.
        lexer = shlex.shlex(line + _CURSOR + closing, posix=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        with suppress(ValueError):
            *words, last = lexer
            return [*words, last.replace(_CURSOR, "")][1:]
    return []


def _mount(words: Sequence[str]) -> str | None:
    """The mount that a command line means, None where there is none or it is not clear."""
    named = os.environ.get("WQFS_MOUNT")
    for at, word in enumerate(words[:-1]):
        if word == "--mount" and at + 1 < len(words) - 1:
            named = words[at + 1]
        elif word.startswith("--mount="):
            named = word.partition("=")[2]
    try:
        if named:
            return named_mount(os.path.expanduser(named)).mountpoint
    except (CommandFailed, OSError):
        return None
    there = wqfs_mounts()
    return there[0].mountpoint if len(there) == 1 else None


def _asked(words: Sequence[str], ask: Callable[[str], Any]) -> Any:
    """What `ask(mountpoint)` says, None where nothing is mounted or nothing came in time."""
    mountpoint = _mount(words)
    if mountpoint is None:
        return None
    try:
        answer = within(_LIMIT, lambda: ask(mountpoint))
    except OSError:
        return None
    return None if isinstance(answer, TimedOut) else answer


def _names(words: Sequence[str]) -> Names:
    snapshot = _asked(words, lambda mountpoint: json.loads(Path(mountpoint, "sim/snapshot").read_bytes()))
    return Names.of_snapshot(snapshot) if snapshot else Names()


# -- the kinds


def _watches(words: Sequence[str]) -> Found:
    names = _asked(words, lambda mountpoint: sorted(os.listdir(os.path.join(mountpoint, "watches"))))
    return [(name, "") for name in names or () if name not in words[:-1]]


def _post(words: Sequence[str]) -> Found:
    """The language of `post`, whose words begin after the command's own options."""
    at = words.index("post") + 1 if "post" in words[:-1] else 0
    while at < len(words) - 1 and words[at].startswith("-"):
        at += 2 if words[at] == "--mount" else 1
    given, prefix = list(words[at:-1]), words[-1]
    if at >= len(words) or (not given and prefix.startswith("-")):
        return []
    return [(word, summary_of([*given, word])) for word in next_words(given, prefix, _names(words))]


def _options(words: Sequence[str]) -> Found:
    """What may stand after `-o` when mounting: the last word of a list with commas."""
    before, comma, _ = words[-1].rpartition(",")
    given = before.split(",")
    return [(before + comma + word, what) for word, what in option_words() if word not in given]


def _scenarios(words: Sequence[str]) -> Found:
    from wqfs.cli.play import shipped  # late: no other kind needs TOML

    return [(name, scenario.title) for name, scenario in shipped()]


def _condition_names(words: Sequence[str]) -> Found:
    """NAME of `wqfs wait CONDITION NAME`."""
    names = _names(words)
    if any(word.startswith("key-") for word in words[:-1]):
        return [(word, "") for word in key_names(names, rings=False)]
    sources = names.sources if "error" in words[:-1] else ()
    return [(word, "") for word in dict.fromkeys(itertools.chain(names.mounts, sources))]


def _objects(words: Sequence[str]) -> Found:
    """A line of `objects`, in one word."""
    names = _names(words)
    lines = ["devices", "everything"]
    lines += [f"{kind} {quote(path)}" for kind in ("mount", "sb") for path in names.mounts]
    lines += [f"key {quote(key)}" for key in key_names(names, rings=False)]
    return [(line, "") for line in lines]


def _mounts(words: Sequence[str]) -> Found:
    return [(mount.mountpoint, "a mount of wqfs") for mount in wqfs_mounts()]


KINDS: dict[str, Callable[[Sequence[str]], Found]] = {
    "watch": _watches,
    "post": _post,
    "options": _options,
    "scenario": _scenarios,
    "condition-name": _condition_names,
    "object": _objects,
    "mount": _mounts,
}
"""What scripts/completions.py makes the shells ask for."""
