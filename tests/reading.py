"""What the tests of texts share: tools that read a file of a mount, and lines as objects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tools import LIMIT, Mount, wait_until, waiting_readers

ERROR = "sb error / EIO"
THREE = [ERROR, "device error /dev/sda io", "sb error / EROFS"]


def wait_for_reads(mount: Mount, count: int = 1) -> None:
    """Wait until so many reads wait, on whatever file."""
    wait_until(lambda: waiting_readers(mount) >= count, f"{count} waiting reads")


@contextmanager
def running(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process without input; it and all that it started are dead at the end."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(LIMIT)
        if process.stdout is not None:
            process.stdout.close()


def parsed(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def run(*command: str | Path) -> bytes:
    """A tool's standard output; it must end with 0."""
    done = subprocess.run(command, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
