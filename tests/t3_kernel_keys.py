"""The simulated keyrings beside this kernel's own: add_key(2), request_key(2) and keyctl(2)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FIRST, SEEDS, OPERATIONS = 0, 12, 80
ROOT = Path(__file__).resolve().parent.parent
NO_KEY_CALLS = 3
NOBODY = 65534


@pytest.mark.parametrize("user", ["who runs this", "nobody"])
def test_keyrings_are_the_kernels(user: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip(f"the numbers of the key calls are those of x86_64, not of {platform.machine()}")
    if user == "nobody" and os.getuid():
        pytest.skip("only root becomes another user")
    numbers = [FIRST, SEEDS, OPERATIONS, *([NOBODY] if user == "nobody" else [])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance.kernel_keys", *map(str, numbers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == NO_KEY_CALLS:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{SEEDS} seeds of {OPERATIONS} operations, 0 mismatches"
