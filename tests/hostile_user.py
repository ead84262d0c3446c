"""A hostile user, for tests.worst_case: processes of another uid that fill all that they can, a stage at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import struct
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.dying import metric
from wqfs.abi import ioctls
from wqfs.abi.filters import FILTERS_MAX, Rule, encode

HANDS: Final = 2
FILES: Final = 15_000
"""That one process opens; a user has more, in HANDS processes."""
HELPERS: Final = 5
"""Processes of THREADS of one user, or as many fewer as there are users."""
THREADS: Final = 2_500
REMOVALS: Final = 21_000
"""Of objects, by all users: several times as many as `max_memory` keeps."""
LONG: Final = ("/\U0001f600" + "x" * 240) * 16
"""A path of 3,920 bytes, each of whose characters takes four."""
WAITS, EVENTS, FULL = 0, 1, 2
"""Watches of a user with a part of their own: one has calls that wait, one the open `events`; from FULL on the queues
are full."""
KEY_TYPE: Final = 1
KEY_SESSION: Final = -3
NOT_OF_THE_THREAD: Final = (errno.EBUSY, errno.EACCES, errno.ENOKEY, errno.EDQUOT, errno.ENOSPC)
"""What a call may say that has begun a thread."""
EVENTS_DEPTH: Final = 1024
WITH_ALL_HANDS: Final = ("write_half_lines", "open_events", "read_half_events", "fill_events", "poll_events")
"""Stages that need more open files than a process has."""
MIB: Final = 1 << 20
Reached = tuple[int, str]
"""How many, and the errno that one more got; "" if no more were tried."""


def until_refused(make: Callable[[int], object], most: int) -> Reached:
    for number in range(most):
        try:
            make(number)
        except OSError as error:
            return number, errno.errorcode[error.errno or 0]
    return most, ""


def record(number: int) -> bytes:
    """The largest record: 127 bytes, of type KEY_NOTIFY."""
    return struct.pack("=III", KEY_TYPE | 1 << 24, 127, number).ljust(127, b"\xa5")


def to_deliver(number: int) -> bytes:
    """The same in a struct wqfs_deliver."""
    return ioctls.DELIVER.pack(127, record(number))


class Work:
    """What one process of a user does; each method is a stage, and returns what was reached."""

    def __init__(
        self, mount: Path, uid: int, *, first: bool = True, depth: int = 0, threads: int = 0, removals: int = 0
    ) -> None:
        """first: of its user's; depth: records for each queue; threads: that wait in each helper; removals: of
        objects."""
        self._mount = mount
        self._uid = uid
        self._first = first
        self._depth = depth
        self._threads = threads
        self._removals = removals
        self._watches = 0
        self._fds: list[int] = []
        self._stays: list[int] = []
        """Open to the end."""
        self._objects = self._queue = -1
        """Of the watch EVENTS, while its `events` are open."""

    def _file(self, number: int, name: str) -> str:
        return f"{self._folder(number)}/{name}"

    def _folder(self, number: int) -> str:
        return str(self._mount / "watches" / f"{self._uid}.{number}.".ljust(255, "x"))

    def _open(self, number: int, name: str, flags: int = os.O_RDONLY) -> None:
        self._fds.append(os.open(self._file(number, name), flags | os.O_NONBLOCK))

    def _write(self, number: int, name: str, data: bytes) -> None:
        fd = os.open(self._file(number, name), os.O_WRONLY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def _deliver(self, number: int, count: int) -> None:
        fd = os.open(self._file(number, "queue"), os.O_RDWR)
        for each in range(count):
            fcntl.ioctl(fd, ioctls.WQFS_IOC_DELIVER, to_deliver(each))
        os.close(fd)

    def let_go(self) -> Reached:
        """Close what was opened, and wait until the server has heard of it."""
        count = len(self._fds)
        while self._fds:
            os.close(self._fds.pop())
        before, now = -1, 0
        while before != now:
            before = now
            time.sleep(0.5)
            with suppress(OSError):
                now = metric(self._mount, "handles")
        return count, ""

    def try_what_is_the_owners(self) -> Reached:
        names = {"post": os.O_WRONLY, "sim/records": os.O_WRONLY, "sim/calls": os.O_RDWR, "errors": os.O_RDONLY,
                 "queue": os.O_RDONLY}  # fmt: skip
        said = set()
        for name, flags in names.items():
            try:
                os.close(os.open(self._mount / name, flags))
            except OSError as error:
                said.add(errno.errorcode[error.errno or 0])
            else:
                said.add(f"{name} opens")
        return len(names), " ".join(said)

    def make_watches(self) -> Reached:
        reached = until_refused(lambda number: os.mkdir(self._folder(number)), 1 << 20)
        self._watches = reached[0]
        return reached

    def set_filters(self) -> Reached:
        key_rules = encode([Rule(KEY_TYPE)] * FILTERS_MAX)
        no_rules = encode([Rule(KEY_TYPE + 1)] * FILTERS_MAX)  # nothing shall wake those who wait

        def set_one(number: int) -> None:
            fd = os.open(self._file(number, "queue"), os.O_RDWR)
            try:
                fcntl.ioctl(fd, ioctls.IOC_WATCH_QUEUE_SET_SIZE, 512)
                fcntl.ioctl(fd, ioctls.wqfs_ioc_set_filter(FILTERS_MAX), no_rules if number == WAITS else key_rules)
            finally:
                os.close(fd)

        return until_refused(set_one, self._watches)

    def lose_objects(self) -> Reached:
        """Removals of objects with long paths: the longest events that a user can make."""
        pair = f"mount {LONG} id=1\n-mount {LONG}\n".encode()
        reached = until_refused(lambda n: self._write(FULL + n % 30, "objects", pair * 15), self._removals // 15)
        return reached[0] * 15, reached[1]

    def add_objects(self) -> Reached:
        for number in range(self._watches):
            self._write(number, "objects", b"devices\n")  # so that it hears of what comes of others
        self._write(EVENTS, "objects", b"mount " + self._path_of_events() + b" id=1\n")
        fd = os.open(self._file(FULL, "objects"), os.O_WRONLY)
        reached = until_refused(lambda number: os.write(fd, f"mount /{number}{LONG} id=2\n".encode()), 1 << 20)
        os.close(fd)
        return reached

    @staticmethod
    def _path_of_events() -> bytes:
        return (b"/" + b"\xff" * 250) * 16  # its line of JSON has six bytes for each

    def fill_queues(self) -> Reached:
        for number in range(FULL, self._watches):
            self._deliver(number, self._depth + 1)
        return (self._watches - FULL) * self._depth, "a loss record"

    def read_logs(self) -> Reached:
        """A size is asked for, so the text is made."""
        return sum(os.stat(self._file(number, "log")).st_size for number in range(self._watches)), "bytes"

    def begin_threads(self) -> Reached:
        """Threads of the user's own login process in the simulated system."""
        fd = os.open(self._file(WAITS, "queue"), os.O_RDWR)

        def begin(number: int) -> None:
            process = f"login.{self._uid}".encode()
            name = f"{number:063}".encode()
            try:
                fcntl.ioctl(fd, ioctls.WQFS_IOC_WATCH_KEY_AS, ioctls.WATCH_KEY_AS.pack(KEY_SESSION, 1, process, name))
            except OSError as error:
                if error.errno not in NOT_OF_THE_THREAD:
                    raise

        reached = until_refused(begin, 1 << 20)
        os.close(fd)
        return reached

    def wait(self) -> Reached:
        """Reads that wait, each in a thread of its own."""
        fd = os.open(self._file(WAITS, "queue"), os.O_RDONLY)
        self._stays.append(fd)
        refused, refuse = os.pipe()
        for _ in range(HELPERS):
            if not os.fork():
                try:
                    _wait_in_threads(fd, refuse, self._threads)
                finally:
                    os._exit(1)
        os.close(refuse)
        os.set_blocking(refused, False)
        said, waiting = b"", 0
        end = time.monotonic() + 60.0
        while waiting + len(said.split()) < HELPERS * self._threads and time.monotonic() < end:
            time.sleep(0.2)
            with suppress(BlockingIOError):
                said += os.read(refused, 1 << 20)
            waiting = metric(self._mount, "waiting_readers")
        return waiting, " ".join({errno.errorcode[int(number)] for number in said.split()})

    def read_texts(self) -> Reached:
        """The first byte of a large text, by one file after the other."""

        def begin(number: int) -> None:
            self._open(FULL, "objects")
            os.read(self._fds[-1], 1)

        return until_refused(begin, FILES)

    def read_snapshots(self) -> Reached:
        """The same of the text of the whole system."""

        def begin(number: int) -> None:
            self._fds.append(os.open(self._mount / "sim/snapshot", os.O_RDONLY))
            os.read(self._fds[-1], 1)

        return until_refused(begin, 20)

    def write_filters(self) -> Reached:
        lines = ("#\U0001f600" + "x" * 4000 + "\n").encode() * 15

        def begin(number: int) -> None:
            self._open(FULL + number % 1000, "filter", os.O_WRONLY)
            os.write(self._fds[-1], lines)

        return until_refused(begin, FILES)

    def write_half_lines(self) -> Reached:
        def begin(number: int) -> None:
            self._open(FULL + number % 1000, "objects", os.O_WRONLY)
            os.write(self._fds[-1], b"x" * 4096)

        return until_refused(begin, FILES)

    def open_events(self) -> Reached:
        if self._first:
            while metric(self._mount, "kept_bytes") > 110 * MIB:
                self._deliver(FULL, 2000)  # else those that are opened here would be emptied first
            self._objects = os.open(self._file(EVENTS, "objects"), os.O_WRONLY)
            self._queue = os.open(self._file(EVENTS, "queue"), os.O_RDWR)
        return until_refused(lambda number: self._open(EVENTS, "events"), FILES)

    def read_half_events(self) -> Reached:
        """One long line in all of them, of which a byte is read."""
        if self._first:
            os.write(self._objects, b"-mount " + self._path_of_events() + b"\n")
        return until_refused(lambda number: os.read(self._fds[number], 1), len(self._fds))

    def fill_events(self) -> Reached:
        if self._first:
            for number in range(EVENTS_DEPTH):
                fcntl.ioctl(self._queue, ioctls.WQFS_IOC_DELIVER, to_deliver(number))
        return EVENTS_DEPTH * len(self._fds), ""

    def poll_events(self) -> Reached:
        epoll = select.epoll()
        self._stays.append(os.dup(epoll.fileno()))
        reached = until_refused(lambda number: epoll.register(self._fds[number], select.EPOLLIN), len(self._fds))
        epoll.poll(0)
        return reached

    # -- what every user may

    def make_one(self) -> Reached:
        def make(number: int) -> None:
            number = len(self._fds)
            os.mkdir(self._folder(number))
            self._open(number, "queue")

        return until_refused(make, 1)

    def read_one(self) -> Reached:
        """Within a second."""
        poll = select.poll()
        poll.register(self._fds[-1], select.POLLIN)
        if not poll.poll(1000):
            return 0, "no event"
        return len(os.read(self._fds[-1], 65536)), ""


