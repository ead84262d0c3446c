"""What the tests of written files share: one write, a shell's writing, and what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tools import LIMIT, Mount, drain, wait_until

PIECE = 128 * 1024
"""Bytes of one FUSE WRITE: larger writes arrive in pieces of this size."""
MAX_LINE = 4096
LINE = b"sb error / EIO\n"


class Sight:
    """An open `events`, read without waiting: an event is there when the write that made it returns."""

    def __init__(self, folder: Path) -> None:
        self.fd = os.open(folder / "events", os.O_RDONLY | os.O_NONBLOCK)

    def lines(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        return [json.loads(line) for line in drain(self.fd).splitlines()]

    def names(self) -> list[str]:
        return [line["event"] for line in self.lines()]


def write_once(path: Path, data: bytes) -> int:
    """open, one write, close. Returns the count; raises what write(2) says."""
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def last_error(mount: Mount) -> str:
    """The newest line of `errors`, from the file's name on."""
    line = (mount.path / "errors").read_text(errors="surrogateescape").splitlines()[-1]
    match = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ uid=(\d+) pid=(\d+) (.*)", line)
    assert match, line
    assert int(match[1]) == os.geteuid()
    return match[3]


def sh(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script, "bash", *arguments], capture_output=True, text=True, timeout=LIMIT)


def read_queue(folder: Path) -> bytes:
    fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""
    finally:
        os.close(fd)


def wait_for(condition: Callable[[], bool]) -> None:
    """A close does not wait for the server (RELEASE is sent in the background)."""
    wait_until(condition, "what the close brings about")
