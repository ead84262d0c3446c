"""Watching keys, mounts, superblocks and devices by ioctl(2) on a queue."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.queue_ioctls import (
    KEY_TYPE,
    MOUNT_TYPE,
    WATCH_DEVICES,
    WATCH_KEY,
    WATCH_MOUNT,
    WATCH_SB,
    make_key,
    watch_path,
)
from tests.tools import HEADER, NO_WAIT, Mount, opened, refused


@contextmanager
def emptied(queue: Path) -> Iterator[int]:
    """A descriptor that does not wait, of a queue that holds nothing any more."""
    with opened(queue, NO_WAIT) as fd:
        with suppress(BlockingIOError):
            while True:
                os.read(fd, 1 << 16)
        yield fd


def read_record(fd: int) -> tuple[int, int, int, bytes]:
    """(type, subtype, watch ID, body) of the one record that is queued."""
    data = os.read(fd, 4096)
    word, info = HEADER.unpack_from(data)
    assert info & 0x7F == len(data), f"more than one record: {data.hex()}"
    return word & 0xFFFFFF, word >> 24, info >> 8 & 0xFF, data[8:]


def test_watch_key_gives_its_events_under_the_id(shared: Mount, watch: Path) -> None:
    key = make_key(shared, "colour")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, 7))
        shared.post(f"key update {key} blue")
        assert read_record(fd) == (KEY_TYPE, 1, 7, struct.pack("=II", key, 0))
    assert (watch / "objects").read_text() == f"key {key} id=7\n"


def test_watch_key_session_keyring(shared: Mount, watch: Path) -> None:
    make_key(shared, "before")  # the session keyring is there from now on
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", -3, 255))
        key = make_key(shared, "later")
        type_, subtype, watch_id, body = read_record(fd)
        assert (type_, subtype, watch_id, body[4:]) == (KEY_TYPE, 2, 255, struct.pack("=I", key))  # linked


def test_watch_key_removed(shared: Mount, watch: Path) -> None:
    key = make_key(shared, "removed")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, 7))
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, -1))
        assert read_record(fd) == (0, 0, 7, struct.pack("=Q", key))  # META removal
        shared.post(f"key update {key} blue")
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_watch_key_that_is_not_there(watch: Path) -> None:
    with opened(watch / "queue") as fd, refused(errno.ENOKEY):
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", 0x7FFFFFFF, 1))


def test_watch_key_that_is_revoked(shared: Mount, watch: Path) -> None:
    key = make_key(shared, "revoked")
    shared.post(f"key revoke {key}")
    with opened(watch / "queue") as fd, refused(errno.EKEYREVOKED):
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, 1))


def test_watch_mount_gives_its_events_under_the_id(shared: Mount, watch: Path) -> None:
    shared.post("mount /dev/sda1 /mnt/mount -t ext4")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_MOUNT, watch_path("/mnt/mount", 3))
        shared.post("mount /dev/sda2 /mnt/mount/below -t ext4")
        assert read_record(fd)[:3] == (MOUNT_TYPE, 0, 3)  # new_mount
    assert (watch / "objects").read_text() == "mount /mnt/mount id=3\n"


def test_watch_mount_ends_the_watch_on_everything(shared: Mount, watch: Path) -> None:
    shared.post("mount /dev/sdb1 /mnt/here -t ext4")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_MOUNT, watch_path("/mnt/here", 3))
        shared.post("mount /dev/sdb2 /mnt/elsewhere -t ext4")
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_watch_sb_gives_its_events_under_the_id(shared: Mount, watch: Path) -> None:
    shared.post("mount /dev/sdc1 /mnt/sb -t ext4")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_SB, watch_path("/mnt/sb", 4))
        shared.post("sb error /mnt/sb EIO")
        type_, subtype, watch_id, body = read_record(fd)
        assert (type_, subtype, watch_id) == (3, 1, 4)
        assert struct.unpack_from("=I", body, 8) == (errno.EIO,)


def test_watch_devices_gives_their_events_under_the_id(shared: Mount, watch: Path) -> None:
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_DEVICES, struct.pack("=i", 5))
        shared.post("device error /dev/sdd timeout sector=9")
        type_, subtype, watch_id, body = read_record(fd)
        assert (type_, subtype, watch_id, body[8:]) == (4, 1, 5, struct.pack("=Q", 9))


KINDS: dict[str, tuple[int, Callable[[int], bytearray]]] = {
    "key": (WATCH_KEY, lambda watch_id: bytearray(struct.pack("=ii", -3, watch_id))),
    "mount": (WATCH_MOUNT, lambda watch_id: watch_path("/", watch_id)),
    "sb": (WATCH_SB, lambda watch_id: watch_path("/", watch_id)),
    "devices": (WATCH_DEVICES, lambda watch_id: bytearray(struct.pack("=i", watch_id))),
}


@pytest.fixture(params=KINDS)
def add(request: pytest.FixtureRequest, shared: Mount) -> Callable[[int, int], int]:
    """A function (fd, watch ID) that watches an object of a kind."""
    make_key(shared, "any")
    command, argument = KINDS[request.param]
    return lambda fd, watch_id: fcntl.ioctl(fd, command, argument(watch_id))


@pytest.mark.parametrize("watch_id", [-2, 256, 0x7FFFFFFF])
def test_watch_with_an_id_outside_its_range(watch: Path, add: Callable[[int, int], int], watch_id: int) -> None:
    with opened(watch / "queue") as fd, refused(errno.EINVAL):
        add(fd, watch_id)
    assert (watch / "objects").read_text() == "everything id=0\n"


def test_watch_twice(watch: Path, add: Callable[[int, int], int]) -> None:
    with opened(watch / "queue") as fd:
        assert add(fd, 1) == 0
        with refused(errno.EBUSY):
            add(fd, 2)


def test_watch_removed_that_is_none(watch: Path, add: Callable[[int, int], int]) -> None:
    with opened(watch / "queue") as fd:
        with refused(errno.EBADSLT):
            add(fd, -1)
        assert add(fd, 1) == 0
        assert add(fd, -1) == 0
        with refused(errno.EBADSLT):
            add(fd, -1)


def test_watch_removed_posts_the_removal(watch: Path, add: Callable[[int, int], int]) -> None:
    with emptied(watch / "queue") as fd:
        add(fd, 9)
        add(fd, -1)
        assert read_record(fd)[:3] == (0, 0, 9)
    assert (watch / "objects").read_text() == ""


def test_watch_on_the_write_end(watch: Path, add: Callable[[int, int], int]) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        assert add(fd, 1) == 0


def test_watch_on_a_root_queue(shared: Mount, add: Callable[[int, int], int]) -> None:
    with opened(shared.path / "queue", NO_WAIT) as fd:
        add(fd, 9)
        add(fd, -1)
        assert read_record(fd)[:3] == (0, 0, 9)


@pytest.mark.parametrize("command", [WATCH_MOUNT, WATCH_SB], ids=["mount", "sb"])
def test_watch_path_without_its_zero_byte(watch: Path, command: int) -> None:
    with opened(watch / "queue") as fd, refused(errno.EINVAL):
        fcntl.ioctl(fd, command, bytearray(struct.pack("=i", 1) + b"/" * 4096))


@pytest.mark.parametrize("command", [WATCH_MOUNT, WATCH_SB], ids=["mount", "sb"])
@pytest.mark.parametrize("path", ["", "mnt"])
def test_watch_path_that_is_not_absolute(watch: Path, command: int, path: str) -> None:
    with opened(watch / "queue") as fd, refused(errno.EINVAL):
        fcntl.ioctl(fd, command, watch_path(path, 1))
