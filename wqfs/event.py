"""Events: what happened, once, and how a watch with one ID sees it, as bytes and as text.

An Event is made by the simulated system and has a number, one count for the whole mount. A Notice
is the event under one watch ID with one set of flags; all watches that see it the same share it,
so that a thousand watches cost a thousand references. Text is made when somebody reads it.

Stream and Log are the text's two shapes: what an open `events` has still to give, and the file
`log`. Neither filters: what arrives has passed.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from select import POLLHUP
from typing import Any, Protocol

from wqfs.abi import records as r
from wqfs.abi.errors import ERRNO_NAMES
from wqfs.abi.polling import READABLE
from wqfs.kept import LINE_KEPT, NOTICE_BYTES, Account, Batch, Kept

NameValue = str | int | bool
_INT_MAX = 0x7FFFFFFF


class Notice:
    """An event as one watch sees it: its record, and its line of JSON once somebody wants it."""

    __slots__ = ("_line", "event", "record")

    def __init__(self, event: Event, record: bytes) -> None:
        self.event = event
        self.record = record
        self._line: bytes | None = None

    @property
    def number(self) -> int:
        return self.event.number

    def line(self) -> bytes:
        """One JSON object and a newline.

        Always: seq, time (seconds, 6 decimals), id, type, event, flags. Then the ids of the record
        by the names of its structure, then the names known when it happened.
        """
        if self._line is None:
            line = _line(self.event, self.record)
            if len(line) > LINE_KEPT:
                return line
            self._line = line
        return self._line


class Event:
    """Something that happened; and what a watch sees of it that has the ID 0 and no flags of its own.

    number: from 1, one count for the mount; time_ns: nanoseconds since the epoch; record: the
    bytes with watch ID 0 and the flags that every watch gets; names: what `events` adds, as known
    at that moment (mountpoint, source, description); batch: where its bytes are counted.
    """

    __slots__ = ("_batch", "_line", "names", "number", "record", "time_ns")

    def __init__(
        self, number: int, time_ns: int, record: bytes, names: Mapping[str, NameValue], batch: Batch | None = None
    ) -> None:
        self._batch = batch
        self.number = number
        self.time_ns = time_ns
        self.record = record
        self.names = names
        self._line: bytes | None = None

    def notice(self, bits: int = 0) -> Notice | Event:
        """The event as a watch sees it. bits: the watch's ID and its own flags, as in `info`."""
        if not bits:
            return self
        if self._batch is not None:
            self._batch.add(NOTICE_BYTES)
        return Notice(self, record_under(self.record, bits))

    def without(self, name: str) -> Event:
        """The same event for who may not know one of its names."""
        names = {each: value for each, value in self.names.items() if each != name}
        return Event(self.number, self.time_ns, self.record, names, self._batch)

    def line(self) -> bytes:
        """As Notice.line."""
        if self._line is None:
            line = _line(self, self.record)
            if len(line) > LINE_KEPT:
                return line
            self._line = line
        return self._line


Told = Notice | Event
"""What watches are told: `number`, `record` and `line()`."""


def record_under(record: bytes, bits: int) -> bytes:
    """A record with more bits in its `info`."""
    if not bits:
        return record
    word, info = r.HEADER.unpack_from(record)
    return r.HEADER.pack(word, info | bits) + record[r.RECORD_MIN :]


class Many(Protocol):
    """Events that one watch hears at once: see wqfs.together.Part, which says what these are."""

    count: int

    def first(self, count: int, /) -> list[Told]: ...

    def last(self, count: int, /) -> list[Told]: ...

    @property
    def is_plain(self) -> bool: ...

    @property
    def last_number(self) -> int: ...