def _wait_in_threads(fd: int, refuse: int, threads: int) -> None:
    """A process of nothing but threads that wait; says the errnos of those that may not."""

    def wait() -> None:
        try:
            os.read(fd, 4096)
        except OSError as error:
            os.write(refuse, b"%d\n" % (error.errno or 0))

    threading.stack_size(64 * 1024)
    for _ in range(threads):
        try:
            threading.Thread(target=wait, daemon=True).start()
        except RuntimeError:
            os.write(refuse, b"%d\n" % errno.EAGAIN)
    while True:
        signal.pause()


class Hand:
    """One process of a user."""

    def __init__(self, uid: int, work: Work) -> None:
        theirs, self._asks = os.pipe()
        self._hears, ours = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                for fd in (self._asks, self._hears):
                    os.close(fd)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                os.chdir("/")
                with open(theirs) as stages:
                    for stage in iter(stages.readline, ""):
                        try:
                            reached = getattr(work, stage.strip())()
                        except OSError as error:  # before there was anything to count
                            reached = 0, errno.errorcode[error.errno or 0]
                        os.write(ours, json.dumps(reached).encode() + b"\n")
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(theirs)
        os.close(ours)
        self._answers = open(self._hears)  # noqa: SIM115  until close()

    def ask(self, stage: str) -> None:
        os.write(self._asks, stage.encode() + b"\n")

    def answer(self) -> Reached:
        line = self._answers.readline()
        if not line:
            raise RuntimeError("a process of a user has ended")
        count, word = json.loads(line)
        return count, word

    def close(self) -> None:
        """End it, and all that it has started; once more does nothing."""
        if self._answers.closed:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._asks)
        self._answers.close()


class Users:
    """All hostile users, at the same stage at the same time."""

    def __init__(self, mount: Path, uids: Sequence[int], depth: int) -> None:
        threads = THREADS if len(uids) == 1 else min(THREADS, 18_000 // HELPERS // len(uids))
        removals = REMOVALS // len(uids)
        self._hands = [
            [
                Hand(uid, Work(mount, uid, first=not at, depth=depth, threads=threads, removals=removals))
                for at in range(HANDS)
            ]
            for uid in uids
        ]

    def run(self, stage: str) -> Reached:
        """What all have reached, and what they were told."""
        total, words = 0, set()
        going = list(self._hands)
        for at in range(HANDS if stage in WITH_ALL_HANDS else 1):
            for hands in going:
                hands[at].ask(stage)
            for hands in list(going):
                count, word = hands[at].answer()
                total += count
                if word:
                    words.add(word)
                    going.remove(hands)
        return total, " ".join(sorted(words))

    def let_go(self) -> None:
        for hand in self.hands:
            hand.ask("let_go")
            hand.answer()

    @property
    def hands(self) -> list[Hand]:
        return [hand for hands in self._hands for hand in hands]

    def close(self) -> None:
        for hand in self.hands:
            hand.close()
