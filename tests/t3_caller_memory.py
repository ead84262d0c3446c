"""SET_FILTER by pointer: the server reads its caller's memory, with the caller's rights, and is never held up by it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.set_filter import answers, helpers_of, ioctl, mapped, needs_no_yama, stopped
from tests.silent_fuse import silent
from tests.tools import AT_ONCE, LIMIT, Call, Mount, opened, running, wait_until
from tests.users import ADA, BEN, PYTHON, as_user, needs_users, public_mount, run_as
from wqfs.fs import caller_helper, caller_process

EXECVE = {"x86_64": 59, "aarch64": 221, "riscv64": 221}.get(platform.machine())
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p


@pytest.fixture
def public() -> Iterator[Mount]:
    with public_mount() as mount:
        yield mount


# -- nobody is held up

MAPS_ITS_OWN = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
log = os.open("watches/w/log", os.O_RDONLY)
queue = os.open("watches/w/queue", os.O_RDONLY)
page = libc.mmap(None, 4096, 1, 2, log, 0)
print(libc.ioctl(queue, ctypes.c_ulong(0x5761), ctypes.c_void_p(page)), ctypes.get_errno())
"""


def test_filter_in_a_mapped_file_of_the_same_mount_does_not_hold_it_up(mount: Mount) -> None:
    """Read by the server itself, the page would wait for the server for ever."""
    mount.watch()
    mount.post("sb error / EIO")
    with running(sys.executable, "-SIc", MAPS_ITS_OWN, cwd=mount.path, stdout=subprocess.PIPE) as process:
        answers(mount)
        output, _ = process.communicate(timeout=LIMIT)
    assert output.decode().split() == ["-1", str(errno.EINVAL)]  # JSON is no filter


def test_filters_are_read_while_checkpoints_come_and_go(mount: Mount) -> None:
    """Who reads is a child of the daemon as its checkpoints are, and is not taken for one of them."""
    watch = mount.watch()
    rule = ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0" + b"\1\0\0\0" + bytes(8) + b"\xff" * 32)
    with opened(watch / "queue") as fd, opened(mount.path / "sim/records", os.O_WRONLY) as records:
        comments = bytes(16) * 4096  # nothing but a length that is none: refused, and noted all the same
        for _ in range(15):
            call = Call(ioctl, fd, ctypes.addressof(rule))
            while call.waits:
                with suppress(OSError):
                    os.write(records, comments)
            assert call.result() == 0


def test_filter_where_reading_waits_holds_up_its_caller_alone(mount: Mount, public: Mount) -> None:
    """The page of a mount whose server is stopped."""
    watch, other = mount.watch(), public.watch()
    public.post("sb error / EIO")
    with opened(watch / "queue") as fd, mapped(other / "log") as address:
        with stopped(public):
            call = Call(ioctl, fd, address)
            wait_until(lambda: helpers_of(mount), "the process that reads")
            for _ in range(3):
                answers(mount)
            assert call.waits
            assert call.result(caller_process.LIMIT + LIMIT) == errno.EFAULT
            assert not helpers_of(mount)
        assert ioctl(fd, address) == errno.EINVAL


def test_filter_whose_reading_cannot_be_ended_is_refused_until_it_has_ended(mount: Mount, tmp_path: Path) -> None:
    """A read that its server has taken: not even SIGKILL ends who waits for it."""
    watch = mount.watch()
    folder = tmp_path / "silent"
    folder.mkdir()
    with opened(watch / "queue") as fd:
        with silent(folder) as (file, taken), mapped(file) as address:
            call = Call(ioctl, fd, address)
            assert taken.wait(LIMIT)
            other = Call(ioctl, fd, address)
            assert call.result(caller_process.LIMIT + LIMIT) == other.result(AT_ONCE) == errno.EFAULT
            assert helpers_of(mount)
            assert Call(ioctl, fd, address).result(AT_ONCE) == errno.EFAULT
            answers(mount)
            assert len(helpers_of(mount)) == 1
        page = ctypes.create_string_buffer(52)
        wait_until(lambda: ioctl(fd, ctypes.addressof(page)) == errno.EINVAL, "the end of what read")
    assert "does not end" in mount.log()


ASKS = """
import ctypes, os, signal, sys, threading
signal.signal(signal.SIGUSR1, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
log, queue = (os.open(name, os.O_RDONLY) for name in sys.argv[1:3])
page = libc.mmap(None, 4096, 1, 2, log, 0)
print("mapped", flush=True)
sys.stdin.readline()
def ask():
    print(libc.ioctl(queue, ctypes.c_ulong(0x5761), ctypes.c_void_p(page)), ctypes.get_errno(), flush=True)
if sys.argv[3:]:
    threading.Thread(target=ask).start()
    sys.stdin.readline()
    os.execv(sys.argv[3], [sys.argv[3], "60"])
ask()
"""
"""Maps a log; then, at a line of standard input, calls SET_FILTER with that page; with a program named it does so in
a thread, and becomes that program at the next line."""


