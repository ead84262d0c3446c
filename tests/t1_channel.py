"""wqfs.fs.channel: bytes in, bytes out, over the real handles of a filesystem that nobody mounted."""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wqfs.abi import fuse, ioctls
from wqfs.abi import records as r
from wqfs.fs import nodes
from wqfs.fs.channel import Channel
from wqfs.fs.channel_limits import MAX_PAGES, MAX_WRITE
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.handles.base import Caller, Handle
from wqfs.fs.options import parse_options

ROOT = (0, 0, 1)
GETATTR = 3
SERVED = (fuse.READ, fuse.WRITE, fuse.POLL, fuse.IOCTL, fuse.RELEASE)


def no_memory(address: int, caller: Caller, take: Callable[[bytes | OSError], object]) -> None:
    raise PermissionError(errno.EPERM, "nobody's memory")


class Kernel:
    """What stands on both sides of a channel: sends requests, keeps replies and what was forwarded."""

    def __init__(self, max_waiting: int = 16384) -> None:
        self.replies: list[bytes] = []
        self.forwarded: list[bytes] = []
        self.filesystem = Filesystem(parse_options(""), 0, 0, no_memory, now_ns=lambda: 0)
        self.channel = Channel(self.replies.append, self.forwarded.append, max_waiting=max_waiting)
        self.filesystem.channel = self.channel
        self.watch = self.filesystem.make_watch("w", 0, 0)
        fs, watch = self.filesystem, self.watch
        self.queue = fs.open(nodes.QUEUE, watch, os.O_RDONLY, ROOT)
        self.post = fs.open(nodes.POST, None, os.O_WRONLY, ROOT)
        for place in (
            nodes.QUEUE,
            nodes.EVENTS,
            nodes.LOG,
            nodes.OBJECTS,
            nodes.FILTER,
            nodes.DEPTH,
            nodes.STATUS,
        ):
            fs.open(place, watch, os.O_RDWR, ROOT)
        for place in (nodes.ROOT_QUEUE, nodes.RECORDS, nodes.MOUNTINFO, nodes.SNAPSHOT, nodes.ERRORS):
            fs.open(place, None, os.O_RDWR, ROOT)
        self.buffer = bytearray(MAX_WRITE + 4096)

    def send(self, message: bytes) -> list[bytes]:
        """The replies that one request brought about."""
        before = len(self.replies)
        self.buffer[: len(message)] = message
        self.channel.receive(memoryview(self.buffer), len(message))
        return self.replies[before:]


def request(opcode: int, unique: int, body: bytes = b"") -> bytes:
    size = fuse.IN_HEADER.size + len(body)
    return fuse.IN_HEADER.pack(size, opcode, unique, 1, 0, 0, os.getpid(), 0, 0) + body


def read(unique: int, fh: int, size: int = 4096, flags: int = 0) -> bytes:
    return request(fuse.READ, unique, struct.pack("=QQIIQII", fh, 0, size, fuse.FUSE_READ_LOCKOWNER, 0, flags, 0))


def write(unique: int, fh: int, data: bytes) -> bytes:
    return request(fuse.WRITE, unique, struct.pack("=QQIIQII", fh, 0, len(data), 0, 0, 0, 0) + data)


def poll(unique: int, fh: int, kh: int, flags: int = fuse.FUSE_POLL_SCHEDULE_NOTIFY) -> bytes:
    return request(fuse.POLL, unique, struct.pack("=QQII", fh, kh, flags, 1))


def ioctl(unique: int, fh: int, command: int, argument: int = 0, data: bytes = b"") -> bytes:
    return request(fuse.IOCTL, unique, struct.pack("=QIIQII", fh, 0, command, argument, len(data), 16) + data)


def interrupt(unique: int, which: int) -> bytes:
    return request(fuse.INTERRUPT, unique, struct.pack("=Q", which))


def release(unique: int, fh: int) -> bytes:
    return request(fuse.RELEASE, unique, struct.pack("=QIIQ", fh, 0, 0, 0))


def error_of(reply: bytes) -> int:
    size, error, _ = fuse.OUT_HEADER.unpack_from(reply)
    assert size == len(reply)
    return -int(error)


def unique_of(reply: bytes) -> int:
    """Which request a reply answers, 0 for a notification."""
    return int(fuse.OUT_HEADER.unpack_from(reply)[2])


# -- one by one


def test_read_of_an_empty_queue_waits_and_gets_the_next_event() -> None:
    kernel = Kernel()
    assert kernel.send(read(2, kernel.queue)) == []
    replies = kernel.send(write(4, kernel.post, b"mount /dev/sda1 /mnt\n"))
    filled, done = sorted(replies, key=unique_of)
    assert fuse.WRITE_OUT.unpack(done) == (24, 0, 4, 21)
    assert fuse.OUT_HEADER.unpack(filled[:16]) == (16 + 24, 0, 2)
    assert len(r.split(filled[16:])) == 1
    assert kernel.channel.waiting == {}


