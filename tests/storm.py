"""A storm on a mount: `python tests/storm.py MOUNTPOINT SECONDS`. Run by t3_storm.py.

One writer posts numbered records as fast as it can; readers of every kind take them from queues of
their own; others make, open and remove watches, and kill waiting readers. Each reader must see the
numbers in order, with a loss record wherever some are missing, and end when its watch is removed.
Exit status 1, with a line each, for whoever did not.
"""

from __future__ import annotations

import errno
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

RECORD = struct.Struct("=IIQ")
LENGTH, LOSS_LENGTH = RECORD.size, 8
STUCK_S = 15


class Wrong(Exception):
    """What a reader must not see."""


def waiter(kind: str, fd: int) -> Callable[[], object]:
    """Something that waits until `fd` is readable and returns what is false when it never was."""
    if kind == "poll":
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return lambda: poll.poll(STUCK_S * 1000)
    if kind == "select":
        return lambda: select.select([fd], [], [], STUCK_S)[0]
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN | (select.EPOLLET if kind == "edge" else 0))
    return lambda: epoll.poll(STUCK_S)


def read_all(queue: Path, kind: str) -> None:
    """Read until end of file."""
    fd = os.open(queue, os.O_RDONLY | (0 if kind == "block" else os.O_NONBLOCK))
    wait = waiter(kind, fd) if kind != "block" else None
    expected, lost = 0, False
    while True:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            if wait is None or not wait():
                raise Wrong(f"{kind}: nothing came for {STUCK_S} s after {expected}") from None
            continue
        if not data:
            return
        at = 0
        while at < len(data):
            length = data[at + 4] & 0x7F
            if length == LOSS_LENGTH:
                lost = True
            else:
                _, _, number = RECORD.unpack_from(data, at)
                if number < expected or (number > expected and not lost):
                    raise Wrong(f"{kind}: expected {expected}, not {number}, {'with' if lost else 'without'} a loss")
                expected, lost = number + 1, False
            at += length


def churn(mount: Path, seed: int, end: float) -> None:
    """Make, open, list and remove watches under names that another one uses too."""
    dice = random.Random(seed)
    while time.monotonic() < end:
        folder = mount / "watches" / f"churn{dice.randrange(4)}"
        try:
            with suppress(FileExistsError):
                folder.mkdir()
            fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                os.read(fd, 4096)
            os.close(fd)
            (folder / "status").read_text()
            os.listdir(mount / "watches")
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise


def kill_readers(mount: Path, end: float) -> None:
    while time.monotonic() < end:
        process = subprocess.Popen(["cat", mount / "queue"], stdout=subprocess.DEVNULL)
        time.sleep(random.random() / 100)
        process.kill()
        process.wait(STUCK_S)


def write(mount: Path, end: float) -> int:
    """Post numbered records until `end`; returns how many."""
    fd = os.open(mount / "sim/records", os.O_WRONLY)
    number = 0
    while time.monotonic() < end:
        count = random.choice((1, 1, 1, 5, 40))
        os.write(fd, b"".join(RECORD.pack(1 | 1 << 24, LENGTH, number + at) for at in range(count)))
        number += count
        if random.random() < 0.3:
            time.sleep(0.0005)
    os.close(fd)
    return number


def child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def main() -> int:
    mount, end = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    kinds = ("block", "poll", "select", "level", "edge", "block", "poll")
    folders = [mount / "watches" / f"reader{at}" for at in range(len(kinds))]
    children = []
    for folder, kind in zip(folders, kinds, strict=True):
        folder.mkdir()
        children.append(child(lambda folder=folder, kind=kind: read_all(folder / "queue", kind)))  # type: ignore[misc]
    for seed in range(2):
        children.append(child(lambda seed=seed: churn(mount, seed, end)))  # type: ignore[misc]
    children.append(child(lambda: kill_readers(mount, end)))
    written = write(mount, end)
    for folder in folders:
        folder.rmdir()
    wrong = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    print(f"{written} records, {wrong} of {len(children)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
