"""The events of an open `events`: waited for one after the other, with what did come when one does not."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any

from wqfs.abi.records import SUBTYPES, TYPE_WORDS

Event = dict[str, Any]
_SHOWN = 30


class Events:
    """An open `events`. Each event is given once, in order."""

    def __init__(self, path: str | os.PathLike[str], timeout: float) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._timeout = timeout
        self._rest = b""
        self._pending: list[Event] = []
        self._ended = False
        self._bells: list[int] = []  # of the tasks in aexpect

    def fileno(self) -> int:
        """Readable when there is an event that `take` has not seen."""
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._ended = True
            self._ring()

    def pending(self) -> list[Event]:
        """What has come and was not taken yet; nothing is taken by it."""
        self._read()
        return list(self._pending)

    def clear(self) -> None:
        """Forget what has come so far."""
        self._read()
        self._pending.clear()

    def _ring(self) -> None:
        for bell in self._bells:
            os.eventfd_write(bell, 1)

    def _read(self) -> None:
        while not self._ended:
            try:
                data = os.read(self._fd, 1 << 20)
            except BlockingIOError:
                return
            self._ended = not data
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._pending += [json.loads(line) for line in lines]
            self._ring()

    def take(self, type_: str, event: str | None, fields: dict[str, Any]) -> Event | None:
        """The first pending event that matches; it and all before it are taken. None if none does."""
        self._read()
        for at, each in enumerate(self._pending):
            if _matches(each, type_, event, fields):
                del self._pending[: at + 1]
                return each
        return None

    def expect(self, type_: str, event: str | None, fields: dict[str, Any], timeout: float | None) -> Event:
        """Wait for a matching event, at most `timeout` seconds; it and all before it are taken.

        Raises AssertionError, which shows what came instead, and takes nothing.
        """
        __tracebackhide__ = True
        _check(type_, event)
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while (found := self.take(type_, event, fields)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._ended:
                raise AssertionError(self._missed(type_, event, fields, limit))
            poll.poll(min(left, 2e6) * 1000)
        return found

    async def aexpect(self, type_: str, event: str | None, fields: dict[str, Any], timeout: float | None) -> Event:
        """As `expect`, in a task of trio or asyncio; several tasks may wait at once."""
        __tracebackhide__ = True
        _check(type_, event)
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bells.append(bell)
        try:
            # Readable by new text, and by the bell when somebody else has read it.
            with select.epoll() as both:
                both.register(bell, select.EPOLLIN)
                if self._fd >= 0:
                    both.register(self._fd, select.EPOLLIN)
                while (found := self.take(type_, event, fields)) is None:
                    left = deadline - time.monotonic()
                    if left <= 0 or self._ended:
                        raise AssertionError(self._missed(type_, event, fields, limit))
                    with suppress(BlockingIOError):
                        os.eventfd_read(bell)
                    await _readable(both.fileno(), left)
                return found
        finally:
            self._bells.remove(bell)
            os.close(bell)

    def _missed(self, type_: str, event: str | None, fields: dict[str, Any], limit: float) -> str:
        wanted = " ".join([type_, event or "*", *(f"{name}={value!r}" for name, value in fields.items())])
        what = "the watch has ended" if self._ended else f"within {limit:g} s"
        shown = [_brief(each) for each in self._pending[:_SHOWN]]
        if len(self._pending) > _SHOWN:
            shown.append(f"and {len(self._pending) - _SHOWN} more")
        lost = any(each["type"] == "meta" and each["event"] in ("lost", "loss") for each in self._pending)
        also = "\nevents were lost: it may have come" if lost else ""
        return f"expected {wanted}, {what}; came:\n  " + "\n  ".join(shown or ["nothing"]) + also


def _check(type_: str, event: str | None) -> None:
    """A misspelt word would be waited for in vain."""
    __tracebackhide__ = True
    types = {word: number for number, word in TYPE_WORDS.items()}
    if type_ not in types:
        raise ValueError(f"expected a type, one of {', '.join(types)}, not {type_!r}")
    words = [subtype.name.lower() for subtype in SUBTYPES[types[type_]]] + (["lost"] if type_ == "meta" else [])
    if event is not None and event not in words:
        raise ValueError(f"expected an event of {type_}, one of {', '.join(words)}, not {event!r}")


def _matches(event: Event, type_: str, name: str | None, fields: dict[str, Any]) -> bool:
    return (
        event["type"] == type_
        and (name is None or event["event"] == name)
        and all(event.get(field) == value for field, value in fields.items())
    )


def _brief(event: Event) -> str:
    words = [str(event["type"]), str(event["event"])]
    words += [
        f"{name}={value!r}"
        for name, value in event.items()
        if name not in ("seq", "time", "type", "event") and value not in ([], "")
    ]
    return " ".join(words)


async def _readable(fd: int, seconds: float) -> None:
    """Return once it is readable, or after so long."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        with trio.move_on_after(seconds):
            await trio.lowlevel.wait_readable(fd)
        return
    import asyncio

    from wqfs.client.waiting import Waiting

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await Waiting().readable(fd)
