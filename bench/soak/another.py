"""Another user of the mount, which is the current folder: a watch of its own that comes and goes, and what it may not.

Needs nothing but the standard library. Reads a line for each round, and answers it with a line: empty, or what was
wrong. Ends at end of file.
"""

import errno
import fcntl
import json
import os
import sys

SET_SIZE = 0x5760
MINE = "watches/another"


def heard(events: int) -> bytes:
    """What there is by now, but for a line that is not whole."""
    found = b""
    while True:
        try:
            data = os.read(events, 65536)
        except BlockingIOError:
            return found.rpartition(b"\n")[0]
        if not data:
            return found
        found += data
        if len(found) > 1 << 20:
            return found.rpartition(b"\n")[0]


def once() -> str:
    """What was wrong, or nothing."""
    os.mkdir(MINE)
    queue = os.open(f"{MINE}/queue", os.O_RDONLY | os.O_NONBLOCK)
    events = os.open(f"{MINE}/events", os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(queue, SET_SIZE, 64)
        for call in (
            lambda: os.open("watches/level/queue", os.O_RDONLY),
            lambda: os.open("watches/level/log", os.O_RDONLY),
            lambda: os.open("sim/records", os.O_WRONLY),
            lambda: os.rmdir("watches/level"),
        ):
            try:
                call()
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM):
                    return f"another user is refused with {error!r}"
            else:
                return "another user is not refused"
        for line in heard(events).splitlines():
            event = json.loads(line)
            if str(event.get("description", "")).startswith("k"):
                return f"another user hears of a key that it may not view: {event}"
    finally:
        os.close(queue)
        os.close(events)
    os.rmdir(MINE)
    return ""


for _ in sys.stdin:
    try:
        print(once(), flush=True)
    except OSError as error:
        print(repr(error), flush=True)