def test_read_without_blocking_is_eagain() -> None:
    kernel = Kernel()
    (reply,) = kernel.send(read(2, kernel.queue, flags=os.O_NONBLOCK))
    assert error_of(reply) == errno.EAGAIN


def test_interrupt_of_a_waiting_read_answers_it_with_eintr() -> None:
    kernel = Kernel()
    kernel.send(read(2, kernel.queue))
    (reply,) = kernel.send(interrupt(3, 2))
    assert fuse.OUT_HEADER.unpack(reply) == (16, -errno.EINTR, 2)
    assert kernel.send(interrupt(5, 2)) == []


def test_interrupt_of_a_request_unknown_is_not_answered() -> None:
    kernel = Kernel()
    assert kernel.send(interrupt(3, 99)) == []


def test_read_beyond_max_waiting_is_enomem() -> None:
    kernel = Kernel(max_waiting=2)
    kernel.send(read(2, kernel.queue))
    kernel.send(read(4, kernel.queue))
    (reply,) = kernel.send(read(6, kernel.queue))
    assert error_of(reply) == errno.ENOMEM


def test_read_without_lock_owner_is_einval_and_takes_nothing() -> None:
    kernel = Kernel()
    kernel.send(write(2, kernel.post, b"mount /dev/sda1 /mnt\n"))
    splice = request(fuse.READ, 4, struct.pack("=QQIIQII", kernel.queue, 0, 4096, 0, 0, 0, 0))
    (reply,) = kernel.send(splice)
    assert error_of(reply) == errno.EINVAL
    assert len(kernel.watch.queue) == 1


def test_poll_notifies_once_for_each_time_it_was_asked() -> None:
    kernel = Kernel()
    (reply,) = kernel.send(poll(2, kernel.queue, kh=77))
    assert fuse.POLL_OUT.unpack(reply) == (24, 0, 2, 0)
    line = b"mount /dev/sda1 /mnt\n"
    told = [reply for reply in kernel.send(write(4, kernel.post, line)) if not unique_of(reply)]
    assert told == [fuse.NOTIFY_POLL_OUT.pack(24, fuse.NOTIFY_POLL, 0, 77)]
    assert len(kernel.send(write(6, kernel.post, line))) == 1


def test_release_of_an_unknown_handle_is_answered() -> None:
    (reply,) = Kernel().send(release(2, 999))
    assert error_of(reply) == 0


@pytest.mark.parametrize("message", [read(2, 999), write(2, 999, b"x"), poll(2, 999, 1)], ids=["read", "write", "poll"])
def test_request_for_an_unknown_handle_is_ebadf(message: bytes) -> None:
    (reply,) = Kernel().send(message)
    assert error_of(reply) == errno.EBADF


def test_request_of_another_kind_is_forwarded_untouched() -> None:
    kernel = Kernel()
    message = request(GETATTR, 2, bytes(16))
    assert kernel.send(message) == []
    assert kernel.forwarded == [message]


@pytest.mark.parametrize("message", [read(2, 1), write(2, 1, b"x"), poll(2, 1, 1)], ids=["read", "write", "poll"])
def test_fault_in_a_handle_is_eio_on_that_request(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Handle):
        def read(self, offset: int, size: int, flags: int) -> bytes:
            raise RuntimeError("a fault")

        def write(self, data: memoryview, offset: int, caller: tuple[int, int, int]) -> int:
            raise RuntimeError("a fault")

        def poll(self) -> int:
            raise RuntimeError("a fault")

    kernel = Kernel()
    kernel.channel.handles[1] = Faulty()
    (reply,) = kernel.send(message)
    assert error_of(reply) == errno.EIO
    assert "RuntimeError: a fault" in caplog.text


def test_reply_to_open_carries_the_flags_of_its_handle() -> None:
    kernel = Kernel()
    kernel.send(request(fuse.OPEN, 8, bytes(8)))
    reply = kernel.channel.answered(fuse.OPEN_OUT.pack(32, 0, 8, kernel.queue, 0))
    flags = fuse.OPEN_OUT.unpack(reply)[4]
    assert flags & fuse.FOPEN_STREAM and flags & fuse.FOPEN_DIRECT_IO and flags & fuse.FOPEN_NOFLUSH


def test_reply_to_init_has_sizes_that_fit_the_socket() -> None:
    kernel = Kernel()
    kernel.send(request(fuse.INIT, 8, bytes(64)))
    body = fuse.INIT_OUT.pack(7, 38, 1 << 20, 0, 12, 9, 1 << 20, 1, 256, 0, 0, 0) + bytes(28)
    reply = kernel.channel.answered(fuse.OUT_HEADER.pack(16 + len(body), 0, 8) + body)
    got = fuse.INIT_OUT.unpack_from(reply, 16)
    assert len(reply) == 16 + len(body)
    assert (got[2], got[6], got[8]) == (MAX_WRITE, MAX_WRITE, MAX_PAGES)


