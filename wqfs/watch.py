"""A watch, what can be watched, and what ties the two.

A Watch is a notification pipe with the text shapes of the same events beside it: a directory of
`watches/`, or one open of the root's `queue`. An Entry ties a watch to an object of the simulated
system, a Watchable, under an ID: the kernel's struct watch. Who may watch what, and who is told of
an event, is in `wqfs.watches`.
"""

from __future__ import annotations

from collections.abc import Callable

from wqfs.event import Log, Stream, Told
from wqfs.queue import Queue
from wqfs.together import Part, Source

Place = tuple[str, ...]
"""A directory within a mount, as path segments; () is its root, and what every other object has."""
Group = tuple["Entry", ...]
"""The entries on one place of an object, newest first."""


class _WatchList:
    """Who watches an object: all, oldest first, and by their places, with the groups that were asked for."""

    __slots__ = ("entries", "groups", "places")

    def __init__(self) -> None:
        self.entries: dict[Entry, None] = {}
        self.places: dict[Place, dict[Entry, None]] = {}
        self.groups: dict[Place, Group] = {}


class Watchable:
    """An object that can be watched: a mount, a superblock, a key, the block devices."""

    __slots__ = ("_list",)

    def __init__(self) -> None:
        self._list: _WatchList | None = None  # most objects are watched by nobody

    @property
    def watchers(self) -> Group:
        """The kernel's watch list, newest first."""
        return tuple(reversed(self._list.entries)) if self._list is not None else ()

    def watchers_at(self, place: Place = ()) -> Group:
        """Who watches `place`; the same tuple each time, until that changes."""
        if self._list is None:
            return ()
        group = self._list.groups.get(place)
        if group is None:
            here = self._list.places.get(place)
            if here is None:
                return ()
            group = self._list.groups[place] = tuple(reversed(here))
        return group

    def groups_above(self, place: Place) -> list[Group]:
        """The groups of `place` and of the directories that hold it, deepest first."""
        if self._list is None:
            return []
        places = self._list.places
        if len(places) <= len(place):
            held = [each for each in places if each == place[: len(each)]]
            held.sort(key=len, reverse=True)
        else:
            held = [each for end in range(len(place), -1, -1) if (each := place[:end]) in places]
        return [self.watchers_at(each) for each in held]

    def add_watcher(self, entry: Entry) -> None:
        if self._list is None:
            self._list = _WatchList()
        self._list.entries[entry] = None
        self._list.places.setdefault(entry.place, {})[entry] = None
        self._list.groups.pop(entry.place, None)

    def remove_watcher(self, entry: Entry) -> None:
        mine = self._list
        if mine is None:
            return
        del mine.entries[entry]
        here = mine.places[entry.place]
        del here[entry]
        mine.groups.pop(entry.place, None)
        if not here:
            del mine.places[entry.place]
        if not mine.entries:
            self._list = None

    @property
    def watch_object_id(self) -> int:
        """The id in META removal: the mount's, superblock's or key's."""
        raise NotImplementedError


class Entry:
    """One object watched by one watch under one ID.

    place: for a mount, the directory within it as path segments, () for its root; else ().
    label: the object as `objects` writes it, `mount /mnt` or `key 1234`.
    """

    __slots__ = ("cost", "id", "label", "place", "target", "watch")

    def __init__(self, watch: Watch, target: Watchable, id_: int, place: Place, label: str, cost: int = 1) -> None:
        self.cost = cost
        """How many objects it counts for."""
        self.watch = watch
        self.target = target
        self.id = id_
        self.place = place
        self.label = label


class Watch:
    """One watch. `number` is never reused; name is "" for an open of the root's queue."""

    __slots__ = (
        "everything",
        "gid",
        "handles",
        "made_ns",
        "name",
        "number",
        "objects",
        "queue",
        "sinks",
        "uid",
    )

    def __init__(self, number: int, name: str, uid: int, gid: int, made_ns: int, queue: Queue) -> None:
        self.number = number
        self.name = name
        self.uid = uid
        self.gid = gid
        self.made_ns = made_ns
        self.queue = queue
        self.sinks: tuple[Stream | Log, ...] = ()
        """The shapes beside the queue: the log, and a stream for each open `events`."""
        self.objects: dict[tuple[Watchable, Place], Entry] | None = None
        """Its entries, in the order in which they were made; None where there are none."""
        self.everything = False
        self.handles = 0
        """Open files of this watch; kept by who opens them."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What it watches, in the order in which that was added."""
        return tuple(self.objects.values()) if self.objects else ()

    def let_go(self) -> None:
        """Give up one hold on the write side; the last one hangs up the queue and the streams."""
        self.queue.let_go()
        if self.queue.hung_up:
            self._tell_streams()

    def hang_up(self) -> None:
        """Hang up the queue and the streams for good: the end of the mount."""
        self.queue.hang_up()
        self._tell_streams()

    def _tell_streams(self) -> None:
        for sink in self.sinks:
            if isinstance(sink, Stream) and sink.on_change is not None:
                sink.on_change(sink)

    def deliver(self, notice: Told) -> None:
        """Queue an event in all shapes, if the filter lets it."""
        queue = self.queue
        if queue.filter is not None and not queue.filter.passes(notice.record):
            queue.filtered += 1
            return
        queue.post(notice.record)
        for sink in self.sinks:
            sink.push(notice)

    def deliver_unfiltered(self, notice: Told) -> None:
        """Queue META removal or loss, which no filter holds."""
        self.queue.post(notice.record)
        for sink in self.sinks:
            sink.push(notice)

    def deliver_part(self, sources: list[Source], shared: Callable[[list[Source]], Part] = Part) -> None:
        """`deliver` for many at once; of the sources that are unfiltered, `deliver_unfiltered`. shared: the part for
        some sources, which several watches may share."""
        queue = self.queue
        if queue.filter is not None:
            passing = [(run.passing(queue.filter, bits), bits) for run, bits in sources]
            queue.filtered += sum([len(run.told) for run, _ in sources]) - sum([len(run.told) for run, _ in passing])
            sources = passing
        part = shared(sources)
        queue.post_part(part)
        for sink in self.sinks:
            sink.push_part(part)
