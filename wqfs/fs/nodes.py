"""The tree: names, numbers and modes, and nothing that happens.

Node numbers are computed, never tied to an object's identity: fixed places have 1..31; the watch
with number n has (n + 1) * 16 for its directory and the next for its files. Numbers of watches are
not used again, so a node number names the same thing for the life of the mount.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_WATCH_SHIFT: Final = 4
_FILE_MASK: Final = (1 << _WATCH_SHIFT) - 1


@dataclass(frozen=True, slots=True)
class Place:
    """One name of the tree. path: as users see it below the mountpoint, NAME for a watch's name;
    mode: permission bits before umask; number: of the node, or within its watch; stream: whether
    the size is a made-up one (ABI.md, 3)."""

    path: str
    mode: int
    number: int
    stream: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def __reduce__(self) -> tuple[Callable[[str], Place], tuple[str]]:
        """A copy is the same one: there is one of each."""
        return place_at, (self.path,)


def _directory(path: str, mode: int, number: int) -> Place:
    return Place(path, stat.S_IFDIR | mode, number)


def _file(path: str, mode: int, number: int, *, stream: bool = False) -> Place:
    return Place(path, stat.S_IFREG | mode, number, stream)


ROOT: Final = _directory("", 0o755, 1)
ROOT_QUEUE: Final = _file("queue", 0o600, 2, stream=True)
POST: Final = _file("post", 0o200, 3)
WATCHES: Final = _directory("watches", 0o755, 4)
SIM: Final = _directory("sim", 0o755, 5)
ERRORS: Final = _file("errors", 0o400, 6)
METRICS: Final = _file("metrics", 0o444, 7)
MOUNTINFO: Final = _file("sim/mountinfo", 0o444, 8)
SUPERBLOCKS: Final = _file("sim/superblocks", 0o444, 9)
KEYS: Final = _file("sim/keys", 0o444, 10)
KEY_USERS: Final = _file("sim/key-users", 0o444, 11)
SNAPSHOT: Final = _file("sim/snapshot", 0o444, 12)
RECORDS: Final = _file("sim/records", 0o200, 13)
CALLS: Final = _file("sim/calls", 0o600, 14, stream=True)

WATCH: Final = _directory("watches/NAME", 0o700, 0)
QUEUE: Final = _file("watches/NAME/queue", 0o600, 1, stream=True)
EVENTS: Final = _file("watches/NAME/events", 0o400, 2, stream=True)
LOG: Final = _file("watches/NAME/log", 0o400, 3)
OBJECTS: Final = _file("watches/NAME/objects", 0o600, 4)
FILTER: Final = _file("watches/NAME/filter", 0o600, 5)
DEPTH: Final = _file("watches/NAME/depth", 0o600, 6)
STATUS: Final = _file("watches/NAME/status", 0o400, 7)

FIXED: Final = {
    place.number: place
    for place in (
        ROOT, ROOT_QUEUE, POST, WATCHES, SIM, ERRORS, METRICS,
        MOUNTINFO, SUPERBLOCKS, KEYS, KEY_USERS, SNAPSHOT, RECORDS, CALLS,
    )
}  # fmt: skip
OF_A_WATCH: Final = {place.number: place for place in (WATCH, QUEUE, EVENTS, LOG, OBJECTS, FILTER, DEPTH, STATUS)}
_BY_PATH: Final = {place.path: place for place in (*FIXED.values(), *OF_A_WATCH.values())}
CHILDREN: Final = {
    ROOT: (ROOT_QUEUE, POST, WATCHES, SIM, ERRORS, METRICS),
    SIM: (MOUNTINFO, SUPERBLOCKS, KEYS, KEY_USERS, SNAPSHOT, RECORDS, CALLS),
    WATCH: (QUEUE, EVENTS, LOG, OBJECTS, FILTER, DEPTH, STATUS),
}
"""What each directory always holds; `watches` holds the watches."""
OF_MOUNTS: Final = frozenset((MOUNTINFO, SUPERBLOCKS, SNAPSHOT))
"""What shows mounts, superblocks and devices; the owner's alone with `private_mounts`."""
PARENT: Final = {child: parent for parent, children in CHILDREN.items() for child in children}


def node_number(place: Place, watch_number: int = 0) -> int:
    """The node number of a place; of a watch's place with the watch's number."""
    return place.number if not watch_number else (watch_number + 1 << _WATCH_SHIFT) + place.number


def place_at(path: str) -> Place:
    """The place with that path. Raises KeyError."""
    return _BY_PATH[path]


def place_of(node: int) -> tuple[Place, int]:
    """(place, watch number or 0) of a node number. Raises KeyError for a number of nothing."""
    watch_number = (node >> _WATCH_SHIFT) - 1
    if watch_number < 1:
        return FIXED[node], 0
    return OF_A_WATCH[node & _FILE_MASK], watch_number
