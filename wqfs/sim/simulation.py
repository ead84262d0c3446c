"""The simulated system without a mount, for programs and tests in Python.

    >>> simulation = Simulation()
    >>> watch = simulation.watch("mount / id=1", depth=64)
    >>> simulation.run("mount /dev/sdb1 /mnt/data -t ext4 -o ro")
    >>> [event["event"] for event in watch.events()]
    ['new_mount']
    >>> len(watch.read(4096))
    24
    >>> simulation.text("superblocks").splitlines()[-1]
    '2 8:17 ext4 ok ro /dev/sdb1'
    >>> simulation.advance(60)

The lines are those of `post`, the words of `watch` those of `objects` and `filter`; what is refused
raises Refused with the errno that write(2) would give. Time is the simulation's own and stands
still but for `advance` and `clock advance`; the same calls give the same bytes.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from typing import Any

from wqfs.abi import filter_text
from wqfs.event import Stream
from wqfs.queue import BufferTooSmall, Statistics
from wqfs.sim import key_views, objects, views
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.limits import SimLimits
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Limits, Watches

_START_NS = 1_000_000_000 * 1_000_000_000


class Simulation:
    """A simulated system, its watches, and its clock.

    limits: of watches, bounds: of the simulated system, as the mount's options; strict: a watch without objects
    hears nothing, as the kernel's; start_ns: nanoseconds since the epoch. `system` is the state itself.
    """

    def __init__(
        self,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
        bounds: SimLimits = SimLimits(),  # noqa: B008  frozen
        strict: bool = False,
        start_ns: int = _START_NS,
    ) -> None:
        self._start_ns = start_ns
        self._watches = Watches(limits, strict=strict)
        self.system = System(self._watches, now_ns=start_ns, limits=bounds)
        self._actor = Actor(0, 0)
        self.system.keys.login(self._actor)

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self._start_ns + self.system.ahead_ns

    def advance(self, seconds: float) -> None:
        """Let time pass: keys expire and are collected. Raises Refused, EINVAL, for less than nothing."""
        self.run(f"clock advance {seconds:.9f}")

    def run(self, line: str, *, uid: int = 0, gid: int = 0) -> None:
        """Carry out one line, as a user. Raises Refused, and then nothing has changed, but by `umount` of
        several."""
        if (uid, gid) != (self._actor.uid, self._actor.gid):
            self._actor = Actor(uid, gid)
            self.system.keys.login(self._actor)
        self.system.run(line, self._actor, self.now_ns)

    def watch(self, *watched: str, filter: str = "", depth: int = 256, uid: int = 0, gid: int = 0) -> SimulatedWatch:
        """A watch: of lines as of `objects` (`mount / id=1`), without any of everything (unless
        strict); filter: lines as of `filter`; depth: records, 1..512.

        Raises Refused for a line, an object, a filter, SizeRefused for a depth, that make no sense.
        """
        watch = self._watches.make("", uid, gid, self.now_ns)
        try:
            for line in watched:
                objects.apply(self.system, watch, line, Actor(uid, gid), self.now_ns)
            watch.queue.filter = _filter(filter)
            watch.queue.set_size(depth)
        except OSError:
            self._watches.forget(watch)
            raise
        stream = Stream(self._watches.limits.events_depth)
        watch.sinks = (stream,)
        return SimulatedWatch(self._watches, watch, stream)

    def text(self, name: str) -> str:
        """A file of sim/: mountinfo, superblocks, keys, key-users, snapshot. Raises KeyError."""
        self.system.keys.collect(self.now_ns)
        return self._TEXTS[name](self)

    _TEXTS: Mapping[str, Callable[[Simulation], str]] = {
        "mountinfo": lambda self: views.mountinfo(self.system.mounts),
        "superblocks": lambda self: views.superblocks(self.system.superblocks),
        "keys": lambda self: key_views.keys_text(self.system.keys, None, self.now_ns),
        "key-users": lambda self: key_views.key_users_text(self.system.keys),
        "snapshot": lambda self: views.snapshot(self.system, None, self.now_ns),
    }


class SimulatedWatch:
    """One watch of a simulation: a notification pipe, and its events as text beside it."""

    def __init__(self, watches: Watches, watch: Watch, stream: Stream) -> None:
        self._watches = watches
        self._watch = watch
        self._stream = stream

    def read(self, size: int = 4096) -> bytes:
        """Whole records of at most `size` bytes together. Raises BlockingIOError when there are none,
        OSError EMSGSIZE when the next one is larger than `size`."""
        try:
            data = self._watch.queue.read(size)
        except BufferTooSmall as error:
            raise OSError(errno.EMSGSIZE, str(error)) from None
        if data is None:
            raise BlockingIOError(errno.EAGAIN, "no record is queued")
        return data

    def events(self) -> list[dict[str, Any]]:
        """The events since the last call, as objects of JSON; nothing is taken from the queue."""
        text = b""
        while data := self._stream.read(1 << 20):
            text += data
        return [json.loads(line) for line in text.splitlines()]

    def statistics(self) -> Statistics:
        """Counts of records."""
        return self._watch.queue.statistics()

    def close(self) -> None:
        """End the watch."""
        self._watches.forget(self._watch)


def _filter(text: str) -> Any:
    try:
        return filter_text.parse(text)
    except filter_text.FilterTextError as error:
        raise Refused(errno.EINVAL, f"line {error.line}: {error.rule}", error.word) from None