@contextmanager
def asking(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ASKS with its file mapped."""
    with running(*command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"mapped\n"
        yield process


def test_signal_does_not_end_the_call(mount: Mount, public: Mount) -> None:
    """As in the kernel: the answer comes by itself, EINTR would be one that no program expects."""
    watch, other = mount.watch(), public.watch()
    public.post("sb error / EIO")
    with asking(sys.executable, "-SIc", ASKS, other / "log", watch / "queue") as process:
        assert process.stdin is not None and process.stdout is not None
        with stopped(public):
            process.stdin.write(b"\n")
            wait_until(lambda: helpers_of(mount), "the process that reads")
            process.send_signal(signal.SIGUSR1)
            answers(mount)
        assert process.stdout.readline().split() == [b"-1", str(errno.EINVAL).encode()]


# -- the caller's rights, and no others

SETS_A_FILTER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
os.mkdir("watches/mine")
queue = os.open("watches/mine/queue", os.O_RDONLY)
data = ctypes.create_string_buffer(struct.pack("=II11I", 1, 0, 2, 0, 0, 0xffffffff, *[0] * 7), 52)
done = libc.ioctl(queue, ctypes.c_ulong(0x5761), data)
print(os.strerror(ctypes.get_errno()) if done < 0 else open("watches/mine/filter").read().strip())
"""


@needs_users
@needs_no_yama
def test_users_set_their_filters_on_a_mount_of_root(public: Mount) -> None:
    assert run_as(ADA, SETS_A_FILTER, cwd=public.path) == "mount *\n"


@needs_users
@needs_no_yama
def test_user_in_a_user_namespace_sets_a_filter(public: Mount) -> None:
    """Root of its own namespace, the user's own id outside: that id counts."""
    unshare = ("unshare", "--user", "--map-root-user")
    if subprocess.run(as_user(ADA, *unshare, "true"), capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not permitted to users here")
    done = subprocess.run(
        as_user(ADA, *unshare, PYTHON, "-SIc", SETS_A_FILTER),
        cwd=public.path, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "mount *\n"), done.stderr
    assert (public.path / "watches/mine").stat().st_uid == ADA


@pytest.fixture
def set_user_id_sleep() -> Iterator[Path]:
    """A sleep(1) of root's with the set-user-ID bit, where every user can run it."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/wqfs-test-XXXXXX"], text=True).strip())
    try:
        folder.chmod(0o755)
        program = folder / "sleep"
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        program.chmod(0o4755)
        if os.statvfs(program).f_flag & os.ST_NOSUID:
            pytest.skip("/tmp is mounted nosuid")
        yield program
    finally:
        shutil.rmtree(folder)


def stack_of(pid: int) -> int:
    found = re.search(r"^([0-9a-f]+)-\S+ rw.*\[stack\]$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1], 16)


def helper_reads(uid: int, pid: int, address: int) -> int:
    """What the server's own helper answers when `uid` asks with that pid: an errno, 0 if it read it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rights = caller_process.rights_for((uid, uid, pid))
    with ours, its, running(*caller_process.command(rights), stdin=its, env={}):
        its.close()
        ours.settimeout(LIMIT)
        ours.send(caller_helper.REQUEST.pack(1, pid, address))
        code: int = caller_helper.ANSWER.unpack_from(ours.recv(caller_helper.ANSWER_MAX))[1]
        return code


@needs_users
def test_set_user_id_program_is_not_read_for_who_started_it(set_user_id_sleep: Path) -> None:
    """If ever a request's number came to name such a program: the helper of root's server has the user's rights."""
    with running(*as_user(ADA, set_user_id_sleep, "60")) as process:
        wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe") == str(set_user_id_sleep), "the program")
        assert "Uid:\t12345\t0\t0\t0" in Path(f"/proc/{process.pid}/status").read_text()
        address = stack_of(process.pid)
        assert helper_reads(ADA, process.pid, address) == errno.EPERM
        assert helper_reads(0, process.pid, address) == 0  # it can be read, with root's rights


@needs_users
@needs_no_yama
def test_process_of_another_user_is_not_read() -> None:
    with running(*as_user(BEN, "/bin/sleep", "60")) as process:
        wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe").endswith(("sleep", "busybox")), "the program")
        address = stack_of(process.pid)
        assert helper_reads(ADA, process.pid, address) == errno.EPERM
        assert helper_reads(BEN, process.pid, address) == 0


@needs_users
def test_helper_has_no_privilege_left() -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(caller_helper.__file__).parents[2])!r})\n" + (
        f"from wqfs.fs.caller_helper import become; become({ADA}, {BEN}); print(open('/proc/self/status').read())"
    )
    status = subprocess.check_output([sys.executable, "-ISc", program], text=True, timeout=LIMIT)
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["Uid"].split(), fields["Gid"].split()) == ([str(ADA)] * 4, [str(BEN)] * 4)
    assert fields["Groups"].split() == []
    assert (int(fields["CapPrm"], 16), int(fields["CapEff"], 16)) == (0, 0)


@needs_users
@pytest.mark.skipif(EXECVE is None, reason=f"the number of execve(2) on {platform.machine()} is not known here")
def test_caller_cannot_become_another_program_before_the_answer(public: Mount, set_user_id_sleep: Path) -> None:
    """On this the number of a request stands: the kernel lets no thread end whose ioctl was taken and not answered, so
    execve(2) of another thread waits for it, and what was read was the caller's."""
    with public_mount() as holding:
        for mount in (public, holding):
            run_as(ADA, "import os; os.mkdir('watches/mine')", cwd=mount.path)
        holding.post("sb error / EIO")
        names = (holding.path / "watches/mine/log", public.path / "watches/mine/queue", set_user_id_sleep)
        with asking(*as_user(ADA, PYTHON, "-SIc", ASKS, *names)) as process:
            assert process.stdin is not None
            before = os.readlink(f"/proc/{process.pid}/exe")
            with stopped(holding):
                process.stdin.write(b"\n")
                wait_until(lambda: helpers_of(public), "the process that reads")
                process.stdin.write(b"\n")
                call = Path(f"/proc/{process.pid}/syscall")
                wait_until(lambda: call.read_text().startswith(f"{EXECVE} "), "execve")
                assert helpers_of(public)
                assert os.readlink(f"/proc/{process.pid}/exe") == before
            wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe") != before, "the other program")
            assert len(helpers_of(public)) <= 1, "one is kept for a while"
