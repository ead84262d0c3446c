"""The simulated mount tree beside this kernel's own, in a mount namespace of its own: after the same system
calls, and after the same command lines of mount(8) and umount(8)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIRST, SCRIPTS = 0, 150
"""Fixed: about one script in 400 meets what Linux 6.17 changed."""
LINES_FIRST, LINES_SCRIPTS = 100, 150
"""Fixed: one script in 110 meets mounts upon each other that mount(8) takes for one another."""
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def unshare() -> str:
    """unshare(1), where it can make a mount namespace."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare(1) is missing")
    done = subprocess.run([unshare, "-m", "true"], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        pytest.skip(f"no mount namespace without root: {done.stderr.strip()}")
    return unshare


def run(module: str, folder: Path, first: int, count: int, unshare: str) -> None:
    command = [unshare, "-m", sys.executable, "-m", f"tests.conformance.{module}", str(folder), str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{count} scripts, 0 mismatches"


def test_mount_tree_is_the_kernels(unshare: str, tmp_path: Path) -> None:
    run("kernel_mounts", tmp_path, FIRST, SCRIPTS, unshare)


def test_command_lines_do_what_mount_8_does(unshare: str, tmp_path: Path) -> None:
    run("kernel_commands", tmp_path, LINES_FIRST, LINES_SCRIPTS, unshare)
