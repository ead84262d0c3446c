"""The process that reads for SET_FILTER by pointer is kept for further calls: of the same user and group alone, not for
long, not too many; and who disturbs it disturbs only calls of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.set_filter import answers, helpers_of, ioctl, mapped, needs_no_yama, rule, stopped
from tests.tools import AT_ONCE, LIMIT, Call, Mount, opened, running, wait_until
from tests.users import ADA, BEN, PYTHON, as_user, needs_users, public_mount, run_as
from wqfs.fs import caller, caller_process


@pytest.fixture
def public() -> Iterator[Mount]:
    with public_mount() as mount:
        yield mount


def descriptors_of(pid: int) -> dict[int, str]:
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this look itself
            found[int(fd.name)] = os.readlink(fd)
    return found


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in text.splitlines())}


def has_ended(pid: int) -> bool:
    """Whether it is no more, not even as a zombie."""
    return not Path(f"/proc/{pid}").exists()


def test_calls_of_a_user_are_read_by_one_process_that_goes_when_it_is_idle(mount: Mount) -> None:
    watch = mount.watch()
    with opened(watch / "queue") as fd:
        used = set()
        for number in range(200):
            data = rule(1 + number % 2)
            assert ioctl(fd, ctypes.addressof(data)) == 0
            used.update(helpers_of(mount))
            assert (watch / "filter").read_text() == ("key *\n", "mount *\n")[number % 2]
        (pid,) = used
        wait_until(lambda: has_ended(pid), "its end")
        assert ioctl(fd, ctypes.addressof(data)) == 0, "another one reads"


def test_call_that_fails_is_no_reason_to_start_another_process(mount: Mount) -> None:
    watch, data = mount.watch(), rule(1)
    with opened(watch / "queue") as fd:
        for address, code in ((8, errno.EFAULT), (ctypes.addressof(data), 0)) * 3:
            assert ioctl(fd, address) == code
            before = helpers_of(mount)
            assert len(before) == 1 and before == helpers_of(mount)


def test_process_that_was_ended_is_replaced(mount: Mount) -> None:
    watch, data = mount.watch(), rule(1)
    with opened(watch / "queue") as fd:
        assert ioctl(fd, ctypes.addressof(data)) == 0
        before = len(descriptors_of(mount.daemon))
        for _ in range(10):
            (pid,) = helpers_of(mount)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in helpers_of(mount), "its end")  # type: ignore[misc]
            assert ioctl(fd, ctypes.addressof(data)) == 0
            assert has_ended(pid), "no zombie is left of it"
        assert len(descriptors_of(mount.daemon)) == before


def test_process_that_was_stopped_costs_one_call_of_its_user(mount: Mount) -> None:
    watch, data = mount.watch(), rule(1)
    with opened(watch / "queue") as fd:
        assert ioctl(fd, ctypes.addressof(data)) == 0
        (pid,) = helpers_of(mount)
        os.kill(pid, signal.SIGSTOP)
        call = Call(ioctl, fd, ctypes.addressof(data))
        answers(mount)
        assert call.result(caller_process.LIMIT + LIMIT) == errno.EFAULT
        assert has_ended(pid)
        assert ioctl(fd, ctypes.addressof(data)) == 0


def test_call_without_a_descriptor_for_its_process_is_enomem_and_costs_none(mount: Mount) -> None:
    watch, data = mount.watch(), rule(1)
    daemon, most = mount.daemon, resource.prlimit(mount.daemon, resource.RLIMIT_NOFILE)
    with opened(watch / "queue") as fd:
        before = descriptors_of(daemon)
        for few in range(8):
            resource.prlimit(daemon, resource.RLIMIT_NOFILE, (max(before) + 1 + few, most[1]))
            assert ioctl(fd, ctypes.addressof(data)) == errno.ENOMEM or few > 4
            for pid in helpers_of(mount):
                os.kill(pid, signal.SIGKILL)
            answers(mount)
        resource.prlimit(daemon, resource.RLIMIT_NOFILE, most)
        wait_until(lambda: len(descriptors_of(daemon)) == len(before), "the end of all that was started")
        assert ioctl(fd, ctypes.addressof(data)) == 0


@pytest.mark.parametrize("number", [0, signal.SIGSTOP])
def test_process_ends_with_the_mount(mount: Mount, number: int) -> None:
    watch, data = mount.watch(), rule(1)
    with opened(watch / "queue") as fd:
        assert ioctl(fd, ctypes.addressof(data)) == 0
    (pid,) = helpers_of(mount)
    os.kill(pid, number)
    subprocess.run(["fusermount3", "-u", mount.path], check=True, timeout=LIMIT)
    mount.process.wait(AT_ONCE)
    assert has_ended(pid)


@pytest.mark.parametrize("number", [0, signal.SIGSTOP])
def test_successor_has_its_own_process_and_that_of_the_dead_daemon_ends(mount: Mount, number: int) -> None:
    """Also while its user has stopped it."""
    watch, data = mount.watch(), rule(1)
    with opened(watch / "queue") as fd:
        assert ioctl(fd, ctypes.addressof(data)) == 0
        (before,) = helpers_of(mount)
        os.kill(before, number)
        daemon = mount.daemon
        os.kill(daemon, signal.SIGKILL)
        assert ioctl(fd, ctypes.addressof(data)) == 0
        assert mount.daemon != daemon and before not in helpers_of(mount)
        wait_until(lambda: has_ended(before), "the end of the first one", AT_ONCE)


def test_successor_reads_anew_what_its_predecessor_was_reading(mount: Mount, public: Mount) -> None:
    watch, other = mount.watch(), public.watch()
    public.post("sb error / EIO")
    with opened(watch / "queue") as fd, mapped(other / "log") as address:
        with stopped(public):
            call = Call(ioctl, fd, address)
            wait_until(lambda: helpers_of(mount), "the process that reads")
            (before,), daemon = helpers_of(mount), mount.daemon
            os.kill(daemon, signal.SIGKILL)
            wait_until(lambda: mount.daemon != daemon and helpers_of(mount), "that of the successor")
            wait_until(lambda: has_ended(before), "the end of the first one", AT_ONCE)
            assert call.waits
        assert call.result() == errno.EINVAL, "JSON is no filter"


# -- users, as root

SETS_FILTERS = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
name, type_ = sys.argv[1], int(sys.argv[2])
os.mkdir("watches/" + name)
queue = os.open(f"watches/{name}/queue", os.O_RDONLY)
data = ctypes.create_string_buffer(struct.pack("=II11I", 1, 0, type_, 0, 0, 0xffffffff, *[0] * 7), 52)
while True:
    done = libc.ioctl(queue, ctypes.c_ulong(0x5761), data)
    print(ctypes.get_errno() if done < 0 else open(f"watches/{name}/filter").read().strip(), flush=True)
    sys.stdin.readline() or sys.exit()
"""


