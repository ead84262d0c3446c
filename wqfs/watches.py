"""All watches of a mount: who watches which object under which ID, and who is told of an event.

The rules are the kernel's (kernel/watch_queue.c): an object once a queue (EBUSY), IDs 0..255
(EINVAL), removing what is not watched EBADSLT, and each removal posts META removal past any filter.

A watch that was never given an object watches everything, with ID 0, as if from the root mount;
its first entry ends that. Under `strict` it watches nothing instead.
"""

from __future__ import annotations

import errno
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from wqfs.abi import records as r
from wqfs.event import Event, Log, Told
from wqfs.kept import EVENT_BYTES, Batch, Kept, text_bytes
from wqfs.queue import Queue
from wqfs.together import Run, SharedParts, Source
from wqfs.watch import Entry, Group, Place, Watch, Watchable

_NAME_BYTES: Final = 64
_OBJECT_BYTES: Final = 1024
"""An object whose text takes more than this counts for several."""


class WatchRefused(OSError):
    """A watch cannot be added or removed. errno: EINVAL, EBUSY, EBADSLT, EDQUOT, EEXIST, ENOSPC."""


Audience = Sequence[tuple[Group, int]]
"""Who hears of an event, in this order, each group with flag bits of `info`."""
_Pending = tuple[Event, "Audience | Watch", int]
"""An event for an audience, with the flag bits for who watches everything; or for one watch that loses an object,
with that one's bits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the tables. watches: a user's; queues: watches of all users; objects: a watch's, user_objects those
    of all watches of a user, all_objects of all; depths in records or events; memory: bytes of events and of logs'
    texts."""

    watches: int = 1024
    queues: int = 16384
    objects: int = 1024
    user_objects: int = 16384
    all_objects: int = 65536
    depth: int = 256
    events_depth: int = 1024
    log_events: int = 4096
    memory: int = 128 << 20


Sink = tuple[int, int]
"""The number of a watch, and which of its sinks."""