def _line(event: Event, record: bytes) -> bytes:
    word, info = r.HEADER.unpack_from(record)
    type_, subtype = word & 0xFFFFFF, word >> 24
    flag_type = r.FLAGS.get(type_)
    members: dict[str, object] = {
        "seq": event.number,
        "time": event.time_ns // 1000 / 1_000_000,
        "id": (info & r.WATCH_INFO_ID) >> r.WATCH_INFO_ID__SHIFT,
        "type": r.TYPE_WORDS.get(type_, type_),
        "event": event_word(type_, subtype),
        "flags": [f.name for f in flag_type if info & f] if flag_type else [],
    }
    members.update(_body(type_, subtype, record[r.RECORD_MIN :]))
    if info & ~_SAID.get(type_, _SAID_OF_ALL) or "\ufffd" in str(members.get("text", "")):
        members["record"] = record.hex()  # the words do not say it all
    members.update(event.names)
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


_SAID_OF_ALL = r.WATCH_INFO_LENGTH | r.WATCH_INFO_ID
_SAID = {type_: sum(flags) | _SAID_OF_ALL for type_, flags in r.FLAGS.items()}
"""Of each type, the bits of `info` that its line has words for."""
_TYPES = {word: type_ for type_, word in r.TYPE_WORDS.items()}
_ERRNOS = {name: number for number, name in ERRNO_NAMES.items()}


def record_of(line: Mapping[str, Any]) -> bytes:
    """The record that an event's line, parsed, was made of, to the byte; b"" for a gap (`lost`, `cut`).

    Raises ValueError for what is no such line.
    """
    try:
        if "record" in line:
            return bytes.fromhex(line["record"])
        if line["type"] == "meta" and line["event"] in ("lost", "cut"):
            return b""
        type_ = _TYPES.get(line["type"], line["type"])
        subtype = line["event"]
        if isinstance(subtype, str):
            subtype = int(r.SUBTYPES[type_][subtype.upper()])
        flags = sum(r.FLAGS[type_][name] for name in line["flags"])
        return r.encode(type_, subtype, _body_of(type_, line), flags=flags, watch_id=line["id"])
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"no line of an event: {error}") from None


def _body_of(type_: int, line: Mapping[str, Any]) -> bytes:
    """The inverse of _body."""
    if "body" in line:
        return bytes.fromhex(line["body"])
    if type_ == r.WatchType.SB_NOTIFY and "error" in line:
        number = _ERRNOS.get(line["error"], line["error"])
        return r.SB_ERROR_BODY.pack(line["sb"], number, line["cookie"]) + bytes(line["text"], "utf-8")
    for shape, names in _SHAPES.get(type_, ()):
        if names[0] in line:
            return shape.pack(*(line[name] for name in names))
    return b""


_SHAPES: dict[int, tuple[tuple[struct.Struct, tuple[str, ...]], ...]] = {
    r.WatchType.KEY_NOTIFY: ((r.KEY_BODY, ("key", "aux")),),
    r.WatchType.MOUNT_NOTIFY: ((r.MOUNT_BODY, ("triggered_on", "auxiliary_mount")),),
    r.WatchType.SB_NOTIFY: ((r.SB_BODY, ("sb",)),),
    r.WatchType.BLOCK_NOTIFY: ((r.BLOCK_BODY, ("dev", "sector")),),
    r.WatchType.META: ((r.REMOVAL_BODY, ("object",)),),
}


def event_word(type_: int, subtype: int) -> str | int:
    """The word for an event in `events`, `filter` and commands: `new_mount`; a number if unknown."""
    try:
        return r.SUBTYPES[type_](subtype).name.lower()
    except (KeyError, ValueError):
        return subtype


