"""Where a command's events come from: a watch of its own, a named watch, or the kernel's own pipe."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from wqfs.abi import filter_text
from wqfs.abi.filters import Filter
from wqfs.cli.command import CommandFailed
from wqfs.cli.finding import find_mount
from wqfs.cli.watching import Event, EventLines, OwnWatch
from wqfs.client import Event as ClientEvent
from wqfs.client import FilterTextError, KeyEvent, KeySubtype, Queue
from wqfs.client.native import keyctl_describe
from wqfs.event import Event as NumberedEvent

_SPECIAL_KEYS = {"@t": -1, "@p": -2, "@s": -3, "@u": -4, "@us": -5, "@g": -6}

_NAMES_MAX = 4096


class Source(Protocol):
    """said: what is read, for people; fileno: readable when there is something."""

    said: str

    def fileno(self) -> int: ...

    def events(self) -> list[Event] | None:
        """What has come, empty while there is nothing; None at the end."""
        ...


@contextmanager
def watch_source(
    mount: str | None,
    name: str | None,
    objects: Sequence[str],
    rules: str,
    chosen: Filter | None,
    since: int | None,
    program: str = "tail",
) -> Iterator[Source]:
    """The watch called `name`, else one of the command's own, gone at the end.

    objects, rules: lines as in `objects` and `filter`, for its own; chosen: a filter instead of rules; since:
    number of an event, after which the named watch's log is read first. Raises CommandFailed.
    """
    found = find_mount(mount)
    if name is None:
        text = filter_text.format(chosen) if chosen is not None else rules
        own = OwnWatch(found, program, objects or ["everything"], text.splitlines(), None)
        try:
            yield _Lines(own.fileno(), f"watching {', '.join(objects) or 'everything'} on {found}")
        finally:
            own.close()
        return
    folder = found / "watches" / name
    try:
        fd = os.open(folder / "events", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise CommandFailed(
            f"cannot read the watch {name!r}: {error.strerror}: `wqfs watch list` lists those there are."
        ) from None
    try:
        # After the open of events, so that what happens in between is in both, and in neither twice.
        before = [] if since is None else _log_since(folder, since)
        yield _Lines(fd, f"reading the watch {name} on {found}", before)
    finally:
        os.close(fd)


def _log_since(folder: Path, since: int) -> list[Event]:
    fd = os.open(folder / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        events: list[Event] = []
        lines = EventLines(fd)
        while more := lines.events():
            events += more
    finally:
        os.close(fd)
    return [event for event in events if event["seq"] > since]


class _Lines:
    """Lines of an open `events`, after those that `before` has."""

    def __init__(self, fd: int, said: str, before: Sequence[Event] = ()) -> None:
        self.said = said
        self._lines = EventLines(fd)
        self._before = list(before)
        self._last = before[-1]["seq"] if before else 0

    def fileno(self) -> int:
        return self._lines.fileno()

    def events(self) -> list[Event] | None:
        if self._before:
            events, self._before = self._before, []
            return events
        found = self._lines.events()
        if found and self._last:
            found = [event for event in found if event["seq"] > self._last]
        return found


@contextmanager
def kernel_source(
    mount: str | None,
    name: str | None,
    objects: Sequence[str],
    rules: str,
    chosen: Filter | None,
    since: int | None,
) -> Iterator[Source]:
    """A notification pipe of the kernel that watches keys; arguments as of `watch_source`."""
    keys = [_key_line(line) for line in objects or ["key @s"]]
    try:
        with Queue.native(filter=chosen if chosen is not None else rules or None) as queue:
            for key, watch_id in keys:
                try:
                    queue.watch_key(key, watch_id)
                except OSError as error:
                    raise CommandFailed(f"the kernel refuses to watch key {key}: {error.strerror}.") from None
            yield KernelEvents(queue, f"watching {', '.join(objects) or 'key @s'} in the kernel", dict(keys))
    except FilterTextError as error:
        raise CommandFailed(f"--filter: {error}.") from None
    except OSError as error:
        if error.errno in (errno.ENOPKG, errno.EINVAL):
            raise CommandFailed(
                "this kernel has no notification pipes (CONFIG_WATCH_QUEUE is off): leave --kernel out to read a "
                "wqfs mount."
            ) from None
        raise


def _key_line(line: str) -> tuple[int, int]:
    words = line.split()
    watch_id = 0
    if words and words[-1].startswith("id=") and words[-1][3:].isdecimal():
        watch_id = int(words.pop()[3:])
    if len(words) == 2 and words[0] == "key":
        if words[1] in _SPECIAL_KEYS:
            return _SPECIAL_KEYS[words[1]], watch_id
        if words[1].isdecimal():
            return int(words[1]), watch_id
    raise CommandFailed(
        f"--object: with --kernel expected `key SERIAL` or `key @s`, with id=N or without, not {line!r}."
    )


class KernelEvents:
    """The kernel's records in the words of `events`: numbered here, with the time of reading and the names that
    keys have then."""

    def __init__(self, queue: Queue, said: str, watched: Iterable[int] = ()) -> None:
        """watched: keys whose names are asked for now, for one that was revoked has none."""
        self._queue = queue
        self.said = said
        self._number = 0
        self._names: dict[int, tuple[str, str]] = {}
        for key in watched:
            self._name(key)

    def fileno(self) -> int:
        return self._queue.fileno()

    def events(self) -> list[Event] | None:
        try:
            records = self._queue.read_nowait()
        except BlockingIOError:
            return []
        found: list[Event] = []
        for record in records:
            self._number += 1
            event = NumberedEvent(self._number, time.time_ns(), record.raw, self._names_of(record))
            found.append(json.loads(event.line()))
        return found or None

    def _names_of(self, record: ClientEvent) -> dict[str, str | int | bool]:
        names: dict[str, str | int | bool] = {}
        if isinstance(record, KeyEvent):
            if named := self._name(record.key_id):
                names["key_type"], names["description"] = named
            if record.subtype in (KeySubtype.LINKED, KeySubtype.UNLINKED) and (named := self._name(record.aux)):
                names["aux_description"] = named[1]
        return names

    def _name(self, key: int) -> tuple[str, str] | None:
        """Type and description, which a key keeps for its life."""
        if key not in self._names:
            try:
                self._names[key] = keyctl_describe(key)
            except OSError:
                return None
            if len(self._names) > _NAMES_MAX:
                del self._names[next(iter(self._names))]
        return self._names[key]
