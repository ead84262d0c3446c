"""Mounts under `wqfs run --mounts simulated`: the same as on this kernel, and nothing of it on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount_calls import shown
from tests.running import said
from tests.tools import LIMIT, ROOT

SIMULATED = ("--mounts", "simulated")
Namespace = Callable[..., str]


@pytest.fixture
def in_a_namespace() -> Namespace:
    """A function that runs a command in a mount namespace of its own, and returns what it says."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare(1) is missing")
    done = subprocess.run([unshare, "-m", "true"], capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        pytest.skip(f"no mount namespace without root: {done.stderr.strip()}")
    environment = {name: value for name, value in os.environ.items() if name != "WQFS_MOUNT"}

    def inside(*words: str | Path) -> str:
        command = [unshare, "-m", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return inside


@pytest.fixture(autouse=True)
def machine_is_left_alone() -> object:
    """The mount table of the machine is the same afterwards, but for mounts of wqfs itself."""

    def table() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return [line for line in lines if " - fuse.wqfs " not in line]

    before = table()
    yield
    assert table() == before


def test_system_calls_give_what_the_kernel_gives(in_a_namespace: Namespace, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.mount_calls", str(tmp_path))
    wanted = in_a_namespace(*command).splitlines()
    got = said(*command, options=SIMULATED).splitlines()
    assert got == wanted
    assert sum(line[0].isdigit() for line in wanted) > 150


# -- mount(8) and umount(8)

COMMANDS = """\
mount -t tmpfs -o nosuid,noatime,size=1024k one {}/a
mount -t tmpfs two {}/b
mount --bind {}/a {}/c
mount -o remount,bind,ro none {}/c
mount --make-shared {}/b
mount --rbind {}/b {}/d
mkdir -p {}/b/x
mount -t tmpfs -o ro three {}/b/x
mount --make-rslave {}/d
mount -o bind,noexec {}/b {}/e
mount -o remount,ro {}/b
umount {}/c
mount --move {}/a {}/c
mount --make-unbindable {}/c
umount {}/nothing
mount --bind {}/c {}/a
umount {}/b
umount -l {}/b
mount -t ext4 -o ro,errors=remount-ro {}/nodevice {}/a
mount --make-private {}/d --make-shared
"""


def needs_root() -> None:
    if os.geteuid():
        pytest.skip("mount(8) insists on being run by root")


def test_mount_and_umount_commands_give_what_the_kernel_gives(in_a_namespace: Namespace, tmp_path: Path) -> None:
    """Errors too, line by line; what mount(8) tells of the reason it takes from the machine."""
    needs_root()
    base = tmp_path / "base"
    base.mkdir()
    script = tmp_path / "script"
    lines = COMMANDS.replace("{}", str(base)).splitlines()
    script.write_text(
        f"mount --make-rprivate / && mount -t tmpfs base {base}\n"
        f"cd {base} && mkdir a b c d e nothing; cd /\n"
        + "".join(f'{line} 2>/dev/null; echo "$? {line}"\ncat "$1"\n' for line in lines)
        + f"umount -l {base}\n"
    )
    mountinfo = "/proc/self/mountinfo"
    wanted = in_a_namespace("sh", "-uc", f". {script}", "sh", mountinfo)
    got = said("sh", "-uc", f'set -- "$WQFS_MOUNT/sim/mountinfo"; . {script}', options=SIMULATED)
    assert steps(got, base) == steps(wanted, base)
    assert [line.split()[0] for line in steps(got, base) if f"{base}" in line].count("32") == 4


def steps(said: str, folder: Path) -> list[str]:
    """The exit codes, and the tree after each command."""
    made: list[str] = []
    table: list[str] = []
    for line in said.splitlines():
        if line.count(" ") >= 6 and " - " in line:
            table.append(line)
        else:
            made += [*shown("\n".join(table), str(folder)), line]
            table.clear()
    return made + shown("\n".join(table), str(folder))
