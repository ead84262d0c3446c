"""Writers, readers and makers of watches on a mount whose daemon is killed: does every event arrive exactly once?

    python -m tests.dying MOUNTPOINT SUPERVISOR KILLS SEED

SUPERVISOR: pid of the mount command, which was started with `-o survive`. Prints what it saw, a line each, and last
`KILLS kills, M faults`; exit status 0 if M is 0.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HEADER = struct.Struct("=II")
NUMBER = struct.Struct("=II")
MARK = 0xABCDEF
"""The aux of our own records, beside those of real keys."""
SET_SIZE = 0x5760
LOSS = (0, 1)
_SLOWEST = 3.0
"""Seconds that nobody may wait for a restart here, where the machine may be busy with others. For who waits for a
record one second is the limit, which `make soak` judges."""
_LEFT_S = 5.0
"""For the last close to be heard of: it is nobody's call."""


def record(number: int) -> bytes:
    return HEADER.pack(1 | 1 << 24, 16) + NUMBER.pack(number, MARK)


def daemon_of(supervisor: int) -> int:
    """The daemon, by its name, among all that the supervisor or a checkpoint has started; 0 if there is none now."""
    pids = [supervisor]
    for pid in pids:
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
            if pid != supervisor and name == "wqfs" and rest[0] not in "ZX":
                return pid
        except OSError:
            continue
    return 0


def metric(mount: Path, name: str) -> int:
    """The number of `wqfs_NAME` in the mount's `metrics`."""
    match = re.search(rf"^wqfs_{name} (\d+)$", (mount / "metrics").read_text(), re.MULTILINE)
    assert match, f"no wqfs_{name} in metrics"
    return int(match[1])


def _read_now(fd: int) -> bytes:
    """What is there to read; b"" for nothing."""
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


