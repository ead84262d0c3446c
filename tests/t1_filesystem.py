"""The filesystem's own time: keys end when their time is over, and who waits is told."""

from __future__ import annotations

import os
import struct

from wqfs.abi import fuse
from wqfs.abi import records as r
from wqfs.fs import nodes
from wqfs.fs.channel import Channel
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.options import Options
from wqfs.sim.keys import GC_DELAY_NS

SECOND_NS = 1_000_000_000
OWNER = (0, 0, 1)
_READ_BODY = struct.Struct("=QQIIQII")  # struct fuse_read_in


class Clock:
    def __init__(self) -> None:
        self.now_ns = SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


def make(clock: Clock, options: Options = Options()) -> tuple[Filesystem, list[bytes]]:  # noqa: B008  frozen
    sent: list[bytes] = []
    filesystem = Filesystem(options, 0, 0, lambda address, caller, take: None, clock)
    filesystem.channel = Channel(sent.append, lambda message: None)
    return filesystem, sent


def post(filesystem: Filesystem, line: str) -> None:
    fh = filesystem.open(nodes.POST, None, os.O_WRONLY, OWNER)
    assert filesystem.channel.handles[fh].write(memoryview(line.encode() + b"\n"), 0, OWNER) > 0


def test_expired_key_is_collected_when_due_and_its_reader_woken() -> None:
    clock = Clock()
    filesystem, sent = make(clock)
    asked: list[None] = []
    filesystem.on_schedule = lambda: asked.append(None)
    post(filesystem, "key add user k v @s")
    assert filesystem.collect() is None and not asked
    post(filesystem, "key timeout k 5")
    assert asked
    due_ns = filesystem.collect()
    assert due_ns == clock.now_ns + 5 * SECOND_NS + GC_DELAY_NS

    watch = filesystem.make_watch("w", 0, 0)
    filesystem.control.objects_line(watch, "key k id=7", OWNER)
    fh = filesystem.open(nodes.QUEUE, watch, os.O_RDONLY, OWNER)
    body = (fh, 0, 4096, fuse.FUSE_READ_LOCKOWNER, 0, 0, 0)
    request = fuse.IN_HEADER.pack(80, fuse.READ, 99, 1, 0, 0, 1, 0, 0) + _READ_BODY.pack(*body)
    filesystem.channel.receive(memoryview(request), len(request))
    assert not sent
    clock.now_ns = due_ns
    filesystem.collect()
    (reply,) = sent
    (record,) = r.decode(reply[fuse.OUT_HEADER.size :])
    assert (record.type, record.subtype, record.watch_id) == (r.WatchType.META, r.MetaSubtype.REMOVAL, 7)


def test_unnamed_watch_of_another_user_hears_only_of_keys_that_it_may_view() -> None:
    filesystem, _ = make(Clock())
    stranger = filesystem.make_watch("stranger", 65534, 65534)
    owner = filesystem.make_watch("owner", 0, 0)
    post(filesystem, "key add user secret v @s")
    post(filesystem, "key setperm secret 0x3f000000")
    post(filesystem, "sb error / EIO")
    assert [record.type for record in r.decode(stranger.queue.read(4096) or b"")] == [r.WatchType.SB_NOTIFY]
    assert len(owner.queue) == 4
    post(filesystem, "key setperm secret 0x3f3f3f3f")
    (record,) = r.decode(stranger.queue.read(4096) or b"")
    assert record.subtype == r.KeySubtype.SETATTR
