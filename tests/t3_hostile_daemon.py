"""What happens to the daemon from outside: no descriptors left, a full /dev/shm, clock jumps, being stopped."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tools import (
    LIMIT,
    META_LOSS,
    MOUNT_COMMAND,
    ROOT,
    Call,
    Mount,
    children_of,
    deliver,
    is_mounted,
    mounted,
    numbers,
    opened,
    record,
    wait_until,
)


def take_descriptors(mount: Mount) -> None:
    """Let the daemon have what it has: every further descriptor is EMFILE."""
    pid = mount.daemon
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))


# -- descriptors


def test_daemon_without_descriptors_serves_on(mount: Mount) -> None:
    """An open file of the mount costs it none."""
    take_descriptors(mount)
    folder = mount.watch()
    with opened(folder / "queue") as fd, opened(folder / "events") as events:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(folder)
        mount.post("mount -t tmpfs t /m")
        assert call.result()
        assert json.loads(os.read(events, 4096))["mountpoint"] == "/m"
        assert " /m " in (mount.path / "sim/mountinfo").read_text()
    folder.rmdir()


def test_daemon_without_descriptors_outlives_a_change_of_the_mount_table(mount: Mount, tmp_path: Path) -> None:
    """It looks for its own mount in the table whenever that changes."""
    take_descriptors(mount)
    (tmp_path / "other").mkdir()
    with mounted(tmp_path / "other"):
        assert (mount.path / "metrics").read_text()
    assert (mount.path / "metrics").read_text() and mount.process.poll() is None


def test_daemon_without_descriptors_keeps_no_successor_and_says_so_once(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("survive")
    folder = mount.watch()
    wait_until(lambda: any(name_of(pid) == "wqfs-checkpoint" for pid in children_of(mount.daemon)), "a checkpoint")
    mount.status(folder)  # and what it took to take it is closed
    take_descriptors(mount)
    deliver(mount, b"".join(record(number) for number in range(64)))
    (checkpoint,) = (pid for pid in children_of(mount.daemon) if name_of(pid) == "wqfs-checkpoint")
    os.kill(checkpoint, signal.SIGKILL)
    wait_until(lambda: "no successor can be kept" in mount.log(), "what it says")
    for _ in range(3):
        deliver(mount, b"".join(record(number) for number in range(64)))
        time.sleep(0.5)
    assert mount.log().count("no successor can be kept") == 1
    assert mount.status(folder)["posted"] == 256
    resource.prlimit(mount.daemon, resource.RLIMIT_NOFILE, (256, resource.prlimit(mount.daemon, 7)[1]))

    def has_checkpoint() -> bool:
        mount.status(folder)
        return any(name_of(pid) == "wqfs-checkpoint" for pid in children_of(mount.daemon))

    wait_until(has_checkpoint, "a checkpoint again")
    os.kill(mount.daemon, signal.SIGKILL)
    assert mount.status(folder)["posted"] == 256


def name_of(pid: int) -> str:
    """What ps(1) calls it; nothing for one that has ended."""
    with suppress(OSError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
        return "" if rest[0] in "ZX" else name
    return ""


def test_daemon_without_descriptors_unmounts_when_told_to_stop(mount: Mount) -> None:
    take_descriptors(mount)
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(LIMIT) == 0, mount.log()
    assert not is_mounted(mount.path)


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("count", range(7, 21, 2))
def test_mounting_with_few_descriptors_serves_or_says_so_and_leaves_nothing(
    tmp_path: Path, count: int, foreground: bool
) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    process = subprocess.Popen(
        [*MOUNT_COMMAND, str(path), *(["-f"] if foreground else [])],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)),
    )  # fmt: skip
    try:
        if foreground:
            wait_until(lambda: process.poll() is not None or is_answered(path), "an end or a mount")
        else:
            process.wait(LIMIT)
        if process.poll() in (None, 0):
            assert (path / "metrics").read_text()
        else:
            assert process.returncode == 2
            assert "too many open files" in process.communicate()[0].lower()
            assert not is_mounted(path)
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False)
        if foreground:
            process.terminate()
            process.wait(LIMIT)
        assert process.stdout is not None
        process.stdout.close()


def is_answered(path: Path) -> bool:
    try:
        return is_mounted(path) and bool((path / "metrics").read_text())
    except OSError:
        return False


# -- /dev/shm

FULL = """\
set -e
mount -t tmpfs -o size=4k full /dev/shm
head -c 4096 /dev/zero > /dev/shm/all || true
! echo more > /dev/shm/more 2>/dev/null
"$1" "$2" "$3"
mkdir "$3/watches/w"
echo "mount -t tmpfs t /m" > "$3/post"
dd if="$3/watches/w/queue" bs=4096 count=1 2>/dev/null | wc -c
fusermount3 -u "$3"
"""


def test_full_dev_shm_is_nothing_to_it(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("root is missing: /dev/shm is filled in a mount namespace")
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", FULL, "full", *MOUNT_COMMAND, tmp_path / "mnt"],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "24"), done.stderr


def test_daemon_has_nothing_in_dev_shm_or_tmp(mount: Mount) -> None:
    process = Path(f"/proc/{mount.daemon}")
    held = [os.readlink(fd) for fd in (process / "fd").iterdir()]
    held += (process / "maps").read_text().split()
    shared = [each for each in held if each.startswith(("/dev/shm", "/tmp", "/memfd"))]
    shared = [each for each in shared if not each.startswith(f"{sys.prefix}/")]  # the program, of a clone in /tmp
    assert not [each for each in shared if not each.endswith("/log0")]  # which the test gave it


# -- the clock


@pytest.fixture
def jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Puts the real-time clock of what is mounted later off by so many seconds."""
    library, offset = tmp_path / "shifted_clock.so", tmp_path / "offset"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(ROOT / "tests/shifted_clock.c")]
    subprocess.run(command, check=True, timeout=LIMIT)
    offset.write_bytes(bytes(8))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_OFFSET", str(offset))

    def to(seconds: int) -> None:
        with open(offset, "r+b") as file:
            file.write(struct.pack("=q", seconds))

    return to


