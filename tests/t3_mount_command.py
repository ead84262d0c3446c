"""The mount command as a process: what it returns, what it says, what it leaves behind."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools import LIMIT, MOUNT_COMMAND, ROOT, Mount, is_mounted, opened, wait_until
from wqfs import __version__
from wqfs.fs import mounting

EXIT_USAGE, EXIT_SYSTEM, EXIT_MOUNT = 1, 2, 32
IDLE_S = 2.0
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users and mount namespaces need root")


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The mount command, to its end."""
    return subprocess.run(
        [*MOUNT_COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=env,
        stdin=subprocess.DEVNULL,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence on standard error; nothing may be on standard output."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert re.fullmatch(r"mount_wqfs\.py: .*[.:)].*", lines[0]), lines[0]
    assert "Traceback" not in lines[0]
    return lines[0]


def processes_of(path: Path) -> list[int]:
    """The processes that have `path` among their arguments, this one not."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(path) in arguments:
                found.append(int(entry))
    return found


def unmount(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["fusermount3", "-u", *options, "--", path], capture_output=True, text=True, timeout=LIMIT)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on in the background; whatever is there at the end goes."""
    path = tmp_path / "mnt"
    path.mkdir()
    try:
        yield path
    finally:
        while is_mounted(path) and unmount(path, "-z", "-q").returncode == 0:
            pass
        for pid in processes_of(path):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        wait_until(lambda: not processes_of(path), "the daemon's end")


@pytest.fixture
def reader() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """A function that starts `cat` on a file."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(["cat", path], stdout=subprocess.PIPE))
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait(LIMIT)
            assert process.stdout is not None
            process.stdout.close()


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
        assert refused(os.mkdir, folder / "new") == errno.EPERM
        Path(folder / "metrics").read_bytes()
        lines = log.read_text()[len(before) :].splitlines()
        assert any("request" in line and f"pid={os.getpid()}" in line for line in lines)
        assert daemon.poll() is None
    finally:
        unmount(folder)
        daemon.terminate()
        daemon.wait(LIMIT)


def refused(call: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno or 0


# -- how it ends


def test_fusermount3_u_ends_the_daemon_with_0(mount: Mount) -> None:
    assert unmount(mount.path).returncode == 0
    assert mount.process.wait(LIMIT) == 0
    assert not is_mounted(mount.path)
    assert processes_of(mount.path) == []


def test_fusermount3_u_with_a_reader_says_busy_and_harms_nothing(
    mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    watch = mount.watch()
    cat = reader(watch / "events")
    waiting = reader(watch / "queue")
    mount.wait_for_readers(watch)
    done = unmount(mount.path)
    assert done.returncode != 0
    assert "busy" in done.stderr
    mount.post("sb error / EIO")
    assert waiting.stdout is not None
    ready, _, _ = select.select([waiting.stdout], [], [], LIMIT)
    assert ready and len(os.read(waiting.stdout.fileno(), 100)) == 24
    assert cat.poll() is None and mount.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_signal_ends_the_mount_and_its_readers(
    mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    watch = mount.watch()
    readers = [
        reader(watch / "queue"),
        reader(watch / "queue"),
        reader(watch / "events"),
        reader(mount.path / "queue"),
    ]
    mount.wait_for_readers(watch, 2)
    wait_until(lambda: "wqfs_waiting_readers 4" in (mount.path / "metrics").read_text(), "four readers")
    mount.process.send_signal(number)
    assert [each.wait(LIMIT) for each in readers] == [0, 0, 0, 0], "they find end of file"
    assert mount.process.wait(LIMIT) == 0
    assert not is_mounted(mount.path)
    assert processes_of(mount.path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signal_ends_the_mount_and_its_pollers(mount: Mount, number: signal.Signals) -> None:
    watch = mount.watch()
    fds = [os.open(watch / name, os.O_RDONLY | os.O_NONBLOCK) for name in ("queue", "events")]
    try:
        with select.epoll() as poller:
            for fd in fds:
                poller.register(fd, select.EPOLLIN)
            mount.wait_for_pollers(watch)
            mount.process.send_signal(number)
            hung_up: set[int] = set()
            end = time.monotonic() + LIMIT
            while hung_up != set(fds) and time.monotonic() < end:
                hung_up |= {fd for fd, events in poller.poll(1) if events & select.EPOLLHUP}
            assert hung_up == set(fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert mount.process.wait(LIMIT) == 0
    assert not is_mounted(mount.path)


def test_signal_ends_an_idle_mount_soon(mount: Mount) -> None:
    begin = time.monotonic()
    mount.process.terminate()
    assert mount.process.wait(LIMIT) == 0
    assert time.monotonic() - begin < 5
    assert not is_mounted(mount.path)


def test_signal_ends_a_mount_whose_folder_is_somebodys_cwd(mount: Mount) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=mount.path) as sleeper:
        try:
            mount.process.terminate()
            assert mount.process.wait(LIMIT) == 0
            assert not is_mounted(mount.path)
        finally:
            sleeper.kill()


def test_fusermount3_uz_gives_waiting_readers_end_of_file(
    mount: Mount, reader: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    watch = mount.watch()
    readers = [reader(watch / "queue"), reader(watch / "queue"), reader(watch / "events")]
    mount.wait_for_readers(watch, 2)
    wait_until(lambda: "wqfs_waiting_readers 3" in (mount.path / "metrics").read_text(), "three readers")
    assert unmount(mount.path, "-z").returncode == 0
    assert [each.wait(LIMIT) for each in readers] == [0, 0, 0]
    assert mount.process.wait(LIMIT) == 0
    assert processes_of(mount.path) == []


def test_fusermount3_uz_lets_readers_drain_what_is_queued(mount: Mount) -> None:
    watch = mount.watch()
    fd = os.open(watch / "queue", os.O_RDONLY)
    try:
        mount.post("sb error / EIO")
        assert unmount(mount.path, "-z").returncode == 0
        assert len(os.read(fd, 4096)) == 24
        assert os.read(fd, 4096) == b""
    finally:
        os.close(fd)
    assert mount.process.wait(LIMIT) == 0


def test_dead_mount_is_replaced(mount_with: Callable[[str], Mount], folder: Path) -> None:
    mount = mount_with("nosurvive")
    mount.process.kill()
    mount.process.wait(LIMIT)
    assert refused(os.stat, mount.path) == errno.ENOTCONN
    done = run(mount.path)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert "post" in os.listdir(mount.path)
    finally:
        assert unmount(mount.path).returncode == 0
        wait_until(lambda: not processes_of(mount.path), "the daemon's end")


def test_killed_daemon_leaves_no_reader_waiting(
    mount_with: Callable[[str], Mount], reader: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    mount = mount_with("nosurvive")
    watch = mount.watch()
    cat = reader(watch / "queue")
    mount.wait_for_readers(watch)
    mount.process.kill()
    assert cat.wait(LIMIT) == 1


# -- what is refused


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path / "nothing")
    assert done.returncode == EXIT_MOUNT
    assert "nothing does not exist" in said(done)
    assert "mkdir" in said(done)


def test_file_as_mountpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file")
    assert done.returncode == EXIT_MOUNT
    assert "not a directory" in said(done)


@pytest.mark.parametrize("extra", [[], ["-f"]], ids=["background", "foreground"])
def test_mountpoint_in_use_is_refused(mount: Mount, extra: list[str]) -> None:
    done = run(mount.path, *extra)
    assert done.returncode == EXIT_MOUNT
    assert "has a fuse.wqfs filesystem mounted on it already" in said(done)
    assert "fusermount3 -u" in said(done)
    assert "post" in os.listdir(mount.path), "the first one is unharmed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "strikt"], ["'strikt'", "strict"]),
        (["-o", "depht=5"], ["'depht'", "depth"]),
        (["-o", "xyzzy"], ["'xyzzy'", "--help"]),
        (["-o", "strict,xyzzy,enobufs"], ["'xyzzy'"]),
        (["--xyzzy"], ["'--xyzzy'", "--help"]),
        (["-q"], ["'-q'", "--help"]),
        (["-o", "depth=0"], ["depth", "1..512", "'0'"]),
        (["-o", "depth=513"], ["depth", "1..512", "'513'"]),
        (["-o", "depth=many"], ["depth", "'many'"]),
        (["-o", "depth"], ["depth", "value"]),
        (["-o", "strict=1"], ["strict", "no value"]),
        (["-o", "umask=9"], ["umask", "octal", "'9'"]),
        (["-o", "uid=root"], ["uid", "'root'"]),
        (["-o", "max_line=1"], ["max_line", "64..65536"]),
        (["-o", "remount,rw"], ["remount", "unmount"]),
        (["-o"], ["-o"]),
    ],
)
def test_wrong_option_is_named_with_the_next_step(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == EXIT_USAGE
    sentence = said(done)
    for word in words:
        assert word in sentence.partition(": ")[2], sentence
    assert not is_mounted(tmp_path)


def test_no_argument_is_refused_with_the_usage() -> None:
    done = run()
    assert done.returncode == EXIT_USAGE
    assert "mount_wqfs.py MOUNTPOINT" in said(done)


def test_too_many_arguments_are_refused(tmp_path: Path) -> None:
    done = run("one", "two", tmp_path)
    assert done.returncode == EXIT_USAGE
    assert "one two" in said(done)


def in_namespace(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A shell script as root in a mount namespace of its own; "$@" are the mount command and arguments."""
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh", *MOUNT_COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )


OWN_DEV = """
mount -t tmpfs tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 444 /dev/urandom c 1 9
"""
AS_NOBODY = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --"


def skip_unless_nobody_can_run() -> None:
    """An environment in root's home is not for other users."""
    done = subprocess.run(
        [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "--",
            *MOUNT_COMMAND,
            "--version",
        ],
        capture_output=True,
        timeout=LIMIT,
    )
    if done.returncode:
        pytest.skip(f"another user cannot run {' '.join(MOUNT_COMMAND)}")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder of nobody's that nobody can reach, as tmp_path is not."""
    path = Path(f"/tmp/wqfs-test-{os.getpid()}")
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    try:
        yield path
    finally:
        for pid in processes_of(path):  # a daemon in the namespace of a test that failed
            os.kill(pid, signal.SIGKILL)
        path.rmdir()


@needs_root
def test_missing_dev_fuse_is_refused(tmp_path: Path) -> None:
    done = in_namespace(OWN_DEV + 'exec "$@"', tmp_path)
    assert done.returncode == EXIT_SYSTEM
    assert "/dev/fuse is missing" in said(done)
    assert "modprobe fuse" in said(done)


@needs_root
def test_dev_fuse_of_no_driver_is_refused(tmp_path: Path) -> None:
    done = in_namespace(OWN_DEV + 'mknod /dev/fuse c 10 12345; exec "$@"', tmp_path)
    assert done.returncode == EXIT_SYSTEM
    assert "/dev/fuse" in said(done)


@needs_root
def test_missing_fusermount3_is_refused(tmp_path: Path) -> None:
    # A file that cannot be executed, over the one that can.
    done = in_namespace('mount --bind /etc/fuse.conf "$(command -v fusermount3)"; exec "$@"', tmp_path)
    assert done.returncode == EXIT_SYSTEM
    assert "fusermount3 is not installed" in said(done)


@needs_root
def test_allow_other_without_permission_is_refused(public_folder: Path, tmp_path: Path) -> None:
    skip_unless_nobody_can_run()
    (tmp_path / "fuse.conf").touch()
    script = (
        OWN_DEV
        + f"mknod -m 666 /dev/fuse c 10 229; mount --bind {tmp_path / 'fuse.conf'} /etc/fuse.conf; "
        + f'exec {AS_NOBODY} "$@"'
    )
    done = in_namespace(script, public_folder, "-o", "allow_other")
    assert done.returncode == EXIT_USAGE
    assert "user_allow_other" in said(done)
    assert "/etc/fuse.conf" in said(done)


@needs_root
def test_mountpoint_of_another_user_is_refused() -> None:
    skip_unless_nobody_can_run()
    done = in_namespace(OWN_DEV + f'mknod -m 666 /dev/fuse c 10 229; exec {AS_NOBODY} "$@"', "/usr")
    assert done.returncode == EXIT_USAGE
    assert "Not permitted to mount on /usr" in said(done)


@needs_root
def test_dev_fuse_closed_to_the_user_is_refused(public_folder: Path) -> None:
    skip_unless_nobody_can_run()
    done = in_namespace(OWN_DEV + f'mknod -m 600 /dev/fuse c 10 229; exec {AS_NOBODY} "$@"', public_folder)
    assert done.returncode in (EXIT_USAGE, EXIT_SYSTEM)
    assert "/dev/fuse" in said(done)


@needs_root
def test_mount_as_an_unprivileged_user_works(public_folder: Path) -> None:
    skip_unless_nobody_can_run()
    script = (
        OWN_DEV
        + "mknod -m 666 /dev/fuse c 10 229\n"
        + f"""
        dir=$3
        {AS_NOBODY} "$@"
        {AS_NOBODY} sh -ec '
            cd "$1"; mkdir watches/w; echo sb error / EIO > post; wc -l < watches/w/log
            stat -c %u . post watches/w
            cd /; fusermount3 -u "$1"' sh "$dir"
    """
    )
    done = in_namespace(script, public_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1", *[str(NOBODY)] * 3]
    wait_until(lambda: not processes_of(public_folder), "the daemon's end")


# -- the command line


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_names_every_option_and_exit_code(word: str) -> None:
    done = run(word)
    assert (done.returncode, done.stderr) == (0, "")
    for option in (
        "strict", "enobufs", "depth=N", "events_depth=N", "log_events=N", "max_watches=N", "max_objects=N",
        "max_user_objects=N", "max_all_objects=N",
        "max_waiting=N", "max_user_waiting=N", "max_line=N", "max_handles=N", "max_user_handles=N", "max_queues=N",
        "max_memory=MIB", "max_mounts=N", "max_keys=N", "user=NAME", "private_mounts",
        "max_processes=N", "max_devices=N", "allow_other", "allow_root", "uid=N", "gid=N", "umask=OCTAL", "ro",
        "fsname=NAME", "-f", "-d",
    ):  # fmt: skip
        assert option in done.stdout
    assert re.search(r"exit codes: 0 .*; 1 .*; 2 .*; 32 ", done.stdout)


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version_is_one_line(word: str) -> None:
    done = run(word)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wqfs {__version__}\n", "")


def source_of(path: Path) -> tuple[str, str, str]:
    """(type, source, options) of a mount, from the mount table."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            fields = line.split()
            if fields[4] == str(path):
                at = fields.index("-")
                return fields[at + 1], fields[at + 2], fields[5]
    pytest.fail(f"nothing is mounted on {path}")


def test_mount_without_source_is_called_wqfs(mount: Mount) -> None:
    type_, source, options = source_of(mount.path)
    assert (type_, source) == ("fuse.wqfs", "wqfs")
    assert {"nosuid", "nodev"} <= set(options.split(","))


def test_source_before_the_folder_is_the_mounts_source(folder: Path) -> None:
    assert run("my source", folder).returncode == 0
    assert source_of(folder)[:2] == ("fuse.wqfs", r"my\040source")


def test_fsname_is_the_mounts_source(folder: Path) -> None:
    assert run(folder, "-o", "fsname=given").returncode == 0
    assert source_of(folder)[:2] == ("fuse.wqfs", "given")


def test_options_anywhere_and_repeated_all_count(folder: Path) -> None:
    done = run("-o", "depth=40", folder, "-oumask=077", "-o", "noatime,nofail,_netdev,x-systemd.automount,dev")
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "watches" / "w").mkdir()
    (folder / "post").write_text("sb error / EIO\n")
    assert (folder / "watches/w/depth").read_text() == "64\n"
    assert "noatime" in source_of(folder)[2]


def test_options_as_mount_8_gives_them_are_accepted(folder: Path) -> None:
    done = run("wqfs", folder, "-s", "-n", "-v", "-t", "fuse.wqfs", "-o", "rw,dev,suid,exec,auto,nouser,async")
    assert (done.returncode, done.stderr) == (0, "")
    assert is_mounted(folder)


def test_double_dash_ends_the_options(folder: Path) -> None:
    assert run("-o", "strict", "--", folder).returncode == 0
    assert is_mounted(folder)


@needs_root
def test_command_without_path_and_home_works(folder: Path) -> None:
    assert run(folder, env={}).returncode == 0
    assert is_mounted(folder)


# -- what a mount with options does


@pytest.mark.parametrize("place", ["post", "sim/records", "watches/w"])
def test_read_only_mount_refuses_what_changes(mount_with: Callable[[str], Mount], place: str) -> None:
    mount = mount_with("ro")
    if place == "watches/w":
        assert refused(os.mkdir, mount.path / place) == errno.EROFS
    else:
        assert refused(os.open, mount.path / place, os.O_WRONLY) == errno.EROFS
    assert (mount.path / "sim/mountinfo").read_bytes()


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

    def settled() -> bool:  # what starting left behind
        time.sleep(0.2)
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


def test_folder_that_holds_the_program_is_refused(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "wqfs", clone / "wqfs")
    shutil.copy(ROOT / "mount_wqfs.py", clone)
    try:
        done = subprocess.run(
            [sys.executable, clone / "mount_wqfs.py", clone], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 1
        assert "choose another folder" in done.stderr and len(done.stderr.splitlines()) == 1
    finally:
        subprocess.run(["fusermount3", "-uzq", clone], check=False, timeout=LIMIT)


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


def test_unmount_of_what_somebody_else_unmounted_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mount: Mount
) -> None:
    assert mounting.unmount(str(tmp_path), lazy=True)
    with opened(mount.path / "metrics"):
        assert not mounting.unmount(str(mount.path), lazy=False)
    assert caplog.text == ""
