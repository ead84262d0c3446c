"""Is a successor what the daemon was? A conversation is noted, done again by another, and the two are compared."""

from __future__ import annotations

import errno
import os
import random
import re
from dataclasses import replace
from typing import Any, Final

from tests.fuzz.channel import Broken, World, no_memory
from wqfs.abi import fuse
from wqfs.event import Log
from wqfs.fs.channel import Channel
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.handles.queue import QueueHandle
from wqfs.fs.handles.text import EventsHandle, TextHandle
from wqfs.fs.journal import Journal
from wqfs.fs.options import Options
from wqfs.fs.recorder import Clock, Recorder
from wqfs.fs.taking_over import catch_up

MEMORY: Final = 20_000
"""Bytes of events that may be kept, in half of the conversations."""
_CHANGES: Final = {"mkdir": fuse.MKDIR, "rmdir": fuse.RMDIR, "open": fuse.OPEN, "setattr": fuse.SETATTR}


class _Clock(Clock):
    def __init__(self, world: Mortal) -> None:
        super().__init__()
        self._world = world

    def time_ns(self) -> int:
        return self._world.now_ns


class Mortal(World):
    """A World whose requests are noted."""

    recorder: Recorder

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._next_name = 1 << 40
        super().__init__(seed)
        self.recorder.journal.turn_to(1)  # the checkpoint

    def make(self, options: Options) -> tuple[Filesystem, Channel]:
        recorder = self.recorder = Recorder(Journal(), _Clock(self))
        recorder.send, recorder.forward, recorder.drain = self.replies.append, self.passed_on.append, lambda: None
        recorder.real_fetch = no_memory
        channel = Channel(recorder.answer, recorder.pass_on, show=recorder.show, max_waiting=options.max_waiting)
        recorder.attach(channel)
        filesystem = recorder.filesystem = Filesystem(options, 0, 0, recorder.fetch, recorder.clock.read)
        filesystem.note = recorder
        if self.seed % 2:  # so little that those who have most must let go of it
            watches = filesystem.watches
            watches.limits = replace(watches.limits, memory=MEMORY)
            watches.kept.limit = MEMORY
        recorder.journal.turn_to(1)
        return filesystem, channel

    def receive(self, size: int) -> None:
        self.recorder.outside()
        room = self.recorder.journal.room
        room[:] = self.view
        self.channel.receive(room, size)
        self.recorder.outside()

    def answered(self, reply: bytes) -> bytes:
        """Only what belongs to names may be said here, beside who is woken."""
        before = len(self.replies)
        self.recorder.replied(reply)
        return self.replies.pop(before)

    def _run(self, method: Any) -> tuple[Any, int]:
        """Each method is a request of its own, answered when it has ended."""
        self.recorder.outside()
        opcode = _CHANGES.get(method.__name__)
        self._next_name += 2
        if opcode is None:
            return super()._run(method)
        self.recorder._asked.clear()
        self.recorder._asked[self._next_name] = fuse.START.pack(0, opcode, self._next_name)
        value, error = super()._run(method)
        before = len(self.replies)
        self.recorder.replied(fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size, -error, self._next_name))
        del self.replies[before]
        return value, error

    def end_wait(self, unique: int) -> None:
        self.recorder.end_waits([unique], errno.EINTR)

    # -- what can be seen of it

    def seen(self) -> dict[str, object]:
        """All that a user could see; queues and streams are read empty by it."""
        fs, channel = self.filesystem, self.channel
        channel.forget_waits()  # who waits asks a successor again
        found: dict[str, object] = {
            "handles": sorted((fh, type(handle).__name__) for fh, handle in channel.handles.items()),
            "opened by": dict(channel.opened_by),
            "event": fs.watches.last_event,
            "polls": sorted((fh, handle.poll()) for fh, handle in channel.handles.items()),
        }
        for watch in fs.watches.by_number.values():
            queue = watch.queue
            found[f"watch {watch.number}"] = (
                watch.name, watch.uid, watch.handles, len(queue), queue.bytes, queue.loss_next, queue.depth,
                queue.filtered, queue.readers, [entry.label for entry in watch.entries], watch.everything,
            )  # fmt: skip
        for watch in fs.watches.by_number.values():
            for log in watch.sinks:
                if isinstance(log, Log):
                    found[f"log of {watch.number}"] = bytes(log.text())
        for fh, handle in channel.handles.items():
            if isinstance(handle, QueueHandle | EventsHandle):
                data = []
                while isinstance(piece := handle.read(0, 4096, os.O_NONBLOCK), bytes | bytearray) and piece:
                    data.append(bytes(piece))
                found[f"read {fh}"] = data
            elif isinstance(handle, TextHandle):
                # A text that was only looked at is kept by who has shown it.
                found[f"text {fh}"] = re.sub(rb"kept_bytes \d+", b"", bytes(handle.read(0, 1 << 20, 0)))
        return found


def death(seed: int) -> int:
    """Some hundred requests, a death, and a successor; returns how many entries that did again. Raises Broken."""
    world = Mortal(seed)
    journal = world.recorder.journal
    for _ in range(random.Random(seed).randint(1, 300)):
        world.step()
        if journal.is_full:
            break
    heir = Mortal(seed)
    heir.now_ns = world.now_ns
    heir.recorder.journal = journal
    entries = catch_up(heir.recorder, 1).entries
    before, after = world.seen(), heir.seen()
    for what in before.keys() | after.keys():
        if before.get(what) != after.get(what):
            raise Broken(f"seed {seed}: {what} was {before.get(what)!r:.300}, and is {after.get(what)!r:.300}")
    return entries
