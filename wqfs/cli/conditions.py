"""What `wqfs wait` waits for: each condition looks at the state after every single event."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from wqfs.cli.command import CommandFailed
from wqfs.cli.following import Followed, Thing
from wqfs.cli.watching import Event

MEANINGS = {
    "mounted": "something is mounted at the folder NAME",
    "unmounted": "nothing is mounted at the folder NAME",
    "readonly": "the mount at the folder NAME is read-only, itself or by its superblock",
    "writable": "it is not",
    "error": "the superblock NAME (folder, source or id) has an error, or since --since-seq a further one",
    "key-present": "there is a key NAME: serial number, description, or %TYPE:DESCRIPTION",
    "key-changed": "the key NAME changes or goes: from now on, or since --since-seq",
    "key-gone": "there is no such key, or it is revoked, expired or invalidated",
}
SINCE = ("error", "key-changed")
"""The conditions that --since-seq is for."""


class Condition(ABC):
    """rules: the filter of a watch that hears of all that may fulfil it; looks_again: it may come to hold by the
    clock alone, of which no event tells."""

    rules: Sequence[str] = ("mount *", "sb *")
    looks_again = False

    @abstractmethod
    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        """What fulfils it. event: the one that made the state so; None for the first look, and for any other
        look that no event asked for."""


class _AtFolder(Condition):
    def __init__(self, name: str) -> None:
        if not name.startswith("/"):
            raise CommandFailed(f"expected an absolute folder of the simulated system, not {name!r}.")
        self._path = os.path.normpath(name).replace("//", "/")


class _Mounted(_AtFolder):
    def __init__(self, name: str, wanted: bool) -> None:
        super().__init__(name)
        self._wanted = wanted

    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        mount = state.mounted_at(self._path)
        if self._wanted:
            return mount
        return {"mountpoint": self._path} if mount is None else None


class _ReadOnly(_AtFolder):
    def __init__(self, name: str, wanted: bool) -> None:
        super().__init__(name)
        self._wanted = wanted

    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        mount = state.mounted_at(self._path)
        return mount if mount is not None and state.is_read_only(mount) is self._wanted else None


class _Error(Condition):
    def __init__(self, name: str, since: int | None) -> None:
        self._name = name
        self._path = os.path.normpath(name).replace("//", "/") if name.startswith("/") else ""
        self._since = since or 0

    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        if event is not None and event["type"] == "sb" and event["event"] == "error" and "sb" in event:
            known = state.superblocks.get(event["sb"])
            # One that came and went between two looks is told by its event alone.
            source, place = (known["source"], "") if known else (event.get("source", ""), event.get("mountpoint", ""))
            if self._is_meant(state, event["sb"], source) or (place and place == self._path):
                return event
        for superblock in state.superblocks.values():
            if superblock["last_error"] > self._since and self._is_meant(state, superblock["id"], superblock["source"]):
                return superblock
        return None

    def _is_meant(self, state: Followed, id_: int, source: str) -> bool:
        mount = state.mounted_at(self._path) if self._path else None
        return self._name in (source, str(id_)) or (mount is not None and mount["sb"] == id_)


class _Key(Condition):
    rules = ("key *",)

    def __init__(self, name: str) -> None:
        self._name = name
        self._typed = re.fullmatch(r"%([^:]*):(.*)", name, re.DOTALL)

    def _keys(self, state: Followed) -> Iterator[Thing]:
        return (key for key in state.keys.values() if self._is_meant(key))

    def _is_meant(self, key: Thing) -> bool:
        if self._typed:
            return (key["type"] or "", key["description"]) == (self._typed[1] or "keyring", self._typed[2])
        return self._name in (str(key["serial"]), key["description"])


class _KeyPresent(_Key):
    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        return next((key for key in self._keys(state) if key["state"] == "ok"), None)


class _KeyGone(_Key):
    looks_again = True

    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        there = any(key["state"] == "ok" for key in self._keys(state))
        return None if there else {"description": self._name}


class _KeyChanged(_Key):
    def __init__(self, name: str, since: int | None) -> None:
        super().__init__(name)
        self._since = since
        self._before: dict[int, Thing] | None = None

    def holds(self, state: Followed, event: Event | None) -> Thing | None:
        found = {key["serial"]: dict(key) for key in self._keys(state)}
        before, self._before = self._before, found
        if before is None:  # the first look
            since = self._since
            return next((key for key in found.values() if since is not None and key["changed"] > since), None)
        gone = next((key for serial, key in before.items() if serial not in found), None)
        return gone or next(
            (key for serial, key in found.items() if key["changed"] != before.get(serial, {"changed": 0})["changed"]),
            None,
        )


_MADE: dict[str, Callable[[str, int | None], Condition]] = {
    "mounted": lambda name, since: _Mounted(name, True),
    "unmounted": lambda name, since: _Mounted(name, False),
    "readonly": lambda name, since: _ReadOnly(name, True),
    "writable": lambda name, since: _ReadOnly(name, False),
    "error": _Error,
    "key-present": lambda name, since: _KeyPresent(name),
    "key-changed": _KeyChanged,
    "key-gone": lambda name, since: _KeyGone(name),
}


def condition(word: str, name: str, since: int | None) -> Condition:
    """The condition `word` of MEANINGS for NAME; since: of --since-seq. Raises CommandFailed for a wrong NAME."""
    return _MADE[word](name, since)
