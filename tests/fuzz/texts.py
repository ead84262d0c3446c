"""All that somebody else writes, but for FUSE requests: each as a function of bytes.

A function of TARGETS takes any bytes and returns; it may be refused only as its room says, every refusal with an
errno of docs/reference/errnos.md, and what was taken must be the same when it is written down and read again. What
leaves a function here is a fault. t1_hostile_texts.py feeds them by hypothesis, coverage.py by atheris.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from itertools import islice
from typing import Final

from tests.fuzz.channel import DOCUMENTED
from wqfs.abi import filter_text, filters, ioctls
from wqfs.abi import records as r
from wqfs.abi.errors import Malformed
from wqfs.client.events import parse_events
from wqfs.event import Event, Log, Stream, record_of
from wqfs.fs import nodes
from wqfs.fs.channel import Channel
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.options import UsageError, parse_command_line, parse_options
from wqfs.sim import Simulation, key_views, objects, scenario_toml, views
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.language import quote, split
from wqfs.sim.scenario import schedule
from wqfs.watches import Limits

MAX_LINE: Final = 4096
_IOCTLS: Final = sorted(ioctls.OF_WQFS)
_LIMITS: Final = Limits(objects=8, events_depth=64, log_events=64)


def _text(data: bytes) -> str:
    """As a file gives it to the language."""
    return data.decode("utf-8", "surrogateescape")


def _check(refused: OSError) -> None:
    assert refused.errno in DOCUMENTED, f"{refused} is not documented"


def _lines(data: bytes) -> list[str]:
    return [line for line in _text(data).split("\n") if len(line.encode("utf-8", "surrogateescape")) <= MAX_LINE]


def words(data: bytes) -> None:
    """Words quoted and split again are the same words."""
    for line in _lines(data):
        try:
            found = split(line)
        except Refused as refused:
            _check(refused)
            continue
        assert split(" ".join(map(quote, found))) == found


def commands(data: bytes) -> None:
    """Lines of `post`, by root and by a user, and every text of the system after each."""
    simulation = Simulation(limits=_LIMITS)
    watch = simulation.watch()
    for at, line in enumerate(_lines(data)[:40]):
        before = simulation.system.watches.last_event
        try:
            simulation.run(line, uid=7 * (at % 3 == 2), gid=7)
        except Refused as refused:
            _check(refused)
            # umount(8) goes on; a special keyring is made before the kernel looks at what it is for.
            assert "umount" in line or "@" in line or simulation.system.watches.last_event == before, line
    system = simulation.system
    for viewer in (None, Actor(7, 7)):
        views.snapshot(system, viewer, simulation.now_ns)
        key_views.keys_text(system.keys, viewer, simulation.now_ns)
    seen = simulation.text("mountinfo").split("\n")[:-1]  # as the kernel, it leaves other line ends in a path alone
    assert len(seen) == len(system.mounts.by_id) and all(len(line.split(" ")) >= 10 for line in seen)
    assert simulation.text("superblocks").count("\n") == len(system.superblocks.by_id)
    for event in watch.events():
        if event.get("event") != "lost":
            record_of(event)


def objects_lines(data: bytes) -> None:
    """Lines of `objects`; what it then shows, written to another watch, watches the same."""
    simulation = Simulation(limits=_LIMITS)
    simulation.run("mount /dev/sda1 /mnt")
    system = simulation.system
    actor = Actor(0, 0)
    first, second = (system.watches.make(name, 0, 0, 1) for name in ("first", "second"))
    for line in _lines(data)[:40]:
        try:
            objects.apply(system, first, line, actor, simulation.now_ns)
        except Refused as refused:
            _check(refused)
    for line in objects.text(first).split("\n"):
        objects.apply(system, second, line, actor, simulation.now_ns)
    assert [(each.target, each.place, each.id) for each in second.entries] == [
        (each.target, each.place, each.id) for each in first.entries
    ]


def filter_lines(data: bytes) -> None:
    """The text of `filter`; what it then shows is the same filter."""
    try:
        found = filter_text.parse(_text(data))
    except filter_text.FilterTextError:
        return
    again = filter_text.parse(filter_text.format(found))
    assert (again is None) == (found is None)
    assert found is None or (again is not None and again.rules == found.rules)


def filter_bytes(data: bytes) -> None:
    """The structure of SET_FILTER."""
    try:
        found = filters.decode(data)
    except Malformed:
        return
    for record in (r.LOSS, r.removal(1, 2)):
        found.passes(record)
    if found.rules:
        assert filters.decode(filters.encode(found.rules)).rules == found.rules
    assert filter_text.parse(filter_text.format(found)) is not None


def raw_records(data: bytes) -> None:
    """sim/records, and all the texts of what comes out."""
    try:
        found = r.split(data)
    except Malformed:
        return
    assert b"".join(found) == data
    stream, log = Stream(16), Log(16)
    for number, record in enumerate(found, 1):
        event = Event(number, number, record, {"raw": True})
        line = json.loads(event.notice(3 << 8).line())
        assert record_of(line) == event.notice(3 << 8).record
        assert record_of(json.loads(event.line())) == record
        stream.push(event)
        log.push(event)
    while stream.read(7):
        pass
    log.text()
    parse_events(data)


def event_lines(data: bytes) -> None:
    """A line of `events` as `wqfs record` and `tail` read it."""
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(line, dict):
        try:
            record_of(line)
        except ValueError:
            return


def watch_paths(data: bytes) -> None:
    """struct wqfs_watch_path."""
    try:
        ioctls.decode_watch_path(data)
    except Malformed:
        return


def mount_options(data: bytes) -> None:
    """What stands after -o, and a whole command line, a word a line."""
    text = _text(data)
    try:
        parse_options(text)
    except UsageError as error:
        assert str(error)
    try:
        parse_command_line(text.split("\n"))
    except UsageError as error:
        assert str(error)


def scenarios(data: bytes) -> None:
    """A scenario file; what was read, written and read again, is the same."""
    try:
        found = scenario_toml.parse(data.decode("utf-8", "replace"))
    except scenario_toml.ScenarioError as error:
        assert str(error)
        return
    assert scenario_toml.parse(scenario_toml.format(found)) == found
    times = [each.at_ns for each in islice(schedule(found), 1000)]
    assert times == sorted(times) and len(times) == min(1000, sum(step.repeat for step in found.steps))
    assert times == [each.at_ns for each in islice(schedule(found, found.seed), 1000)]


def _filesystem() -> Filesystem:
    filesystem = Filesystem(parse_options(""), 0, 0, lambda address, caller, take: None, now_ns=lambda: 1)
    filesystem.channel = Channel(lambda reply: None, lambda request: None)
    return filesystem


def depth_lines(data: bytes) -> None:
    """The text of `depth`; what it then shows, written again, is the same."""
    filesystem = _filesystem()
    watch = filesystem.make_watch("w", 0, 0)
    handle = filesystem.channel.handles[filesystem.open(nodes.DEPTH, watch, 2, (0, 0, 1))]
    taken = handle.write(memoryview(data), 0, (0, 0, 1))
    assert taken == len(data) or -taken in DOCUMENTED
    depth = watch.queue.depth
    if data and taken > 0:
        assert handle.read(0, 100, 0) == f"{depth}\n".encode()


def queue_ioctls(data: bytes) -> None:
    """What the ioctls of a queue take: by twos of bytes which one, and how much of the rest; filled up with zeros."""
    filesystem = _filesystem()
    post = filesystem.channel.handles[filesystem.open(nodes.POST, None, os.O_WRONLY, (0, 0, 1))]
    post.write(memoryview(b"key add user k v @s\n"), 0, (0, 0, 1))
    watch = filesystem.make_watch("w", 0, 0)
    handle = filesystem.channel.handles[filesystem.open(nodes.QUEUE, watch, 0, (0, 0, 1))]
    while len(data) > 2:
        command, count, data = _IOCTLS[data[0] % len(_IOCTLS)], data[1], data[2:]
        given, data = data[:count], data[count:]
        size = command >> 16 & 0x3FFF
        answer = handle.ioctl(command, 0, memoryview(given[:size].ljust(size, b"\0")), (0, 0, 1))
        assert not isinstance(answer, int) or -answer in DOCUMENTED
    while handle.read(0, 4096, os.O_NONBLOCK):
        pass
    log = filesystem.channel.handles[filesystem.open(nodes.LOG, watch, 0, (0, 0, 1))]
    text = log.read(0, 1 << 20, 0)
    assert isinstance(text, bytes)
    for line in text.splitlines():
        json.loads(line)


def calls(data: bytes) -> None:
    """What `wqfs run` writes to sim/calls: one request of JSON a line."""
    filesystem = _filesystem()
    handle = filesystem.channel.handles[filesystem.open(nodes.CALLS, None, 2, (0, 0, 1))]
    for line in data.split(b"\n")[:40]:
        taken = handle.write(memoryview(line + b"\n"), 0, (0, 0, 1))
        assert taken in (len(line) + 1, -errno.EINVAL)
        if taken > 0:
            answer = handle.read(0, 1 << 20, 0)
            assert isinstance(answer, bytes)
            assert not json.loads(answer).get("errno", 0) & ~0xFFF


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "words": words,
    "commands": commands,
    "objects": objects_lines,
    "filter": filter_lines,
    "set-filter": filter_bytes,
    "records": raw_records,
    "event-lines": event_lines,
    "watch-path": watch_paths,
    "depth": depth_lines,
    "ioctl": queue_ioctls,
    "options": mount_options,
    "scenario": scenarios,
    "calls": calls,
}
