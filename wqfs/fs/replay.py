"""What was noted, done again: the core is a function of what comes in, and this is where it comes in once more.

While it goes on the replay stands where the recorder does otherwise, between the channel and the kernel and beside the
filesystem: nothing is noted, nothing leaves, and what came from outside of this process comes from the journal.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from wqfs.abi import fuse
from wqfs.fs import entries
from wqfs.fs.caller import Take
from wqfs.fs.entries import FH, Gone, Looks
from wqfs.fs.filesystem import Note
from wqfs.fs.handles.base import Caller
from wqfs.fs.journal import Entry
from wqfs.fs.recorder import Recorder
from wqfs.watches import Sink


@contextmanager
def replaying(recorder: Recorder) -> Iterator[Replay]:
    """Stand in for `recorder` meanwhile."""
    filesystem = recorder.filesystem
    replay = Replay(recorder)
    real_fetch, recorder.real_fetch = recorder.real_fetch, replay.fetch
    filesystem.note = replay
    filesystem.watches.decide(replay.decided)
    recorder.stand_aside(replay.say)
    try:
        yield replay
    finally:
        recorder.stand_between()
        filesystem.watches.decide(None)
        filesystem.note = recorder
        recorder.real_fetch = real_fetch


class Replay(Note):
    """Of one recorder: see `replaying`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._channel = recorder.channel
        self._filesystem = recorder.filesystem
        self._said: list[bytes] = []
        self._looks: Looks = []
        self.decided: dict[int, list[Sink]] = {}
        """Who loses events at which check of what is kept: see Watches.decide."""

    def say(self, message: bytes) -> None:
        """The channel's outlets."""
        self._said.append(message)

    def fetch(self, address: int, caller: Caller, take: Take) -> None:
        """The look into a caller's memory: raises what it raised; what it gave was noted when it came."""
        if raised := self._looks.pop(0):
            raise OSError(*raised)

    def do(self, entry: Entry) -> list[bytes]:
        """Carry out what was noted, at its time; returns what is said by it."""
        said: list[bytes] = []
        self._said = said
        self._recorder.clock.now_ns = entry.now_ns
        self._looks, gone = entries.more_in(entry)
        self._let_go(gone)
        if request := entries.request_in(entry):
            self._receive(request)
        else:
            self._happen(entry)
        if self._channel.ready:
            self._channel.wake()
        return said

    def has_died(self, said: Iterable[bytes]) -> None:
        """A daemon has, having said that last. Whoever waits comes again, and until then the kernel takes no answer for
        them; who had a look into memory under way asks again."""
        self._recorder.answers.keep(said)
        self._recorder.fetching.clear()
        self.decided.clear()
        self._channel.forget_waits()

    def _receive(self, request: bytes) -> None:
        message = memoryview(bytearray(request))
        self._channel.receive(message, len(request))
        opcode = fuse.START.unpack_from(message)[1]
        if opcode == fuse.POLL:
            _, fh, kh, _ = fuse.POLL_IN.unpack_from(message)
            self._recorder.poll_handles[fh] = kh
        elif opcode == fuse.RELEASE:
            self._recorder.poll_handles.pop(fuse.RELEASE_IN.unpack_from(message)[1], None)

    def _happen(self, entry: Entry) -> None:
        kind, payload = entry.kind, entry.payload
        if kind == entries.NAME:
            self._filesystem.change_name_again(pickle.loads(payload)[1])
        elif kind == entries.COLLECT:
            self._filesystem.system.collect(self._filesystem.now_ns())
        elif kind == entries.END_WAITS:
            uniques, number = pickle.loads(payload)
            for unique in uniques:
                self._channel.end_wait(unique, number)
        elif kind == entries.HANG_UP:
            self._filesystem.hang_up()
        elif kind == entries.FETCHED:
            number, noted = pickle.loads(payload)
            self._recorder.fetching.pop(number)(OSError(*noted) if isinstance(noted, tuple) else noted)
        elif kind == entries.LET_GO:
            self._let_go(pickle.loads(payload))
        elif kind == entries.DROP:
            self._channel.drop(*FH.unpack(payload))

    def _let_go(self, gone: Gone) -> None:
        for check, sinks in gone:
            if check:
                self.decided[check] = sinks
            else:
                self._filesystem.watches.let_go(sinks)
