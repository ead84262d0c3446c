"""Everything that one mount is made of, and what opening each place of the tree gives.

All state lives in one thread; nothing here waits. Time comes from `now_ns`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from wqfs.event import Log, Stream
from wqfs.fs import nodes, views
from wqfs.fs.channel import Channel
from wqfs.fs.control import Control
from wqfs.fs.handles.base import Caller, Handle, Source
from wqfs.fs.handles.calls import CallsHandle
from wqfs.fs.handles.fetching import Fetch
from wqfs.fs.handles.lines import LineContext, LineHandle, RecordsHandle, WholeTextHandle
from wqfs.fs.handles.queue import QueueContext, QueueHandle
from wqfs.fs.handles.text import ChangingTextHandle, EventsHandle, LogHandle, TextHandle
from wqfs.fs.nodes import Place
from wqfs.fs.options import Options
from wqfs.fs.refusals import Refusals
from wqfs.kept import Account, Kept
from wqfs.sim.command import Actor
from wqfs.sim.limits import SimLimits
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Limits, Sink, Watches

COLLECTOR_DELAY_NS: Final = 50_000_000
"""How long after a program's own call (sim/calls) the removal of a key that it ended is told. A kernel's collector
waits for a grace period of RCU, some tens of milliseconds; programs that read at once (LTP's) do not expect it."""


class OpenRefused(OSError):
    """A file cannot be opened. errno: ENOENT, EISDIR, ENFILE, EDQUOT."""


class Note:
    """What a Recorder is told by the filesystem; this one forgets it."""

    def name_changed(self, change: tuple[Any, ...]) -> None:
        """See Filesystem.change_name_again."""

    def collected(self, due: bool) -> None:
        """Keys were collected, if any were due."""

    def hung_up(self) -> None:
        """All watches have hung up."""

    def let_go(self, check: int, gone: list[Sink]) -> None:
        """See Watches.on_let_go."""

    def flush(self) -> None:
        """Nothing more has to be noted for what was said to the kernel."""


class Changes:
    """A count of changes that can be waited for: the mount table's."""

    __slots__ = ("number", "on_change")

    def __init__(self) -> None:
        self.number = 0
        self.on_change: Callable[[Changes], object] | None = None

    def get_number(self) -> int:
        return self.number

    def update(self, number: int) -> None:
        if number != self.number:
            self.number = number
            if self.on_change is not None:
                self.on_change(self)


class Filesystem:
    """One mount.

    uid, gid: who mounts; fetch: see handles.fetching.Fetch. `channel` is set before the
    first request comes.
    """

    def __init__(
        self,
        options: Options,
        uid: int,
        gid: int,
        fetch: Fetch,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.options = options
        self.uid = uid if options.uid is None else options.uid
        self.gid = gid if options.gid is None else options.gid
        limits = Limits(
            watches=options.max_watches,
            queues=options.max_queues,
            objects=options.max_objects,
            user_objects=options.max_user_objects,
            all_objects=options.max_all_objects,
            depth=options.depth,
            events_depth=options.events_depth,
            log_events=options.log_events,
            memory=options.max_memory << 19,
        )
        self.watches = Watches(
            limits,
            strict=options.strict,
            private=options.private_mounts,
            trusted=frozenset((self.uid, 0)),
        )
        self.system = System(
            self.watches,
            now_ns=now_ns(),
            limits=SimLimits(
                mounts=options.max_mounts,
                keys=options.max_keys,
                user_keys=options.max_user_keys,
                user_key_bytes=options.max_user_key_bytes,
                processes=options.max_processes,
                threads=options.max_threads,
                devices=options.max_devices,
                descriptors=options.max_handles,
            ),
        )
        self._real_ns = now_ns
        self.refusals = Refusals(now_ns)
        self.control = Control(self.system, self.watches, self.now_ns)
        self.mount_changes = Changes()
        self.channel: Channel
        self.note: Note = Note()
        """Told of what has to be done again by a successor; by default nobody is."""
        self.watches.on_let_go = self._has_let_go
        self.on_schedule: Callable[[], object] = _nothing
        """Called when `collect` has to be called at another time than it said."""
        self._schedule: tuple[int | None, int] = (None, 0)
        self._last_handle = 0
        self._directories = 0
        self._sources: dict[int, Source] = {}
        self._mount_source: Source | None = None
        self._hung_up = False
        self._watches_changed_ns = now_ns()
        self._version = 0
        self._changed_ns = self.started_ns = now_ns()
        of_one = options.max_user_memory
        self._kept_texts = Kept(options.max_memory << 19, None if of_one is None else of_one << 20)  # the other half
        self._queues = QueueContext(
            too_small=errno.ENOBUFS if options.enobufs else errno.EMSGSIZE,
            fetch=fetch,
            watch_object=self.control.watch_object,
            watch_key_as=self.control.watch_key_as,
            deliver=self._deliver_to,
            released=self._released,
            complain=self.refusals.add,
        )
        self._texts = views.Cache(self)

    def __getstate__(self) -> dict[str, object]:
        """Without what `come_back` makes anew."""
        made_anew = ("note", "on_schedule", "_texts")
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}

    def come_back(self, note: Note) -> None:
        """After its attributes were written down and read back, in another process."""
        self.note = note
        self.on_schedule = _nothing
        self._texts = views.Cache(self)

    def now_ns(self) -> int:
        """The simulated system's time; files have the real one."""
        return self._real_ns() + self.system.ahead_ns

    # -- attributes

    def mode(self, place: Place) -> int:
        """Type and permission bits of a place."""
        permissions = stat.S_IMODE(place.mode)
        if place is nodes.WATCHES and self.options.allow_other:
            permissions = 0o1777
        if place in nodes.OF_MOUNTS and self.options.private_mounts:
            permissions &= 0o700
        return stat.S_IFMT(place.mode) | permissions & ~self.options.umask

    def fixed_size(self, place: Place) -> bool:
        """Whether the size never changes: directories, and files that cannot be read."""
        return place.is_directory or not place.mode & 0o444

    def viewer(self, uid: int, gid: int) -> Actor | None:
        """Who reads the simulated system: None for the owner of the mount and root, who see all."""
        return None if uid in (self.uid, 0) else Actor(uid, gid)

    def size(self, place: Place, watch: Watch | None, uid: int, gid: int) -> int:
        """The true size of a text, bytes, for a user."""
        if self.fixed_size(place):
            return 0
        if place in nodes.OF_MOUNTS and self.options.private_mounts and self.viewer(uid, gid) is not None:
            return 0  # how many there are is private too
        if place is nodes.LOG and watch is not None:
            log = _log_of(watch)
            return len(log.text()) if log else 0
        return len(self._texts.text(place, watch, self.viewer(uid, gid)))

    def changed_ns(self, place: Place, watch: Watch | None) -> int:
        """When the text of a place may have changed last; 0 for never."""
        if place is nodes.WATCHES:
            return self._watches_changed_ns
        if place.is_directory or place.stream:
            return 0
        version = self.system.changed + self.watches.last_event + self.refusals.count + self.control.changes
        if version != self._version:
            self._version = version
            self._changed_ns = self._real_ns()
        return self._changed_ns

    # -- watches

    def make_watch(self, name: str, uid: int, gid: int) -> Watch:
        """mkdir watches/NAME. Raises WatchRefused."""
        watch = self.watches.make(name, uid, gid, self._real_ns())
        if self._hung_up:
            watch.hang_up()
        self._watches_changed_ns = watch.made_ns
        return watch

    def remove_watch(self, name: str) -> None:
        """rmdir watches/NAME: hangs up. What is open lives on. Raises KeyError."""
        watch = self.watches.remove_name(name)
        self._watches_changed_ns = self._real_ns()
        self._forget_if_unused(watch)
        self.channel.wake()

    def _released(self, watch: Watch) -> None:
        watch.handles -= 1
        self._forget_if_unused(watch)

    def _forget_if_unused(self, watch: Watch) -> None:
        if not watch.handles and not watch.name:
            self.watches.forget(watch)
            self._sources.pop(watch.number, None)

    @property
    def has_hung_up(self) -> bool:
        return self._hung_up

    def hang_up(self) -> None:
        """The end of the mount: every reader drains and finds end of file, every poller POLLHUP."""
        self._hung_up = True
        for watch in self.watches.by_number.values():
            watch.hang_up()
        self.channel.wake()
        self.note.hung_up()

    # -- opening

    def open_directory(self, uid: int) -> None:
        """Count an open directory of the user's. Raises OpenRefused: ENFILE, EDQUOT."""
        self._check_room(uid)
        self._directories += 1
        self.channel.opened.take(uid)

    def close_directory(self, uid: int) -> None:
        self._directories -= 1
        self.channel.opened.give(uid)

    def _check_room(self, uid: int) -> None:
        """Whether one more file or directory may be open, and one more of the user's."""
        if len(self.channel.handles) + self._directories >= self.options.max_handles:
            raise OpenRefused(errno.ENFILE, f"{self.options.max_handles} files are open, the limit max_handles")
        if self.channel.opened.full(uid):
            limit = self.channel.opened.most
            raise OpenRefused(errno.EDQUOT, f"user {uid} has {limit} files open, the limit max_user_handles")

    def open(self, place: Place, watch: Watch | None, flags: int, caller: Caller) -> int:
        """The number of a new handle for `place`. Raises OpenRefused, and WatchRefused for the root's queue."""
        uid = caller[0]
        self._check_room(uid)
        handle = self._handle_of_watch(place, watch, flags, caller) if watch else self._handle(place, flags, caller)
        self._last_handle += 1
        self.channel.handles[self._last_handle] = handle
        self.channel.opened_by[self._last_handle] = uid
        self.channel.opened.take(uid)
        return self._last_handle

    def _handle(self, place: Place, flags: int, caller: Caller) -> Handle:
        if place is nodes.ROOT_QUEUE:
            watch = self.make_watch("", caller[0], caller[1])
            return self._handle_of_watch(nodes.QUEUE, watch, flags, caller)
        if place is nodes.POST:
            return LineHandle("post", bytes, _as_opened(self._post, caller), self._lines(caller))
        if place is nodes.RECORDS:
            return RecordsHandle(self._deliver_raw, self.refusals.add)
        if place is nodes.CALLS:
            return CallsHandle(self._call, self.refusals.add, self._account(caller))
        if place is nodes.MOUNTINFO:
            if self._mount_source is None:
                self._mount_source = Source(self.mount_changes, self.channel.ready)
            return ChangingTextHandle(
                partial(self._text, place, None),
                self.mount_changes.get_number,
                self._mount_source,
                self._account(caller),
            )
        if place.is_directory:
            raise OpenRefused(errno.EISDIR, "a directory")
        viewer = self.viewer(caller[0], caller[1])
        return TextHandle(partial(self._text, place, None, viewer), kept=self._account(caller))

    def _account(self, caller: Caller) -> Account:
        """Where the texts are counted that are kept for a user."""
        return Account(self._kept_texts, caller[0])

    def _lines(self, caller: Caller) -> LineContext:
        return LineContext(self.options.max_line, self.refusals.add, self._account(caller))

    def _text(self, place: Place, watch: Watch | None, viewer: Actor | None = None) -> bytes:
        return self._texts.text(place, watch, viewer)

    def _handle_of_watch(self, place: Place, watch: Watch, flags: int, caller: Caller) -> Handle:
        if place.is_directory:
            raise OpenRefused(errno.EISDIR, "a directory")
        watch.handles += 1
        view = partial(self._text, place, watch)
        if place is nodes.QUEUE:
            source = self._sources.get(watch.number)
            if source is None:
                source = self._sources[watch.number] = Source(watch.queue, self.channel.ready)
            return QueueHandle(watch, source, flags, self._queues)
        if place is nodes.EVENTS:
            stream = Stream(self.options.events_depth, self._account(caller))
            return EventsHandle(watch, stream, Source(stream, self.channel.ready), self._released)
        if place is nodes.LOG:
            log = _log_of(watch)
            if log is None:
                watch.handles -= 1
                raise OpenRefused(errno.ENOENT, "the watch has no name")
            return LogHandle(watch, log, self._released)
        released = partial(self._released, watch)
        lines = self._lines(caller)
        if place is nodes.OBJECTS:
            run = partial(self.control.objects_line, watch)
            return LineHandle("objects", view, _as_opened(run, caller), lines, released)
        if place is nodes.DEPTH:
            return LineHandle("depth", view, partial(self.control.depth_line, watch), lines, released)
        if place is nodes.FILTER:
            whole = WholeTextHandle("filter", view, partial(self.control.filter_lines, watch), lines, released)
            whole.truncated = bool(flags & os.O_TRUNC)  # the kernel sends no SETATTR for `>`
            return whole
        return TextHandle(view, released, self._account(caller))

    def truncate(self, place: Place, watch: Watch | None, fh: int | None) -> None:
        """Cut a file to nothing: empties a filter, at the close when a descriptor did it; else nothing."""
        if place is nodes.FILTER and watch is not None:
            handle = None if fh is None else self.channel.handles.get(fh)
            if isinstance(handle, LineHandle):
                handle.truncated = True
            else:
                watch.queue.filter = None

    # -- what changes the simulated system

    def _post(self, line: str, caller: Caller) -> None:
        self.control.run(line, caller, self.now_ns())
        self._changed()

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        # As on a kernel, which tells of a key's end when its collector has come: after the call has returned.
        self.system.removal_delay_ns = COLLECTOR_DELAY_NS
        try:
            return self.control.call(request, self.now_ns())
        finally:
            self.system.removal_delay_ns = 0
            self._changed()

    def _changed(self) -> None:
        """After something that may have changed the simulated system."""
        self.mount_changes.update(self.system.mounts.changed)
        schedule = (self.system.next_due_ns, self.system.ahead_ns)
        if schedule != self._schedule:
            self._schedule = schedule
            self.on_schedule()

    def _deliver_to(self, watch: Watch, record: bytes) -> None:
        self.watches.deliver_raw(watch, record, self.now_ns())

    def _deliver_raw(self, records: list[bytes]) -> None:
        self.watches.publish_raw(records, self.now_ns())

    def collect(self) -> int | None:
        """Do what is due by now; returns when to call again, in time of `now_ns`, None for never."""
        now_ns = self.now_ns()
        next_ns = self.system.next_due_ns
        due_ns = self.system.collect(now_ns)
        self.note.collected(next_ns is not None and next_ns <= now_ns)
        self.channel.wake()
        self.note.flush()
        self._schedule = (due_ns, self.system.ahead_ns)
        return self._schedule[0]

    def _has_let_go(self, check: int, gone: list[Sink]) -> None:
        self.note.let_go(check, gone)

    def collect_keys(self) -> int:
        """The time, with the keys that it has ended collected: before their texts are made."""
        now_ns = self.now_ns()
        next_ns = self.system.next_due_ns
        if next_ns is not None and next_ns <= now_ns:
            self.system.collect(now_ns)
            self.note.collected(True)
        return now_ns

    def change_name_again(self, change: tuple[Any, ...]) -> None:
        """What `note.name_changed` was told, as a successor does it."""
        kind, *arguments = change
        if kind == "mkdir":
            self.make_watch(*arguments)
        elif kind == "rmdir":
            self.remove_watch(*arguments)
        else:
            place, number = nodes.place_of(arguments[0])
            watch = self.watches.by_number[number] if number else None
            if kind == "open":
                self.open(place, watch, *arguments[1:])
            else:
                self.truncate(place, watch, *arguments[1:])

    # -- looking

    @property
    def objects(self) -> int:
        """How many mounts, keys and watches there are."""
        return len(self.system.mounts.by_id) + len(self.system.keys.by_serial) + len(self.watches.by_number)

    @property
    def kept_bytes(self) -> int:
        """Bytes of events and texts that are kept for readers, about."""
        return self.watches.kept.used + self._kept_texts.used

    def queue_waits(self, watch: Watch) -> tuple[int, int]:
        """(readers, pollers) that wait on a watch's queue now."""
        source = self._sources.get(watch.number)
        return (len(source.waiters), len(source.pollers)) if source else (0, 0)


def _as_opened(run: Callable[[str, Caller], None], opener: Caller) -> Callable[[str, Caller], None]:
    """`run` with the rights of who opened the file, whoever writes: a set-user-ID program that prints what its caller
    wants must not lend its rights to the caller's redirection."""
    return partial(_run_as, run, opener[0], opener[1])


def _run_as(run: Callable[[str, Caller], None], uid: int, gid: int, line: str, writer: Caller) -> None:
    run(line, (uid, gid, writer[2]))


def _nothing() -> None:
    pass


def _log_of(watch: Watch) -> Log | None:
    for sink in watch.sinks:
        if isinstance(sink, Log):
            return sink
    return None
