"""Who is the daemon of a mount with -o survive, who waits to take over, and how they are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.dying import daemon_of
from tests.tools import ROOT, Mount, children_of, names_below, wait_until


def can_ask_again() -> bool:
    """Whether the kernel has FUSE_NOTIFY_RESEND (Linux 6.9)."""
    major, minor = map(int, re.findall(r"\d+", os.uname().release)[:2])
    return (major, minor) >= (6, 9)


needs_resend = pytest.mark.skipif(not can_ask_again(), reason="this kernel cannot send requests again (Linux 6.9)")


def wait_for_checkpoint(supervisor: int) -> None:
    """Wait until the daemon has one that takes over when it dies. supervisor: the pid of the mount command."""
    wait_until(lambda: "wqfs-checkpoint" in names_below(supervisor), "a checkpoint")


def wait_for_successor(supervisor: int, dead: int) -> None:
    """Wait until somebody else than `dead` is the daemon."""
    wait_until(lambda: daemon_of(supervisor) not in (0, dead), "a successor")


def kill(mount: Mount, number: signal.Signals = signal.SIGKILL) -> int:
    """Kill the daemon; returns its pid."""
    wait_until(lambda: daemon_of(mount.process.pid), "a daemon")
    pid = mount.daemon
    assert pid != mount.process.pid
    os.kill(pid, number)
    return pid


def kill_checkpoint(mount: Mount) -> None:
    """Kill who waits to take over, and wait for another one, which is as the daemon is now."""
    wait_for_checkpoint(mount.process.pid)
    found = subprocess.run(["pgrep", "-x", "wqfs-checkpoint"], capture_output=True, text=True, check=True)
    mine = []
    for pid in found.stdout.split():
        with suppress(OSError):  # another one's, which has ended since
            if str(mount.path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                mine.append(pid)
                os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine), "it to be gone")
    wait_for_checkpoint(mount.process.pid)


def checkpoint_began(mount: Mount) -> float:
    """When the process that waits to take over was made: seconds since the machine's start, to a tick."""
    wait_until(lambda: children_of(mount.daemon), "a checkpoint")
    ticks = [0]
    for pid in children_of(mount.daemon):  # two, while the one follows the other
        with suppress(OSError):
            ticks.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]))
    return max(ticks) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """All that the process has started, and those that they have, in that order."""
    found = [pid]
    for each in found:
        found += children_of(each)
    return found[1:]


def check_deaths(mount: Mount, kills: int, seed: int, limit: float = 50) -> None:
    command = [sys.executable, "-m", "tests.dying", str(mount.path), str(mount.process.pid), str(kills), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{kills} kills, 0 faults"
