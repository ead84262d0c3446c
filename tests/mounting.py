"""What the tests of the mount command share: the command as a process, what it says, what runs for a mount."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.tools import LIMIT, MOUNT_COMMAND

EXIT_USAGE, EXIT_SYSTEM, EXIT_MOUNT = 1, 2, 32

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users and mount namespaces need root")


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The mount command, to its end."""
    return subprocess.run(
        [*MOUNT_COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=env,
        stdin=subprocess.DEVNULL,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence on standard error; nothing may be on standard output."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert re.fullmatch(r"mount_wqfs\.py: .*[.:)].*", lines[0]), lines[0]
    assert "Traceback" not in lines[0]
    return lines[0]


def processes_of(path: Path) -> list[int]:
    """The processes that have `path` among their arguments, this one not."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(path) in arguments:
                found.append(int(entry))
    return found


def unmount(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["fusermount3", "-u", *options, "--", path], capture_output=True, text=True, timeout=LIMIT)
