"""Many events at once are what they are one by one, to the byte; and who hears of them costs little."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi import filter_text
from wqfs.abi import records as r
from wqfs.event import Log, Stream
from wqfs.sim import Simulation
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.watch import Watch
from wqfs.watches import Limits

ACTOR = Actor(0, 0)
PATHS = ("/", "/a", "/a/b", "/a/b/m1", "/c", "/c/b")
FILTERS = ("", "mount unmount", "mount new_mount,setattr id=1\nsb", "mount * flags=0x1/0x1", "key")
COMMANDS = (
    "mount -t tmpfs t /a", "mount -t tmpfs t /a/b", "mount --make-rshared /", "mount --make-private /a",
    *(f"mount -t tmpfs t /a/b/m{number}" for number in range(1, 5)), "mount -r -t tmpfs t /a/b/m5/x",
    "mount --rbind /a /c", "mount --rbind /a /c/b/d", "mount --move /c /a/c", "umount -l /c", "umount -R /a",
    "umount -A -l /a/b", "umount /a/b/m1", "mount -o remount,bind,ro=recursive /a", "expire",
    "automount -t nfs host:/x /a/b/auto", "sb error /a EIO", "key add user k v @u", "key clear @u",
)  # fmt: skip
RAW = [r.encode(1, 1, bytes(8)), r.encode(2, 0, bytes(8), watch_id=9), r.encode(77, 3, b"x" * 20)]

watched = st.tuples(
    st.lists(st.tuples(st.sampled_from(PATHS), st.integers(0, 2)), max_size=5),
    st.sampled_from(FILTERS),
    st.sampled_from([0, 1, 64]),
    st.sampled_from([0, 5]),
)
steps = st.one_of(
    st.sampled_from(COMMANDS),
    st.tuples(st.integers(0, 3), st.sampled_from([-1, 0, 60, 1000, 1 << 16]), st.booleans()),
    st.integers(2, 40),
)


class World:
    """A system with watches, and all that was read from them."""

    def __init__(self, few: int, watches: list[tuple[Any, ...]]) -> None:
        self.simulation = Simulation()
        self.system = self.simulation.system
        self.system.watches.few = few
        self.system.watches.limits = Limits(log_events=7, depth=33)
        self.watches: list[Watch] = []
        self.read: list[object] = []
        for line in COMMANDS[:8]:
            self.run(line)
        for number, (objects, rules, depth, stream) in enumerate(watches):
            watch = self.system.watches.make(f"w{number}", number % 2, 0, 0)
            self.watches.append(watch)
            for path, id_ in objects:
                self.watch(watch, path, id_)
            watch.queue.filter = filter_text.parse(rules)
            if depth:
                watch.queue.set_size(depth)
            if stream:
                watch.sinks = (*watch.sinks, Stream(stream))

    def watch(self, watch: Watch, path: str, id_: int) -> None:
        try:
            target, place, label = self.system.resolve(["mount", path], ACTOR, 0)
            self.system.watches.add(watch, target, id_, label=label, place=place)
        except OSError as error:
            self.read.append(error.errno)

    def run(self, step: Any) -> None:
        if isinstance(step, str):
            try:
                self.system.run(step, ACTOR, 0)
            except Refused as refused:
                self.read.append(refused.errno)
        elif isinstance(step, int):
            raw = [RAW[at % 3] for at in range(step)]
            for part in [raw] if self.system.watches.few == 1 else [[each] for each in raw]:
                self.system.watches.publish_raw(part, 0)
        elif step[0] < len(self.watches):
            self.look(self.watches[step[0]], step[1], text=step[2])

    def look(self, watch: Watch, size: int, *, text: bool) -> None:
        if size < 0:
            try:
                watch.queue.set_size(1)  # less than the default depth
            except OSError as error:
                self.read.append(error.errno)
        if size >= 60:
            self.read.append(watch.queue.read(size))
        self.read += [watch.queue.statistics(), watch.queue.poll(), watch.queue.loss_next, watch.entries != ()]
        for sink in watch.sinks if text else ():
            self.read += [bytes(sink.text()) if isinstance(sink, Log) else sink.read(max(size, 0)), sink.held]


@given(st.lists(watched, max_size=4), st.lists(steps, max_size=25))
def test_events_told_together_are_as_told_one_by_one(watches: list[tuple[Any, ...]], script: list[Any]) -> None:
    single, several = World(sys.maxsize, watches), World(1, watches)
    for step in (*script, *((number, 1 << 16, True) for number in range(4))):
        for world in (single, several):
            world.run(step)
        assert single.read == several.read
    assert single.system.watches.last_event == several.system.watches.last_event


def calls_of(action: Callable[[], object]) -> int:
    """How many functions were called."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_work_of_a_large_command_does_not_grow_with_events_times_watches() -> None:
    costs = {}
    for count in (1, 41):
        simulation = Simulation()
        for number in range(2000):
            simulation.run(f"mount -t tmpfs t /a/m{number}")
        world = World(16, [])
        world.system = simulation.system
        for number in range(count):
            watch = simulation.system.watches.make(f"w{number}", 0, 0, 0)
            if number % 2:
                world.watch(watch, "/", number)
            if number % 3 == 0:
                watch.queue.filter = filter_text.parse("mount new_mount,unmount")
        costs[count] = calls_of(lambda simulation=simulation: simulation.run("mount --rbind / /b"))  # type: ignore[misc]
        assert watch.queue.lost == 2001 - 256
    assert costs[41] - costs[1] < 40 * 2000 // 2, f"{costs} calls: a watch costs what single deliveries would"