# -- any bytes


FILTER_HEAD = struct.pack("=II", 1, 0)
LINES = st.sampled_from(
    [b"mount /dev/sda1 /mnt\n", b"umount /mnt\n", b"key add user a b @s\n", b"nonsense\n", b"half a li",
     b"\n" * 5, b"-devices", b"devices id=3\n", b"sb / id=2\n", b"64\n", b"key * id=3\n", b"nothing\n"]
)  # fmt: skip
COMMANDS = st.sampled_from(
    [
        (ioctls.IOC_WATCH_QUEUE_SET_SIZE, 32, b""),
        (ioctls.IOC_WATCH_QUEUE_SET_FILTER, 0, b""),
        (ioctls.IOC_WATCH_QUEUE_SET_FILTER, 4096, b""),
        (ioctls.wqfs_ioc_set_filter(1), 0, FILTER_HEAD + bytes(44)),
        (ioctls.wqfs_ioc_set_filter(0), 0, bytes(8)),
        (ioctls.WQFS_IOC_QUEUED, 0, b""),
        (ioctls.WQFS_IOC_SETTLE, 0, b""),
        (ioctls.WQFS_IOC_SETTLE, 1, b""),
        (ioctls.WQFS_IOC_WATCH_KEY, 0, ioctls.WATCH_KEY.pack(-3, 1)),
        (ioctls.WQFS_IOC_WATCH_MOUNT, 0, ioctls.WATCH_PATH.pack(2, b"/")),
        (ioctls.WQFS_IOC_WATCH_DEVICES, 0, ioctls.WATCH_DEVICES.pack(-1)),
        (0x5401, 0, b""),
    ]
)
HANDLES = st.integers(0, 15)
RAW = st.one_of(LINES, st.binary(max_size=60), st.just(r.LOSS + r.removal(1, 2)))


@st.composite
def messages(draw: st.DrawFn, unique: int) -> bytes:
    """A request that makes sense, with up to three bytes of it changed, or cut."""
    fh = draw(HANDLES)
    kind = draw(st.integers(0, 7))
    if kind == 0:
        message = read(unique, fh, draw(st.integers(0, 5000)), draw(st.sampled_from([0, os.O_NONBLOCK, os.O_DIRECT])))
    elif kind in (1, 2):
        message = write(unique, fh, draw(RAW))
    elif kind == 3:
        message = poll(unique, fh, draw(st.integers(0, 5)))
    elif kind == 4:
        message = ioctl(unique, fh, *draw(COMMANDS))
    elif kind == 5:
        message = interrupt(unique, draw(st.integers(0, 40)))
    elif kind == 6:
        message = release(unique, fh)
    else:
        message = request(draw(st.integers(0, 60)), unique, draw(st.binary(max_size=40)))
    changed = bytearray(message)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 3]))):
        at = draw(st.integers(0, len(changed) - 1))
        if not 8 <= at < 16:  # the kernel gives each request a number of its own
            changed[at] = draw(st.integers(0, 255))
    if draw(st.integers(0, 9)) == 0:
        del changed[draw(st.integers(16, len(changed))) :]
    return bytes(changed)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    return [draw(messages(unique)) for unique in range(2, 2 + 2 * draw(st.integers(1, 25)), 2)]


@pytest.fixture(scope="module")
def without_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(conversations())
def test_any_requests_get_one_reply_each_unless_they_wait(without_log: None, sent: list[bytes]) -> None:
    kernel = Kernel()
    for message in sent:
        kernel.send(message)
    assert not kernel.channel.ready
    answered: dict[int, int] = {}
    for reply in kernel.replies:
        size, error, unique = fuse.OUT_HEADER.unpack_from(reply)
        assert size == len(reply)
        if unique:
            assert -512 < error <= 0, "the kernel refuses such a reply"
            answered[unique] = answered.get(unique, 0) + 1
    forwarded = [fuse.START.unpack_from(message)[2] for message in kernel.forwarded]
    for message in sent:
        _, opcode, unique = fuse.START.unpack_from(message)
        waits = unique in kernel.channel.waiting
        expected = opcode in SERVED and not waits
        assert answered.get(unique, 0) == expected, f"opcode {opcode}"
        assert forwarded.count(unique) == (opcode not in SERVED and opcode != fuse.INTERRUPT)
    for unique in list(kernel.channel.waiting):
        kernel.channel.end_wait(unique, errno.EINTR)
        assert error_of(kernel.replies[-1]) == errno.EINTR


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=16, max_size=300))
def test_any_bytes_never_raise(without_log: None, message: bytes) -> None:
    kernel = Kernel()
    replies = kernel.send(message)
    assert len(replies) + len(kernel.forwarded) <= 1
