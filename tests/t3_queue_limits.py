"""Many who wait on one queue, and the bounds of the tables: `max_waiting`, `max_watches`, `max_objects`."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.tools import AT_ONCE, LIMIT, Call, Mount, deliver, numbers, opened, record, refused, running, wait_until

WAITERS = 200
"""More than pyfuse3 has tasks (99)."""
WATCH_DEVICES = 0x40045773


def answers_in_time(mount: Mount) -> None:
    """ls, stat and a new watch, by other processes, while readers wait."""
    begin = time.monotonic()
    for command in (["ls", "-lR"], ["stat", "queue", "watches", "sim/records"], ["mkdir", "watches/other"]):
        subprocess.run(command, cwd=mount.path, check=True, timeout=AT_ONCE, stdout=subprocess.DEVNULL)
    assert time.monotonic() - begin < AT_ONCE


def test_readers_waiting_by_the_hundred_leave_the_mount_answering(mount: Mount) -> None:
    watch = mount.watch()
    with ExitStack() as stack:
        for _ in range(WAITERS):
            stack.enter_context(running("cat", watch / "queue", stdout=subprocess.DEVNULL))
        mount.wait_for_readers(watch, WAITERS)
        answers_in_time(mount)


def test_readers_waiting_by_the_hundred_get_a_record_each(mount: Mount) -> None:
    watch = mount.watch()
    with ExitStack() as stack:
        calls = []
        for _ in range(WAITERS):
            calls.append(Call(os.read, stack.enter_context(opened(watch / "queue")), 16))
        mount.wait_for_readers(watch, WAITERS)
        deliver(mount, *[record(n) for n in range(WAITERS)])
        assert sorted(n for call in calls for n in numbers(call.result())) == list(range(WAITERS))


def test_readers_waiting_by_the_hundred_on_one_descriptor_get_a_record_each(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        calls = [Call(os.read, fd, 16) for _ in range(WAITERS)]
        mount.wait_for_readers(watch, WAITERS)
        deliver(mount, *[record(n) for n in range(WAITERS)])
        assert sorted(n for call in calls for n in numbers(call.result())) == list(range(WAITERS))


def test_readers_waiting_by_the_hundred_all_find_end_of_file(mount: Mount) -> None:
    watch = mount.watch()
    with ExitStack() as stack:
        cats = [stack.enter_context(running("cat", watch / "queue", stdout=subprocess.DEVNULL)) for _ in range(WAITERS)]
        mount.wait_for_readers(watch, WAITERS)
        watch.rmdir()
        assert {cat.wait(LIMIT) for cat in cats} == {0}


# -- bounds


def test_reader_beyond_max_waiting(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_waiting=2")
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        calls = [Call(os.read, fd, 16) for _ in range(2)]
        mount.wait_for_readers(watch, 2)
        with refused(errno.ENOMEM):
            Call(os.read, fd, 16).result(AT_ONCE)
        assert mount.status(watch)["readers"] == 2
        deliver(mount, record(1), record(2))
        assert sorted(n for call in calls for n in numbers(call.result())) == [1, 2]


def test_reader_beyond_max_waiting_gets_what_is_queued(mount_with: Callable[[str], Mount]) -> None:
    """The bound is on those who wait: who finds something, or does not want to wait, is none of them."""
    mount = mount_with("max_waiting=1")
    busy, other = mount.watch("busy"), mount.watch("other")
    deliver(mount, record(1))
    with opened(busy / "queue") as waits_here, opened(other / "queue", os.O_NONBLOCK) as fd:
        assert os.read(waits_here, 16) == record(1)
        call = Call(os.read, waits_here, 16)
        mount.wait_for_readers(busy)
        assert os.read(fd, 16) == record(1)
        with refused(errno.EAGAIN):
            os.read(fd, 16)
        deliver(mount, record(2))
        assert call.result() == record(2)


def test_reader_waits_again_after_one_of_max_waiting_left(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_waiting=1")
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        with running("cat", watch / "queue"):
            mount.wait_for_readers(watch)
            with refused(errno.ENOMEM):
                Call(os.read, fd, 16).result(AT_ONCE)
        wait_until(lambda: mount.status(watch)["readers"] == 0, "the read to be given up")
        call = Call(os.read, fd, 16)
        mount.wait_for_readers(watch)
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_watch_beyond_max_watches(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_watches=2")
    mount.watch("a")
    mount.watch("b")
    with refused(errno.EDQUOT):
        mount.watch("c")
    assert sorted(os.listdir(mount.path / "watches")) == ["a", "b"]


def test_watch_after_one_of_max_watches_went(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_watches=1")
    mount.watch("a").rmdir()
    with opened(mount.watch("b") / "queue", os.O_NONBLOCK) as fd:
        deliver(mount, record(1))
        assert os.read(fd, 16) == record(1)


def test_object_beyond_max_objects(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_objects=1")
    watch = mount.watch()
    mount.post("mount /dev/sdb1 /mnt/data -t ext4")
    (watch / "objects").write_text("mount /mnt/data\n")
    with opened(watch / "queue") as fd, refused(errno.EDQUOT):
        fcntl.ioctl(fd, WATCH_DEVICES, struct.pack("=i", 0))
    with refused(errno.EDQUOT):
        (watch / "objects").write_text("devices\n")
    assert (watch / "objects").read_text() == "mount /mnt/data id=0\n"


def test_object_after_one_of_max_objects_went(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_objects=1")
    watch = mount.watch()
    mount.post("mount /dev/sdb1 /mnt/data -t ext4")
    (watch / "objects").write_text("mount /mnt/data\n-mount /mnt/data\ndevices\n")
    assert (watch / "objects").read_text() == "devices id=0\n"


def test_depth_of_the_mount_is_what_fits_before_a_loss(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("depth=64")
    watch = mount.watch()
    deliver(mount, *[record(n) for n in range(65)])
    status = mount.status(watch)
    assert (status["queued"], status["lost"]) == (64, 1)
