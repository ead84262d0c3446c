"""Other users, for tests as root: two without a name, and a mount that both can reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tools import LIMIT, Mount, mounted

ADA, BEN = 12345, 12346
PYTHON = "/usr/bin/python3"
"""With its standard library alone: other users may not reach the one of the tests."""

needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists(PYTHON) or shutil.which("setpriv") is None,
    reason=f"needs root, setpriv and {PYTHON}, to be other users",
)


def as_user(uid: int, *command: str | Path) -> list[str]:
    """The command that runs `command` as the user and group `uid`, without privilege."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *map(str, command)]


def run_as(uid: int, program: str, *arguments: str | Path, cwd: Path, **options: Any) -> str:
    """What a Python program prints that runs as a user in the folder `cwd`; it must end with 0."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        as_user(uid, PYTHON, "-SIc", program, *arguments),
        cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer_to(uid: int, call: str, cwd: Path) -> str:
    """What the Python expression `call` gives a user who has `os`, or the name of its errno."""
    program = f"""
import errno, fcntl, os
def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try: return os.write(fd, text.encode())
    finally: os.close(fd)
try: print({call})
except OSError as error: print(errno.errorcode[error.errno])
"""
    return run_as(uid, program, cwd=cwd).strip()


@contextmanager
def public_mount(options: str = "allow_other") -> Iterator[Mount]:
    """A mount in a folder that every user can reach, as tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="wqfs-test-") as folder:
        os.chmod(folder, 0o755)
        with mounted(Path(folder), options) as mount:
            yield mount
