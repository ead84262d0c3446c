"""`-o user=NAME`: a server that was started as root, mounts, and is root no longer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.daemons import check_deaths, wait_for_checkpoint
from tests.t1_run_numbers import HEADERS
from tests.t3_supervision import Manager
from tests.tools import (
    LIMIT,
    MOUNT_COMMAND,
    ROOT,
    Call,
    Mount,
    children_of,
    is_mounted,
    mounted,
    opened,
    running,
    wait_until,
)
from tests.users import ADA, BEN, needs_users, public_mount, run_as
from wqfs.fs import mounting, privileges
from wqfs.fs.keeper import Keeper
from wqfs.fs.options import Options, UsageError

SERVICE = 12399
OPTIONS = f"allow_other,user={SERVICE}"
pytestmark = needs_users


@pytest.fixture
def served() -> Iterator[Mount]:
    with public_mount(OPTIONS) as mount:
        yield mount


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def assert_no_privilege(pid: int) -> None:
    status = status_of(pid)
    assert status["Uid"].split() == status["Gid"].split() == [str(SERVICE)] * 4
    assert status["Groups"].split() == []
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    if os.uname().machine in privileges.MACHINES:
        assert status["Seccomp"] == "2"


def test_server_has_no_privilege_left(served: Mount) -> None:
    for pid in {served.process.pid, served.daemon}:
        assert_no_privilege(pid)


def test_checkpoint_has_no_privilege_either_and_who_unmounts_is_root(served: Mount) -> None:
    wait_for_checkpoint(served.process.pid)
    daemon = served.daemon
    wait_until(lambda: len(children_of(daemon)) == 1, "the one before to be gone")
    (checkpoint,) = children_of(daemon)
    assert_no_privilege(checkpoint)
    (keeper,) = set(children_of(served.process.pid)) - {daemon}
    assert status_of(keeper)["Uid"].split() == ["0"] * 4


def test_server_has_the_groups_of_a_user_with_a_name() -> None:
    with public_mount("allow_other,user=man") as mount:
        identity = privileges.identity_of("man")
        status = status_of(mount.daemon)
        assert status["Uid"].split() == [str(identity.uid)] * 4
        assert set(map(int, status["Groups"].split())) == set(identity.groups)


def test_tree_still_belongs_to_who_mounted(served: Mount) -> None:
    assert {path.stat().st_uid for path in (served.path, served.path / "post", served.path / "errors")} == {0}


def test_mount_is_used_as_any_other(served: Mount) -> None:
    for uid in (ADA, BEN):
        run_as(uid, f"import os; os.mkdir('watches/w{uid}')", cwd=served.path)
    served.post("mount /dev/sdb1 /mnt -t ext4", "key add user k v @s")
    with pytest.raises(OSError, match="Invalid argument"):
        served.post("bogus")
    assert "'bogus'" in (served.path / "errors").read_text()
    for uid in (ADA, BEN):
        assert '"new_mount"' in run_as(uid, f"print(open('watches/w{uid}/log').read())", cwd=served.path)
    assert '"/mnt"' in (served.path / "sim/snapshot").read_text()
    assert "wqfs_watches 2" in (served.path / "metrics").read_text()
    run_as(ADA, f"import os; os.rmdir('watches/w{ADA}')", cwd=served.path)


def test_filter_by_pointer_is_refused_and_by_value_is_not(served: Mount) -> None:
    program = """
