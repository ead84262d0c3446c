"""`wqfs wait`: wait until a condition holds, whether it does already or comes to hold later.

Race-free: it subscribes first, then reads the state, then the events with a higher number.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wqfs.cli.command import EXIT_OK, EXIT_TIMED_OUT, CommandFailed, Parser, parser, seconds
from wqfs.cli.finding import find_mount
from wqfs.cli.watching import Event, OwnWatch

Snapshot = dict[str, Any]

CONDITIONS = {
    "mounted": "something is mounted at the folder NAME",
    "unmounted": "nothing is mounted at the folder NAME",
    "readonly": "the mount at the folder NAME is read-only, itself or by its superblock",
    "writable": "it is not",
    "error": "the superblock NAME (folder, source or id) has an error, or since --since-seq a further one",
    "key-present": "there is a key NAME: serial number, description, or %%TYPE:DESCRIPTION",
    "key-changed": "the key NAME changes: from now on, or since --since-seq",
    "key-gone": "there is no such key, or it is revoked, expired or invalidated",
}


def make_parser() -> Parser:
    """The command's parser."""
    listed = "\n".join(f"  {name:<12} {meaning}" for name, meaning in CONDITIONS.items()).replace("%%", "%")
    options = parser(
        "wait",
        f"Wait until a condition holds. If it does already, return at once; one that held for a moment only while\n"
        f"this command waited counts as well.\n\n{listed}",
        "exit codes: 0 it holds; 1 error or usage; 2 timed out; 130 Ctrl-C",
    )
    options.add_argument("condition", metavar="CONDITION", choices=tuple(CONDITIONS), help=", ".join(CONDITIONS))
    options.add_argument("name", metavar="NAME", help="the folder, superblock or key")
    options.add_argument("--timeout", "-t", metavar="SECONDS", type=seconds, help="wait no longer than this")
    options.add_argument(
        "--since-seq",
        metavar="N",
        type=int,
        help="for error and key-changed: only what changed after event N, such as `seq` of sim/snapshot",
    )
    options.add_argument("--print", action="store_true", help="print the mount, superblock or key as JSON")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = make_parser()
    given = options.parse_args(arguments)
    if given.since_seq is not None and given.condition not in ("error", "key-changed"):
        options.error("--since-seq is for error and key-changed")
    mount = find_mount(given.mount)
    own = OwnWatch(mount, "wait", ["everything"], _RULES[given.condition].splitlines(), None)
    try:
        found = _wait(mount, own, given)
    finally:
        own.close()
    if found is None:
        print(f"wqfs wait: {given.name}: not {given.condition} within {given.timeout:g} s", file=sys.stderr)
        return EXIT_TIMED_OUT
    if given.print:
        print(json.dumps(found, separators=(",", ":")))
    return EXIT_OK


_MOUNTS = "mount *"
_RULES = {
    "mounted": _MOUNTS,
    "unmounted": _MOUNTS,
    "readonly": f"{_MOUNTS}\nsb *",
    "writable": f"{_MOUNTS}\nsb *",
    "error": "sb error\nmount *",
    "key-present": "key *",
    "key-changed": "key *",
    "key-gone": "key *",
}


def _wait(mount: Path, own: OwnWatch, given: argparse.Namespace) -> Any:
    """What fulfilled the condition; None when the time was over first."""
    deadline = None if given.timeout is None else time.monotonic() + given.timeout
    poll = select.poll()
    poll.register(own, select.POLLIN)
    condition = _Condition(given.condition, given.name, given.since_seq)
    while True:
        # Events are read before the snapshot: it includes them, and what comes after wakes the poll.
        events = own.events()
        snapshot = _snapshot(mount)
        found = condition.holds(snapshot, events)
        if found is not None:
            return found
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return None
        # A removed or detached watch hangs up; keys expire by the clock, and the mount wakes us by an event.
        ready = poll.poll(None if left is None else left * 1000)
        if any(bits & ~select.POLLIN for _, bits in ready):
            raise CommandFailed("the mount ended while waiting.")


def _snapshot(mount: Path) -> Snapshot:
    try:
        snapshot: Snapshot = json.loads((mount / "sim/snapshot").read_bytes())
    except OSError as error:
        raise CommandFailed(f"cannot read {mount / 'sim/snapshot'}: {error.strerror}.") from None
    return snapshot


