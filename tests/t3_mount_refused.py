"""What the mount command refuses, with the exit code and the next step; and what it is for an unprivileged user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting import EXIT_MOUNT, EXIT_SYSTEM, EXIT_USAGE, needs_root, processes_of, run, said
from tests.tools import LIMIT, MOUNT_COMMAND, ROOT, Mount, is_mounted, wait_until

# -- folders and words


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


# -- in a mount namespace, as root or as nobody


NOBODY = 65534


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