class Setter:
    """A process that sets a filter when it starts, and whenever it is told to."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def again(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return self.answer()


@pytest.fixture
def ada(public: Mount) -> Iterator[Setter]:
    with running(
        *as_user(ADA, PYTHON, "-SIc", SETS_FILTERS, "ada", "1"),
        cwd=public.path, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        setter = Setter(process)
        assert setter.answer() == "key *"
        yield setter


def set_as(uid: int, gid: int, public: Mount) -> str:
    """What another user, or the same in another group, reads in its filter that it has just set."""
    command = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--", PYTHON, "-SIc", SETS_FILTERS)
    done = subprocess.run(
        [*command, f"of-{uid}-{gid}", "2"],
        cwd=public.path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=LIMIT, check=True,
    )  # fmt: skip
    return done.stdout.decode().strip()


@needs_users
@needs_no_yama
def test_each_user_has_its_own_process(public: Mount, ada: Setter) -> None:
    (hers,) = helpers_of(public)
    assert set_as(BEN, BEN, public) == "mount *"
    both = helpers_of(public)
    assert {status_of(pid)["Uid"].split()[0] for pid in both} == {str(ADA), str(BEN)}
    assert ada.again() == "key *"
    assert hers in both and hers in helpers_of(public)


@needs_users
@needs_no_yama
def test_user_in_another_group_is_read_by_another_process(public: Mount, ada: Setter) -> None:
    (hers,) = helpers_of(public)
    assert set_as(ADA, BEN, public) == "mount *"
    (other,) = helpers_of(public)
    assert other != hers and has_ended(hers), "one of a user at most"
    fields = status_of(other)
    assert (fields["Uid"], fields["Gid"]) == (" ".join([str(ADA)] * 4), " ".join([str(BEN)] * 4))
    assert ada.again() == "key *"


@needs_users
@needs_no_yama
def test_kept_processes_are_few(public: Mount) -> None:
    for uid in range(ADA, ADA + caller.KEPT_MAX + 4):
        assert set_as(uid, uid, public) == "mount *"
        assert len(helpers_of(public)) <= caller.KEPT_MAX


LOOKS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pid, own = int(sys.argv[1]), ctypes.create_string_buffer(8)
class Part(ctypes.Structure): _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
mine, its = Part(ctypes.addressof(own), 8), Part(ctypes.addressof(own), 8)
def failed(done):
    if done < 0: print(errno.errorcode[ctypes.get_errno()])
failed(libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(its), 1, 0))
failed(libc.ptrace(16, pid, None, None))  # PTRACE_ATTACH
try: os.open(f"/proc/{pid}/mem", os.O_RDONLY)
except OSError as error: print(errno.errorcode[error.errno])
try: os.listdir(f"/proc/{pid}/fd")
except OSError as error: print(errno.errorcode[error.errno])
"""