def last_event(fd: int) -> dict[str, object]:
    lines = os.read(fd, 65536).splitlines()
    found: dict[str, object] = json.loads(lines[-1])
    return found


def test_clock_jumps_disturb_nobody(jump: Callable[[int], None], mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("")
    monotonic = time.monotonic()
    now = time.time()
    folder = mount.watch()
    with opened(folder / "events", os.O_RDONLY | os.O_NONBLOCK) as events, opened(folder / "queue") as fd:
        for at, days in enumerate((1, -1, -3000, 0)):
            call = Call(os.read, fd, 4096)
            mount.wait_for_readers(folder)
            jump(days * 86400)
            deliver(mount, record(at))
            assert numbers(call.result()) == [at], "a reader that waited over the jump"
            event = last_event(events)
            assert event["seq"] == at + 1
            assert isinstance(event["time"], float) and abs(event["time"] - now - days * 86400) < 60
            with pytest.raises(OSError):
                mount.post("nonsense")
            assert (mount.path / "errors").read_text().count("\n") == at + 1
            json.loads((mount.path / "sim/snapshot").read_text())
    assert time.monotonic() - monotonic < 60


def test_key_expires_by_the_real_time_clock_as_the_kernels(
    jump: Callable[[int], None], mount_with: Callable[[str], Mount]
) -> None:
    mount = mount_with("")
    mount.post("key add user ticket x @s", "key timeout ticket 3600")
    keys = mount.path / "sim/keys"
    assert " expd " not in keys.read_text()
    jump(3601)
    assert " expd " in keys.read_text()
    jump(0)
    assert " expd " not in keys.read_text()
    jump(7200)
    watch = mount.watch()
    with pytest.raises(OSError):
        (watch / "objects").write_text("key ticket\n")
    assert "ticket" not in keys.read_text(), "collected 300 s after its end"


def test_clock_that_jumps_leaves_the_daemon_idle(
    jump: Callable[[int], None], mount_with: Callable[[str], Mount]
) -> None:
    """A timer towards a moment that moved away must not turn round and round."""
    mount = mount_with("")
    mount.post("key add user ticket x @s", "key timeout ticket 1")
    jump(-86400)
    mount.post("key add user other x @s", "key timeout other 1")
    stat = Path(f"/proc/{mount.daemon}/stat")
    before = sum(map(int, stat.read_text().split()[13:15]))
    time.sleep(1.0)  # what is measured is a second of nothing
    assert sum(map(int, stat.read_text().split()[13:15])) - before < 0.3 * os.sysconf("SC_CLK_TCK")


# -- being stopped


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "a stopped process")