class _Condition:
    """since: the event after which a change counts; None for from the first look on, or for ever."""

    def __init__(self, word: str, name: str, since: int | None) -> None:
        self._name = name
        self._since = since
        self._first = True
        self._there: set[int] = set()  # the mounts at the folder, by id
        look: dict[str, Callable[[Snapshot, list[Event]], Any]] = {
            "mounted": self._mounted,
            "unmounted": self._unmounted,
            "readonly": lambda snapshot, events: self._read_only(snapshot, events, True),
            "writable": lambda snapshot, events: self._read_only(snapshot, events, False),
            "error": self._error,
            "key-present": self._key_present,
            "key-changed": self._key_changed,
            "key-gone": self._key_gone,
        }
        self._look = look[word]
        if not word.startswith("key") and word != "error":
            if not name.startswith("/"):
                raise CommandFailed(f"expected an absolute folder of the simulated system, not {name!r}.")
            self._name = os.path.normpath(name)

    def holds(self, snapshot: Snapshot, events: list[Event]) -> Any:
        """What fulfils it, None if nothing does. events: those since the last call, none at the first."""
        found = self._look(snapshot, [] if self._first else events)
        self._first = False
        return found

    # -- mounts

    def _at(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """The mounts at the folder, the topmost last."""
        mounts: list[dict[str, Any]] = snapshot["mounts"]
        return [mount for mount in mounts if mount["mountpoint"] == self._name]

    def _mounted(self, snapshot: Snapshot, events: list[Event]) -> Any:
        for event in events:
            if event["event"] in ("new_mount", "move_to") and event.get("mountpoint") == self._name:
                return event
        return next(reversed(self._at(snapshot)), None)

    def _unmounted(self, snapshot: Snapshot, events: list[Event]) -> Any:
        for event in events:
            if event.get("mountpoint") != self._name:
                continue
            if event["event"] in ("new_mount", "move_to"):
                self._there.add(event["auxiliary_mount"])
            elif event["event"] in ("unmount", "move_from"):
                self._there.discard(event["auxiliary_mount"])
                if not self._there:
                    return event
        self._there = {mount["id"] for mount in self._at(snapshot)}
        return None if self._there else {"mountpoint": self._name}

    def _read_only(self, snapshot: Snapshot, events: list[Event], wanted: bool) -> Any:
        for mount in self._at(snapshot)[-1:]:
            superblock = next(sb for sb in snapshot["superblocks"] if sb["id"] == mount["sb"])
            if ("ro" in mount["options"] or superblock["read_only"]) is wanted:
                return mount
        return None

    # -- superblocks

    def _error(self, snapshot: Snapshot, events: list[Event]) -> Any:
        ids = {mount["sb"] for mount in self._at(snapshot)[-1:]}
        for superblock in snapshot["superblocks"]:
            if superblock["id"] in ids or self._name in (superblock["source"], str(superblock["id"])):
                for event in events:
                    if event["type"] == "sb" and event["event"] == "error" and event["sb"] == superblock["id"]:
                        return event
                if superblock["state"] == "error" and superblock["changed"] > (self._since or 0):
                    return superblock
        return None

    # -- keys

    def _keys(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        typed = re.fullmatch(r"%([^:]*):(.*)", self._name, re.DOTALL)
        keys: list[dict[str, Any]] = snapshot["keys"]
        if typed:
            return [key for key in keys if (key["type"], key["description"]) == (typed[1], typed[2])]
        return [key for key in keys if self._name in (str(key["serial"]), key["description"])]

    def _key_present(self, snapshot: Snapshot, events: list[Event]) -> Any:
        return next((key for key in self._keys(snapshot) if key["state"] == "ok"), None)

    def _key_gone(self, snapshot: Snapshot, events: list[Event]) -> Any:
        return None if self._key_present(snapshot, events) else {"description": self._name}

    def _key_changed(self, snapshot: Snapshot, events: list[Event]) -> Any:
        if self._since is None:
            self._since = snapshot["seq"]
        return next((key for key in self._keys(snapshot) if key["changed"] > (self._since or 0)), None)