import ctypes, errno, fcntl, os, struct
libc = ctypes.CDLL(None, use_errno=True)
os.mkdir("watches/mine")
queue = os.open("watches/mine/queue", os.O_RDONLY)
data = struct.pack("=II11I", 1, 0, 2, 0, 0, 0xffffffff, *[0] * 7)
print(libc.ioctl(queue, ctypes.c_ulong(0x5761), data), errno.errorcode[ctypes.get_errno()])
fcntl.ioctl(queue, 1 << 30 | len(data) << 16 | 0x5761, data)
print(open("watches/mine/filter").read())
"""
    assert run_as(ADA, program, cwd=served.path).split() == ["-1", "EPERM", "mount", "*"]


@pytest.mark.parametrize("busy", [False, True])
def test_order_to_stop_unmounts_and_ends_all(served: Mount, busy: bool) -> None:
    others = children_of(served.process.pid)
    users = sorted(status_of(pid)["Uid"].split()[0] for pid in others)
    assert users[0] == "0" and set(users[1:]) == {str(SERVICE)}  # the one that unmounts; the daemon
    watch = served.watch()
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096) if busy else None
        if busy:
            served.wait_for_readers(watch)
        else:
            os.close(fd)
        served.process.send_signal(signal.SIGTERM)
        if call is not None:
            assert call.result() == b""
        assert served.process.wait(LIMIT) == 0
    assert not is_mounted(served.path)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the process that unmounts to end")


def test_unmounting_by_root_ends_all(served: Mount) -> None:
    others = children_of(served.process.pid)
    subprocess.run(["fusermount3", "-u", served.path], check=True, timeout=LIMIT)
    assert served.process.wait(LIMIT) == 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the process that unmounts to end")


def test_killed_server_takes_the_other_process_with_it() -> None:
    with public_mount(f"{OPTIONS},nosurvive") as served:
        others = children_of(served.process.pid)
        served.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "the process that unmounts to end")


def test_successor_has_no_privilege_either(served: Mount) -> None:
    watch = served.watch()
    wait_for_checkpoint(served.process.pid)
    before = served.daemon
    os.kill(before, signal.SIGKILL)
    assert served.status(watch)["queued"] == 0
    assert served.daemon not in (before, served.process.pid)
    test_server_has_no_privilege_left(served)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(LIMIT) == 0
    assert not is_mounted(served.path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_fifty_times_every_event_comes_once() -> None:
    with public_mount(f"{OPTIONS},survive,depth=512") as served:
        wait_for_checkpoint(served.process.pid)
        check_deaths(served, 50, 3, limit=250)


def test_ready_and_watchdog(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    tmp_path.chmod(0o755)
    manager = Manager(str(tmp_path / "notify"))
    os.chmod(tmp_path / "notify", 0o777)
    # The service user must reach both, and what is above.
    folders = [folder for folder in tmp_path.parents if not folder.stat().st_mode & 0o001]
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        folder.chmod(0o755)
    try:
        env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with running(*MOUNT_COMMAND, path, "-f", "-o", OPTIONS, env=env) as process:
            manager.wait("READY=1")
            users = sorted(status_of(pid)["Uid"].split()[0] for pid in children_of(process.pid))
            assert users[0] == "0" and set(users[1:]) == {str(SERVICE)}
            heard = len(manager.said)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                manager.listen(0.1)
            assert manager.said[heard:].count("WATCHDOG=1") >= 3
            process.terminate()
            manager.wait("STOPPING=1")
            assert process.wait(LIMIT) == 0
        assert not is_mounted(path)
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False, timeout=LIMIT)
        manager.close()
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)


def test_background_form(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    try:
        done = subprocess.run([*MOUNT_COMMAND, path, "-o", OPTIONS], timeout=LIMIT, check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        (path / "watches/w").mkdir()
        subprocess.run(["fusermount3", "-u", path], check=True, timeout=LIMIT)
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False, timeout=LIMIT)


# -- refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("user=daemon", "needs allow_other"),
        ("allow_other,user=nobody-of-that-name", "there is no user called 'nobody-of-that-name'"),
        ("allow_other,user=4294967295", "there is no user"),
    ],
)
def test_user_is_refused(tmp_path: Path, options: str, sentence: str) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    done = subprocess.run(
        [*MOUNT_COMMAND, path, "-f", "-o", options], timeout=LIMIT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1 and sentence in done.stderr
    assert not is_mounted(path)


def test_user_is_for_root_alone() -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from wqfs.fs import daemon
os.setuid({ADA})
from wqfs.fs.options import Options, UsageError
try: daemon._identity(Options(user="daemon", allow_other=True), ours=True)
except UsageError as error: print(error)
"""
    said = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=LIMIT)
    assert said.startswith("Option user is for root")


