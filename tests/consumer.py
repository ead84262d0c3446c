"""A consumer as a real one must be: it keeps a copy of the mount tree up to date from the records of a
watch at the root, looks single mounts up as statmount(2) would give them, and re-reads all of mountinfo
only after a loss record.

The parser of mountinfo here is the tests' own, from proc(5), and shares nothing with what writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from wqfs.abi import records as r

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Line:
    """One line of mountinfo, its fields in order."""

    id: int
    parent: int
    device: str
    root: str
    mountpoint: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        return "ro" in self.options


def parse_mountinfo(text: str) -> dict[int, Line]:
    """The lines by id. Fails on anything that proc(5) does not have."""
    lines: dict[int, Line] = {}
    assert text.endswith("\n")
    for raw in text[:-1].split("\n"):
        fields = raw.split(" ")
        dash = fields.index("-", 6)
        head, optional, tail = fields[:6], fields[6:dash], fields[dash + 1 :]
        assert len(tail) == 3, raw
        assert re.fullmatch(r"\d+:\d+", head[2]), raw
        assert all(re.fullmatch(r"(shared|master|propagate_from):\d+|unbindable", field) for field in optional), raw
        line = Line(
            int(head[0]), int(head[1]), head[2], _plain(head[3]), _plain(head[4]), tuple(head[5].split(",")),
            tuple(optional), _plain(tail[0]), _plain(tail[1]), tuple(_plain(tail[2]).split(",")),
        )  # fmt: skip
        assert line.id not in lines, f"two mounts have the id {line.id}"
        lines[line.id] = line
    return lines


def _plain(field: str) -> str:
    """A field without escapes, which must hide every blank, tab, newline and backslash."""
    assert not re.search(r"[ \t\n]|\\(?![0-7]{3})", field), field
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


State = tuple[int, str, bool]
"""Of a mount: parent, mountpoint, read-only."""


def state_of(lines: dict[int, Line]) -> dict[int, State]:
    """What a consumer keeps of all mounts."""
    return {line.id: (line.parent, line.mountpoint, line.read_only) for line in lines.values()}


class Consumer:
    """read: gives the records that are queued, raw, b"" for none; mountinfo: the file's text.

    copy: the tree as it is known; reread: how often all of it was read again.
    """

    def __init__(self, read: Callable[[], bytes], mountinfo: Callable[[], str]) -> None:
        self._read = read
        self._mountinfo = mountinfo
        self.copy: dict[int, State] = state_of(parse_mountinfo(mountinfo()))
        self.reread = 0

    def consume(self) -> None:
        """Apply all that is queued."""
        while data := self._read():
            for record in r.decode(data):
                self._apply(record)

    def _apply(self, record: r.Record) -> None:
        if record.type == r.WatchType.META:
            if record.subtype == r.MetaSubtype.LOSS:
                self.copy = state_of(parse_mountinfo(self._mountinfo()))
                self.reread += 1
            return
        assert record.type == r.WatchType.MOUNT_NOTIFY
        triggered_on, auxiliary = r.MOUNT_BODY.unpack(record.body)
        if record.subtype == r.MountSubtype.UNMOUNT:
            # A lazy unmount takes all below with it, of which a watch above hears no more; and what was
            # mounted on a copy that goes slips down to where that was.
            self._look_up(self._with_all_below(auxiliary))
        elif record.subtype == r.MountSubtype.NEW_MOUNT:
            self._look_up({auxiliary})
            place = self.copy.get(auxiliary)
            if place is not None:  # a copy may slip below what is mounted there already
                self._look_up({id_ for id_, state in self.copy.items() if state[:2] == place[:2] and id_ != auxiliary})
        elif record.subtype in (r.MountSubtype.MOVE_FROM, r.MountSubtype.MOVE_TO):
            self._look_up(self._with_all_below(auxiliary))
        elif record.subtype in (r.MountSubtype.READONLY, r.MountSubtype.SETATTR):
            self._look_up({triggered_on})

    def _look_up(self, ids: set[int]) -> None:
        """Ask for single mounts; one that is gone by now is forgotten, its unmount may still come."""
        if not ids:
            return
        lines = parse_mountinfo(self._mountinfo())
        while ids:
            id_ = ids.pop()
            if id_ in lines:
                self.copy[id_] = state_of({id_: lines[id_]})[id_]
            elif id_ in self.copy:
                del self.copy[id_]
                # What was below it may have gone with it, or have slipped down.
                ids |= {each for each, (parent, _, _) in self.copy.items() if parent == id_}

    def _with_all_below(self, top: int) -> set[int]:
        found = {top}
        while more := {id_ for id_, (parent, _, _) in self.copy.items() if parent in found} - found:
            found |= more
        return found
