"""What the control files do to the core: `post`, `objects`, `filter`, `depth`, and the watch ioctls.

The glue between a line of text and the room that understands it; refusals become LineRefused, with
the word at fault.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from wqfs.abi import filter_text
from wqfs.fs.handles.base import Caller
from wqfs.fs.handles.lines import LineRefused
from wqfs.queue import DEPTH_MAX, SizeRefused
from wqfs.sim import calls, objects
from wqfs.sim.call_arguments import Constructing
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Watches, WatchRefused


class Control:
    """now_ns: nanoseconds since the epoch."""

    def __init__(self, system: System, watches: Watches, now_ns: Callable[[], int]) -> None:
        self._system = system
        self._watches = watches
        self._now_ns = now_ns
        self.changes = 0
        """Lines of control files that were carried out."""
        self._actor = Actor(0, 0)
        system.keys.login(self._actor)

    def _actor_of(self, caller: Caller) -> Actor:
        uid, gid, _ = caller
        actor = self._actor
        if actor.uid != uid or actor.gid != gid:
            actor = self._log_in(uid, gid)
        return actor

    def _log_in(self, uid: int, gid: int) -> Actor:
        """Whoever runs a process has a session. Raises ENOMEM."""
        actor = Actor(uid, gid)
        self._system.keys.login(actor)
        self._actor = actor
        return actor

    def run(self, line: str, caller: Caller, now_ns: int) -> None:
        """A line of `post`. Raises LineRefused."""
        try:
            self._system.run(line, self._actor_of(caller), now_ns)
        except Refused as refused:
            raise LineRefused(refused.errno or errno.EINVAL, refused.reason, refused.word) from None

    def watch_object(self, watch: Watch, words: Sequence[str], watch_id: int, caller: Caller) -> None:
        """Watch an object, in the words of `objects`, under watch_id 0..255; -1 stops it.

        Raises OSError in the kernel's order: the ID first (EINVAL), then the object, then EBUSY or
        EBADSLT.
        """
        if not -1 <= watch_id <= 255:
            raise WatchRefused(errno.EINVAL, f"expected a watch ID of -1..255, not {watch_id}")
        now_ns = self._now_ns()
        target, place, label = self._system.resolve(words, self._actor_of(caller), now_ns)
        if watch_id < 0:
            self._watches.remove(watch, target, now_ns, label=label, place=place)
        else:
            self._watches.add(watch, target, watch_id, label=label, place=place)

    def watch_key_as(self, watch: Watch, key: int, watch_id: int, process: str, thread: str, caller: Caller) -> None:
        """KEYCTL_WATCH_KEY for a simulated process, as `watch_object`. Raises OSError too: EPERM for who may not act
        as that process, ESRCH without one."""
        if not -1 <= watch_id <= 255:
            raise WatchRefused(errno.EINVAL, f"expected a watch ID of -1..255, not {watch_id}")
        now_ns = self._now_ns()
        actor = self._system.processes.actor(self._actor_of(caller), process, thread)
        target = self._system.keys.watch_target(actor, key, now_ns)
        label = f"key {target.serial}"
        if watch_id < 0:
            self._watches.remove(watch, target, now_ns, label=label, place=())
        else:
            self._watches.add(watch, target, watch_id, label=label, place=())

    def call(self, request: dict[str, Any], now_ns: int) -> dict[str, Any]:
        """A request of sim/calls; see wqfs.fs.handles.calls. Raises KeyError, TypeError, ValueError."""
        actor = Actor(
            int(request["uid"]), int(request["gid"]), tuple(request["groups"]), request["process"], request["thread"]
        )
        arguments = [each.encode("latin-1") if isinstance(each, str) else each for each in request["args"]]
        try:
            if calls.is_about_keys(request["call"]):
                self._be(actor)
            answer = calls.call(self._system, actor, request["call"], arguments, now_ns)
        except Refused as refused:
            return {"errno": refused.errno, "reason": refused.reason}
        if isinstance(answer, bytes):
            return {"data": answer.decode("latin-1")}
        if isinstance(answer, Constructing):
            return {"constructing": answer.serial}
        return {"value": answer}

    def _be(self, actor: Actor) -> None:
        """Let the process have the user and groups that it has by now."""
        process = self._system.processes.by_name.get(actor.process)
        if process is not None:
            process.uid, process.gid, process.groups = actor.uid, actor.gid, actor.groups
            if actor.thread:
                self._system.processes.hear_of(process, actor.thread)
        elif actor.uid != self._actor.uid or actor.gid != self._actor.gid:
            self._log_in(actor.uid, actor.gid)

    def objects_line(self, watch: Watch, line: str, caller: Caller) -> None:
        """A line of `objects`: adds or, with a `-` before it, removes. Raises LineRefused."""
        try:
            self.changes += 1
            objects.apply(self._system, watch, line, self._actor_of(caller), self._now_ns())
        except Refused as refused:
            raise LineRefused(refused.errno or errno.EINVAL, refused.reason, refused.word) from None

    def filter_lines(self, watch: Watch, lines: Sequence[str], _: Caller) -> None:
        """The whole text of `filter`; without a rule it removes the filter. Raises LineRefused."""
        self.changes += 1
        try:
            watch.queue.filter = filter_text.parse("\n".join(lines))
        except filter_text.FilterTextError as error:
            line = lines[error.line - 1]
            raise LineRefused(errno.EINVAL, error.rule, error.word, line=line, number=error.line) from None

    def depth_line(self, watch: Watch, line: str, _: Caller) -> None:
        """A line of `depth`: the same as SET_SIZE. Raises LineRefused."""
        text = line.strip()
        if not text:
            return
        if not text.isascii() or not text.isdecimal() or len(text) > 10:
            raise LineRefused(errno.EINVAL, f"expected a depth of 1..{DEPTH_MAX}, not {text[:20]!r}", 1)
        self.changes += 1
        try:
            watch.queue.set_size(int(text))
        except SizeRefused as refused:
            raise LineRefused(refused.errno or errno.EINVAL, str(refused.strerror), 1) from None
