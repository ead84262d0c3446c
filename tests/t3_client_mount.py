"""wqfs.client.Queue on a mount: what a kernel's pipe has no match for."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from tests.tools import LIMIT, Call, Mount, deliver, later, mounted, record, refused
from wqfs.client import Event, FilterTextError, MountEvent, MountSubtype, Queue, Removal


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with mounted(tmp_path_factory.mktemp("strict"), "strict,enobufs") as mount:
        yield mount


def test_open_of_a_watch_and_its_end(shared: Mount, watch: Path) -> None:
    with Queue.open(watch, depth=64, filter="mount new_mount") as queue:
        shared.post("mount /dev/sdb1 /mnt/client -t ext4", "umount /mnt/client")
        watch.rmdir()
        events = list(queue)
        assert [type(event) for event in events] == [MountEvent]
        assert queue.read() == [] and queue.read_nowait() == []
        assert isinstance(events[0], MountEvent) and events[0].subtype is MountSubtype.NEW_MOUNT

        async def ends() -> list[Event]:
            return [event async for event in queue]

        assert asyncio.run(ends()) == []
        assert trio.run(ends) == []


def test_waiting_iteration_ends_with_the_watch(watch: Path) -> None:
    with Queue.open(watch) as queue:
        call = Call(list, queue)
        thread = later(watch.rmdir)
        assert call.result() == []
        thread.join()


def test_two_queues_of_a_watch_share_its_events(shared: Mount, watch: Path) -> None:
    with Queue.open(watch) as one, Queue.open(watch) as other:
        shared.post("mount a /mnt/a -t tmpfs", "umount /mnt/a")
        assert len(one.read(LIMIT)) == 2
        with refused(errno.EAGAIN):
            other.read_nowait()


def test_watches_of_all_kinds(strict: Mount) -> None:
    strict.post("mount /dev/sdc1 /mnt/kinds -t ext4")
    with Queue.open(strict.path, depth=64) as queue:
        queue.watch_mount("/mnt/kinds", 1)
        queue.watch_superblock("/mnt/kinds", 2)
        queue.watch_devices(3)
        queue.watch_key(-3, 4)  # the session keyring
        strict.post("mount -o remount,bind,ro /mnt/kinds", "device error /dev/sdc1 io", "key add user kinds a @s")
        seen = [(type(event).__name__, event.watch_id) for event in queue.read(LIMIT)]
        assert seen == [
            ("MountEvent", 1), ("MountEvent", 1), ("BlockEvent", 3), ("SuperblockError", 2), ("KeyEvent", 4),
        ]  # fmt: skip
        queue.unwatch_mount("/mnt/kinds")
        queue.unwatch_superblock("/mnt/kinds")
        queue.unwatch_devices()
        assert [event.watch_id for event in queue.read(LIMIT) if isinstance(event, Removal)] == [1, 2, 3]
        with refused(errno.EBADSLT):
            queue.unwatch_mount("/")
        with refused(errno.EBADSLT):
            queue.unwatch_devices()
        with refused(errno.EINVAL):
            queue.watch_mount("relative", 1)
        with refused(errno.ENAMETOOLONG):
            queue.watch_mount("/" + "x" * 4095, 1)


def test_records_of_any_size_are_whole(shared: Mount) -> None:
    with Queue.open(shared.path, depth=512) as queue:
        deliver(shared, *(record(number, 127) for number in range(300)))
        events: list[Event] = []
        while len(events) < 300:
            events += queue.read(LIMIT)
        assert [int.from_bytes(event.raw[8:12], sys.byteorder) for event in events] == list(range(300))


def test_unmounted_below_an_open_queue_ends_it(mount: Mount) -> None:
    with closing(Queue.open(mount.path)) as queue:
        call = Call(queue.read)
        mount.process.terminate()
        try:
            assert call.result() == []
        except OSError as error:
            assert error.errno in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)


def test_killed_server_is_an_error_and_no_hang(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("nosurvive")
    with Queue.open(mount.path) as queue:
        call = Call(queue.read)
        mount.process.kill()
        with pytest.raises(OSError) as caught:
            call.result()
        assert caught.value.errno in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)


def test_open_of_no_queue() -> None:
    with refused(errno.ENOENT):
        Queue.open("/nowhere")
    with refused(errno.ENOENT):
        Queue.open("/")


@pytest.mark.parametrize("name", ["sim/mountinfo", "post", "errors"])
def test_open_of_another_file_is_enotty_and_leaves_no_descriptor(shared: Mount, name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with refused(errno.EACCES if name == "post" and os.getuid() else errno.ENOTTY):
        Queue.open(shared.path / name)
    with refused(errno.ENOTTY):
        Queue.open("/etc/passwd")
    assert len(os.listdir("/proc/self/fd")) == before


def test_forgotten_queue_is_closed_with_a_warning(shared: Mount) -> None:
    queue = Queue.open(shared.path)
    fd = queue.fileno()
    with pytest.warns(ResourceWarning, match="unclosed <Queue wqfs"):
        del queue
    with refused(errno.EBADF):
        os.fstat(fd)


def test_time_limit_may_be_longer_than_poll_takes(shared: Mount, watch: Path) -> None:
    with Queue.open(watch) as queue:
        call = Call(queue.read, 1e9)
        shared.wait_for_pollers(watch)
        shared.post("sb error / EIO")
        assert len(call.result()) == 1


def test_refused_depth_leaves_no_descriptor(shared: Mount) -> None:
    before = os.listdir("/proc/self/fd")
    with refused(errno.EINVAL):
        Queue.open(shared.path, depth=0)
    with pytest.raises(FilterTextError):
        Queue.open(shared.path, filter="lock *")
    assert os.listdir("/proc/self/fd") == before
