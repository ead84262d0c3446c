"""select(2), poll(2) and epoll(7) on a queue, and who holds its write side."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.tools import (
    AT_ONCE,
    LIMIT,
    META_LOSS,
    NO_WAIT,
    Call,
    Mount,
    deliver,
    numbers,
    opened,
    record,
    refused,
    running,
    wait_for_any_readers,
    wait_until,
)

READABLE = select.POLLIN | select.POLLRDNORM
ALL = READABLE | select.POLLOUT | select.POLLWRNORM | select.POLLPRI
MS = int(LIMIT * 1000)


def poll_now(fd: int, events: int = ALL) -> int:
    """The events of poll(2) that hold now."""
    return poll(fd, events, 0)


def poll(fd: int, events: int = ALL, timeout: int = MS) -> int:
    """The events of poll(2), waited for at most `timeout` milliseconds; 0 if there were none."""
    poller = select.poll()
    poller.register(fd, events)
    answer = poller.poll(timeout)
    return answer[0][1] if answer else 0


@contextmanager
def epoll_on(fd: int, events: int) -> Iterator[select.epoll]:
    with select.epoll() as epoll:
        epoll.register(fd, events)
        yield epoll


# -- select, poll


def test_poll_of_an_empty_queue(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        assert poll_now(fd) == 0


def test_poll_of_a_queued_record(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, record(1))
        assert poll_now(fd) == READABLE


def test_poll_after_the_record_was_read(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, record(1))
        os.read(fd, 4096)
        assert poll_now(fd) == 0


def test_poll_wakes_at_a_record(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(poll, fd)
        mount.wait_for_pollers(watch)
        assert call.waits
        deliver(mount, record(1))
        assert call.result() == READABLE


def test_poll_takes_nothing(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, record(1))
        assert [poll_now(fd) for _ in range(3)] == [READABLE] * 3
        assert os.read(fd, 4096) == record(1)


def test_select_wakes_at_a_record(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        assert select.select([fd], [], [], 0) == ([], [], [])
        call = Call(select.select, [fd], [], [], LIMIT)
        mount.wait_for_pollers(watch)
        deliver(mount, record(1))
        assert call.result() == ([fd], [], [])


def test_poll_of_the_root_queue_wakes_at_a_record(mount: Mount) -> None:
    with opened(mount.path / "queue") as fd, epoll_on(fd, select.EPOLLIN) as epoll:
        assert epoll.poll(0) == []
        deliver(mount, record(1))
        assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]


def test_poll_of_two_queues_tells_which(mount: Mount) -> None:
    a, b = mount.watch("a"), mount.watch("b")
    (b / "objects").write_text("devices\n")  # b hears of nothing that happens here
    with opened(a / "queue") as heard, opened(b / "queue") as silent:
        poller = select.poll()
        poller.register(heard, select.POLLIN)
        poller.register(silent, select.POLLIN)
        call = Call(poller.poll, MS)
        mount.wait_for_pollers(a)
        mount.wait_for_pollers(b)
        mount.post("mount /dev/sdb1 /mnt/data -t ext4")
        assert call.result() == [(heard, select.POLLIN)]


def test_poll_does_not_tell_of_a_loss_alone(mount_with: Callable[[str], Mount]) -> None:
    """As pipe_poll(): the loss record is made when it is read."""
    mount = mount_with("depth=32")
    with opened(mount.watch() / "queue", NO_WAIT) as fd:
        deliver(mount, *[record(n) for n in range(33)])
        assert numbers(os.read(fd, 32 * 16)) == list(range(32))
        assert poll_now(fd) == 0
        assert os.read(fd, 4096) == META_LOSS
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


# -- epoll


def test_epoll_level_triggered_tells_as_long_as_it_is_readable(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd, epoll_on(fd, select.EPOLLIN) as epoll:
        assert epoll.poll(0) == []
        deliver(mount, record(1), record(2))
        assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
        os.read(fd, 16)
        assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
        os.read(fd, 16)
        assert epoll.poll(0) == []


def test_epoll_edge_triggered_tells_once(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        with epoll_on(fd, select.EPOLLIN | select.EPOLLET) as epoll:
            assert epoll.poll(0) == []
            deliver(mount, record(1))
            assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
            assert epoll.poll(0) == []


def test_epoll_edge_triggered_tells_of_a_new_record_while_readable(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        with epoll_on(fd, select.EPOLLIN | select.EPOLLET) as epoll:
            for number in range(5):
                deliver(mount, record(number))
                assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)], number
                assert epoll.poll(0) == []
        assert numbers(os.read(fd, 4096)) == list(range(5))


def test_epoll_edge_triggered_tells_of_what_was_there_before(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, record(1))
        with epoll_on(fd, select.EPOLLIN | select.EPOLLET) as epoll:
            assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
            assert epoll.poll(0) == []
            deliver(mount, record(2))
            assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]


def test_epoll_edge_triggered_after_reading_it_empty(mount: Mount) -> None:
    with opened(mount.watch() / "queue", NO_WAIT) as fd:
        with epoll_on(fd, select.EPOLLIN | select.EPOLLET) as epoll:
            for number in range(3):
                deliver(mount, record(number))
                assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
                assert numbers(os.read(fd, 4096)) == [number]
                with refused(errno.EAGAIN):
                    os.read(fd, 4096)
            assert epoll.poll(0) == []


def test_epoll_edge_triggered_waiting_wakes_at_every_record(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        with epoll_on(fd, select.EPOLLIN | select.EPOLLET) as epoll:
            for number in range(3):
                call = Call(epoll.poll, LIMIT)
                mount.wait_for_pollers(watch)
                assert call.waits
                deliver(mount, record(number))
                assert call.result() == [(fd, select.EPOLLIN)]


def test_epoll_oneshot_is_silent_until_armed_again(mount: Mount) -> None:
    events = select.EPOLLIN | select.EPOLLONESHOT
    with opened(mount.watch() / "queue") as fd, epoll_on(fd, events) as epoll:
        deliver(mount, record(1))
        assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
        deliver(mount, record(2))
        assert epoll.poll(0) == []
        epoll.modify(fd, events)
        assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]
        assert numbers(os.read(fd, 4096)) == [1, 2]
        epoll.modify(fd, events)
        assert epoll.poll(0) == []
        deliver(mount, record(3))
        assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]


# -- several pollers

POLLER = """
import os, select, sys
how, name = sys.argv[1:]
fd = int(name) if name.isdecimal() else os.open(name, os.O_RDONLY)
if how == "select":
    wait = lambda: select.select([fd], [], [], 60)[0] == [fd]
