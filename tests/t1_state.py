"""The state of a mount as bytes and back (wqfs.fs.state): all is as it was, and what is not ours is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wqfs import __version__
from wqfs.abi import fuse
from wqfs.fs import nodes, state, store
from wqfs.fs.channel import Channel
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.journal import Journal
from wqfs.fs.options import Options
from wqfs.fs.recorder import Clock, Recorder
from wqfs.sim.random_scenario import random_scenario

SHAPES = Path(__file__).with_name("kept_shapes.json")
ME, OTHER = (0, 0, 7), (1000, 1000, 8)
START_NS = 10**18
RECORD = struct.pack("=IIII", 1 | 1 << 24, 16, 7, 0)


class Kept:
    """A mount without a kernel: what is asked of its files, and its state to bytes and back."""

    def __init__(self, recorder: Recorder, sent: list[bytes]) -> None:
        self.recorder = recorder
        self.filesystem = recorder.filesystem
        self.sent = sent
        recorder.send = sent.append
        recorder.forward = lambda message: None
        recorder.drain = lambda: None
        recorder.clock.now_ns = START_NS  # and it stands still
        self._unique = 100

    def again(self, shapes: state.Shapes | None = None) -> Kept:
        left: store.Left = state.load(state.dump(store.Left(self.recorder, {}, 0), shapes))
        left.recorder.come_back(Journal())
        left.recorder.real_fetch = no_fetch
        return Kept(left.recorder, [])

    def open(self, place: nodes.Place, name: str = "", *, flags: int | None = None, caller: Any = ME) -> int:
        if flags is None:
            flags = os.O_RDONLY if place.mode & 0o400 else os.O_WRONLY
        return self.filesystem.open(place, self.filesystem.watches.by_name[name] if name else None, flags, caller)

    def write(self, fh: int, data: bytes, caller: Any = ME) -> int:
        return self.filesystem.channel.handles[fh].write(memoryview(data), 0, caller)

    def read(self, fh: int, size: int = 1 << 20, offset: int = 0) -> bytes | int | None:
        data = self.filesystem.channel.handles[fh].read(offset, size, 0)
        return data if data is None or isinstance(data, int) else bytes(data)

    def ask(self, opcode: int, body: bytes) -> list[bytes]:
        """A request, and the bodies of what was answered to it."""
        self._unique += 2
        size = fuse.IN_HEADER.size + len(body)
        message = fuse.IN_HEADER.pack(size, opcode, self._unique, 1, *ME, 0, 0) + body
        self.recorder.clock.now_ns = START_NS
        self.filesystem.channel.receive(memoryview(bytearray(message)), size)
        self.recorder.flush()
        return [reply[16:] for reply in self.sent if fuse.OUT_HEADER.unpack_from(reply)[2] == self._unique]

    def texts(self) -> dict[str, bytes]:
        cache, found = self.filesystem._texts, {}
        self.recorder.clock.now_ns = START_NS
        for place in nodes.FIXED.values():
            if place.mode & 0o444 and not place.is_directory and not place.stream:
                found[place.path] = cache.text(place, None)
        for watch in self.filesystem.watches.by_number.values():
            for place in (nodes.OBJECTS, nodes.FILTER, nodes.DEPTH, nodes.STATUS):
                found[f"{watch.number}/{place.name}"] = cache.text(place, watch)
        return found


def no_fetch(address: int, caller: Any, take: Any) -> None:
    raise OSError(errno.EPERM, "nobody's memory is read here")


def start(options: Options = Options()) -> Kept:  # noqa: B008  frozen
    clock = Clock()
    clock.now_ns = START_NS
    recorder = Recorder(Journal(), clock)
    recorder.real_fetch = no_fetch
    recorder.filesystem = filesystem = Filesystem(options, 0, 0, recorder.fetch, clock.read)
    recorder.attach(Channel(recorder.answer, recorder.pass_on, show=recorder.show, clock=time.monotonic))
    filesystem.note, filesystem.channel = recorder, recorder.channel
    recorder.journal.turn_to(1)
    return Kept(recorder, [])


def busy() -> Kept:
    """Something of everything that a mount can hold."""
    kept = start(Options(allow_other=True))
    filesystem = kept.filesystem
    for name in ("all", "some", "full", "many"):
        filesystem.make_watch(name, 0, 0)
    filesystem.make_watch("theirs", 1000, 1000)
    post = kept.open(nodes.POST)
    kept.write(kept.open(nodes.FILTER, "some", flags=os.O_RDWR), b"mount * id=3\nsb error flags=0x1/0x1\n")
    kept.write(kept.open(nodes.DEPTH, "full", flags=os.O_RDWR), b"32\n")
    for line in (
        "mount /dev/sdb1 /mnt -t ext4", "mount --make-shared /mnt", "mount --bind /mnt /other",
        "mount --make-slave /other", "automount auto /auto", "key newring ring @s", "key add user k x ring",
        "key timeout k 1000",
        "key add logon a:b x @u", "process new p", "process fork p q", "as p key add user own x @p",
        "as p/thread key add user own x @t", "key request2 user new info @s", "device add /dev/sdc",
        "sb freeze /mnt", "sb error /mnt EIO", "nonsense",
    ):  # fmt: skip
        kept.write(post, line.encode() + b"\n")
    for number in range(80):
        kept.write(post, b"mount /dev/x%d /x%d -t ext4\n" % (number, number))
    kept.write(post, b"clock advance 5\n")
    kept.write(kept.open(nodes.OBJECTS, "some", flags=os.O_RDWR), b"mount /mnt id=3\nkey k id=4\nsb /mnt\ndevices\n")
    kept.write(kept.open(nodes.OBJECTS, "many", flags=os.O_RDWR), b"mount / id=7\nmount /mnt id=8\n")
    kept.write(post, b"key update k y\nmount -o remount,ro /mnt\n")
    for many in (b"mount --rbind / /copy\n", b"mount --rbind /copy /mnt/copy\n"):  # events at once
        assert kept.write(post, many) == len(many)
    calls = kept.open(nodes.CALLS, flags=os.O_RDWR)
    for call, arguments in (
        ("fsopen", ["ext4"]),
        ("fsconfig", [1, 1, "source", "/dev/f"]),
        ("open_tree", [0, "/mnt", 1]),
    ):
        request = {"uid": 0, "gid": 0, "groups": [], "process": "", "thread": "", "call": call, "args": arguments}
        kept.write(calls, json.dumps(request).encode() + b"\n")
        answer = kept.read(calls)
        assert isinstance(answer, bytes) and b"value" in answer, answer
    for place in nodes.OF_A_WATCH.values():
        if not place.is_directory:
            for name in ("all", "some", "full", "many"):
                kept.open(place, name, flags=os.O_RDONLY)
    for place in nodes.FIXED.values():
        if not place.is_directory:
            kept.open(place)
    kept.write(kept.open(nodes.RECORDS), RECORD * 3)
    kept.write(post, b"mount /dev/late /late -t ext4\nmount /dev/ha")  # half a line
    return kept


def test_texts_are_as_they_were() -> None:
    kept = busy()
    before = kept.texts()
    assert len(before) > 20 and b"lost 0" not in before["3/status"]
    after = kept.again()
    assert after.texts() == before
    assert after.again().texts() == before


def test_every_open_file_gives_what_it_would_have_given() -> None:
    kept, twin = busy(), busy()
    after = kept.again()
    handles = list(twin.filesystem.channel.handles)
    assert list(after.filesystem.channel.handles) == handles
    for fh in handles:
        assert after.read(fh) == twin.read(fh), type(twin.filesystem.channel.handles[fh])
        assert after.filesystem.channel.handles[fh].poll() == twin.filesystem.channel.handles[fh].poll()
    assert after.texts() == twin.texts()


def test_half_a_line_goes_on() -> None:
    kept = start()
    post = kept.open(nodes.POST)
    kept.write(post, b"mount /dev/sdb1 /m")
    after = kept.again()
    assert after.write(post, b"nt -t ext4\n") > 0
    assert b" /mnt " in after.texts()["sim/mountinfo"]


def test_text_that_is_read_in_pieces_goes_on_where_it_was() -> None:
    kept = busy()
    fh = kept.open(nodes.MOUNTINFO)
    whole = kept.texts()["sim/mountinfo"]
    first = kept.read(fh, 100)
    kept.write(kept.open(nodes.POST), b"umount /x1\n")
    after = kept.again()
    assert first == whole[:100] and after.read(fh, 1 << 20, 100) == whole[100:]


def test_loss_is_told_once_where_it_was() -> None:
    kept, twin = busy(), busy()
    fh = kept.open(nodes.QUEUE, "full", flags=os.O_RDONLY)
    assert twin.open(nodes.QUEUE, "full", flags=os.O_RDONLY) == fh
    reads = []
    for each in (kept.again(), twin):
        pieces: list[bytes] = []
        while isinstance(piece := each.read(fh, 200), bytes):
            pieces.append(piece)
        reads.append(pieces)
    assert reads[0] == reads[1] and any(struct.pack("=II", 1 << 24, 8) in piece for piece in reads[0])


def test_changed_state_with_the_right_checksum_is_refused_in_words() -> None:
    """In a process of its own, whose memory is limited: see there."""
    command = [sys.executable, "-m", "tests.fuzz.left", "--count", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0 and "'refused'" in done.stdout, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_mount_goes_on_as_a_mount() -> None:
    kept = busy()
    fh = kept.open(nodes.QUEUE, "all", flags=os.O_RDONLY)
    while kept.read(fh) is not None:
        pass
    read = struct.pack("=QQIIQII", fh, 0, 4096, fuse.FUSE_READ_LOCKOWNER, 0, 0, 0)
    assert kept.ask(fuse.READ, read) == []
    after = kept.again()
    assert len(kept.filesystem.channel.waiting) == 1, "to be written down changes nothing"
    assert after.filesystem.channel.waiting == {}, "who waits asks again"
    assert after.ask(fuse.READ, read) == []
    records = after.open(nodes.RECORDS)
    after.ask(fuse.WRITE, struct.pack("=QQIIQII", records, 0, 16, 0, 0, 1, 0) + RECORD)
    assert [reply[16:] for reply in after.sent].count(RECORD) == 1
    assert {entry.kind for entry in after.recorder.journal.entries(0)} != set(), "and it is noted"


def test_poller_is_told() -> None:
    kept = busy()
    fh = kept.open(nodes.QUEUE, "all", flags=os.O_RDONLY)
    kept.ask(fuse.POLL, struct.pack("=QQII", fh, 4711, fuse.FUSE_POLL_SCHEDULE_NOTIFY, 0))
    after = kept.again()
    after.recorder.wake_pollers()
    assert fuse.NOTIFY_POLL_OUT.pack(24, fuse.NOTIFY_POLL, 0, 4711) in after.sent


def test_bytes_kept_for_readers_are_counted_on() -> None:
    kept = busy()
    before = kept.filesystem.kept_bytes
    after = kept.again()
    assert after.filesystem.kept_bytes == before > 10_000
    for name in ("all", "some", "full", "many", "theirs"):
        after.filesystem.remove_watch(name)
    for fh in list(after.filesystem.channel.handles):
        after.ask(fuse.RELEASE, struct.pack("=QIIQ", fh, 0, 0, 0))
    assert after.filesystem.watches.kept.used <= 64 * 1200, "but for the last batch"


@pytest.mark.parametrize("seed", range(6))
def test_random_system_goes_on_as_if_nothing_had_been(seed: int) -> None:
    lines = [line for step in random_scenario(seed, 600).steps for line in step.run]
    twin, kept = start(), start()
    chance = random.Random(seed)
    for each in (twin, kept):
        each.filesystem.make_watch("w", 0, 0)
        each.open(nodes.EVENTS, "w")
        each.post = each.open(nodes.POST)  # type: ignore[attr-defined]
    for line in lines:
        answers = [each.write(each.post, line.encode() + b"\n") for each in (twin, kept)]  # type: ignore[attr-defined]
        assert answers[0] == answers[1], line
        if chance.random() < 0.02:
            post = kept.post  # type: ignore[attr-defined]
            kept = kept.again()
            kept.post = post  # type: ignore[attr-defined]
    assert kept.texts() == twin.texts()
    for fh in twin.filesystem.channel.handles:
        assert kept.read(fh) == twin.read(fh)


def test_long_chain_of_mounts_is_no_deep_recursion() -> None:
    kept = start()
    post = kept.open(nodes.POST)
    path = ""
    for number in range(400):
        path += f"/{number}"
        assert kept.write(post, f"mount --bind / {path}\n".encode()) > 0
    for _ in range(3000):
        kept.write(post, b"mount /dev/sdb1 /0 -t ext4\n")
    assert kept.again().texts() == kept.texts()


# -- what is refused


def test_other_format_is_refused_with_both_versions() -> None:
    data = bytearray(state.dump(["x"]))
    struct.pack_into("=I", data, 12, state.FORMAT + 1)
    with pytest.raises(state.StateRefused, match=rf"format {state.FORMAT + 1}, of wqfs {__version__}; wqfs .* reads"):
        state.load(bytes(data))


@pytest.mark.parametrize("cut", [0, 11, 55, 60, -1])
def test_part_of_a_state_is_refused(cut: int) -> None:
    with pytest.raises(state.StateRefused):
        state.load(state.dump(["x" * 100])[:cut])


def test_changed_byte_is_refused() -> None:
    data = bytearray(state.dump(["x" * 100]))
    for at in range(len(data)):
        if not 28 <= at < 56:  # the version is for people
            data[at] ^= 1
            with pytest.raises(state.StateRefused):
                state.load(bytes(data))
            data[at] ^= 1


@pytest.mark.parametrize("name", [("posix", "mkdir"), ("wqfs.fs.mounting", "os.mkdir"), ("wqfs.fs.mounting", "os")])
def test_foreign_name_is_not_called(name: tuple[str, str]) -> None:
    import zlib

    body = b"\x80\x04\x8c%c%b\x8c%c%b\x93(V/tmp/never\ntR." % (
        len(name[0]), name[0].encode(), len(name[1]), name[1].encode(),
    )  # fmt: skip
    data = state.dump(None)[:56]
    head = bytearray(data)
    struct.pack_into("<QI", head, 16, len(body), zlib.crc32(body))
    with pytest.raises(state.StateRefused, match=f"expected something of wqfs, not {re.escape('.'.join(name))}"):
        state.load(bytes(head) + body)


def test_what_cannot_come_back_is_refused_when_it_is_written() -> None:
    kept = start()
    kept.filesystem.refusals._now_ns = lambda: 1
    with pytest.raises((AttributeError, pickle.PicklingError)):
        state.dump(kept.recorder)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        state.dump([io.BytesIO])


# -- shapes


def shapes() -> dict[str, list[str]]:
    met = state.Shapes()
    kept = busy()
    kept.again(met)
    return {name: sorted(names) for name, names in sorted(met.found.items())}


def test_shape_changes_only_with_the_format() -> None:
    """Who changes what is kept raises state.FORMAT, and then writes the file anew: python -m tests.t1_state"""
    known = json.loads(SHAPES.read_text())
    now = shapes()
    changed = {name for name in {*known["kept"], *now} if known["kept"].get(name) != now.get(name)}
    assert (known["format"], changed) == (state.FORMAT, set()), test_shape_changes_only_with_the_format.__doc__


def test_every_class_that_a_mount_holds_is_among_them() -> None:
    """All classes of the simulated system and of open files that have objects while a mount is busy."""
    import wqfs.sim.mount_descriptors as descriptors
    from wqfs.abi import filters

    known = json.loads(SHAPES.read_text())["kept"]
    for cls in (filters.Filter, filters.Rule, descriptors.Context, descriptors.Parameters, descriptors.Tree):
        assert f"{cls.__module__}.{cls.__qualname__}" in known


if __name__ == "__main__":
    SHAPES.write_text(json.dumps({"format": state.FORMAT, "kept": shapes()}, indent=1) + "\n")
