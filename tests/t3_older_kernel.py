"""The daemon is killed on a kernel that cannot send requests again: Debian 12's own, 6.1, in software emulation."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests import KERNEL, in_guest

COMMAND = f"""
mount -t tmpfs tmp /tmp
export PYTHONDONTWRITEBYTECODE=1
uname -r
{sys.executable} -m wqfs.cli doctor | grep -A1 RESEND
{sys.executable} -m pytest -q --color=no -p no:cacheprovider tests/t3_survive_clone.py
"""


@pytest.fixture
def older_kernel(tmp_path: Path) -> Path:
    """The folder that tests/kernel/debian_vm.sh has made."""
    missing = [name for name in ("qemu-system-x86_64", "cpio", "busybox", "apt-get") if shutil.which(name) is None]
    if missing or platform.machine() != "x86_64" or os.geteuid() != 0:
        pytest.skip(f"needs root, x86-64 and {', '.join(missing) or 'all that is here'} (tests/kernel/README.md)")
    folder = tmp_path / "vm"
    done = subprocess.run(
        [KERNEL / "debian_vm.sh"],
        env={**os.environ, "VM_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_daemon_may_be_killed_and_everything_but_waiting_calls_goes_on(older_kernel: Path, tmp_path: Path) -> None:
    done = in_guest(older_kernel, tmp_path, COMMAND, limit=900)  # a sixth of that where nothing else runs
    said = done.stdout.replace("\r", "")
    assert re.search(r"^[0-9]+ passed in ", said, re.MULTILINE), said + done.stderr
    assert "when a daemon dies, calls that wait end with ECONNABORTED" in said
