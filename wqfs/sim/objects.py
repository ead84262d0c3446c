"""What a watch watches, a line each: the file `objects`.

    mount PATH id=N      a mount at or above PATH, and a directory of it
    sb PATH id=N         the superblock there; its source or id will do
    key KEY id=N         a key, as keyctl(1) names them; needs View permission
    devices id=N         all block devices
    everything           all there is, with ID 0: what a watch that never named an object watches anyway,
                         unless the mount is strict; alone, and ended by the first object
    -mount PATH          no longer; so with the others

Words as in the command language. Without `id=` the watch ID is 0. A line to remove may have it: then
it must be the right one.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from wqfs.abi.records import WATCH_ID_MAX
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.language import quote, split
from wqfs.sim.system import System
from wqfs.watch import Entry, Watch
from wqfs.watches import WatchRefused

EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class ObjectLine:
    """One line. words: `("mount", "/mnt")`, for System.resolve; id: None when it is not said."""

    add: bool
    words: tuple[str, ...]
    id: int | None


def parse(line: str) -> ObjectLine | None:
    """One line of `objects`; None for one without words. Raises Refused, EINVAL, with the word."""
    words = split(line)
    if not words:
        return None
    add = not words[0].startswith("-")
    if not add:
        words[0] = words[0][1:]
    id_ = None
    if len(words) > 1 and words[-1].startswith("id="):
        digits = words[-1][3:]
        if not re.fullmatch("[0-9]{1,9}", digits) or int(digits) > WATCH_ID_MAX:
            raise Refused(errno.EINVAL, f"expected a watch ID of 0..{WATCH_ID_MAX}, not {digits!r}", len(words))
        id_ = int(digits)
        del words[-1]
    return ObjectLine(add, tuple(words), id_)


def apply(system: System, watch: Watch, line: str, actor: Actor, now_ns: int) -> None:
    """Add to or remove from what `watch` watches.

    Raises Refused, and nothing has changed: EINVAL with the word; what System.resolve says; EBUSY
    for what is watched already, EDQUOT at the limit, EBADSLT for removing what is not watched.
    """
    parsed = parse(line)
    if parsed is None:
        return
    if parsed.words == (EVERYTHING,):
        _everything(system, watch, parsed)
        return
    try:
        if parsed.add:
            target, place, label = system.resolve(parsed.words, actor, now_ns)
            system.watches.add(watch, target, parsed.id or 0, label=label, place=place)
        else:
            entry = _entry(system, watch, parsed, actor, now_ns)
            system.watches.remove(watch, entry.target, now_ns, label=entry.label, place=entry.place)
    except WatchRefused as refused:
        raise Refused(refused.errno or errno.EINVAL, str(refused.strerror), 2) from None


def _everything(system: System, watch: Watch, line: ObjectLine) -> None:
    if line.id:
        raise Refused(errno.EINVAL, f"expected `{EVERYTHING}` under id=0, not id={line.id}", 2)
    if watch.entries:
        raise Refused(errno.EBUSY, f"the queue watches objects already; expected `{EVERYTHING}` alone", 1)
    if not line.add and not watch.everything:
        raise Refused(errno.EBADSLT, f"{EVERYTHING} is not watched by this queue", 1)
    system.watches.watch_everything(watch, line.add)


def _entry(system: System, watch: Watch, line: ObjectLine, actor: Actor, now_ns: int) -> Entry:
    """The entry to remove: what the words mean now, else what `objects` shows with these words,
    though they have come to mean something else, or nothing."""
    label = " ".join([quote(word) for word in line.words])
    found = None
    try:
        target, place, label = system.resolve(line.words, actor, now_ns)
    except Refused as refused:
        found = _labelled(watch, label)
        if found is None:
            raise refused
    else:
        for entry in watch.entries:
            if entry.target is target and entry.place == place:
                found = entry
        found = found or _labelled(watch, label)
    if found is None:
        raise Refused(errno.EBADSLT, f"{label} is not watched by this queue", 2)
    if line.id is not None and line.id != found.id:
        raise Refused(errno.EBADSLT, f"{label} is watched under id={found.id}, not id={line.id}", 3)
    return found


def _labelled(watch: Watch, label: str) -> Entry | None:
    for entry in watch.entries:
        if entry.label == label:
            return entry
    return None


def text(watch: Watch) -> str:
    """The file as it is read: a line for each object, in the order in which they were added."""
    if watch.everything:
        return f"{EVERYTHING} id=0\n"
    return "".join([f"{entry.label} id={entry.id}\n" for entry in watch.entries])
