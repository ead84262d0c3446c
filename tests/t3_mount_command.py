"""The mount command as a process: in the background, in the foreground, and what its daemon holds and does."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounting import processes_of, run, unmount
from tests.tools import LIMIT, MOUNT_COMMAND, ROOT, Mount, is_mounted, refused, wait_until
from wqfs import __version__

# -- in the background


def test_mount_in_the_background_answers_when_the_command_returns(folder: Path) -> None:
    done = run(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir(folder)) == ["errors", "metrics", "post", "queue", "sim", "watches"]


@pytest.mark.slow
def test_mount_then_ls_works_twenty_times_in_a_row(folder: Path) -> None:
    for _ in range(20):
        script = '"$0" "$1" "$2" && ls "$2/watches" && ls "$2/sim" && fusermount3 -u "$2"'
        done = subprocess.run(["bash", "-c", script, *MOUNT_COMMAND, folder], capture_output=True, timeout=LIMIT)
        assert (done.returncode, done.stderr) == (0, b"")


def test_mount_in_the_background_is_a_daemon(folder: Path) -> None:
    run(folder)
    pids = processes_of(folder)
    assert len(pids) >= 2  # the supervisor, the daemon, and soon its checkpoint
    for pid in pids:
        assert os.getsid(pid) in pids
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3


def test_mount_in_the_background_does_not_hold_its_callers_pipes(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" "$1" "$2" | cat', *MOUNT_COMMAND, folder], capture_output=True, timeout=LIMIT
    )
    assert done.returncode == 0
    assert is_mounted(folder)


def test_mount_in_the_background_ends_with_fusermount3_u(folder: Path) -> None:
    run(folder)
    assert unmount(folder).returncode == 0
    assert not is_mounted(folder)
    wait_until(lambda: not processes_of(folder), "the daemon's end")


def test_mount_with_a_relative_path_ends_cleanly(folder: Path) -> None:
    command = [*MOUNT_COMMAND, folder.name]
    assert subprocess.run(command, cwd=folder.parent, timeout=LIMIT).returncode == 0
    assert is_mounted(folder)
    assert subprocess.run(["fusermount3", "-u", folder.name], cwd=folder.parent, timeout=LIMIT).returncode == 0


def test_mount_on_a_folder_with_odd_characters_works(folder: Path) -> None:
    odd = folder / "two words,\\ünï"
    odd.mkdir()
    try:
        assert run(odd).returncode == 0
        assert "post" in os.listdir(odd)
    finally:
        assert unmount(odd).returncode == 0
        wait_until(lambda: not processes_of(odd), "the daemon's end")


# -- in the foreground


def test_mount_in_the_foreground_stays_and_logs(mount: Mount) -> None:
    assert mount.process.poll() is None
    assert f"{mount.path}: mounted" in mount.log()


def test_mount_with_debug_stays_and_prints_requests(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "debug"
    with open(log, "wb") as output:
        daemon = subprocess.Popen([*MOUNT_COMMAND, folder, "-d"], stderr=output, stdout=output, start_new_session=True)
    try:
        wait_until(lambda: "mounted" in log.read_text() or daemon.poll() is not None, "the mount")
        before = log.read_text()
        os.listdir(folder / "watches")
        with refused(errno.EPERM):
            os.mkdir(folder / "new")
        Path(folder / "metrics").read_bytes()
        lines = log.read_text()[len(before) :].splitlines()
        assert any("request" in line and f"pid={os.getpid()}" in line for line in lines)
        assert daemon.poll() is None
    finally:
        unmount(folder)
        daemon.terminate()
        daemon.wait(LIMIT)


# -- the service manager, the caller's descriptors, and when nothing happens


IDLE_S = 2.0


def test_notify_socket_gets_ready(folder: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        daemon = subprocess.Popen(
            [*MOUNT_COMMAND, folder, "-f"], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            assert b"READY=1" in manager.recv(4096).splitlines()
            assert "post" in os.listdir(folder)
        finally:
            daemon.terminate()
            assert daemon.wait(LIMIT) == 0


def test_notify_socket_that_nobody_hears_is_no_matter(folder: Path, tmp_path: Path) -> None:
    daemon = subprocess.Popen(
        [*MOUNT_COMMAND, folder, "-f"], env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "gone")},
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: is_mounted(folder), "the mount")
        assert "post" in os.listdir(folder)
    finally:
        daemon.terminate()
        assert daemon.wait(LIMIT) == 0


def test_mounting_with_closed_standard_streams(tmp_path: Path) -> None:
    try:
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *MOUNT_COMMAND, tmp_path], timeout=LIMIT, check=False
        )
        assert (done.returncode, is_mounted(tmp_path)) == (0, True)
        assert "post" in os.listdir(tmp_path)
    finally:
        subprocess.run(["fusermount3", "-uz", "--", tmp_path], check=False, capture_output=True, timeout=LIMIT)


def context_switches(pid: int) -> int:
    """Of all threads together, voluntary or not."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


@pytest.mark.parametrize("busy", [False, True], ids=["no-reader", "waiting-reader"])
def test_idle_mount_never_wakes(mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]], busy: bool) -> None:
    for name in ("max_request_timeout", "default_request_timeout"):
        setting = Path("/proc/sys/fs/fuse", name)
        if setting.exists() and int(setting.read_text()):
            pytest.skip(f"fs.fuse.{name} is set: reads are ended before it, by the clock")
    if busy:
        watch = mount.watch()
        reader(watch / "queue")
        mount.wait_for_readers(watch)
    still = [context_switches(mount.daemon)]

    def settled() -> bool:  # what starting left behind; once, when nothing was asked for 0.25 s, it looks at its work
        time.sleep(0.5)
        still.append(context_switches(mount.daemon))
        return still[-1] == still[-2]

    wait_until(settled, "an end of what starting needs")
    time.sleep(IDLE_S)  # not to wait for something: nothing is to happen
    assert context_switches(mount.daemon) == still[-1]


def test_descriptor_of_the_mount_is_not_inherited_by_fusermount3(mount: Mount) -> None:
    for fd in os.listdir(f"/proc/{mount.daemon}/fd"):
        if os.readlink(f"/proc/{mount.daemon}/fd/{fd}") == "/dev/fuse":
            flags = re.search(r"flags:\s*(\d+)", Path(f"/proc/{mount.daemon}/fdinfo/{fd}").read_text())
            assert flags and int(flags[1], 8) & os.O_CLOEXEC and fcntl.FD_CLOEXEC
            break
    else:
        pytest.fail("the daemon has no /dev/fuse open")


# -- the Python that runs it


def other_python() -> str:
    """A Python without pyfuse3, or a skip."""
    found = shutil.which("python3", path="/usr/bin")
    if (
        found is None
        or not subprocess.run([found, "-c", "import pyfuse3"], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs a /usr/bin/python3 without pyfuse3")
    return found


def test_other_python_finds_the_environment_of_make_setup() -> None:
    if not (ROOT / ".venv/bin/python").exists():
        pytest.skip("needs the .venv of `make setup`")
    command = [other_python(), str(ROOT / "mount_wqfs.py"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (0, f"wqfs {__version__}\n"), done.stderr


def test_python_without_pyfuse3_says_what_to_do(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom wqfs.fs import daemon\nsys.exit(daemon.main(sys.argv[2:]))"
    )
    command = [other_python(), "-I", "-c", program, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "make setup" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not is_mounted(tmp_path)
