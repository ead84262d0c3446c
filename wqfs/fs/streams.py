"""The standard streams of a process whose starter closed some of them (`>&-`)."""

from __future__ import annotations

import os
import sys


def open_missing_streams() -> None:
    """Open /dev/null for each that is closed: else the first file that is opened is taken for it, /dev/fuse by a
    daemon that then closes its streams."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
