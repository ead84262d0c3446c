"""Random and mutated FUSE requests in front of a channel, without a kernel: `python -m tests.fuzz.channel`.

    --seconds S   how long (default 10); --count N: how many requests instead; --seed N: where to begin (default 1)

The real channel, handles, filesystem and names; only pyfuse3 is not there, for it needs a kernel: what the channel
passes on is decoded here and given to `Names`, whose answers come back as pyfuse3's replies would. A conversation
has 2,000 requests in a filesystem of its own, and a seed of its own, which is printed when something does not hold:
`--seed N --count 2000` has it again.

What holds after each request: nothing was raised; each reply is well-formed, answers a request that was not
answered, with an errno of docs/reference/errnos.md, EIO only to a request that no kernel sends, and no more data than
were asked for; an interrupt is never answered itself. Every 50 requests: each waiting call is in two tables, and waits
for what is not there. At the end of a conversation everything is interrupted, closed and removed, and nothing is left.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import random
import re
import struct
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from pyfuse3 import FUSEError

from tests.fuzz import requests
from tests.fuzz.requests import Request, Requests
from wqfs.abi import fuse
from wqfs.abi.errors import ERRNO_NAMES
from wqfs.abi.polling import READABLE
from wqfs.fs.caller import Take
from wqfs.fs.channel import Channel
from wqfs.fs.channel_limits import MAX_WRITE
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.handles.base import Caller, Source
from wqfs.fs.handles.queue import QueueHandle
from wqfs.fs.handles.text import EventsHandle
from wqfs.fs.names import Names
from wqfs.fs.options import Options, parse_options

CONVERSATION: Final = 2000
_GROWTH_MAX: Final = 48 << 20
"""Bytes by which the process may grow after its first conversations."""
_WARM: Final = 10
_OPTIONS: Final = (
    "", "strict,enobufs", "allow_other", "strict,max_line=64,depth=1", "max_watches=2,max_objects=1,max_line=65536",
)  # fmt: skip
_SMALL: Final = "max_waiting=24,events_depth=16,log_events=40"
_OPEN: Final = 14
"""Open files that there are always."""
_NODES: Final = (2, 3, 7, 8, 12, 13, 33, 33, 34, 35, 36, 37, 38, 39)
"""Every file that can be read or written, a watch's as those of the watch 1."""
_SERVED: Final = requests.SERVED
_PAGE: Final = Path(__file__).resolve().parents[2] / "docs/reference/errnos.md"


def documented() -> frozenset[int]:
    """The errnos that stand in the tables and the text of the page."""
    numbers = {name: number for number, name in ERRNO_NAMES.items()}
    names = re.findall(r"\bE[A-Z0-9]{2,}\b", _PAGE.read_text(encoding="utf-8"))
    return frozenset(numbers[name] for name in names if name in numbers) - requests.NEVER


DOCUMENTED: Final = documented()


class Broken(AssertionError):
    """Something does not hold."""


def no_memory(address: int, caller: Caller, take: Take) -> None:
    raise OSError(errno.EFAULT, "nothing is mapped there")