def _body(type_: int, subtype: int, body: bytes) -> dict[str, object]:
    """The body by the kernel's member names; as hexadecimal digits where it has no such shape."""
    size = len(body)
    if type_ == r.WatchType.KEY_NOTIFY and size == r.KEY_BODY.size:
        return dict(zip(("key", "aux"), r.KEY_BODY.unpack(body), strict=True))
    if type_ == r.WatchType.MOUNT_NOTIFY and size == r.MOUNT_BODY.size:
        return dict(zip(("triggered_on", "auxiliary_mount"), r.MOUNT_BODY.unpack(body), strict=True))
    if type_ == r.WatchType.SB_NOTIFY and subtype == r.SbSubtype.ERROR and size >= r.SB_ERROR_BODY.size:
        sb, number, cookie = r.SB_ERROR_BODY.unpack_from(body)
        return {
            "sb": sb,
            "error": ERRNO_NAMES.get(number, number),
            "error_text": os.strerror(number) if number <= _INT_MAX else f"Unknown error {number}",
            "cookie": cookie,
            "text": body[r.SB_ERROR_BODY.size :].decode("utf-8", "replace"),
        }
    if type_ == r.WatchType.SB_NOTIFY and size == r.SB_BODY.size:
        return {"sb": r.SB_BODY.unpack(body)[0]}
    if type_ == r.WatchType.BLOCK_NOTIFY and size == r.BLOCK_BODY.size:
        return dict(zip(("dev", "sector"), r.BLOCK_BODY.unpack(body), strict=True))
    if type_ == r.WatchType.META and size == r.REMOVAL_BODY.size:
        return {"object": r.REMOVAL_BODY.unpack(body)[0]}
    return {"body": body.hex()} if body else {}


class Gap:
    """Events that are not there. word: `lost` or `cut`; count: how many; last: the last one's number."""

    __slots__ = ("count", "last", "word")

    def __init__(self, word: str, count: int, last: int) -> None:
        self.word = word
        self.count = count
        self.last = last

    def line(self) -> bytes:
        """One JSON object and a newline: type `meta`, event and member named by the word."""
        members = {
            "seq": self.last,
            "id": 0,
            "type": "meta",
            "event": self.word,
            "flags": [],
            self.word: self.count,
        }
        return json.dumps(members, separators=(",", ":")).encode() + b"\n"


class NoRoom(Exception):
    """The rest of a line that would be read in part cannot be kept; nothing was read."""


class Stream:
    """What one open of `events` has still to give: a plain stream of bytes.

    limit: events kept while nobody reads. Later ones are lost; a line says how many, where they
    are missing. kept: where the rest of a long line is counted that was read in part.
    """

    __slots__ = ("_counted", "_kept", "_ring", "_text", "limit", "on_change")

    def __init__(self, limit: int, kept: Account | None = None) -> None:
        self.limit = limit
        self._kept = kept
        self._counted = 0
        self._ring: deque[Told | Gap] = deque()
        self._text = b""
        self.on_change: Callable[[Stream], object] | None = None
        """Called when something was queued; None while nobody waits."""

    def push(self, notice: Told) -> None:
        ring = self._ring
        if len(ring) >= self.limit:
            newest = ring[-1]
            if isinstance(newest, Gap):
                newest.count += 1
                newest.last = notice.number
            else:
                ring.append(Gap("lost", 1, notice.number))
            return
        ring.append(notice)
        if self.on_change is not None:
            self.on_change(self)

    def push_part(self, part: Many) -> None:
        """`push` for many at once."""
        ring = self._ring
        room = max(0, self.limit - len(ring))
        if part.count:
            ring.extend(part.first(room))
            lost = part.count - room
            if lost > 0:
                newest = ring[-1]
                if not isinstance(newest, Gap):
                    newest = Gap("lost", 0, 0)
                    ring.append(newest)
                newest.count += lost
                newest.last = part.last_number
            if room and self.on_change is not None:
                self.on_change(self)

    @property
    def held(self) -> int:
        """How much it keeps, in events."""
        return len(self._ring)

    def drop(self, last: int) -> None:
        """Lose all that was not read. last: the number of the last event."""
        count = sum(each.count if isinstance(each, Gap) else 1 for each in self._ring)
        self._ring.clear()
        if count:
            self._ring.append(Gap("lost", count, last))

    def read(self, size: int) -> bytes | None:
        """Up to `size` bytes, wherever a line ends; None while there are none. Raises NoRoom."""
        text = self._text
        ring = self._ring
        length = len(text)
        if length < size and ring:
            parts = [text]
            while ring and length < size:
                told = ring.popleft()
                line = told.line()
                parts.append(line)
                length += len(line)
            if not self._keep(length - size):
                ring.appendleft(told)
                length -= len(line)
                if not length:
                    raise NoRoom
                del parts[-1]
                self._keep(0)
            text = b"".join(parts)
        else:
            self._keep(length - size)
        self._text = text[size:]
        return text[:size] or (None if size else b"")

    def _keep(self, rest: int) -> bool:
        """Count the rest of a line, of so many bytes, if it is long; whether there is room for it."""
        kept = self._kept
        counted = rest if rest > LINE_KEPT else 0
        if kept is not None and counted != self._counted:
            if counted > self._counted and not kept.take(counted - self._counted):
                return False
            kept.give_back(max(0, self._counted - counted))
            self._counted = counted
        return True

    def close(self) -> None:
        """Nobody reads it any more."""
        self._keep(0)

    def poll(self, *, hung_up: bool) -> int:
        """The events of poll(2): POLLIN | POLLRDNORM, POLLHUP when its watch is gone."""
        mask = READABLE if self._text or self._ring else 0
        return mask | POLLHUP if hung_up else mask