class Watches:
    """All watches of a mount, and the count of events.

    strict: no default depth and nothing watched until named, as the kernel. private: whether only the trusted hear of
    what `publish` is not told who may hear of, which is all but keys, and of raw records. trusted: the users
    whose watches without objects see everything; those of others see what `publish` is told that
    they may. None trusts all.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        *,
        strict: bool = False,
        private: bool = False,
        trusted: frozenset[int] | None = None,
    ) -> None:
        self.limits = limits
        self.strict = strict
        self.private = private
        self._trusted = trusted
        self.by_name: dict[str, Watch] = {}
        self.by_number: dict[int, Watch] = {}
        self.named: list[int] = []
        """The numbers of the watches that have a name, in order."""
        self.last_event = 0
        """The number of the last event, 0 before the first."""
        self.kept = Kept(limits.memory)
        self.kept.on_full = self._let_go_of_some
        self.on_let_go: Callable[[int, list[Sink]], object] = _nothing
        """Told which of whose events were let go of because too much was kept, and at which check: see Kept."""
        self._decided: dict[int, list[Sink]] | None = None
        self.few = 16
        """Events of a command that are told one by one; more are told together (wqfs.together)."""
        self._together = False
        self._pending: list[_Pending] = []
        self._everything: dict[int, Watch] = {}
        self._everything_else: dict[int, Watch] = {}  # of those who are not trusted
        self._owned: dict[int, int] = {}
        self._user_objects: dict[int, int] = {}
        self._all_objects = 0
        self._last_number = 0

    def trusts(self, uid: int) -> bool:
        """Whether the user may hear of everything."""
        return self._trusted is None or uid in self._trusted

    # -- watches

    def make(self, name: str, uid: int, gid: int, now_ns: int) -> Watch:
        """A watch called `name`, or a nameless one. Raises EEXIST, EDQUOT for one too many of the user's, ENOSPC for
        one too many of all: a watch counts until nobody can read it any more."""
        if name in self.by_name:
            raise WatchRefused(errno.EEXIST, f"a watch called {name!r} is there already")
        owned = self._owned.get(uid, 0)
        if owned >= self.limits.watches:
            raise WatchRefused(errno.EDQUOT, f"user {uid} has {owned} watches, the limit max_watches")
        if len(self.by_number) >= self.limits.queues:
            raise WatchRefused(errno.ENOSPC, f"there are {self.limits.queues} watches, the limit max_queues")
        self._owned[uid] = owned + 1
        self._last_number += 1
        queue = Queue(0 if self.strict else self.limits.depth)
        queue.hold()
        queue.readers += 1
        watch = Watch(self._last_number, name, uid, gid, now_ns, queue)
        self.by_number[watch.number] = watch
        if name:
            self.by_name[name] = watch
            self.named.append(watch.number)
            watch.sinks = (Log(self.limits.log_events, self.kept),)
        if not self.strict:
            self.watch_everything(watch, True)
        return watch

    def remove_name(self, name: str) -> Watch:
        """Take the name away and with it the write side that it held. The watch lives on with its
        descriptors: `forget` ends it. Raises KeyError."""
        watch = self.by_name.pop(name)
        watch.name = ""
        del self.named[bisect_left(self.named, watch.number)]
        watch.queue.readers -= 1
        watch.let_go()
        return watch

    def forget(self, watch: Watch) -> None:
        """End a watch that nobody can read any more: no records are posted for it."""
        for entry in watch.entries:
            entry.target.remove_watcher(entry)
            self._uncount(entry)
        watch.objects = None
        self._stop_everything(watch)
        if self.by_number.pop(watch.number, None) is not None:
            self._owned[watch.uid] -= 1
            if not self._owned[watch.uid]:
                del self._owned[watch.uid]

    # -- objects of a watch

    def add(self, watch: Watch, target: Watchable, id_: int, *, label: str, place: Place = ()) -> Entry:
        """Watch `target` under `id_`. Raises EINVAL, EBUSY, EDQUOT."""
        if not 0 <= id_ <= r.WATCH_ID_MAX:
            raise WatchRefused(errno.EINVAL, f"expected a watch ID of 0..{r.WATCH_ID_MAX}, not {id_}")
        if watch.objects is None:
            watch.objects = {}
        if (target, place) in watch.objects:
            raise WatchRefused(errno.EBUSY, f"{label} is watched by this queue already")
        if len(watch.objects) >= self.limits.objects:
            raise WatchRefused(errno.EDQUOT, f"the watch has {self.limits.objects} objects, the limit max_objects")
        text = text_bytes(label) + sum([_NAME_BYTES + text_bytes(name) for name in place])
        cost = 1 + text // _OBJECT_BYTES
        of_user = self._user_objects.get(watch.uid, 0) + cost
        if of_user > self.limits.user_objects:
            limit = self.limits.user_objects
            raise WatchRefused(errno.EDQUOT, f"user {watch.uid} has {limit} objects, the limit max_user_objects")
        if self._all_objects + cost > self.limits.all_objects:
            limit = self.limits.all_objects
            raise WatchRefused(errno.ENOSPC, f"all watches have {limit} objects, the limit max_all_objects")
        self._user_objects[watch.uid] = of_user
        self._all_objects += cost
        entry = watch.objects[target, place] = Entry(watch, target, id_, place, label, cost)
        target.add_watcher(entry)
        if watch.everything:
            self._stop_everything(watch)
        return entry

    def _uncount(self, entry: Entry) -> None:
        uid = entry.watch.uid
        self._all_objects -= entry.cost
        self._user_objects[uid] -= entry.cost
        if not self._user_objects[uid]:
            del self._user_objects[uid]

    def watch_everything(self, watch: Watch, on: bool) -> None:
        """Whether a watch without objects sees all, as its user may."""
        if not on:
            self._stop_everything(watch)
            return
        watch.everything = True
        (self._everything if self.trusts(watch.uid) else self._everything_else)[watch.number] = watch

    def _stop_everything(self, watch: Watch) -> None:
        watch.everything = False
        self._everything.pop(watch.number, None)
        self._everything_else.pop(watch.number, None)

    def remove(self, watch: Watch, target: Watchable, now_ns: int, *, label: str, place: Place = ()) -> None:
        """Stop watching `target`; posts META removal. Raises EBADSLT."""
        entry = None if watch.objects is None else watch.objects.get((target, place))
        if entry is None:
            raise WatchRefused(errno.EBADSLT, f"{label} is not watched by this queue")
        self._remove_entry(entry, now_ns)

    def object_gone(self, target: Watchable, now_ns: int) -> None:
        """The object ends: every watch on it goes, and each posts META removal."""
        for entry in target.watchers:
            self._remove_entry(entry, now_ns)

    def _remove_entry(self, entry: Entry, now_ns: int) -> None:
        watch = entry.watch
        assert watch.objects is not None
        del watch.objects[entry.target, entry.place]
        self._uncount(entry)
        entry.target.remove_watcher(entry)
        record = r.removal(entry.target.watch_object_id, 0)
        event = self.event(now_ns, record, {"was": entry.label})
        bits = entry.id << r.WATCH_INFO_ID__SHIFT
        if self._together:
            self._pending.append((event, watch, bits))
        else:
            watch.deliver_unfiltered(event.notice(bits))
            self.kept.check()

    # -- events

    def event(self, now_ns: int, record: bytes, names: dict[str, str | int | bool]) -> Event:
        """A new event with the next number. Nobody is told: see `publish`."""
        self.last_event += 1
        text = sum([text_bytes(value) for value in names.values() if value.__class__ is str])
        return Event(self.last_event, now_ns, record, names, self.kept.batch(EVENT_BYTES + text))

    def _let_go_of_some(self, check: int) -> None:
        """Too many bytes are kept: those who keep most lose what they have, until a quarter is free."""
        if self._decided is not None:
            self.let_go(self._decided.pop(check, []))
            return
        most = sorted(
            (
                (sink.held, number, at)
                for number, watch in self.by_number.items()
                for at, sink in enumerate(watch.sinks)
            ),
            key=lambda each: each[0],
            reverse=True,
        )
        self.kept.end_batch()
        gone: list[Sink] = []
        for _, number, at in most:
            if self.kept.used <= self.kept.limit * 3 // 4:
                break
            gone.append((number, at))
            self.by_number[number].sinks[at].drop(self.last_event)
        self.on_let_go(check, gone)

    def let_go(self, sinks: list[Sink]) -> None:
        """Have these lose what they have, as they did once."""
        if sinks:
            self.kept.end_batch()
        for number, at in sinks:
            watch = self.by_number.get(number)  # none where the `mkdir` of it has not happened after all
            for sink in watch.sinks[at : at + 1] if watch else ():
                sink.drop(self.last_event)

    def decide(self, decided: dict[int, list[Sink]] | None) -> None:
        """decided: who loses at which check, whatever is kept; it is emptied by that. None: as too much is kept. What
        was looked at takes other memory than what was not, so who does again what was done must be told."""
        if decided is None:
            self.kept.limit = self.limits.memory
        else:
            self.kept.limit = -1  # each check asks
        self._decided = decided

    def publish(
        self,
        event: Event,
        audience: Audience,
        everything: int = 0,
        may_see: Callable[[int, int], bool] | None = None,
    ) -> None:
        """Tell the groups in `audience`, each with its own flag bits of `info`, in that order; and
        every watch that watches everything, with the flag bits `everything`. may_see: whether a
        user (uid, gid) who is not trusted may hear of it without having named it; None for yes, or no if `private`."""
        if self._together and may_see is None:
            self._pending.append((event, audience, everything))
            return
        self.tell_pending()
        self._publish(event, audience, everything, may_see)
        self.kept.check()

    def _publish(
        self, event: Event, audience: Audience, everything: int, may_see: Callable[[int, int], bool] | None
    ) -> None:
        notices: dict[int, Told] = {}
        for group, flags in audience:
            for entry in group:
                bits = entry.id << r.WATCH_INFO_ID__SHIFT | flags
                notice = notices.get(bits)
                if notice is None:
                    notice = notices[bits] = event.notice(bits)
                entry.watch.deliver(notice)
        if self._everything or self._everything_else:
            notice = notices.get(everything) or event.notice(everything)
            for watch in self._everything.values():
                watch.deliver(notice)
            for watch in self._everything_else.values():
                if not self.private if may_see is None else may_see(watch.uid, watch.gid):
                    watch.deliver(notice)

    def together(self) -> AbstractContextManager[None]:
        """While this is entered events are kept, and told at its end, in their order. Most commands have one event."""
        return _Together(self)

    def tell_pending(self) -> None:
        """Tell what was kept back until now."""
        pending = self._pending
        if not pending:
            return
        self._pending = []
        if len(pending) < self.few:
            for event, audience, bits in pending:
                if isinstance(audience, Watch):
                    audience.deliver_unfiltered(event.notice(bits))
                else:
                    self._publish(event, audience, bits, None)
        else:
            self._publish_many(pending)
        self.kept.check()

    def _publish_many(self, pending: list[_Pending]) -> None:
        runs: dict[tuple[int, int], tuple[Group, Run]] = {}
        removals: dict[Watch, Run] = {}
        everything = Run()
        hear_everything = bool(self._everything or self._everything_else)
        order = 0
        for event, audience, bits in pending:
            order += 1
            if isinstance(audience, Watch):
                run = removals.get(audience)
                if run is None:
                    run = removals[audience] = Run(unfiltered=True)
                run.add(event.notice(bits), order)
                continue
            for group, flags in audience:
                order += 1
                known = runs.get((id(group), flags))  # `pending` holds the group
                if known is None:
                    known = runs[id(group), flags] = group, Run()
                known[1].add(event, order)
            if hear_everything:
                everything.add(event.notice(bits), order)
        sources: dict[Watch, list[Source]] = {watch: [(run, 0)] for watch, run in removals.items()}
        for (_, flags), (group, run) in runs.items():
            for entry in group:
                sources.setdefault(entry.watch, []).append((run, entry.id << r.WATCH_INFO_ID__SHIFT | flags))
        if everything.told:
            for watch in (*self._everything.values(), *(() if self.private else self._everything_else.values())):
                sources.setdefault(watch, []).append((everything, 0))
        shared = SharedParts().get
        for watch, its in sources.items():
            watch.deliver_part(its, shared)

    def tell(self, event: Event, entries: Iterable[Entry]) -> None:
        """Tell these entries alone."""
        self.tell_pending()
        for entry in entries:
            entry.watch.deliver(event.notice(entry.id << r.WATCH_INFO_ID__SHIFT))
        self.kept.check()

    def _hear_raw(self) -> Iterable[Watch]:
        """The watches that raw records are for, if they watch anything."""
        watches = self.by_number.values()
        return [watch for watch in watches if self.trusts(watch.uid)] if self.private else watches

    def publish_raw(self, raw: Sequence[bytes], now_ns: int) -> None:
        """Tell every watch that watches anything (of the trusted, if `private`), with exactly these bytes, IDs
        included."""
        self.tell_pending()
        if len(raw) != 1:
            self._publish_many_raw(raw, now_ns)
            return
        self.last_event += 1
        event = Event(self.last_event, now_ns, raw[0], _RAW, self.kept.batch(EVENT_BYTES))
        unfiltered = raw[0][_TYPE_BYTES] == _META
        for watch in self._hear_raw():
            if watch.everything or watch.objects:
                if unfiltered:
                    watch.deliver_unfiltered(event)
                else:
                    watch.deliver(event)
        self.kept.check()

    def deliver_raw(self, watch: Watch, record: bytes, now_ns: int) -> None:
        """Tell one watch, with exactly these bytes; b"" tells nothing. Who is told so hears no longer of everything,
        as with a first object."""
        self.tell_pending()
        self._stop_everything(watch)
        if not record:
            return
        event = self.event(now_ns, record, _RAW)
        if record[_TYPE_BYTES] == _META:
            watch.deliver_unfiltered(event)
        else:
            watch.deliver(event)
        self.kept.check()

    def _publish_many_raw(self, raw: Sequence[bytes], now_ns: int) -> None:
        if any(record[_TYPE_BYTES] == _META for record in raw):
            for record in raw:
                self.publish_raw((record,), now_ns)
            return
        first = self.last_event + 1
        self.last_event += len(raw)
        batch = Batch(self.kept)
        batch.add(EVENT_BYTES * len(raw))
        run = Run()
        for number, record in enumerate(raw, first):
            run.add(Event(number, now_ns, record, _RAW, batch), number)
        sources: list[Source] = [(run, 0)]
        shared = SharedParts().get
        for watch in self._hear_raw():
            if watch.everything or watch.objects:
                watch.deliver_part(sources, shared)
        self.kept.check()


class _Together:
    """See Watches.together; one within another changes nothing."""

    __slots__ = ("_outermost", "_watches")

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._outermost = False

    def __enter__(self) -> None:
        self._outermost = not self._watches._together
        self._watches._together = True

    def __exit__(self, *_: object) -> None:
        if self._outermost:
            self._watches._together = False
            self._watches.tell_pending()


_RAW: dict[str, str | int | bool] = {"raw": True}

# Of a record: the three bytes of its type, and what they are for META.
_TYPE_BYTES = slice(0, 3) if sys.byteorder == "little" else slice(1, 4)
_META = bytes(3)


def _nothing(check: int, gone: list[Sink]) -> None:
    pass