@needs_users
@needs_no_yama
def test_kept_process_has_its_users_rights_alone_and_shows_nothing_to_its_user(public: Mount, ada: Setter) -> None:
    (pid,) = helpers_of(public)
    fields = status_of(pid)
    assert (fields["Uid"], fields["Gid"], fields["Groups"]) == (*[" ".join([str(ADA)] * 4)] * 2, "")
    assert {int(fields[f"Cap{which}"], 16) for which in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert fields["NoNewPrivs"] == "1"
    ends, *others = (name for _, name in sorted(descriptors_of(pid).items()))
    assert ends.startswith("socket:") and others == ["/dev/null"] * 2
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert run_as(ADA, LOOKS, str(pid), cwd=public.path).split() == ["EPERM", "EPERM", "EACCES", "EACCES"]


@needs_users
@needs_no_yama
def test_user_who_stops_its_process_holds_up_nobody_else(public: Mount, ada: Setter) -> None:
    (pid,) = helpers_of(public)
    run_as(ADA, "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGSTOP)", str(pid), cwd=public.path)
    call = Call(ada.again)
    assert set_as(BEN, BEN, public) == "mount *"
    assert call.waits
    assert call.result(caller_process.LIMIT + LIMIT) == str(errno.EFAULT)
    assert ada.again() == "key *"


# -- a process that its user has taken over

LIES = {
    "an exit code": "os._exit(1)",
    "nothing": "s.recv(16)",
    "end of file": "pass",
    "part of an answer": "s.recv(16); s.send(b'123')",
    "an answer to another call": "s.recv(16); s.send(struct.pack('=Ii', 7, 0) + bytes(52)); time.sleep(60)",
}
TALKS = "import os, socket, struct, time\ns = socket.socket(fileno=0)\n"


def asked(program: str, monkeypatch: pytest.MonkeyPatch, times: int) -> list[caller_process.Answer]:
    """The answers of a process that runs another program; afterwards it has ended and nothing is left of it."""
    monkeypatch.setattr(caller_process, "command", lambda rights: [sys.executable, "-SIc", TALKS + program])
    before = descriptors_of(os.getpid())

    async def ask() -> list[caller_process.Answer]:
        process = caller_process.CallerProcess(None)
        found: list[caller_process.Answer] = []
        while process.is_fit and len(found) < times:
            found.append(await process.read(os.getpid(), 0))
        assert process.is_fit or process.has_ended
        await process.end()
        assert process.has_ended
        return found

    found = trio.run(ask)
    assert descriptors_of(os.getpid()) == before
    return found


@pytest.mark.parametrize("lie", LIES)
def test_process_that_does_not_answer_as_expected_is_ended(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (answer,) = asked(LIES[lie], monkeypatch, 2)
    expected = errno.ENOMEM if lie == "an exit code" else errno.EFAULT
    assert isinstance(answer, OSError) and answer.errno == expected


def test_answer_too_many_is_not_taken_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = "m = struct.pack('=Ii', 1, 0) + b'filter'; s.recv(16); s.send(m); s.send(m); time.sleep(60)"
    first, second = asked(twice, monkeypatch, 3)
    assert first == b"filter"
    assert isinstance(second, OSError) and second.errno == errno.EFAULT


def test_answer_is_of_a_known_size_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    (answer,) = asked("s.recv(16); s.send(struct.pack('=Ii', 1, 0) + bytes(4096))", monkeypatch, 1)
    assert isinstance(answer, bytes) and len(answer) == 8 + 16 * 44
