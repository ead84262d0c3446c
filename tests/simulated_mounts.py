"""What the tests of simulated mounts share: a system made by commands, a watch on it, and what that was told."""

from __future__ import annotations

import pytest

from wqfs.abi import records as r
from wqfs.sim.command import ROOT
from wqfs.sim.errors import Refused
from wqfs.sim.mounts import Mount
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Watches


def make_system(*lines: str) -> System:
    system = System(Watches(strict=True), now_ns=0)
    for line in lines:
        run(system, line)
    return system


def run(system: System, line: str) -> None:
    system.run(line, ROOT, 1_000)


def refusal(system: System, line: str) -> Refused:
    """Why the line is refused; and that it changed nothing."""
    before = list(system.mounts.by_id.values()), list(system.superblocks.by_id), system.watches.last_event
    with pytest.raises(Refused) as caught:
        run(system, line)
    assert before == (
        list(system.mounts.by_id.values()),
        list(system.superblocks.by_id),
        system.watches.last_event,
    )
    return caught.value


def at(system: System, path: str) -> Mount:
    return system.mounts.mounted_at(path)


def make_watch(system: System, **objects: int) -> Watch:
    """A watch of mounts, by `path=id` with _ for /; `sb` before it for the superblock there."""
    watch = system.watches.make("", 0, 0, 0)
    watch.queue.set_size(512)
    for name, id_ in objects.items():
        kind, _, path = name.partition("_")
        words = [kind, "/" + path.replace("_", "/")]
        target, place, label = system.resolve(words, ROOT, 0)
        system.watches.add(watch, target, id_, label=label, place=place)
    return watch


def told(watch: Watch) -> list[r.Record]:
    """The records queued since the last time."""
    raw = b""
    while more := watch.queue.read(4096):
        raw += more
    return list(r.decode(raw))


def brief(watch: Watch) -> list[tuple[int, str, int]]:
    """The same as (watch ID, event, flags)."""
    return [
        (x.watch_id, r.SUBTYPES[x.type](x.subtype).name.lower(), x.info & r.WATCH_INFO_TYPE_INFO) for x in told(watch)
    ]


IN_SUBTREE, IS_NOW_RO = int(r.MountFlag.IN_SUBTREE), int(r.MountFlag.IS_NOW_RO)