class Witness:
    """What one reader saw: numbers that must grow by one, but for where a loss says that some are missing (or others
    are). from_first: whether what it reads has been kept since before anything was posted."""

    def __init__(self, name: str, *, from_first: bool = False) -> None:
        self.name = name
        self.last: int | None = -1 if from_first else None
        self.seen = self.losses = 0
        self.faults: list[str] = []
        self._after_loss = False

    def end(self, posted: int) -> None:
        """All was read: the last number is the last of `posted`, or a loss stands for what is missing."""
        if self.last != posted - 1 and not self._after_loss:
            self.fault(f"the last was {self.last}, not {posted - 1}")

    def fault(self, what: str) -> None:
        self.faults.append(f"{self.name}: {what}")

    def number(self, number: int) -> None:
        self.seen += 1
        if self.last is not None and number != self.last + 1 and not (self._after_loss and number > self.last):
            self.fault(f"{number} came after {self.last}{' and a loss' if self._after_loss else ''}")
        self._after_loss = False
        self.last = number

    def loss(self) -> None:
        self.losses += 1
        self._after_loss = True

    def whole_records(self, data: bytes) -> bytes:
        """`records` for what a pipe gives, which may end within one; returns that rest."""
        at = 0
        while at + HEADER.size <= len(data):
            length = HEADER.unpack_from(data, at)[1] & 0x7F
            if not 8 <= length <= len(data) - at:
                break
            at += length
        self.records(data[:at])
        return data[at:]

    def records(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            word, info = HEADER.unpack_from(data, at)
            length = info & 0x7F
            if not 8 <= length <= len(data) - at:
                self.fault(f"a split record at {at} of {data.hex()}")
                return
            if (word & 0xFFFFFF, word >> 24) == LOSS:
                self.loss()
            elif length == 16:
                number, mark = NUMBER.unpack_from(data, at + 8)
                if mark == MARK:
                    self.number(number)
            at += length

    def lines(self, text: bytes) -> None:
        for line in text.splitlines():
            event = json.loads(line)
            if event.get("event") == "lost":
                self.loss()
            elif event.get("aux") == MARK:
                self.number(event["key"])


class Mount:
    def __init__(self, path: Path, supervisor: int) -> None:
        self.path = path
        self.supervisor = supervisor
        self.stop = threading.Event()
        self.going = threading.Event()
        """Cleared while those who come and go are to rest."""
        self.going.set()
        self.faults: list[str] = []
        self.slowest = (0.0, "none")
        """Seconds, and of what."""
        self.killed: list[float] = []
        """When the daemon was."""
        self.posted = 0
        self.calls = 0

    def goes_on(self) -> bool:
        """Between two rounds of who writes, or comes and goes."""
        self.going.wait()
        return not self.stop.is_set()

    def timed(self, what: str, call: Callable[[], T]) -> T | None:
        """What a call gives that must not fail, and not take longer than a restart may; None if it failed."""
        result = None
        before = time.monotonic()
        try:
            result = call()
        except OSError as error:
            self.faults.append(f"{what}: {error!r}")
        took = time.monotonic() - before
        self.calls += 1
        self.slowest = max(self.slowest, (took, what))
        restarts = sum(1 for moment in self.killed[-100:] if moment >= before)
        if took > _SLOWEST * max(1, restarts):
            self.faults.append(f"{what}: {took:.3f} s, {restarts} restarts within it")
        return result

    def watch(self, name: str) -> Path:
        folder = self.path / "watches" / name
        folder.mkdir()
        return folder

    # -- who writes

    def write(self) -> None:
        fd = os.open(self.path / "sim/records", os.O_WRONLY)
        number = 0
        while self.goes_on():
            count = random.choice((1, 1, 1, 4, 64))
            data = b"".join(record(number + n) for n in range(count))

            def write(data: bytes = data) -> None:
                written = os.write(fd, data)
                if written != len(data):
                    self.faults.append(f"a write of {len(data)} took {written}")

            self.timed("write", write)
            number += count
            self.posted = number
            time.sleep(random.choice((0, 0, 0.0005)))
        os.close(fd)

    # -- who reads

    def read_blocking(self, witness: Witness, folder: Path, flags: int = 0) -> None:
        fd = os.open(folder / "queue", os.O_RDONLY | flags)
        while True:
            try:
                data = os.read(fd, 4096)
            except OSError as error:
                witness.fault(f"read: {error!r}")
                break
            if not data:
                break
            witness.records(data)
        os.close(fd)

    def read_polling(self, witness: Witness, folder: Path, edge: bool) -> None:
        fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
        epoll = select.epoll()
        epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        ended = False
        while not ended:
            woken = epoll.poll(10)
            while True:
                try:
                    data = os.read(fd, 4096)
                    if not woken:
                        witness.fault("a record had come, and epoll did not say so for 10 s")
                except BlockingIOError:
                    break
                except OSError as error:
                    witness.fault(f"read: {error!r}")
                    ended = True
                    break
                if not data:
                    ended = True
                    break
                witness.records(data)
        os.close(fd)

    def read_with_poll(self, witness: Witness, folder: Path) -> None:
        fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        try:
            while True:
                events = dict(poll.poll(10_000)).get(fd, 0)
                if not events and (late := _read_now(fd)):
                    witness.fault("a record had come, and poll did not say so for 10 s")
                    witness.records(late)
                if events & ~(select.POLLIN | select.POLLHUP):
                    witness.fault(f"poll gave {events:#x}")
                    break
                if events & select.POLLIN:
                    witness.records(os.read(fd, 4096))
                elif events:
                    break
        except OSError as error:
            witness.fault(f"poll: {error!r}")
        os.close(fd)

    def read_with_cat(self, witness: Witness, folder: Path) -> None:
        self.read_of(["cat", str(folder / "queue")], witness.whole_records, witness)

    def read_of(self, command: list[str], take: Callable[[bytes], bytes], witness: Witness) -> None:
        """What a program prints; take: gets that, returns what it cannot use yet."""
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            rest = b""
            while data := os.read(process.stdout.fileno(), 65536):
                rest = take(rest + data)
            if rest:
                witness.fault(f"ended within {rest[:80]!r}")
        if process.returncode:
            witness.fault(f"{command[0]} ended with {process.returncode}")

    def read_events(self, witness: Witness, folder: Path) -> None:
        fd = os.open(folder / "events", os.O_RDONLY)
        rest = b""
        while data := os.read(fd, 65536):
            *whole, rest = (rest + data).split(b"\n")
            witness.lines(b"\n".join(whole))
        if rest:
            witness.fault(f"half a line: {rest!r}")
        os.close(fd)

    def read_slow(self, witness: Witness, folder: Path) -> None:
        """Of a watch that nobody read: it kept what fits, and one loss."""
        fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while data := os.read(fd, 4096):
                witness.records(data)
        except BlockingIOError:
            pass
        os.close(fd)
        folder.rmdir()
        if witness.losses > 1:
            witness.fault(f"{witness.losses} losses of one gap")

    # -- who comes and goes

    def come_and_go(self, name: str) -> None:
        count = 0
        while self.goes_on():
            count += 1
            folder = self.path / "watches" / f"{name}{count}"
            fd = -1

            def opened(folder: Path = folder) -> None:
                nonlocal fd
                fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)

            self.timed("mkdir", folder.mkdir)
            self.timed("open", opened)
            if count % 3 == 0:
                self.timed("objects", lambda folder=folder: (folder / "objects").write_text("mount / id=1\n"))  # type: ignore[misc]
            self.timed("stat", folder.stat)
            self.timed("list", lambda: os.listdir(self.path / "watches"))
            if fd >= 0:
                self.timed("close", lambda fd=fd: os.close(fd))  # type: ignore[misc]
            self.timed("rmdir", folder.rmdir)

    def command(self) -> None:
        count = 0
        while self.goes_on():
            count += 1
            fd = os.open(self.path / "post", os.O_WRONLY)
            for line in (
                f"key add user k{count % 50} {count} @s",
                f"mount /dev/d{count % 20} /m{count % 20}",
                f"umount /m{count % 20}",
            ):
                self.timed(line, lambda line=line, fd=fd: os.write(fd, line.encode() + b"\n"))  # type: ignore[misc]
            os.close(fd)

    # -- who kills

    def kill(self, kills: int) -> int:
        done = last = 0
        while done < kills:
            time.sleep(random.choice((0.0, 0.02, 0.1, 0.3)))
            daemon = daemon_of(self.supervisor)
            if not Path(f"/proc/{self.supervisor}").exists():
                self.faults.append("the supervisor is gone")
                break
            if daemon in (0, last):
                continue
            try:
                os.kill(daemon, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.killed.append(time.monotonic())
            last = daemon
            done += 1
        return done

    # -- in the end

    def look_what_is_left(self) -> None:
        """No open file but that of `metrics`, no watch, and nobody who waits."""
        end = time.monotonic() + _LEFT_S
        while True:
            found = [metric(self.path, name) for name in ("handles", "watches", "queues", "waiting_readers")]
            if found == [1, 0, 0, 0]:
                return
            if time.monotonic() > end:
                self.faults.append("left: {} open files, {} watches, {} queues, {} who wait".format(*found))
                return
            time.sleep(0.05)


def main() -> int:
    path, supervisor, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    random.seed(int(sys.argv[4]))
    mount = Mount(path, supervisor)
    reading: dict[str, Callable[[Witness, Path], None]] = {
        "blocking": mount.read_blocking,
        "level": lambda witness, folder: mount.read_polling(witness, folder, edge=False),
        "edge": lambda witness, folder: mount.read_polling(witness, folder, edge=True),
        "poll": mount.read_with_poll,
        "cat": mount.read_with_cat,
        "events": mount.read_events,
    }
    watches = {name: mount.watch(name) for name in (*reading, "slow")}
    witnesses = {name: Witness(name, from_first=name != "events") for name in watches}
    readers = [
        threading.Thread(target=read, args=(witnesses[name], watches[name]), daemon=True)
        for name, read in reading.items()
    ]
    busy: list[Callable[[], None]] = [
        mount.write, mount.command, lambda: mount.come_and_go("a"), lambda: mount.come_and_go("b"),
    ]  # fmt: skip
    others = [threading.Thread(target=task, daemon=True) for task in busy]
    for thread in readers:
        thread.start()
    time.sleep(0.2)
    for thread in others:
        thread.start()
    done = mount.kill(kills)
    if not kills:
        sys.stdin.read()  # somebody else does something to it meanwhile
    mount.stop.set()
    for thread in others:
        thread.join(20)
        if thread.is_alive():
            mount.faults.append("a caller is stuck")
    for name, folder in watches.items():
        if name != "slow":
            folder.rmdir()
    for thread in readers:
        thread.join(20)
        if thread.is_alive():
            mount.faults.append("a reader is stuck")
    mount.read_slow(witnesses["slow"], watches["slow"])
    if done:
        mount.look_what_is_left()
    for witness in witnesses.values():
        witness.end(mount.posted)
    faults = [*mount.faults, *(fault for witness in witnesses.values() for fault in witness.faults)]
    for witness in witnesses.values():
        print(f"{witness.name}: {witness.seen} of {mount.posted}, {witness.losses} losses")
    print(f"{mount.calls} other calls, the slowest {mount.slowest[0]:.3f} s ({mount.slowest[1]})")
    for fault in faults[:40]:
        print(fault)
    print(f"{done} kills, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
