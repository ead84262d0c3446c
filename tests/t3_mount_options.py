"""The words of the mount command: help, version, source and options, in any order, and what they make of the mount."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounting import needs_root, run
from tests.tools import Mount, is_mounted, refused
from wqfs import __version__


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_names_every_option_and_exit_code(word: str) -> None:
    done = run(word)
    assert (done.returncode, done.stderr) == (0, "")
    for option in (
        "strict", "enobufs", "depth=N", "events_depth=N", "log_events=N", "max_watches=N", "max_objects=N",
        "max_user_objects=N", "max_all_objects=N",
        "max_waiting=N", "max_user_waiting=N", "max_line=N", "max_handles=N", "max_user_handles=N", "max_queues=N",
        "max_memory=MIB", "max_user_memory=MIB", "max_mounts=N", "max_keys=N", "user=NAME", "private_mounts",
        "max_user_keys=N", "max_user_key_bytes=N", "max_threads=N",
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


@pytest.mark.parametrize("place", ["post", "sim/records", "watches/w"])
def test_read_only_mount_refuses_what_changes(mount_with: Callable[[str], Mount], place: str) -> None:
    mount = mount_with("ro")
    if place == "watches/w":
        with refused(errno.EROFS):
            os.mkdir(mount.path / place)
    else:
        with refused(errno.EROFS):
            os.open(mount.path / place, os.O_WRONLY)
    assert (mount.path / "sim/mountinfo").read_bytes()
