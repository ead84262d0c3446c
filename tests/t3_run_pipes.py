"""pipe2(O_NOTIFICATION_PIPE) under `wqfs run`: flags, life, descriptors, memory, many at once.

Each test is a program, run inside, that asserts for itself; what it prints is what failed.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from tests.running import run, running, said
from tests.tools import wait_until

BEGIN = """\
import ctypes, errno, fcntl, os, select, signal, struct, subprocess, sys, threading, time
N = os.O_EXCL
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
KEYCTL, ADD_KEY, PIPE2 = {"x86_64": (250, 248, 293), "aarch64": (219, 217, 59)}[os.uname().machine]
def call(number, *arguments):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def refused(number, function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno == number, (errno.errorcode[error.errno], errno.errorcode[number])
        return
    raise AssertionError(f"expected {errno.errorcode[number]}")
def pipe(flags=0, depth=64):
    ends = os.pipe2(N | flags)
    if depth:
        fcntl.ioctl(ends[0], 0x5760, depth)
        call(KEYCTL, 32, -3, ends[0], 1)
    return ends
def happen(times=1):
    for _ in range(times):
        call(KEYCTL, 7, -3)
def fionread(fd):
    return struct.unpack("i", fcntl.ioctl(fd, 0x541b, bytes(4)))[0]
call(KEYCTL, 1, None)
"""


def inside(body: str) -> None:
    """Run a program's text under `wqfs run`; it must say nothing and end with 0."""
    assert said(sys.executable, "-c", BEGIN + textwrap.dedent(body)) == ""


def test_flags_are_those_that_were_asked_for() -> None:
    inside("""
        for flags in (0, os.O_NONBLOCK, os.O_CLOEXEC, os.O_NONBLOCK | os.O_CLOEXEC):
            for fd, mode in zip(os.pipe2(N | flags), (os.O_RDONLY, os.O_WRONLY)):
                status = fcntl.fcntl(fd, fcntl.F_GETFL)
                assert status & os.O_ACCMODE == mode
                assert status & os.O_NONBLOCK == flags & os.O_NONBLOCK
                assert bool(fcntl.fcntl(fd, fcntl.F_GETFD)) == bool(flags & os.O_CLOEXEC)
        ends = (ctypes.c_int * 2)()
        refused(errno.EINVAL, call, PIPE2, ends, N | 1 << 30)
    """)


def test_numbers_are_the_lowest_that_are_free() -> None:
    inside("""
        first = os.open("/dev/null", os.O_RDONLY)
        second = os.open("/dev/null", os.O_RDONLY)
        os.close(first)
        assert pipe() == (first, second + 1)
    """)


def test_other_pipes_are_the_kernels() -> None:
    inside("""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.write(writer, b"x")
        assert fionread(reader) == 1 and os.read(reader, 2) == b"x"
        assert os.write(writer, b"") == 0
        assert fcntl.fcntl(reader, 1031, 8192) == 8192 == fcntl.fcntl(reader, 1032)
        refused(errno.ENODEV, fcntl.ioctl, reader, 0x5760, 8)
        refused(errno.EINVAL, call, KEYCTL, 32, -3, reader, 1)
        refused(errno.EINVAL, call, KEYCTL, 32, -3, 77, 1)
        refused(errno.EBADF, fcntl.ioctl, 77, 0x541b, bytes(4))
    """)


def test_bad_address_costs_no_descriptor() -> None:
    inside("""
        before = os.listdir("/proc/self/fd")
        refused(errno.EFAULT, call, PIPE2, 8, N)
        refused(errno.EFAULT, call, PIPE2, None, N)
        assert os.listdir("/proc/self/fd") == before
    """)


def test_too_many_open_files_costs_no_descriptor() -> None:
    inside("""
        import resource
        used = len(os.listdir("/proc/self/fd")) - 1
        for free, number in ((0, errno.EMFILE), (1, errno.EMFILE), (2, 0)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            ends = (ctypes.c_int * 2)()
            if number:
                refused(number, call, PIPE2, ends, N)
            else:
                call(PIPE2, ends, N)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        assert list(ends) == [used, used + 1]
    """)


def test_size_and_count_are_a_pipes() -> None:
    inside("""
        reader, writer = pipe(depth=0)
        assert fcntl.fcntl(reader, 1032) == 65536
        fcntl.ioctl(reader, 0x5760, 40)
        call(KEYCTL, 32, -3, reader, 1)
        assert fcntl.fcntl(reader, 1032) == 64 * 4096
        refused(errno.EBUSY, fcntl.fcntl, reader, 1031, 65536)
        happen(3)
        assert fionread(reader) == fionread(writer) == 48
        refused(errno.EXDEV, os.write, writer, b"")
        refused(errno.EBADF, os.write, reader, b"")
        refused(errno.ENOTTY, fcntl.ioctl, reader, 0x40045760, 8)
    """)


def test_blocked_reader_gets_what_comes_and_then_the_end() -> None:
    inside("""
        reader, writer = pipe()
        got = []
        thread = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(reader, 4096), b"")))
        thread.start()
        happen()
        while not got:
            time.sleep(0.001)
        os.close(writer)
        thread.join(10)
        assert not thread.is_alive() and len(b"".join(got)) == 16
    """)


def test_both_ends_closed_take_the_watch_away() -> None:
    with running(
        sys.executable,
        "-c",
        BEGIN
        + "ends = pipe()\n[os.close(end) for end in ends]\ncall(KEYCTL, 0, -3, 0)\nprint(os.environ['WQFS_MOUNT'])\n"
        "sys.stdout.flush()\nsys.stdin.readline()",
        stdin=-1,
    ) as program:
        assert program.process.stdout is not None
        metrics = Path(program.process.stdout.readline().strip()) / "metrics"
        wait_until(lambda: "wqfs_watches 0\n" in metrics.read_text(), "no watch to be left")
        assert program.process.stdin is not None
        program.process.stdin.close()


def test_pipe_is_inherited_and_lives_as_long_as_anybody_has_it() -> None:
    inside("""
        reader, writer = pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            signal.pause()
        os.close(writer)
        assert not select.select([reader], [], [], 0)[0]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert select.select([reader], [], [], 10)[0] and os.read(reader, 16) == b""
    """)


def test_pipe_goes_through_exec_and_posix_spawn() -> None:
    inside("""
        reader, writer = pipe()
        os.set_inheritable(reader, True)
        there = f"import os; assert len(os.read({reader}, 4096)) == 16"
        for start in (lambda words: subprocess.run(words, pass_fds=[reader], check=True),
                      lambda words: os.waitpid(os.posix_spawn(words[0], words, os.environ), 0)):
            happen()
            start([sys.executable, "-c", there])
    """)


def test_poll_and_epoll_wake() -> None:
    inside("""
        reader, writer = pipe(os.O_NONBLOCK)
        epoll = select.epoll()
        epoll.register(reader, select.EPOLLIN | select.EPOLLET)
        for _ in range(3):
            threading.Timer(0.02, happen).start()
            assert epoll.poll(10) == [(reader, select.EPOLLIN)]
            assert len(os.read(reader, 4096)) == 16
        os.close(writer)
        assert epoll.poll(10)[0][1] & select.EPOLLHUP
    """)


def test_filter_is_copied_once() -> None:
    """A thread that changes it meanwhile gets one filter or the other, or what is wrong with it, and nothing else."""
    inside("""
        reader, writer = pipe(os.O_NONBLOCK)
        memory = ctypes.create_string_buffer(struct.pack("IIIII8I", 1, 0, 1, 0, 0, *[0xffffffff] * 8) + bytes(1024))
        stop = []
        def change():
            while not stop:
                memory[0] = b"\\xff"
                memory[0] = b"\\x01"
        thread = threading.Thread(target=change)
        thread.start()
        outcomes = set()
        for _ in range(300):
            outcomes.add(0 if libc.ioctl(reader, ctypes.c_ulong(0x5761), memory) == 0 else ctypes.get_errno())
        stop.append(1)
        thread.join()
        assert outcomes <= {0, errno.EINVAL}, outcomes
        happen()
        assert len(os.read(reader, 4096)) == 16
    """)


def test_many_threads_at_once() -> None:
    inside("""
        wrong = []
        def work():
            try:
                for _ in range(30):
                    reader, writer = pipe(os.O_NONBLOCK)
                    happen()
                    assert fionread(reader) >= 16
                    os.close(reader)
                    os.close(writer)
            except BaseException as error:
                wrong.append(repr(error))
        threads = [threading.Thread(target=work) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not wrong, wrong
    """)


def test_signals_all_the_time_disturb_no_call() -> None:
    """As Go's runtime sends them to itself."""
    inside("""
        signal.signal(signal.SIGURG, lambda number, frame: None)
        signal.siginterrupt(signal.SIGURG, False)  # SA_RESTART
        disturbs = os.fork()
        while not disturbs:
            os.kill(os.getppid(), signal.SIGURG)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(60):
            reader, writer = pipe()
            happen()
            assert fionread(reader) == 16
            os.close(reader)
            os.close(writer)
        os.kill(disturbs, signal.SIGKILL)
        os.waitpid(disturbs, 0)
        assert len(os.listdir("/proc/self/fd")) == before
    """)


def test_process_killed_in_a_call_leaks_nothing() -> None:
    script = BEGIN + textwrap.dedent("""
        def descriptors():
            return len(os.listdir(f"/proc/{supervisor}/fd"))
        supervisor = os.getppid()
        happen()
        before = descriptors()
        for _ in range(60):
            child = os.fork()
            if not child:
                while True:
                    reader, writer = pipe()
                    os.close(reader)
                    os.close(writer)
            time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        deadline = time.monotonic() + 10
        while descriptors() > before:
            happen()
            assert time.monotonic() < deadline, (before, descriptors())
        metrics = os.environ["WQFS_MOUNT"] + "/metrics"
        while "wqfs_watches 0" not in open(metrics).read():
            assert time.monotonic() < deadline, open(metrics).read()
    """)
    assert said(sys.executable, "-c", script) == ""


def test_as_many_pipes_as_the_mount_allows() -> None:
    done = run(
        sys.executable,
        "-c",
        BEGIN + "kept = [pipe() for _ in range(4)]\nrefused(errno.ENFILE, pipe)",
        options=["-o", "max_watches=4"],
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_removal_of_a_key_that_ended_comes_after_the_call_as_a_collectors() -> None:
    inside("""
        reader, writer = pipe(os.O_NONBLOCK)
        key = call(ADD_KEY, b"user", b"watched", b"x", 1, -3)
        call(KEYCTL, 32, key, reader, 2)
        os.read(reader, 4096)
        call(KEYCTL, 9, key, -3)
        assert os.read(reader, 4096)[3] == 3  # unlinked, and nothing else
        assert select.select([reader], [], [], 10)[0]
        removal = os.read(reader, 4096)
        assert removal[:4] == bytes(4) and struct.unpack_from("Q", removal, 8)[0] == key
    """)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's program needs root to start it")
def test_undumpable_program_is_answered_eperm_or_served() -> None:
    """Who may not be looked into (prctl(2)) is refused in words of its own, not left waiting."""
    inside("""
        libc.prctl(4, 0, 0, 0, 0)
        ends = (ctypes.c_int * 2)()
        try:
            call(PIPE2, ends, N)
        except OSError as error:
            assert error.errno == errno.EPERM
    """)
