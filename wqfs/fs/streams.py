"""The standard streams: of a process whose starter closed some of them (`>&-`), and of one that leaves its terminal;
and the exit codes of the mount command, as mount(8) has them; that of a mount that failed is with it (MountFailed)."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

EXIT_OK: Final = 0
EXIT_USAGE: Final = 1
EXIT_SYSTEM: Final = 2


def open_missing_streams() -> None:
    """Open /dev/null for each that is closed: else the first file that is opened is taken for it, /dev/fuse by a
    daemon that then closes its streams."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def complain(program: str, sentence: str, code: int) -> int:
    """Say to whoever started `program` why it ends; returns the exit code."""
    with suppress(OSError):
        print(f"{program}: {sentence}", file=sys.stderr, flush=True)
    return code


def leave_terminal() -> None:
    """Become a session of one's own, at /, with the standard streams closed."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