elif how == "poll":
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    wait = lambda: bool(poller.poll(60000))
else:
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN | (select.EPOLLET if how == "edge" else 0))
    wait = lambda: bool(epoll.poll(60))
sys.exit(0 if wait() else 1)
"""


def waits_in_poll(process: subprocess.Popen[bytes]) -> bool:
    """Whether it sleeps in select(2), poll(2) or epoll_wait(2) and not in a request on its way."""
    call = Path(f"/proc/{process.pid}/wchan").read_text()
    return "poll" in call or "select" in call


HOW = ["select", "poll", "epoll", "edge"]


def test_pollers_in_several_processes_on_one_open_file_all_wake(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd, ExitStack() as stack:
        pollers = [
            stack.enter_context(running(sys.executable, "-SIc", POLLER, how, str(fd), pass_fds=[fd])) for how in HOW
        ]
        wait_until(lambda: all(map(waits_in_poll, pollers)), "all processes to poll")
        deliver(mount, record(1))
        assert [poller.wait(LIMIT) for poller in pollers] == [0] * len(pollers)


def test_pollers_in_several_processes_with_opens_of_their_own_all_wake(mount: Mount) -> None:
    watch = mount.watch()
    with ExitStack() as stack:
        pollers = [
            stack.enter_context(running(sys.executable, "-SIc", POLLER, how, str(watch / "queue"))) for how in HOW
        ]
        mount.wait_for_pollers(watch, len(pollers))
        deliver(mount, record(1))
        assert [poller.wait(LIMIT) for poller in pollers] == [0] * len(pollers)


def test_epoll_instances_on_one_open_file_are_all_told(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd, ExitStack() as stack:
        level = [stack.enter_context(epoll_on(fd, select.EPOLLIN)) for _ in range(2)]
        edge = [stack.enter_context(epoll_on(fd, select.EPOLLIN | select.EPOLLET)) for _ in range(2)]
        for number in range(2):
            deliver(mount, record(number))
            for epoll in level + edge:
                assert epoll.poll(LIMIT) == [(fd, select.EPOLLIN)]


def test_poller_that_was_killed_leaves_the_others_waking(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        with running(sys.executable, "-SIc", POLLER, "poll", str(fd), pass_fds=[fd]) as killed:
            wait_until(lambda: waits_in_poll(killed), "the process to poll")
            killed.kill()
            killed.wait(AT_ONCE)
        call = Call(poll, fd)
        mount.wait_for_pollers(watch)
        deliver(mount, record(1))
        assert call.result() == READABLE


# -- hang-up


def test_poll_waiting_hangs_up_at_the_rmdir(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(poll, fd)
        mount.wait_for_pollers(watch)
        watch.rmdir()
        assert call.result() == select.POLLHUP


def test_select_waiting_is_readable_at_the_rmdir(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(select.select, [fd], [], [], LIMIT)
        mount.wait_for_pollers(watch)
        watch.rmdir()
        assert call.result() == ([fd], [], [])


def test_poll_after_the_rmdir_tells_of_records_too(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        deliver(mount, record(1))
        watch.rmdir()
        assert poll_now(fd) == READABLE | select.POLLHUP
        assert os.read(fd, 4096) == record(1)
        assert poll_now(fd) == select.POLLHUP
        assert os.read(fd, 4096) == b""


def test_epoll_edge_triggered_hangs_up_at_the_rmdir(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        with epoll_on(fd, select.EPOLLIN | select.EPOLLET) as epoll:
            assert epoll.poll(0) == []
            watch.rmdir()
            assert epoll.poll(LIMIT) == [(fd, select.EPOLLHUP)]
            assert epoll.poll(0) == []


def test_pollers_in_several_processes_all_wake_at_the_rmdir(mount: Mount) -> None:
    watch = mount.watch()
    with ExitStack() as stack:
        pollers = [
            stack.enter_context(running(sys.executable, "-SIc", POLLER, how, str(watch / "queue"))) for how in HOW
        ]
        mount.wait_for_pollers(watch, len(pollers))
        watch.rmdir()
        assert [poller.wait(LIMIT) for poller in pollers] == [0] * len(pollers)


def test_poll_waiting_hangs_up_at_the_unmount(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(poll, fd)
        mount.wait_for_pollers(watch)
        mount.process.send_signal(signal.SIGTERM)
        assert call.result() & select.POLLHUP


# -- the write side


def pipe2(watch: Path, flags: int = 0) -> tuple[int, int]:
    """The equal of pipe2(O_NOTIFICATION_PIPE): a queue without a name and both its ends."""
    read_end = os.open(watch / "queue", os.O_RDONLY | flags)
    write_end = os.open(watch / "queue", os.O_WRONLY | flags)
    watch.rmdir()
    return read_end, write_end


@pytest.fixture
def ends(mount: Mount) -> Iterator[tuple[int, int]]:
    read_end, write_end = pipe2(mount.watch(), NO_WAIT)
    try:
        yield read_end, write_end
    finally:
        os.close(read_end)
        try:
            os.close(write_end)
        except OSError:
            pass  # the test has closed it


def test_pipe_lives_on_without_a_name(mount: Mount, ends: tuple[int, int]) -> None:
    read_end, _ = ends
    assert poll_now(read_end) == 0
    with refused(errno.EAGAIN):
        os.read(read_end, 4096)
    deliver(mount, record(1))
    assert os.read(read_end, 4096) == record(1)


def test_pipe_poll_waiting_hangs_up_when_the_write_end_is_closed(mount: Mount, ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    with epoll_on(read_end, select.EPOLLIN) as epoll:
        assert epoll.poll(0) == []
        os.close(write_end)
        assert epoll.poll(LIMIT) == [(read_end, select.EPOLLHUP)]
    assert os.read(read_end, 4096) == b""


def test_pipe_read_waiting_finds_end_of_file_when_the_write_end_is_closed(mount: Mount) -> None:
    read_end, write_end = pipe2(mount.watch())
    try:
        call = Call(os.read, read_end, 4096)
        wait_for_any_readers(mount, 1)
    finally:
        os.close(write_end)
    assert call.result() == b""
    os.close(read_end)


def test_pipe_drains_before_end_of_file(mount: Mount, ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    deliver(mount, record(1))
    os.close(write_end)
    wait_until(lambda: poll_now(read_end) & select.POLLHUP, "the hang-up")
    assert poll_now(read_end) == READABLE | select.POLLHUP
    assert os.read(read_end, 4096) == record(1)
    assert os.read(read_end, 4096) == b""


def test_pipe_with_a_copy_of_the_write_end_does_not_hang_up(ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    copy = os.dup(write_end)
    os.close(write_end)
    try:
        assert poll_now(read_end) == 0
    finally:
        os.close(copy)
    assert poll(read_end) == select.POLLHUP


def test_pipe_hangs_up_when_the_last_of_two_write_ends_is_closed(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as read_end:
        with opened(watch / "queue", os.O_RDWR), opened(watch / "queue", os.O_WRONLY):
            watch.rmdir()
            assert poll_now(read_end) == 0
        assert poll(read_end) == select.POLLHUP


def test_pipe_opened_for_both_never_hangs_up(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", os.O_RDWR | NO_WAIT) as fd:
        watch.rmdir()
        assert poll_now(fd) & select.POLLHUP == 0
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_pipe_hangs_up_when_the_holder_of_the_write_end_is_killed(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as read_end:
        with opened(watch / "queue", os.O_WRONLY) as write_end:
            holder = running("sleep", str(2 * LIMIT), pass_fds=[write_end])
            sleeper = holder.__enter__()
        try:
            watch.rmdir()
            assert poll_now(read_end) == 0
            sleeper.kill()
            assert poll(read_end) == select.POLLHUP
        finally:
            holder.__exit__(None, None, None)


def test_pipe_with_its_name_does_not_hang_up_with_the_write_end(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as read_end:
        with opened(watch / "queue", os.O_WRONLY):
            pass
        wait_until(lambda: "\nwqfs_handles 2\n" in (mount.path / "metrics").read_text(), "the close")
        assert poll_now(read_end) == 0
