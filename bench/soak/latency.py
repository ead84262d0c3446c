"""A process that times a record from its post to its read: `python -m bench.soak.latency MOUNT OUT`.

It posts a record of its own every 20 ms and reads it back from a watch of its own, without waiting in between for
anything but that. OUT gets a line for each: when it was posted, by the monotonic clock, and how long it took, seconds.
It ends when its standard input does.
"""

from __future__ import annotations

import os
import select
import struct
import sys
import time
from pathlib import Path
from typing import Final

MARK: Final = 0x50414E47
"""The aux of its records: other readers tell them from theirs by it."""
_PAUSE_S: Final = 0.02
_RECORD: Final = struct.Struct("=IIII")
_LENGTH: Final = 0x7F


def main() -> int:
    path, out = Path(sys.argv[1]), Path(sys.argv[2])
    folder = path / "watches/latency"
    folder.mkdir()
    posts = os.open(path / "sim/records", os.O_WRONLY)
    reads = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    ready = select.poll()
    ready.register(reads, select.POLLIN)
    ends = select.poll()
    ends.register(0, select.POLLIN)
    number = 0
    with open(out, "w", encoding="ascii", buffering=1) as lines:
        while not ends.poll(_PAUSE_S * 1000):
            number += 1
            begin = time.monotonic()
            os.write(posts, _RECORD.pack(1 | 1 << 24, _RECORD.size, number, MARK))
            while not _has(reads, number):
                ready.poll(1000)
            lines.write(f"{begin:.6f} {time.monotonic() - begin:.6f}\n")
    os.close(reads)
    folder.rmdir()
    return 0


def _has(fd: int, number: int) -> bool:
    """Read what is there; whether our record of that number was among it, or a loss, which may have been that."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return False
    at = 0
    while at < len(data):
        word, info = struct.unpack_from("=II", data, at)
        length = info & _LENGTH
        if word == 1 << 24:  # a loss
            return True
        if length == _RECORD.size and _RECORD.unpack_from(data, at)[2:] == (number, MARK):
            return True
        at += length
    return False


if __name__ == "__main__":
    sys.exit(main())
