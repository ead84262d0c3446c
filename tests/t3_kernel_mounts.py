"""The simulated mount tree beside this kernel's own, in a mount namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIRST, SCRIPTS = 0, 150
"""Fixed: about one script in 400 meets what Linux 6.17 changed."""
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


def test_mount_tree_is_the_kernels(unshare: str, tmp_path: Path) -> None:
    command = [unshare, "-m", sys.executable, "-m", "tests.conformance.kernel_mounts", str(tmp_path)]
    done = subprocess.run(
        [*command, str(FIRST), str(SCRIPTS)], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{SCRIPTS} scripts, 0 mismatches"