class World:
    """One conversation."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.now_ns = 1_000_000_000_000
        self.replies: list[bytes] = []
        self.passed_on: list[bytes] = []
        self.filesystem, self.channel = self.make(parse_options(f"{_SMALL},{dice.choice(_OPTIONS)}"))
        self.filesystem.channel = self.channel
        self.names = Names(self.filesystem)
        self.requests = Requests(dice, self.channel.handles)
        self.buffer = bytearray(dice.randbytes(512) * ((MAX_WRITE + 4096) // 512))
        self.view = memoryview(self.buffer)
        self.asked: dict[int, list[Request]] = {}
        """Requests that were not answered, by their number."""
        self.counts: dict[str, int] = {}
        for name in ("w", "v"):
            self._run(self.names.mkdir(4, name.encode(), 0o755, _caller(0)))
        for node in _NODES:
            self._open(node, os.O_RDWR, 0)

    def make(self, options: Options) -> tuple[Filesystem, Channel]:
        """What is spoken to."""
        filesystem = Filesystem(options, 0, 0, no_memory, now_ns=lambda: self.now_ns)
        return filesystem, Channel(self.replies.append, self.passed_on.append, max_waiting=options.max_waiting)

    # -- one request

    def receive(self, size: int) -> None:
        """What is in the buffer comes."""
        self.channel.receive(self.view, size)

    def step(self) -> None:
        """Send the next request, and see what came of it."""
        if len(self.channel.handles) < _OPEN:
            node = self.dice.choice(_NODES)
            number = self.dice.choice(list(self.filesystem.watches.by_number) or [1])
            self._open(node if node < 16 else node - 32 + (number + 1) * 16, os.O_RDWR, self.dice.choice((0, 0, 7)))
        request = self.requests.next()
        self.now_ns += self.dice.choice((0, 1000, 1_000_000, 1_000_000_000))
        self.buffer[: len(request.message)] = request.message
        if request.opcode in _SERVED:
            self.asked.setdefault(request.unique, []).append(request)
        try:
            self.receive(len(request.message))
            if self.passed_on:
                self._names_answer(request)
        except Exception as error:
            raise Broken(f"{type(error).__name__} left receive: {error}") from error
        if self.channel.ready:
            raise Broken("a change was left unseen")
        if self.replies:
            for reply in self.replies:
                self._check(reply)
            self.replies.clear()
        if len(self.asked) != len(self.channel.waiting):
            lost = [unique for unique in self.asked if unique not in self.channel.waiting]
            raise Broken(f"requests {lost} neither answered nor waiting")

    def _check(self, reply: bytes) -> None:
        size, error, unique = fuse.OUT_HEADER.unpack_from(reply)
        if size != len(reply):
            raise Broken(f"a reply of {len(reply)} bytes says {size}")
        if not unique:
            if len(reply) != fuse.NOTIFY_POLL_OUT.size or error != fuse.NOTIFY_POLL:
                raise Broken(f"a notification that is none: {reply.hex()}")
            return
        waiting = self.asked.get(unique)
        if not waiting:
            raise Broken(f"an answer to {unique}, which was answered or never asked")
        request = waiting.pop() if error == -errno.EIO else waiting.pop(0)
        if waiting:
            return  # two have one number: which of them this answers cannot be told
        del self.asked[unique]
        name = ERRNO_NAMES.get(-error, str(error)) if error else "ok"
        self.counts[name] = self.counts.get(name, 0) + 1
        if error:
            if len(reply) != fuse.OUT_HEADER.size:
                raise Broken(f"an error with data: {reply.hex()}")
            if -error not in DOCUMENTED:
                raise Broken(f"opcode {request.opcode} answered {name}, which is not documented")
            if error == -errno.EIO and not request.broken:
                raise Broken(f"opcode {request.opcode} answered EIO, and it was well-formed")
            if error == -errno.EAGAIN and request.opcode != fuse.READ:
                raise Broken(f"opcode {request.opcode} answered EAGAIN")
        elif request.opcode == fuse.READ and len(reply) - 16 > request.size >= 0:
            raise Broken(f"{len(reply) - 16} bytes to a read of {request.size}")
        elif request.opcode == fuse.WRITE and request.size >= 0 and fuse.WRITE_OUT.unpack(reply)[3] > request.size:
            raise Broken("more taken than was written")

    # -- pyfuse3's part

    def _names_answer(self, request: Request) -> None:
        """What pyfuse3 would do with what was passed on."""
        if self.passed_on != [request.message] or request.opcode in (*_SERVED, fuse.INTERRUPT):
            raise Broken("what is pyfuse3's was not passed on as it came")
        self.passed_on.clear()
        message = request.message
        if len(message) < fuse.IN_HEADER.size:
            return
        _, opcode, unique, node, uid, *_ = fuse.IN_HEADER.unpack_from(message)
        body = message[fuse.IN_HEADER.size :]
        name = body.partition(b"\0")[0]
        if opcode == fuse.OPEN and len(body) >= 4:
            (flags,) = struct.unpack_from("=I", body)
            fh, error = self._open(node, flags, uid)
            reply = fuse.OUT_HEADER.pack(16, -error, unique) if error else fuse.OPEN_OUT.pack(32, 0, unique, fh, 0)
            told = self.answered(reply)
            if not error and fuse.OPEN_OUT.unpack(told)[4] != self.channel.handles[fh].open_flags:
                raise Broken("an open without the flags of its handle")
        elif opcode == requests.LOOKUP:
            self._run(self.names.lookup(node, name, _caller(uid)))
        elif opcode == requests.GETATTR:
            self._run(self.names.getattr(node, _caller(uid)))
        elif opcode == requests.MKDIR and len(body) > 8:
            self._run(self.names.mkdir(node, body[8:].partition(b"\0")[0], 0o755, _caller(uid)))
        elif opcode == requests.UNLINK:
            self._run(self.names.unlink(node, name, _caller(uid)))
        elif opcode == requests.RMDIR:
            self._run(self.names.rmdir(node, name, _caller(uid)))
        elif opcode == requests.SETATTR and len(body) >= 24:
            valid, _, fh, size = struct.unpack_from("=IIQQ", body)
            fields: Any = SimpleNamespace(
                update_mode=valid & 1, update_uid=valid & 2, update_gid=False, update_size=valid & 8
            )
            attributes: Any = SimpleNamespace(st_size=size)
            self._run(self.names.setattr(node, attributes, fields, fh, _caller(uid)))
        if self.channel.ready:
            self.channel.wake()

    def answered(self, reply: bytes) -> bytes:
        """What the kernel gets for pyfuse3's."""
        return self.channel.answered(reply)

    def _open(self, node: int, flags: int, uid: int) -> tuple[int, int]:
        """The new handle, or 0 and the errno."""
        info, error = self._run(self.names.open(node, flags, _caller(uid)))
        if error:
            return 0, error
        if len(self.channel.handles) > 48:
            self._close(self.dice.choice(list(self.channel.handles)[:-1]))
        return info.fh, 0

    def _run(self, method: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
        """What a method of Names returns, or 0 and the errno: none of them waits."""
        try:
            method.send(None)
        except StopIteration as done:
            return done.value, 0
        except FUSEError as error:
            if error.errno not in DOCUMENTED or error.errno == errno.EIO:
                raise Broken(f"{method} answered {ERRNO_NAMES.get(error.errno)}") from None
            return 0, error.errno
        raise Broken(f"{method} waits")

    # -- the tables

    def check_tables(self) -> None:
        """Each waiting call stands where it is looked for, and waits for what is not there."""
        channel = self.channel
        sources: dict[int, Source] = {id(source): source for source in channel.waiting.values()}
        for handle in channel.handles.values():
            source = handle.source()
            if source is not None:
                sources[id(source)] = source
        count = 0
        for source in sources.values():
            count += len(source.waiters)
            for unique, (handle, _, _) in source.waiters.items():
                if channel.waiting.get(unique) is not source:
                    raise Broken(f"{unique} waits at a source that nobody looks at")
                if isinstance(handle, QueueHandle | EventsHandle) and handle.poll() & READABLE:
                    raise Broken(f"{unique} waits for what is there")
            for handle in source.pollers:
                if handle not in channel.handles.values():
                    raise Broken("a closed file polls")
        if count != len(channel.waiting) or count > self.filesystem.options.max_waiting:
            raise Broken(f"{count} wait at their sources, {len(channel.waiting)} in all")

    def end(self) -> None:
        """Interrupt, close and remove everything: nothing may be left."""
        for unique in list(self.channel.waiting):
            message = fuse.IN_HEADER.pack(48, fuse.INTERRUPT, 1, 1, 0, 0, 1, 0, 0) + struct.pack("=Q", unique)
            for _ in range(2):
                self.buffer[: len(message)] = message
                self.channel.receive(self.view, len(message))
            if [fuse.OUT_HEADER.unpack(reply) for reply in self.replies] != [(16, -errno.EINTR, unique)]:
                raise Broken(f"an interrupt of {unique} brought {self.replies}")
            self.replies.clear()
        for fh in list(self.channel.handles):
            self._close(fh)
        for name in list(self.filesystem.watches.by_name):
            self._run(self.names.rmdir(4, os.fsencode(name), _caller(0)))
        watches, fs = self.filesystem.watches, self.filesystem
        channel = self.channel
        left = (
            *(watches.by_number, watches._owned, fs._sources, channel.waiting, channel.handles),
            *(channel.opened_by, channel.opened, channel._waits_for, channel._waits),
        )
        if any(left) or any(watches._everything) or any(watches._everything_else):
            raise Broken(f"left over: {left}")

    def _close(self, fh: int) -> None:
        before = len(self.replies)
        message = fuse.IN_HEADER.pack(64, fuse.RELEASE, 3, 1, 0, 0, 1, 0, 0) + struct.pack("=QIIQ", fh, 0, 0, 0)
        self.view[: len(message)] = message
        for unique in [u for u, source in self.channel.waiting.items() if self._reads(source, u, fh)]:
            # As the kernel has it: a file is closed when no call on it goes on.
            self.end_wait(unique)
        self.receive(len(message))
        answered = [fuse.OUT_HEADER.unpack_from(reply) for reply in self.replies[before:]]
        if answered.count((16, 0, 3)) != 1:
            raise Broken(f"a close was answered {answered}")
        self.replies.remove(fuse.OUT_HEADER.pack(16, 0, 3))
        for reply in self.replies:
            self._check(reply)
        self.replies.clear()

    def end_wait(self, unique: int) -> None:
        """A read ends, for its caller is gone."""
        self.channel.end_wait(unique, errno.EINTR)

    def _reads(self, source: Source, unique: int, fh: int) -> bool:
        return source.waiters[unique][0] is self.channel.handles.get(fh)


def _caller(uid: int) -> Any:
    return SimpleNamespace(uid=uid, gid=uid, pid=1)


def conversation(seed: int, count: int = CONVERSATION) -> dict[str, int]:
    """`count` requests from one seed; how often each answer came. Raises Broken."""
    world = World(seed)
    at = 0
    try:
        for at in range(count):
            world.step()
            if not at % 50:
                world.check_tables()
        world.check_tables()
        world.end()
    except Broken as broken:
        raise Broken(f"seed {seed}, request {at + 1}: {broken}") from broken.__cause__
    return world.counts


def memory() -> int:
    """Bytes that this process has in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def fuzz(seed: int, seconds: float, count: int | None) -> tuple[int, dict[str, int]]:
    """How many requests were sent, and how often each answer came. Raises Broken."""
    end = time.monotonic() + seconds
    sent = 0
    totals: dict[str, int] = {}
    warm = 0
    for at, each in enumerate(iter(lambda: None, 0)):
        del each
        if sent >= count if count is not None else time.monotonic() >= end:
            break
        size = CONVERSATION if count is None else min(CONVERSATION, count - sent)
        for name, times in conversation(seed + at, size).items():
            totals[name] = totals.get(name, 0) + times
        sent += size
        if at == _WARM:
            gc.collect()
            warm = memory()
    gc.collect()
    if warm and memory() > warm + _GROWTH_MAX:
        raise Broken(f"seed {seed}: grew from {warm >> 20} to {memory() >> 20} MiB in {sent} requests")
    return sent, totals


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.channel", description="FUSE requests at random.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    start = time.monotonic()
    try:
        sent, totals = fuzz(given.seed, given.seconds, given.count)
    except Broken as broken:
        print(broken)
        if broken.__cause__ is not None:
            sys.excepthook(type(broken.__cause__), broken.__cause__, broken.__cause__.__traceback__)
        return 1
    took = time.monotonic() - start
    answers = ", ".join(f"{name} {times:,}" for name, times in sorted(totals.items(), key=lambda item: -item[1]))
    print(f"{sent:,} requests from seed {given.seed} in {took:.0f} s; {memory() >> 20} MiB")
    print(f"answers: {answers}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
