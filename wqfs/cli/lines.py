"""An event as text for people and scripts: the output formats of `wqfs tail`."""

from __future__ import annotations

import json
import re
import string
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from wqfs.abi.records import LOSS
from wqfs.cli.command import CommandFailed
from wqfs.cli.tables import printable
from wqfs.cli.watching import Event
from wqfs.event import record_of

_COLORS: Final = {"mount": "32", "sb": "33", "key": "36", "block": "35", "meta": "34"}
_RED: Final = "1;31"
_DIM: Final = "2"
_UNSAFE: Final = re.compile(r"[ \t\n\\]")


def is_gap(event: Event) -> bool:
    """Whether it says that events are missing."""
    return event["type"] == "meta" and event["event"] in ("lost", "loss", "cut")


class Clock:
    """How times are written. format: of strftime(3), with %f for microseconds; utc: not in local time."""

    def __init__(self, format: str | None, *, utc: bool, date: bool) -> None:
        self._format = format or ("%Y-%m-%dT%H:%M:%S.%f%z" if date else "%H:%M:%S.%f")
        self._moment = time.gmtime if utc else time.localtime

    def text(self, seconds: float) -> str:
        whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
        # Before strftime, which knows no %f.
        return time.strftime(self._format.replace("%f", f"{micro:06}"), self._moment(whole))


def short(clock: Clock | None, *, color: bool) -> Callable[[Event], bytes]:
    """A readable line; clock: None for no time."""

    def line(event: Event) -> bytes:
        kind = str(event["type"])
        code = _RED if is_gap(event) or event["event"] == "error" else _COLORS.get(kind, "0")
        when = "" if clock is None else clock.text(_moment(event)) + " "
        if color:
            when = f"\x1b[{_DIM}m{when}\x1b[0m" if when else ""
            what = f"\x1b[{code}m{kind:<5} {event['event']}\x1b[0m"
        else:
            what = f"{kind:<5} {event['event']}"
        return _encoded(" ".join([when + what, *map(printable, _details(event))])) + b"\n"

    return line


def _details(event: Event) -> list[str]:
    """What there is to say beside type and event, the most telling first."""
    kind = event["type"]
    if is_gap(event):
        count = event.get("lost")
        return ["some events were lost" if count is None else f"{count} events were lost"]
    words: list[str] = []
    if kind in ("mount", "sb"):
        if "old_mountpoint" in event:
            words += [*_known(event, "old_mountpoint"), "->"]
        words += _known(event, "mountpoint", "source", "fstype")
        if "error" in event:
            words.insert(0, f"{event['error']}")
            words += [repr(event["text"])] if event.get("text") else []
        if not words:
            words += [f"{name}={event[name]}" for name in ("triggered_on", "auxiliary_mount", "sb") if name in event]
    elif kind == "key" and "key" in event:
        words.append(_key(event, "description", "key"))
        if event.get("aux"):
            words.append(_key(event, "aux_description", "aux"))
    elif kind == "block":
        words += _known(event, "source", "device")
        words.append(f"sector {event.get('sector')}")
    elif "was" in event:
        words.append(event["was"])
    elif "object" in event:
        words.append(f"object {event['object']}")
    if "record" in event or "body" in event:
        words.append(event.get("record") or event["body"])
    words += event["flags"]
    if event["id"]:
        words.append(f"id={event['id']}")
    return words


def _known(event: Event, *names: str) -> list[str]:
    """Escaped as in mountinfo, so that a blank in one does not look like two."""
    return [_UNSAFE.sub(_octal, str(event[name])) for name in names if event.get(name)]


def _octal(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):03o}"


def _key(event: Event, name: str, serial: str) -> str:
    return f"{event[name]} ({event[serial]})" if event.get(name) else str(event[serial])


def as_json(event: Event) -> bytes:
    """The line of `events`."""
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def raw(event: Event) -> bytes:
    """The record as a notification pipe would give it; of lost events the loss record."""
    return LOSS if is_gap(event) else record_of(event)


class _Fields(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return ""


def formatted(format: str, clock: Clock) -> Callable[[Event], bytes]:
    """A line for a format such as '{time} {event} {mountpoint}'. Raises CommandFailed for a wrong one.

    The names are those of JSON; one that an event has not is empty. A name may have what text may have in Python:
    {event:<12}, {source!r}.
    """
    try:
        for _, name, _, _ in string.Formatter().parse(format):
            if name is not None and not name.isidentifier():
                raise ValueError(f"expected a name in the braces, not {name!r}")
        format.format_map(_Fields())  # an alignment and a width, or nothing: the values are text
    except ValueError as error:
        raise CommandFailed(f"--format: {error}.") from None
    return lambda event: _encoded(format.format_map(_Fields(_texts(event, clock)))) + b"\n"


def fields(names: Sequence[str], clock: Clock) -> Callable[[Event], bytes]:
    """The values of these names with tabs between; a tab or newline inside one is a blank."""

    def line(event: Event) -> bytes:
        texts = _texts(event, clock)
        values = [texts.get(name, "").translate({9: " ", 10: " "}) for name in names]
        return _encoded("\t".join(values)) + b"\n"

    return line


def _texts(event: Event, clock: Clock) -> dict[str, str]:
    """All members as text, the time as the clock writes it, lists with commas."""
    texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in event.items()}
    texts["time"] = clock.text(_moment(event))
    return texts


def _moment(event: Event) -> float:
    """When it happened; of a gap, which has no time, when it was read."""
    return float(event.get("time", time.time()))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