_FEW = 64
"""Events of a part that are made at once, though nobody may ever read them: each part costs something too."""


class Log:
    """The file `log`: every event since the watch was made, as bytes with a size.

    limit: events kept; the one after it cuts the file to nothing, but for a line that says so. kept: where
    the bytes of its text are counted.
    """

    __slots__ = ("_count", "_counted", "_cut_by", "_fresh", "_kept", "_text", "limit")

    def __init__(self, limit: int, kept: Kept | None = None) -> None:
        self.limit = limit
        self._kept = kept
        self._counted = 0
        self._count = 0
        self._fresh: list[Told | tuple[Many, int]] = []  # not made into text yet; and the last so many of a part
        self._cut_by: tuple[Many, int] | None = None  # it was cut before the last so many of this part
        self._text: bytearray | None = None

    def push(self, notice: Told) -> None:
        if self._count >= self.limit:
            self._cut(notice.number - 1)
        self._count += 1
        self._fresh.append(notice)

    def push_part(self, part: Many) -> None:
        """`push` for many at once."""
        count = part.count
        if not count:
            return
        if self._count + count > self.limit:
            kept = (self._count + count - 1) % self.limit + 1
            self._cut(0)
            count, self._cut_by = kept, (part, kept)
        self._count += count
        if part.is_plain or count < _FEW:
            self._fresh += part.last(count)
        else:
            self._fresh.append((part, count))

    def _cut(self, last: int) -> None:
        self._fresh.clear()
        self._cut_by = None
        self._text = bytearray(Gap("cut", self._count, last).line())
        self._count = 0
        self._recount()

    def _recount(self) -> None:
        if self._kept is not None:
            size = len(self._text or b"")
            self._kept.used += size - self._counted
            self._counted = size

    def __del__(self) -> None:
        with suppress(AttributeError):  # of a state that was refused, half made
            if self._kept is not None:
                self._kept.used -= self._counted

    @property
    def held(self) -> int:
        """How much it keeps, in events."""
        return self._count

    def drop(self, last: int) -> None:
        """Be cut now. last: the number of the last event."""
        if self._count:
            self._cut(last)

    def text(self) -> bytearray:
        """All of it. The caller must not change or keep it."""
        if self._text is None:
            self._text = bytearray()
        if self._cut_by is not None:
            part, kept = self._cut_by
            self._cut_by = None
            self._text = bytearray(Gap("cut", self.limit, part.last(kept)[0].number - 1).line())
        if self._fresh:
            for each in self._fresh:
                for notice in each[0].last(each[1]) if isinstance(each, tuple) else (each,):
                    self._text += notice.line()
            self._fresh.clear()
            self._recount()
            if self._kept is not None:
                self._kept.look()  # this one may be cut by it
        return self._text