def test_identity_of_a_number_without_a_name() -> None:
    assert privileges.identity_of(str(SERVICE)) == privileges.Identity(str(SERVICE), SERVICE, SERVICE, ())
    with pytest.raises(UsageError):
        privileges.identity_of("")


# -- the process that unmounts


def keeper_of(mount: Mount) -> Keeper:
    return Keeper(str(mount.path), mounting.device_at(str(mount.path)))


def test_keeper_leaves_what_it_was_not_made_for(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        keeper = keeper_of(mount)
        try:
            subprocess.run(["fusermount3", "-u", mount.path], check=True, timeout=LIMIT)
            mount.process.wait(LIMIT)
            # The kernel gives the free number to the next mount, and another one to the second.
            (tmp_path / "next").mkdir()
            for path in (tmp_path / "next", mount.path):
                os.close(mounting.mount(str(path), Options()))
            assert keeper.try_unmount(str(mount.path), lazy=True) == ""
            assert is_mounted(mount.path)
        finally:
            keeper.close()
            for path in (tmp_path / "next", mount.path):
                mounting.unmount(str(path), lazy=True)


def test_keeper_that_knows_no_number_unmounts_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount, closing(Keeper(str(mount.path), "")) as keeper:
        assert keeper.try_unmount(str(mount.path), lazy=True) == ""
        assert is_mounted(mount.path)


def test_keeper_does_nothing_for_what_is_no_word_of_its(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount, closing(keeper_of(mount)) as keeper:
        for word in (b"unmount\0", b"detach /", b"unmoun", b"\xff" * 4096, b"x" * 60_000):
            keeper._socket.send(word)
            assert keeper._socket.recv(4096) == b"what?"
        assert is_mounted(mount.path)
        assert keeper.try_unmount(str(mount.path), lazy=False) == ""


def test_keeper_says_why_it_could_not(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount, closing(keeper_of(mount)) as keeper:
        with opened(mount.path / "post", os.O_WRONLY):
            assert "busy" in keeper.try_unmount(str(mount.path), lazy=False)
        assert keeper.try_unmount(str(mount.path), lazy=False) == ""
        assert not is_mounted(mount.path)


# -- the filter

CALLS = """
import ctypes, errno, os, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
from wqfs.fs import privileges
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert privileges.refuse_calls()
machine = privileges.MACHINES[os.uname().machine]
for name, number in machine.refused.items():
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    assert (answer, ctypes.get_errno()) == (-1, errno.EPERM), name
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    try: socket.socket(family, socket.SOCK_DGRAM)
    except PermissionError: pass
    else: raise AssertionError(family)
assert libc.syscall(ctypes.c_long(machine.clone), 0x10000000 | 17, 0, 0, 0, 0) == -1  # CLONE_NEWUSER
assert ctypes.get_errno() == errno.EPERM
socket.socketpair()
thread = threading.Thread(target=lambda: print("thread", flush=True))
thread.start()
thread.join()
subprocess.run(["/bin/echo", "process"], check=True)
"""


@pytest.mark.skipif(os.uname().machine not in privileges.MACHINES, reason="no filter for this machine")
def test_filter_refuses_what_it_names_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-SIc", CALLS, ROOT], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["thread", "process"]


@pytest.mark.parametrize("name", HEADERS)
def test_numbers_are_those_of_the_headers(name: str) -> None:
    header = next((path for path in HEADERS[name] if path.exists()), None)
    if header is None:
        pytest.skip(f"no header of {name} is installed (Debian package linux-libc-dev)")
    text = header.read_text()
    machine = privileges.MACHINES[name]
    of_others = {"clone": machine.clone, "clone3": machine.clone3, "socket": machine.socket}
    for call, number in (machine.refused | of_others).items():
        found = re.search(rf"#define __NR_{call}\s+(\d+)", text)
        assert found is not None and int(found[1]) == number, call
