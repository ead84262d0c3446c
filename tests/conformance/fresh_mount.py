"""The mount that a replay's face `mount` runs on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOUNT_COMMAND = Path(__file__).resolve().parents[2] / "mount_wqfs.py"


@contextmanager
def fresh_mount() -> Iterator[Path]:
    """A wqfs with `-o strict,enobufs` in a temporary folder, gone at the end. Raises RuntimeError."""
    folder = tempfile.mkdtemp(prefix="wqfs-replay-")
    try:
        done = subprocess.run(
            [sys.executable, MOUNT_COMMAND, folder, "-o", "strict,enobufs"],
            timeout=30,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"cannot mount: {done.stderr}")
        yield Path(folder)
    finally:
        for how in ("-u", "-uz"):
            if not subprocess.run(["fusermount3", how, "-q", folder], timeout=30, check=False).returncode:
                break
        os.rmdir(folder)
