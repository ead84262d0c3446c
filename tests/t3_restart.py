"""A mount goes on in another process of the service, through the manager's store of descriptors (wqfs.fs.store)."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import needs_resend, wait_for_checkpoint
from tests.manager import Service
from tests.tools import LIMIT, ROOT, Call, Mount, deliver, numbers, record, wait_until
from wqfs import __version__

pytestmark = needs_resend


@pytest.fixture
def service_with() -> Iterator[Callable[..., Service]]:
    with tempfile.TemporaryDirectory(prefix="wqfs-test-") as folder, ExitStack() as made:
        os.chmod(folder, 0o755)  # every user can reach it, as tmp_path cannot be

        def make(options: str = "survive", room: int = 3) -> Service:
            service = Service(Path(folder), options, room)
            made.callback(service.close)
            service.start()
            return service

        yield make


@pytest.fixture
def service(service_with: Callable[..., Service]) -> Service:
    return service_with()


def snapshot(mount: Mount) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((mount.path / "sim/snapshot").read_text())
    return found


def test_waiting_cat_gets_what_comes_after_each_restart_once(service: Service, tmp_path: Path) -> None:
    folder = service.mount.watch()
    with open(tmp_path / "out", "wb") as out:
        cat = subprocess.Popen(["cat", folder / "queue"], stdout=out)
        service.mount.wait_for_readers(folder)
        for number in range(4):
            mount = service.restart()
            mount.wait_for_readers(folder)
            deliver(mount, record(number))
            wait_until(lambda number=number: (tmp_path / "out").stat().st_size == 16 * (number + 1), "the record")  # type: ignore[misc]
        folder.rmdir()
        assert cat.wait(LIMIT) == 0
    assert numbers((tmp_path / "out").read_bytes()) == [0, 1, 2, 3]
    assert "goes on with the mount of before" in service.log() and "WARNING" not in service.log()


def test_everything_is_as_it_was(service: Service) -> None:
    mount = service.mount
    mount.post(
        "mount /dev/sdb1 /mnt -t ext4", "mount --make-shared /mnt", "key newring ring @s", "key add user k x ring",
        "process new p", "as p key add user own x @p", "device add /dev/sdc", "sb error /mnt EIO",
    )  # fmt: skip
    folder = mount.watch("kept")
    (folder / "objects").write_text("mount / id=3\n")
    (folder / "filter").write_text("mount new_mount,unmount\n")
    (folder / "depth").write_text("32\n")
    mount.post(*(f"mount /dev/x{number} /x{number} -t ext4" for number in range(40)))

    def texts() -> list[object]:
        names = ("sim/mountinfo", "sim/superblocks", "sim/keys", "sim/key-users", "errors")
        return [
            snapshot(mount), mount.status(folder), (folder / "log").read_bytes(), (folder / "filter").read_text(),
            *((mount.path / name).read_text() for name in names), sorted(os.listdir(mount.path / "watches")),
        ]  # fmt: skip

    with pytest.raises(OSError):
        mount.post("nonsense")
    before, numbers_before = texts(), [os.stat(folder / name).st_ino for name in os.listdir(folder)]
    service.restart()
    assert texts() == before
    assert [os.stat(folder / name).st_ino for name in os.listdir(folder)] == numbers_before


def test_open_files_go_on_where_they_were(service: Service) -> None:
    mount = service.mount
    folder = mount.watch()
    deliver(mount, record(1), record(2), record(3))
    queue = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    events = os.open(folder / "events", os.O_RDONLY | os.O_NONBLOCK)
    log = os.open(folder / "log", os.O_RDONLY)
    post = os.open(mount.path / "post", os.O_WRONLY)
    listing = os.open(mount.path / "watches", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert numbers(os.read(queue, 16)) == [1]
        first = os.read(log, 10)
        os.write(post, b"mount /dev/sdb1 /m")
        deliver(mount, record(4))
        part = os.read(events, 5)
        service.restart()
        os.write(post, b"nt -t ext4\n")
        assert numbers(os.read(queue, 48)) == [2, 3, 4]
        lines = (part + os.read(events, 65536)).splitlines()
        assert [json.loads(line)["event"] for line in lines][-1:] == ["new_mount"]
        assert first + os.read(log, 1 << 20) == (folder / "log").read_bytes()
        assert os.listdir(listing) == [folder.name]
        assert "/mnt" in (mount.path / "sim/mountinfo").read_text()
    finally:
        for fd in (queue, events, log, post, listing):
            os.close(fd)


def test_pollers_wake_after_a_restart(service: Service) -> None:
    folder = service.mount.watch()
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        polls, edges = Call(poll.poll, LIMIT * 1000), Call(epoll.poll, LIMIT)
        service.mount.wait_for_pollers(folder)
        deliver(service.restart(), record(1))
        assert polls.result() == [(fd, select.POLLIN)]
        assert edges.result() == [(fd, select.EPOLLIN)]
    assert numbers(os.read(fd, 4096)) == [1]
    os.close(fd)


def test_waiting_read_can_be_interrupted_after_a_restart(service: Service) -> None:
    folder = service.mount.watch()
    cat = subprocess.Popen(["cat", folder / "queue"])
    service.mount.wait_for_readers(folder)
    service.restart().wait_for_readers(folder)
    cat.send_signal(signal.SIGINT)
    assert cat.wait(LIMIT) == -signal.SIGINT


def test_what_is_asked_meanwhile_waits_and_is_carried_out(service: Service) -> None:
    folder = service.mount.watch()
    service.stop()
    makes = Call((service.path / "watches/later").mkdir)
    posts = Call(deliver, service.mount, record(7))
    mount = service.start()
    makes.result()
    posts.result()
    assert sorted(os.listdir(mount.path / "watches")) == ["later", folder.name]
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    assert numbers(os.read(fd, 4096)) == [7]
    os.close(fd)


def test_daemon_that_went_on_may_be_killed(service: Service) -> None:
    folder = service.mount.watch()
    mount = service.restart()
    fd = os.open(folder / "queue", os.O_RDONLY)
    reads = Call(os.read, fd, 4096)
    mount.wait_for_readers(folder)
    os.kill(mount.daemon, signal.SIGKILL)
    deliver(mount, record(5))
    assert numbers(reads.result()) == [5]
    os.close(fd)
    assert "wqfs-state" not in service.restart().log().partition("goes on")[0]


def test_daemon_that_dies_while_it_hands_over_is_followed_by_one_that_does(service: Service) -> None:
    folder = service.mount.watch()
    deliver(service.mount, record(1))
    dying = service.mount.daemon
    service.process.send_signal(signal.SIGUSR2)
    service.wait("FDSTORE=1")  # it waits for an answer that does not come
    os.kill(dying, signal.SIGKILL)
    assert service.wait_for_end() == 0
    os.close(service.stored.pop("wqfs-probe"))
    assert "its successor takes over" in service.log()
    deliver(service.start(), record(2))
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    assert numbers(os.read(fd, 4096)) == [1, 2]
    os.close(fd)


def test_order_that_kills_each_daemon_ends_in_a_mount_that_is_served(service: Service) -> None:
    folder = service.mount.watch()
    service.process.send_signal(signal.SIGUSR2)
    for _ in range(3):
        service.wait("FDSTORE=1")
        os.kill(service.mount.daemon, signal.SIGKILL)
        service.wait("FDSTOREREMOVE=1")  # of who has taken over
        service.said.clear()
    assert os.listdir(service.path / "watches") == [folder.name]
    wait_until(lambda: (service.hear(), not service.stored)[1], "the manager to forget")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(LIMIT) == 0


def test_process_that_fails_before_it_serves_leaves_the_mount_in_the_store(service: Service) -> None:
    folder = service.mount.watch("kept")
    fd = os.open(folder / "queue", os.O_RDONLY)
    reads = Call(os.read, fd, 4096)
    service.mount.wait_for_readers(folder)
    service.stop()
    good, service.options = service.options, "allow_other,user=nobody-of-that-name"
    service.launch()
    assert service.wait_for_end() == 1
    assert set(service.stored) == {"wqfs-fuse", "wqfs-state"}
    service.options = good
    deliver(service.start(), record(1))
    assert numbers(reads.result()) == [1]
    os.close(fd)


def test_state_is_kept_open_by_nobody_who_serves(service: Service) -> None:
    mount = service.restart()
    for pid in (mount.process.pid, mount.daemon):
        opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not [each for each in opened if "wqfs-state" in each]


def test_restart_after_a_death(service: Service) -> None:
    folder = service.mount.watch()
    os.kill(service.mount.daemon, signal.SIGKILL)
    deliver(service.mount, record(1))
    wait_for_checkpoint(service.process.pid)
    deliver(service.restart(), record(2))
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    assert numbers(os.read(fd, 4096)) == [1, 2]
    os.close(fd)


def test_another_version_goes_on(service: Service, tmp_path: Path) -> None:
    folder = service.mount.watch()
    deliver(service.mount, record(1))
    for name in ("wqfs", "mount_wqfs.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    package = tmp_path / "wqfs/__init__.py"
    package.write_text(package.read_text().replace(__version__, "99.0"))
    service.command = (sys.executable, str(tmp_path / "mount_wqfs.py"))
    service.restart()
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    assert numbers(os.read(fd, 4096)) == [1]
    os.close(fd)


def test_on_a_clone_who_waits_is_told_and_all_else_goes_on(service_with: Callable[..., Service]) -> None:
    service = service_with("survive,clone")
    folder = service.mount.watch()
    deliver(service.mount, record(1))
    fd, idle = (os.open(folder / name, os.O_RDONLY) for name in ("queue", "queue"))
    assert numbers(os.read(fd, 4096)) == [1]
    reads = Call(os.read, fd, 4096)
    service.mount.wait_for_readers(folder)
    mount = service.restart()
    with pytest.raises(ConnectionAbortedError):
        reads.result()
    deliver(mount, record(2))
    assert numbers(os.read(idle, 4096)) == [2]
    for each in (fd, idle):
        os.close(each)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_server_that_is_another_user_hands_over_too(service_with: Callable[..., Service]) -> None:
    service = service_with("survive,allow_other,user=nobody")
    service.mount.watch("kept")
    mount = service.restart()
    assert os.listdir(mount.path / "watches") == ["kept"]
    assert Path(f"/proc/{mount.daemon}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(LIMIT) == 0
    assert not os.path.ismount(mount.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_what_a_user_has_written_is_not_made_into_objects_by_root(service_with: Callable[..., Service]) -> None:
    service = service_with("survive,allow_other,user=nobody")
    service.stop()
    # A pickle can call what it names: here a function of ours that makes a socket.
    line, _, data = os.pread(service.stored["wqfs-state"], 1 << 24, 0).partition(b"\n")
    made = service.folder / "made"
    body = b"cwqfs.fs.handover\nlisten\n(V" + os.fsencode(made) + b"\ntR."
    head = data[:16] + struct.pack("=QI", len(body), zlib.crc32(body)) + data[28:56]
    os.close(service.stored.pop("wqfs-state"))
    service.folder.chmod(0o777)
    fd = service.stored["wqfs-state"] = os.memfd_create("state", os.MFD_ALLOW_SEALING)
    os.write(fd, line + b"\n" + head + body)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    service.launch()
    assert service.wait_for_end() == 2
    assert made.owner() == "nobody"
    assert not os.path.ismount(service.path)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [1, 2])
def test_restarted_under_load_every_event_comes_once(service_with: Callable[..., Service], seed: int) -> None:
    service = service_with("survive,depth=512")
    load = subprocess.Popen(
        [sys.executable, "-m", "tests.dying", str(service.path), str(service.process.pid), "0", str(seed)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: "wqfs_events_total 0" not in (service.path / "metrics").read_text(), "the load")
        for _ in range(15):
            events = snapshot(service.mount)["seq"]
            wait_until(lambda events=events: snapshot(service.mount)["seq"] > events, "events")  # type: ignore[misc]
            service.restart()
        said = load.communicate("", timeout=100)[0]
    finally:
        load.kill()
        load.wait(LIMIT)
    assert said.splitlines()[-1] == "0 kills, 0 faults", said


# -- what does not go on


def test_state_of_another_format_is_a_new_mount_and_a_sentence(service: Service, tmp_path: Path) -> None:
    folder = service.mount.watch()
    fd = os.open(folder / "queue", os.O_RDONLY)
    reads = Call(os.read, fd, 4096)
    service.mount.wait_for_readers(folder)
    for name in ("wqfs", "mount_wqfs.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    text = (tmp_path / "wqfs/fs/state.py").read_text()
    (tmp_path / "wqfs/fs/state.py").write_text(
        re.sub(r"^FORMAT: Final = \d+", "FORMAT: Final = 4711", text, flags=re.M)
    )
    service.command = (sys.executable, str(tmp_path / "mount_wqfs.py"))
    mount = service.restart()
    assert os.listdir(mount.path / "watches") == []
    assert re.search(
        r"a new one is made: it has the format \d+, of wqfs .*; wqfs .* reads the format 4711", mount.log()
    )
    with pytest.raises(OSError):
        reads.result()
    os.close(fd)


def test_mount_that_was_unmounted_meanwhile_is_made_anew(service: Service) -> None:
    service.mount.watch()
    service.stop()
    subprocess.run(["fusermount3", "-uz", "--", service.path], check=True, timeout=LIMIT)
    mount = service.start()
    assert os.listdir(mount.path / "watches") == []
    assert "is no longer there" in mount.log()


def test_stale_state_is_not_used(service: Service) -> None:
    service.mount.watch("kept")
    service.stop()
    wait_until(lambda: len(service.stored) == 2, "the store")
    os.close(service.stored.pop("wqfs-state"))
    mount = service.start()
    assert os.listdir(mount.path / "watches") == []
    assert "the store has no wqfs-state" in mount.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_server_that_becomes_another_user_needs_a_mount_for_others(service: Service) -> None:
    service.mount.watch("lost")
    service.options = "survive,allow_other,user=nobody"
    mount = service.restart()
    assert os.listdir(mount.path / "watches") == []
    assert "it was made without allow_other, and option user needs that" in mount.log()


def test_changed_options_hold_from_the_next_mount_on(service: Service) -> None:
    service.options = "survive,depth=64,max_watches=1"
    mount = service.restart()
    mount.watch("one")
    mount.watch("two")
    assert "depth, max_watches as before, until it is mounted anew" in mount.log()


# -- what refuses the order


def goes_on_after_refusal(service: Service, sentence: str) -> None:
    folder = service.mount.watch()
    fd = os.open(folder / "queue", os.O_RDONLY)
    reads = Call(os.read, fd, 4096)
    service.mount.wait_for_readers(folder)
    service.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: (service.hear(), sentence in service.log())[1], sentence)
    deliver(service.mount, record(3))
    assert numbers(reads.result()) == [3]
    os.close(fd)
    wait_until(lambda: (service.hear(), not service.stored)[1], "the manager to forget")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(LIMIT) == 0


def test_manager_that_keeps_too_little_is_refused_and_all_goes_on(service_with: Callable[..., Service]) -> None:
    goes_on_after_refusal(service_with(room=2), "keeps no descriptors for it (FileDescriptorStoreMax=)")


def test_without_a_manager_the_order_is_refused(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("survive")
    mount.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "NOTIFY_SOCKET is not set" in mount.log(), "the refusal")
    mount.watch()


def test_without_a_successor_the_order_is_refused(service_with: Callable[..., Service]) -> None:
    service = service_with("nosurvive")
    service.process.send_signal(signal.SIGUSR2)
    service.wait("STATUS=not handed over (1): its options have nosurvive")
    service.mount.watch()


def test_order_to_stop_that_was_put_off_holds_after_a_refusal(service_with: Callable[..., Service]) -> None:
    service = service_with(room=2)
    order_both_at_once(service)
    assert not os.path.ismount(service.path)


def test_order_to_stop_that_comes_meanwhile_is_for_nobody(service: Service) -> None:
    folder = service.mount.watch()
    order_both_at_once(service)
    os.close(service.stored.pop("wqfs-probe"))
    assert os.listdir(service.start().path / "watches") == [folder.name]


def order_both_at_once(service: Service) -> None:
    """The daemon hears of SIGUSR2 and SIGTERM at the same moment; wait for the end of the service."""
    pid = service.mount.daemon
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T", "the stop")
        service.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: pending(pid, signal.SIGUSR2), "the order to be passed on")
        for each in (service.process.pid, pid):
            os.kill(each, signal.SIGTERM)
    finally:
        os.kill(pid, signal.SIGCONT)
    service.wait_for_end()


def pending(pid: int, number: signal.Signals) -> bool:
    masks = re.findall(r"^(?:ShdPnd|SigPnd):\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
