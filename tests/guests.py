"""A command on another kernel, with this machine's files: see tests/kernel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.tools import ROOT

KERNEL: Path = ROOT / "tests/kernel"


def in_guest(vm: Path, folder: Path, command: str, limit: float = 350) -> subprocess.CompletedProcess[str]:
    """Run a command of the shell in this tree, on the kernel in `vm`; what it prints is between two lines."""
    script = folder / "script"
    script.write_text(f"echo GUEST-START\ncd {ROOT}\nexport HOME=/tmp\n{command}\necho GUEST-END\n")
    return subprocess.run(
        [KERNEL / "run_vm.sh", script],
        env={**os.environ, "VM_DIR": str(vm), "T": str(int(limit))},  # its own limit, which ends qemu too
        capture_output=True, text=True, timeout=limit + 30, check=False,
    )  # fmt: skip