@pytest.mark.parametrize("seconds", [0.5, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(120)])])
def test_stopped_daemon_is_waited_for_and_nothing_is_lost(mount: Mount, seconds: float) -> None:
    folder = mount.watch()
    writer = os.open(mount.path / "sim/records", os.O_WRONLY)
    with opened(folder / "queue") as fd, opened(folder / "queue", os.O_RDONLY | os.O_NONBLOCK) as polled:
        poller = select.poll()
        poller.register(polled, select.POLLIN)
        reads = Call(os.read, fd, 16)
        mount.wait_for_readers(folder)
        polls = Call(poller.poll, 1000 * (seconds + LIMIT))
        mount.wait_for_pollers(folder)
        pid = mount.daemon
        stop(pid)

        def write_all() -> int:
            return sum(os.write(writer, record(number)) for number in range(100))

        writes, makes = Call(write_all), Call(os.mkdir, mount.path / "watches/other")
        killed = subprocess.Popen(["cat", folder / "status"], stdout=subprocess.DEVNULL)
        time.sleep(seconds)  # the time that it is stopped
        killed.kill()
        assert reads.waits and polls.waits and writes.waits and makes.waits
        os.kill(pid, signal.SIGCONT)
        assert numbers(reads.result()) == [0]
        assert writes.result() == 100 * len(record(0)) and makes.result() is None and polls.result()
        assert killed.wait(LIMIT) in (0, -signal.SIGKILL)
        assert numbers(os.read(polled, 65536)) == list(range(1, 100))
    os.close(writer)


READER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print("opened", flush=True)
seen = []
while True:
    data = os.read(fd, 65536)
    if not data:
        break
    sys.stdout.write(data.hex() + "\\n")
    sys.stdout.flush()
"""


def test_suspended_client_disturbs_nobody_and_goes_on_with_what_its_queue_held(mount: Mount) -> None:
    folder, other = mount.watch(), mount.watch("other")
    reader = subprocess.Popen([sys.executable, "-S", "-c", READER, folder / "queue"], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout is not None and reader.stdout.readline() == "opened\n"
        mount.wait_for_readers(folder)
        stop(reader.pid)
        with opened(other / "queue") as fd:
            for number in range(300):
                deliver(mount, record(number))
                assert numbers(os.read(fd, 4096)) == [number]
        assert mount.status(folder)["queued"] + mount.status(folder)["lost"] in (299, 300)
        os.kill(reader.pid, signal.SIGCONT)
        wait_until(lambda: mount.status(folder)["queued"] == 0, "what was queued to be read")
        folder.rmdir()
        data = bytes.fromhex(reader.communicate(timeout=LIMIT)[0])
    finally:
        reader.kill()
        reader.wait()
    assert data.endswith(META_LOSS)
    kept = numbers(data.removesuffix(META_LOSS))
    assert kept == list(range(len(kept))) and len(kept) in (256, 257)


FREEZER = (
    Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified/cgroup.procs").exists() else Path("/sys/fs/cgroup")
)


def test_frozen_client_goes_on_when_it_is_thawed(mount: Mount) -> None:
    """As a container that is paused, and a host that sleeps."""
    if not (FREEZER / "cgroup.controllers").exists() or not os.access(FREEZER, os.W_OK):
        pytest.skip("a cgroup of version 2 that may be written is missing")
    folder = mount.watch()
    group = FREEZER / f"wqfs-test-{os.getpid()}"
    group.mkdir()
    reader = subprocess.Popen([sys.executable, "-S", "-c", READER, folder / "queue"], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout is not None and reader.stdout.readline() == "opened\n"
        mount.wait_for_readers(folder)
        (group / "cgroup.procs").write_text(str(reader.pid))
        (group / "cgroup.freeze").write_text("1")
        wait_until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "a frozen reader")
        deliver(mount, record(1), record(2))
        assert folder.exists() and (mount.path / "sim/snapshot").read_text()
        (group / "cgroup.freeze").write_text("0")
        wait_until(lambda: mount.status(folder)["queued"] == 0, "what was queued to be read")
        folder.rmdir()
        assert numbers(bytes.fromhex(reader.communicate(timeout=LIMIT)[0])) == [1, 2]
    finally:
        (group / "cgroup.freeze").write_text("0")
        reader.kill()
        reader.wait()
        group.rmdir()
