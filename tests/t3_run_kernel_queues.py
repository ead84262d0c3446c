"""`wqfs run --keys kernel`: queues that watch the kernel's own keys, and whose session keyring is whose.

Each test is a program, run inside, that asserts for itself; what it prints is what failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from tests.running import KERNEL, run
from tests.tools import Mount

pytestmark = pytest.mark.usefixtures("kernel_keys")


def program(body: str, *options: str) -> subprocess.CompletedProcess[str]:
    begin = """\
import ctypes, errno, fcntl, os, select, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
KEYCTL, ADD_KEY = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
def call(number, *arguments):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    return -ctypes.get_errno() if result < 0 else result
def pipe(flags=0):
    ends = os.pipe2(os.O_EXCL | flags)
    fcntl.ioctl(ends[0], 0x5760, 64)
    return ends
def ring(name=b"ring"):
    return call(ADD_KEY, b"keyring", name, None, 0, -3)
CLEAR, WATCH, JOIN, TO_PARENT = 7, 32, 1, 18
"""
    return run(sys.executable, "-c", begin + textwrap.dedent(body), options=(*KERNEL, *options))


def assert_silent(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_filter_of_the_queue_holds() -> None:
    assert_silent(
        program("""
        key, (reader, writer) = ring(), pipe(os.O_NONBLOCK)
        rule = struct.pack("10I", 1, 0, 0, 1 << 7, *[0] * 6) + bytes(4)  # setattr
        fcntl.ioctl(reader, 0x5761, ctypes.create_string_buffer(struct.pack("II", 1, 0) + rule))
        assert call(KEYCTL, WATCH, key, reader, 3) == 0
        assert call(KEYCTL, CLEAR, key) == 0
        assert call(KEYCTL, 15, key, 100) == 0
        assert call(KEYCTL, WATCH, key, reader, -1) == 0
        data = os.read(reader, 4096)
        assert struct.unpack("8I", data) == (7 << 24 | 1, 16 | 3 << 8, key, 0, 0, 16 | 3 << 8, key, 0), data
    """)
    )


def test_write_end_watches_the_same_queue_and_does_not_hold_it() -> None:
    assert_silent(
        program("""
        key, (reader, writer) = ring(), pipe()
        assert call(KEYCTL, WATCH, key, writer, 3) == 0
        assert call(KEYCTL, WATCH, key, reader, 4) == -errno.EBUSY
        assert call(KEYCTL, CLEAR, key) == 0
        os.close(writer)
        assert struct.unpack("4I", os.read(reader, 4096)) == (4 << 24 | 1, 16 | 3 << 8, key, 0)
        assert os.read(reader, 4096) == b""
    """)
    )


def test_two_queues_hear_under_their_own_ids() -> None:
    assert_silent(
        program("""
        key, (one, _), (two, _) = ring(), pipe(), pipe()
        assert call(KEYCTL, WATCH, key, one, 1) == 0
        assert call(KEYCTL, WATCH, key, two, 2) == 0
        assert call(KEYCTL, CLEAR, key) == 0
        for watch, queue in enumerate((one, two), 1):
            assert struct.unpack("4I", os.read(queue, 4096)) == (4 << 24 | 1, 16 | watch << 8, key, 0)
    """)
    )


def test_queue_whose_ends_are_closed_is_gone(strict_mount: Mount) -> None:
    body = """
        key, (reader, writer) = ring(), pipe()
        assert call(KEYCTL, WATCH, key, reader, 1) == 0
        os.close(reader)
        os.close(writer)
        metrics = os.environ["WQFS_MOUNT"] + "/metrics"
        end = time.monotonic() + 20
        while "wqfs_watches 0\\n" not in open(metrics).read():
            assert time.monotonic() < end, open(metrics).read()
            time.sleep(0.01)
    """
    assert_silent(program(body, "--mount", str(strict_mount.path)))


def test_pipe_on_a_mount_that_is_not_strict_hears_of_its_keys_alone(mount: Mount) -> None:
    body = """
        key, (reader, writer) = ring(), pipe(os.O_NONBLOCK)
        assert call(KEYCTL, WATCH, key, reader, 1) == 0
        with open(os.environ["WQFS_MOUNT"] + "/post", "w") as post:
            post.write("mount none /tmp -t tmpfs\\n")
        assert call(KEYCTL, CLEAR, key) == 0
        count = struct.unpack("i", fcntl.ioctl(reader, 0x541B, bytes(4)))[0]
        assert count == 16, count
    """
    assert_silent(program(body, "--mount", str(mount.path)))


def test_busy_threads_get_each_event_once() -> None:
    assert_silent(
        program("""
        key, (reader, writer) = ring(), pipe()
        assert call(KEYCTL, WATCH, key, reader, 1) == 0
        def work():
            for _ in range(10):
                assert call(KEYCTL, CLEAR, key) == 0
        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        count = struct.unpack("i", fcntl.ioctl(reader, 0x541B, bytes(4)))[0]
        assert count == 40 * 16, count / 16
    """)
    )


def test_processes_that_die_in_a_call_leak_nothing() -> None:
    assert_silent(
        program("""
        def held():
            return sorted(os.listdir(f"/proc/{os.getppid()}/fd"))
        key, (reader, writer) = ring(), pipe()
        assert call(KEYCTL, WATCH, key, reader, 1) == 0
        before = held()
        for number in range(30):
            child = os.fork()
            if child == 0:
                while True:
                    call(KEYCTL, CLEAR, key)
            time.sleep(number / 3000)
            os.kill(child, 9)
            os.wait()
        assert call(KEYCTL, CLEAR, key) == 0
        end = time.monotonic() + 20
        while held() != before:
            assert time.monotonic() < end, (held(), before)
        assert call(KEYCTL, WATCH, key, reader, -1) == 0
    """)
    )


def test_descriptor_that_is_only_a_path_watches_nothing(strict_mount: Mount) -> None:
    (strict_mount.path / "watches/w").mkdir()
    body = """
        fd = os.open(os.environ["WQFS_MOUNT"] + "/watches/w/queue", os.O_PATH)
        assert call(KEYCTL, WATCH, ring(), fd, 1) == -errno.EINVAL
    """
    assert_silent(program(body, "--mount", str(strict_mount.path)))


# -- session keyrings


def test_children_have_the_session_that_their_parent_had_when_they_began() -> None:
    assert_silent(
        program("""
        first = call(KEYCTL, 0, -3, 0)
        go, wait = os.pipe(), os.pipe()
        reader, writer = pipe()
        if os.fork() == 0:
            os.read(go[0], 1)  # until the parent has another
            code = call(KEYCTL, WATCH, -3, reader, 1)
            os._exit(0 if code == 0 else 1)
        # A child that begins within the same hundredth of a second as the joining would have the new one.
        began = time.clock_gettime(time.CLOCK_BOOTTIME) * 100 // 1
        while time.clock_gettime(time.CLOCK_BOOTTIME) * 100 // 1 == began:
            pass
        second = call(KEYCTL, JOIN, None)
        assert second != first
        assert call(KEYCTL, WATCH, -3, reader, 2) == 0
        assert call(KEYCTL, WATCH, second, reader, 2) == -errno.EBUSY
        os.write(go[1], b"x")
        assert os.wait()[1] == 0
        assert call(KEYCTL, WATCH, first, reader, 1) == -errno.EBUSY
    """)
    )


def test_session_that_cannot_be_known_is_refused_and_said() -> None:
    done = program("""
        reader, writer = pipe()
        ends = os.pipe()
        if os.fork() == 0:
            call(KEYCTL, JOIN, None)
            if os.fork() == 0:
                parent = os.getppid()
                os.write(ends[1], b"x")
                while os.getppid() == parent:
                    time.sleep(0.001)
                os._exit(-call(KEYCTL, WATCH, -3, reader, 1) & 0x7f)
            os.read(ends[0], 1)
            os._exit(0)
        os.wait()
        for name in (-1, -2, -7):
            assert call(KEYCTL, WATCH, name, reader, 1) == -errno.EOPNOTSUPP
        assert call(KEYCTL, WATCH, -3, reader, 1) == 0
    """, "--trace")  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused = re.findall(r"KEYCTL_WATCH_KEY, (-\d), .* = -1 (.*)", done.stderr)
    assert sorted(refused) == [
        (name, f"ENOTSUP (which keyring {name} is for this thread cannot be known: watch its number)")
        for name in ("-1", "-2", "-3", "-7")
    ]


def test_parent_that_gets_a_childs_session_is_not_guessed_at() -> None:
    assert_silent(
        program("""
        reader, writer = pipe()
        if os.fork() == 0:
            call(KEYCTL, JOIN, None)
            os._exit(-call(KEYCTL, TO_PARENT))
        assert os.wait()[1] == 0
        assert call(KEYCTL, WATCH, -3, reader, 1) == -errno.EOPNOTSUPP
        assert call(KEYCTL, WATCH, call(KEYCTL, 0, -3, 0), reader, 1) == 0
    """)
    )
