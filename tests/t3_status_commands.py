"""`wqfs umount`, `status`, `top` and `doctor` on real mounts: dead, stuck and busy ones too."""

from __future__ import annotations

import json
import os
import platform
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import LIMIT, ROOT, Mount, is_mounted, running, wait_until

WQFS = (sys.executable, "-m", "wqfs.cli")


def wqfs(*words: str | Path, before: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    command = [*before, *WQFS, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, cwd="/", check=False)


def kill(mount: Mount) -> None:
    os.killpg(mount.process.pid, signal.SIGKILL)
    mount.process.wait(LIMIT)


def test_umount_unmounts(mount: Mount) -> None:
    assert wqfs("umount", mount.path).returncode == 0
    assert not is_mounted(mount.path)


def test_umount_of_a_busy_mount_names_the_process_and_the_file(mount: Mount) -> None:
    with running("sleep", "60", stdin=os.open(mount.path / "errors", os.O_RDONLY)) as process:
        said = wqfs("umount", mount.path)
        assert said.returncode == 1
        assert f"sleep (pid {process.pid}) has errors open" in said.stderr
        assert is_mounted(mount.path)
        assert wqfs("umount", "-l", mount.path).returncode == 0
        assert not is_mounted(mount.path)


def test_umount_clears_a_dead_mount_that_is_in_use(mount: Mount) -> None:
    with running("sleep", "60", cwd=mount.path):
        kill(mount)
        assert wqfs("umount", mount.path).returncode == 0
        assert not is_mounted(mount.path)


def test_umount_of_a_folder_without_mount_is_refused(tmp_path: Path) -> None:
    said = wqfs("umount", tmp_path)
    assert (said.returncode, "is no wqfs mount" in said.stderr) == (1, True)


def test_status_has_the_numbers_of_watches(mount: Mount) -> None:
    mount.watch("a")
    mount.post("sb error / EIO")
    said = wqfs("status", "-j", mount.path)
    assert said.returncode == 0
    found = json.loads(said.stdout)
    assert (found["state"], found["watches"]["a"]["posted"], found["watches"]["a"]["depth"]) == ("ok", 1, 256)
    assert "\033" not in wqfs("status", mount.path).stdout


def test_status_marks_a_dead_mount(mount: Mount) -> None:
    kill(mount)
    said = wqfs("status", mount.path)
    assert (said.returncode, "dead" in said.stdout) == (1, True)


def test_status_does_not_hang_on_a_stuck_mount(mount: Mount) -> None:
    os.killpg(mount.process.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        said = wqfs("status", "--json", mount.path)
        assert time.monotonic() - begin < 10
    finally:
        os.killpg(mount.process.pid, signal.SIGCONT)
    assert (said.returncode, json.loads(said.stdout)["state"]) == (1, "stuck")


COMMANDS = ["tail", "wait mounted /x", "post sb error / EIO", "watch list", "settle", "record", "play --fast usb-stick"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_that_their_mount_is_dead(mount: Mount, command: str) -> None:
    kill(mount)
    said = wqfs(*command.split(), WQFS_MOUNT=str(mount.path))
    assert (said.returncode, f"{mount.path} is dead" in said.stderr) == (1, True), said.stderr


def test_commands_do_not_hang_on_a_stuck_mount(mount: Mount) -> None:
    os.killpg(mount.process.pid, signal.SIGSTOP)
    try:
        said = wqfs("tail", WQFS_MOUNT=str(mount.path))
    finally:
        os.killpg(mount.process.pid, signal.SIGCONT)
    assert (said.returncode, f"{mount.path} is stuck" in said.stderr) == (1, True)


def test_the_mount_is_found_beside_dead_ones_and_not_among_several(mount_with: Callable[[str], Mount]) -> None:
    if os.getuid():
        pytest.skip("needs root: the other mounts of the machine are to be unmounted in a mount namespace")
    one, dead, other = mount_with(""), mount_with(""), mount_with("")
    kill(dead)
    script = """
        for place in $(findmnt -rno TARGET -t fuse.wqfs); do
            case $place in "$0"*) ;; *) umount -l "$place" ;; esac
        done
        exec "$@" """

    def found() -> subprocess.CompletedProcess[str]:
        return wqfs("post", "sb error / EIO", before=("unshare", "-m", "sh", "-c", script, str(one.path.parent)))

    with running(
        *WQFS, "post", "sb error / EIO", cwd=other.path / "watches", env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as post:
        assert post.wait(LIMIT) == 0 and "wqfs_events_total 1\n" in (other.path / "metrics").read_text()
    said = found()
    assert said.returncode == 1 and f"several mounts ({one.path}, {other.path})" in said.stderr, said.stderr
    other.close()
    said = found()
    assert said.returncode == 0 and "wqfs_events_total 1\n" in (one.path / "metrics").read_text(), said.stderr


def test_top_once_is_plain_and_has_the_watch(mount: Mount) -> None:
    mount.watch("a")
    said = wqfs("top", "--once", "-d", "0", "--mount", mount.path)
    assert said.returncode == 0
    assert "\033" not in said.stdout
    assert said.stdout.splitlines()[2].split()[:2] == ["a", "0/0"]


def test_top_without_terminal_ends_with_the_mount(mount: Mount) -> None:
    with running(
        *WQFS, "top", "-d", "0.05", "--mount", mount.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as top:
        assert top.stdout and top.stderr and top.stdout.readline()
        assert wqfs("umount", "-l", mount.path).returncode == 0
        top.stdout.read()
        assert (top.wait(LIMIT), b"is not mounted any more" in top.stderr.read()) == (1, True)


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)])
def test_top_redraws_on_a_terminal_and_gives_it_back(mount: Mount, key: bytes, code: int) -> None:
    mount.watch("first")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir("/")
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm")
        os.execv(sys.executable, [*WQFS, "top", "-d", "0.1", "--mount", str(mount.path)])
    seen = b""

    def read_until(text: bytes) -> bool:
        nonlocal seen
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # EIO: it has ended
                return True
        return text in seen

    try:
        wait_until(lambda: read_until(b"first"), "the table")
        mount.watch("second")
        wait_until(lambda: read_until(b"second"), "the table drawn anew")
        os.write(terminal, key)
        wait_until(lambda: read_until(b"\033[?25h\033[?1049l"), "the terminal given back")
        assert b"\033[?1049h\033[?25l" in seen
        assert seen.endswith(b"\033[?25h\033[?1049l") or key == b"\x03"
        ended: list[int] = []

        def has_ended() -> int:
            ended[:] = os.waitpid(pid, os.WNOHANG)
            return ended[0]

        wait_until(has_ended, "the end of top")
        assert os.waitstatus_to_exitcode(ended[-1]) == code
    finally:
        os.close(terminal)


def test_top_gives_the_terminal_back_while_it_is_stopped(mount: Mount) -> None:
    """By a shell with job control: Ctrl-Z, fg, q."""
    mount.watch("first")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir("/")
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm", PS1="", HISTFILE="")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    seen = b""

    def has_come(text: bytes) -> bool:
        """Takes all up to the text."""
        nonlocal seen
        if select.select([terminal], [], [], 0.05)[0]:
            seen += os.read(terminal, 65536)
        before, found, after = seen.partition(text)
        seen = after if found else before
        return bool(found)

    def say(keys: str) -> None:
        os.write(terminal, keys.encode())

    try:
        say(f"{' '.join(WQFS)} top -d 60 --mount {mount.path}\n")
        wait_until(lambda: has_come(b"\033[?1049h\033[?25l"), "the screen")
        wait_until(lambda: has_come(b"first"), "the table")
        say("\x1a")
        wait_until(lambda: has_come(b"\033[?25h\033[?1049l"), "the terminal given back")
        wait_until(lambda: has_come(b"Stopped"), "the shell")
        say("fg\n")
        wait_until(lambda: has_come(b"\033[?1049h\033[?25l"), "the screen again")
        wait_until(lambda: has_come(b"first"), "the table drawn anew")
        say("q")
        wait_until(lambda: has_come(b"\033[?25h\033[?1049l"), "the terminal given back at the end")
        say("echo code $?\n")
        wait_until(lambda: has_come(b"code 0"), "its exit code")
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_doctor_agrees_with_mounting(tmp_path: Path) -> None:
    said = wqfs("doctor", "--no-trial")
    target = tmp_path / "mnt"
    target.mkdir()
    mounted = wqfs("mount", target).returncode == 0
    if mounted:
        assert wqfs("umount", "-l", target).returncode == 0
    assert (said.returncode == 0) == mounted
    assert (wqfs("doctor").returncode == 0) == mounted


def test_doctor_without_fusermount3_and_device_fails() -> None:
    if os.getuid():
        pytest.skip("needs root: /dev/fuse is to be hidden in a mount namespace")
    hide = 'mount --bind /dev/null /dev/fuse && mount --bind /dev/null /usr/bin/fusermount3 && exec "$@"'
    said = wqfs("doctor", "-j", "--no-trial", before=("unshare", "-m", "sh", "-c", hide, "sh"))
    states = {found["what"]: found["state"] for found in map(json.loads, said.stdout.splitlines())}
    assert (said.returncode, states["/dev/fuse"], states["fusermount3"]) == (1, "fail", "fail")


# Puts a seccomp filter on itself: `listener`, or the errno that keyctl(2) then gives.
FILTER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
allow = (6, 0, 0, 0x7FFF0000)
if sys.argv[1] == "listener":
    lines, flags = [allow], 8
else:
    lines, flags = [(0x20, 0, 0, 0), (0x15, 0, 1, 250), (6, 0, 0, 0x50000 | int(sys.argv[1])), allow], 0
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
program = Program(len(lines), b"".join(struct.pack("HBBI", *line) for line in lines))
fd = libc.syscall(317, 1, flags, ctypes.byref(program))
assert fd >= 0, ctypes.get_errno()
if fd:
    os.set_inheritable(fd, True)
os.execv(sys.argv[2], sys.argv[2:])
"""


def in_namespace(script: str) -> list[str]:
    return ["unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh"]


def filtered(what: str) -> list[str]:
    return [sys.executable, "-c", FILTER, what]


FINDINGS = [
    # what, state, a word of the advice, what makes it so
    ("/dev/fuse", "fail", "modprobe fuse", in_namespace(
        "mount -t tmpfs t /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 444 /dev/urandom c 1 9")),
    ("/dev/fuse", "fail", "mknod", in_namespace("mount --bind /dev/null /dev/fuse")),
    ("fusermount3", "fail", "install the package fuse3", in_namespace("mount --bind /dev/null /usr/bin/fusermount3")),
    ("permission", "fail", "wqfs handover", ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]),
    ("mount table", "fail", "mount -t proc", in_namespace("umount -l /proc")),
    ("surroundings", "ok", "", ["unshare", "-Urm"]),
    ("RESEND", "warn", "from Linux 6.9 on", ["setarch", "--uname-2.6"]),
    ("seccomp listener", "warn", "start outside of it", filtered("listener")),
    ("keyctl", "warn", "seccomp profile", filtered("1")),
    ("keyctl", "warn", "LXC", filtered("38")),
    ("request timeouts", "warn", "fs.fuse.max_request_timeout", in_namespace(
        "mount -t tmpfs t /mnt && echo 30 > /mnt/30 && mount --bind /mnt/30 /proc/sys/fs/fuse/max_request_timeout")),
]  # fmt: skip


@pytest.mark.parametrize(("what", "state", "advice", "before"), FINDINGS, ids=[f"{f[0]} {f[2]}" for f in FINDINGS])
def test_doctor_finds_it_and_says_what_to_do(what: str, state: str, advice: str, before: list[str]) -> None:
    if os.getuid():
        pytest.skip("needs root: mount namespaces")
    if what == "request timeouts" and not os.path.exists("/proc/sys/fs/fuse/max_request_timeout"):
        pytest.skip("this kernel has no fs.fuse.max_request_timeout")
    if before[0] == sys.executable and platform.machine() != "x86_64":
        pytest.skip("the filter has the numbers of x86-64")
    said = wqfs("doctor", "-j", "--no-trial", before=tuple(before))
    found = {each["what"]: each for each in map(json.loads, said.stdout.splitlines())}[what]
    assert found["state"] == state and advice in found["advice"], said
    assert said.returncode == (state == "fail")


def test_doctor_finds_a_dead_mount(mount: Mount) -> None:
    kill(mount)
    found = [json.loads(line) for line in wqfs("doctor", "-j", "--no-trial").stdout.splitlines()]
    assert any(f["what"] == "leftovers" and str(mount.path) in f["finding"] for f in found)
