"""read(2) on a queue: what it gives, when it waits, and what ends the wait."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.tools import (
    AT_ONCE,
    HEADER,
    LIMIT,
    NO_WAIT,
    Call,
    Mount,
    deliver,
    numbers,
    opened,
    record,
    refused,
    running,
    set_flags,
    wait_for_any_readers,
    wait_until,
)

# -- blocking, and not


def test_read_blocking_gets_a_record_posted_later(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        assert call.waits
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_read_blocking_gets_the_event_of_a_command(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        mount.post("mount /dev/sdb1 /mnt/data -t ext4")
        word, info = HEADER.unpack_from(call.result())
        assert (word, info & 0x7F) == (2, 24)  # MOUNT_NOTIFY, new_mount


def test_read_of_what_is_queued_does_not_wait(mount: Mount) -> None:
    watch = mount.watch()
    deliver(mount, record(1), record(2))
    with opened(watch / "queue") as fd:
        assert numbers(os.read(fd, 4096)) == [1, 2]


def test_read_nonblocking_from_the_open(mount: Mount) -> None:
    with opened(mount.watch() / "queue", NO_WAIT) as fd:
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
        deliver(mount, record(1))
        assert os.read(fd, 4096) == record(1)
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_read_nonblocking_set_later(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        deliver(mount, record(1))
        assert call.result() == record(1)
        set_flags(fd, add=NO_WAIT)
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_read_nonblocking_cleared_again_waits(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as fd:
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
        set_flags(fd, take=NO_WAIT)
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_read_waiting_goes_on_when_nonblocking_is_set(mount: Mount) -> None:
    """As on a pipe: the flag counts when the call begins."""
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        set_flags(fd, add=NO_WAIT)
        with refused(errno.EAGAIN):
            Call(os.read, fd, 4096).result(AT_ONCE)
        assert mount.status(watch)["readers"] == 1
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_read_of_a_descriptor_for_writing(mount: Mount) -> None:
    with opened(mount.watch() / "queue", os.O_WRONLY) as fd, refused(errno.EBADF):
        os.read(fd, 4096)


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_cat_waiting_ends_at_a_signal(mount: Mount, number: signal.Signals) -> None:
    watch = mount.watch()
    with running("cat", watch / "queue") as cat:
        mount.wait_for_readers(watch)
        cat.send_signal(number)
        assert cat.wait(AT_ONCE) == -number
    wait_until(lambda: mount.status(watch)["readers"] == 0, "the read to be given up")


@pytest.mark.parametrize(
    ("key", "number"), [(b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT)], ids=["Ctrl-C", "Ctrl-backslash"]
)
def test_cat_waiting_on_a_terminal_ends_at_the_key(mount: Mount, key: bytes, number: signal.Signals) -> None:
    watch = mount.watch()
    master, slave = pty.openpty()
    try:
        with running(
            "setsid", "--ctty", "env", "--default-signal=INT,QUIT", "cat", watch / "queue",
            stdin=slave, stdout=slave, stderr=slave, cwd=mount.path.parent,
        ) as cat:  # fmt: skip
            mount.wait_for_readers(watch)
            os.write(master, key)
            assert cat.wait(AT_ONCE) == -number
    finally:
        os.close(slave)
        os.close(master)


def test_record_after_a_killed_reader_is_the_next_readers(mount: Mount) -> None:
    watch = mount.watch()
    with running("cat", watch / "queue", stdout=subprocess.DEVNULL) as cat, opened(watch / "queue") as fd:
        mount.wait_for_readers(watch)
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch, 2)
        cat.kill()
        cat.wait(AT_ONCE)
        wait_until(lambda: mount.status(watch)["readers"] == 1, "the read to be given up")
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_cat_stopped_and_continued_goes_on(mount: Mount) -> None:
    watch = mount.watch()
    with running("cat", watch / "queue", stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        mount.wait_for_readers(watch)
        cat.send_signal(signal.SIGSTOP)
        wait_until(lambda: mount.status(watch)["readers"] == 0, "the stopped cat's read to be given up")
        cat.send_signal(signal.SIGCONT)
        mount.wait_for_readers(watch)
        deliver(mount, record(1))
        assert cat.stdout.read(16) == record(1)


HANDLED = """
import ctypes, os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, sys.argv[2] == "interrupt")
fd = os.open(sys.argv[1], os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
count = libc.read(fd, ctypes.create_string_buffer(4096), 4096)
print(count, os.strerror(ctypes.get_errno()))
"""


@pytest.mark.parametrize("kind", ["interrupt", "restart"])
def test_read_interrupted_by_a_handler(mount: Mount, kind: str) -> None:
    """With SA_RESTART too: an interrupted FUSE request cannot be restarted (ABI.md, 3)."""
    watch = mount.watch()
    with running(sys.executable, "-c", HANDLED, watch / "queue", kind, stdout=subprocess.PIPE) as reader:
        mount.wait_for_readers(watch)
        reader.send_signal(signal.SIGUSR1)
        output, _ = reader.communicate(timeout=LIMIT)
        assert output.decode().strip() == f"-1 {os.strerror(errno.EINTR)}"


def test_read_waiting_is_not_disturbed_by_an_ignored_signal(mount: Mount) -> None:
    watch = mount.watch()
    with running("cat", watch / "queue", stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        mount.wait_for_readers(watch)
        cat.send_signal(signal.SIGWINCH)
        deliver(mount, record(1))
        assert cat.stdout.read(16) == record(1)


# -- two threads, one descriptor


def test_read_waiting_lets_another_thread_poll_the_descriptor(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert Call(poller.poll, 0).result(AT_ONCE) == []
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_read_and_poll_waiting_on_one_descriptor_both_wake(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        polling = Call(poller.poll, LIMIT * 1000)
        mount.wait_for_pollers(watch)
        reading = Call(os.read, fd, 16)
        mount.wait_for_readers(watch)
        deliver(mount, record(1), record(2))  # the read takes one, the other is there for the poll
        assert reading.result() == record(1)
        assert polling.result() == [(fd, select.POLLIN)]


def test_read_waiting_lets_another_thread_write_the_descriptor(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", os.O_RDWR) as fd:
        reading = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        writing = Call(os.write, fd, b"x")
        with refused(errno.EXDEV):
            writing.result(AT_ONCE)
        assert reading.waits
        deliver(mount, record(1))
        assert reading.result() == record(1)


def test_read_waiting_lets_another_thread_use_ioctl(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        reading = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        assert Call(fcntl.ioctl, fd, 0x5760, 32).result(AT_ONCE) == 0
        deliver(mount, record(1))
        assert reading.result() == record(1)


@pytest.mark.parametrize("call", [os.fstat, lambda fd: os.read(fd, 0)], ids=["fstat", "read of nothing"])
def test_read_waiting_lets_another_thread_call(mount: Mount, call: Callable[[int], object]) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        reading = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        Call(call, fd).result(AT_ONCE)
        deliver(mount, record(1))
        assert reading.result() == record(1)


def test_read_in_two_threads_on_one_descriptor(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        first = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch, 1)
        second = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch, 2)
        deliver(mount, record(1))
        assert first.result() == record(1)
        assert second.waits
        deliver(mount, record(2))
        assert second.result() == record(2)


# -- sizes


def test_read_of_nothing_on_an_empty_queue(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        assert Call(os.read, fd, 0).result(AT_ONCE) == b""


def test_read_of_nothing_takes_nothing(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        deliver(mount, record(1))
        assert os.read(fd, 0) == b""
        assert os.read(fd, 4096) == record(1)


@pytest.mark.parametrize(
    ("size", "taken"), [(20, [1]), (31, [1]), (39, [1]), (40, [1, 2]), (48, [1, 2]), (167, [1, 2, 3])]
)
def test_read_takes_whole_records_that_fit(mount: Mount, size: int, taken: list[int]) -> None:
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, record(1, 20), record(2, 20), record(3, 127), record(4, 12))
        assert numbers(os.read(fd, size)) == taken
        assert numbers(os.read(fd, 4096)) == [n for n in (1, 2, 3, 4) if n not in taken]


@pytest.mark.parametrize(("options", "number"), [("", errno.EMSGSIZE), ("enobufs", errno.ENOBUFS)])
@pytest.mark.parametrize("size", [1, 7, 8, 15])
def test_read_too_small_for_the_first_record(
    mount_with: Callable[[str], Mount], options: str, number: int, size: int
) -> None:
    mount = mount_with(options)
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        deliver(mount, record(1))
        before = mount.status(watch)
        with refused(number):
            os.read(fd, size)
        assert mount.status(watch) == before
        assert os.read(fd, 16) == record(1)


def test_read_waiting_with_too_small_a_buffer(mount: Mount) -> None:
    """It ends with the error when the record comes, and the record is the next reader's."""
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        small = Call(os.read, fd, 15)
        mount.wait_for_readers(watch, 1)
        large = Call(os.read, fd, 16)
        mount.wait_for_readers(watch, 2)
        deliver(mount, record(1))
        with refused(errno.EMSGSIZE):
            small.result()
        assert large.result() == record(1)


def test_read_larger_than_a_message_takes_all_that_is_queued(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("depth=512")
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, *[record(n, 127) for n in range(512)])
        assert numbers(os.read(fd, 1 << 20)) == list(range(512))


def test_readv_fills_its_buffers_in_turn(mount: Mount) -> None:
    with opened(mount.watch() / "queue") as fd:
        deliver(mount, record(1), record(2))
        buffers = [bytearray(16), bytearray(16)]
        assert os.readv(fd, buffers) == 32
        assert b"".join(buffers) == record(1) + record(2)


# -- several readers


def test_second_reader_gets_what_the_first_left(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as first, opened(watch / "queue", NO_WAIT) as second:
        deliver(mount, record(1), record(2))
        assert os.read(first, 16) == record(1)
        assert os.read(second, 16) == record(2)
        with refused(errno.EAGAIN):
            os.read(first, 16)


def test_waiting_readers_are_served_in_the_order_of_their_arrival(mount: Mount) -> None:
    watch = mount.watch()
    count = 8
    with ExitStack() as stack:
        calls = []
        for number in range(count):
            fd = stack.enter_context(opened(watch / "queue"))
            calls.append(Call(os.read, fd, 4096))
            mount.wait_for_readers(watch, number + 1)
        for number in range(count):
            deliver(mount, record(number))
        assert [numbers(call.result()) for call in calls] == [[number] for number in range(count)]


def test_waiting_readers_share_what_one_write_brings(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        first = Call(os.read, fd, 47)
        mount.wait_for_readers(watch, 1)
        second = Call(os.read, fd, 47)
        mount.wait_for_readers(watch, 2)
        deliver(mount, *[record(n) for n in range(3)])
        assert numbers(first.result()) == [0, 1]
        assert numbers(second.result()) == [2]


# -- end of file


def test_read_waiting_finds_end_of_file_at_the_rmdir(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        calls = [Call(os.read, fd, 4096) for _ in range(3)]
        mount.wait_for_readers(watch, 3)
        watch.rmdir()
        assert [call.result() for call in calls] == [b"", b"", b""]


def test_read_after_the_rmdir_drains_first(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        deliver(mount, record(1), record(2))
        watch.rmdir()
        assert os.read(fd, 16) == record(1)
        assert os.read(fd, 16) == record(2)
        assert os.read(fd, 16) == b""
        assert os.read(fd, 16) == b""


def test_read_nonblocking_after_the_rmdir_is_end_of_file(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as fd:
        watch.rmdir()
        assert os.read(fd, 16) == b""


def test_watch_made_again_under_the_name_is_another(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue", NO_WAIT) as old:
        deliver(mount, record(1))
        watch.rmdir()
        watch.mkdir()
        with opened(watch / "queue", NO_WAIT) as new:
            with refused(errno.EAGAIN):
                os.read(new, 16)
            assert os.read(old, 16) == record(1)
            assert os.read(old, 16) == b""


# -- the root's queue


def test_root_queue_each_open_is_a_pipe_of_its_own(mount: Mount) -> None:
    with opened(mount.path / "queue", NO_WAIT) as first, opened(mount.path / "queue", NO_WAIT) as second:
        deliver(mount, record(1))
        assert os.read(first, 4096) == record(1)
        assert os.read(second, 4096) == record(1)


def test_root_queue_sees_nothing_from_before_the_open(mount: Mount) -> None:
    deliver(mount, record(1))
    with opened(mount.path / "queue", NO_WAIT) as fd, refused(errno.EAGAIN):
        os.read(fd, 4096)


def test_root_queue_never_hangs_up(mount: Mount) -> None:
    """A descriptor for reading alone holds a write side of its own."""
    with opened(mount.path / "queue", NO_WAIT) as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(0) == []
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_root_queue_read_waits(mount: Mount) -> None:
    with opened(mount.path / "queue") as fd:
        call = Call(os.read, fd, 4096)
        wait_for_any_readers(mount, 1)
        deliver(mount, record(1))
        assert call.result() == record(1)


def test_root_queue_ends_with_its_descriptor(mount: Mount) -> None:
    def queues() -> bool:
        return "\nwqfs_queues 0\n" in (mount.path / "metrics").read_text()

    assert queues()
    with opened(mount.path / "queue"):
        assert not queues()
    wait_until(queues, "the queue to be forgotten")


# -- the end of the mount


def test_read_waiting_finds_end_of_file_at_the_unmount(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        mount.process.send_signal(signal.SIGTERM)
        assert call.result() == b""
