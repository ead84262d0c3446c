"""What the tests of several files use: a mount, and the small change of system calls on it."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import dying
from tests.dying import daemon_of

ROOT = Path(__file__).resolve().parent.parent
MOUNT_COMMAND = (sys.executable, str(ROOT / "mount_wqfs.py"))
LIMIT = 20.0
"""Seconds that anything may take before a test calls it hung."""


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Wait until `condition()` is true; fails the test, naming `what`, after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {limit:g} s for {what}")
        time.sleep(0.005)


def is_mounted(path: Path) -> bool:
    """Whether a wqfs is mounted at `path`, from the mount table alone."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split(" ")[4] == str(path) and " - fuse.wqfs " in line for line in table)


def names_below(pid: int) -> list[str]:
    """What the processes are called that the supervisor and those below it have started."""
    found = subprocess.run(["pstree", "-p", str(pid)], capture_output=True, text=True, check=False)
    return re.findall(r"(wqfs[a-z-]*)\(\d+\)", found.stdout)


def children_of(pid: int) -> list[int]:
    """What the process has started and is there yet."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


class Mount:
    """A running wqfs. path: the mountpoint; process: the mount command, in the foreground."""

    def __init__(self, path: Path, options: str, log: Path) -> None:
        self.path = path
        self._log, self._options = log, options
        command = [*MOUNT_COMMAND, str(path), "-f", *(["-o", options] if options else [])]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_until(lambda: "mounted" in self.log() or self.process.poll() is not None, "the mount")
            if self.process.poll() is not None:
                pytest.fail(f"the mount command ended with {self.process.returncode}: {self.log()}")
        except BaseException:
            self.close()
            raise

    @property
    def daemon(self) -> int:
        """The pid of the daemon, which is not the mount command but with `-o nosurvive`. For a moment, while a
        checkpoint is made, none is to be seen."""
        if "nosurvive" in self._options.split(","):
            return self.process.pid
        end = time.monotonic() + 3
        while not (pid := daemon_of(self.process.pid)) and time.monotonic() < end:
            time.sleep(0.001)
        return pid or self.process.pid

    def log(self) -> str:
        """What the daemon has said so far."""
        return self._log.read_text(errors="replace")

    def post(self, *lines: str) -> None:
        """Write lines to `post`, each in a write of its own. Raises OSError as write(2) does."""
        fd = os.open(self.path / "post", os.O_WRONLY)
        try:
            for line in lines:
                os.write(fd, line.encode("utf-8", "surrogateescape") + b"\n")
        finally:
            os.close(fd)

    def watch(self, name: str = "w") -> Path:
        """mkdir watches/NAME; returns its folder."""
        folder = self.path / "watches" / name
        folder.mkdir()
        return folder

    def status(self, folder: Path) -> dict[str, int]:
        """The numbers of a watch's `status`."""
        return {name: int(value) for name, value in map(str.split, (folder / "status").read_text().splitlines())}

    def wait_for_readers(self, folder: Path, count: int = 1) -> None:
        """Wait until `count` reads wait on the watch's queue."""
        wait_until(lambda: self.status(folder)["readers"] >= count, f"{count} waiting readers")

    def wait_for_pollers(self, folder: Path, count: int = 1) -> None:
        """Wait until `count` open files have a poll waiting on the watch's queue."""
        wait_until(lambda: self.status(folder)["pollers"] >= count, f"{count} waiting pollers")

    def assert_no_error(self) -> None:
        """Fail the test if the daemon logged an error."""
        assert "Traceback" not in self.log(), self.log()
        assert "ERROR" not in self.log(), self.log()

    def close(self) -> None:
        """Unmount at once, end the daemon, wait for it."""
        subprocess.run(
            ["fusermount3", "-uz", "-q", "--", str(self.path)],
            check=False,
            capture_output=True,
            timeout=LIMIT,
        )
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT)


@contextmanager
def mounted(folder: Path, options: str = "") -> Iterator[Mount]:
    """A wqfs in `folder`/mnt with its log beside it; gone at the end, and it must have logged no error."""
    path = folder / "mnt"
    path.mkdir()
    mount = Mount(path, options, folder / "log")
    try:
        yield mount
    finally:
        mount.close()
    mount.assert_no_error()


# -- records and calls

AT_ONCE = 5.0
"""Seconds within which what happens at once has happened, on a busy machine too."""
NO_WAIT = os.O_NONBLOCK
HEADER = struct.Struct("=II")
NUMBER = struct.Struct("=I")
META_LOSS = HEADER.pack(0 | 1 << 24, 8)


def record(number: int, length: int = 16) -> bytes:
    """A record of `length` bytes, 12..127, that carries `number`: of type KEY_NOTIFY, subtype updated."""
    return (HEADER.pack(1 | 1 << 24, length) + NUMBER.pack(number)).ljust(length, b"\xa5")


def numbers(data: bytes) -> list[int]:
    """What the records in `data` carry; fails unless they are whole."""
    found = []
    while data:
        _, info = HEADER.unpack_from(data)
        assert 12 <= info & 0x7F <= len(data), f"a split record: {data.hex()}"
        found.append(NUMBER.unpack_from(data, HEADER.size)[0])
        data = data[info & 0x7F :]
    return found


def deliver(mount: Mount, *records: bytes) -> None:
    """Make exactly these records happen, in one write."""
    fd = os.open(mount.path / "sim/records", os.O_WRONLY)
    try:
        data = b"".join(records)
        assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def drain(fd: int, size: int = 65536) -> bytes:
    """All there is, by reads of `size` bytes."""
    parts = []
    try:
        while data := os.read(fd, size):
            parts.append(data)
    except BlockingIOError:
        pass
    return b"".join(parts)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor, closed at the end."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with suppress(OSError):
            os.close(fd)


@contextmanager
def refused(number: int) -> Iterator[None]:
    """What is done inside raises OSError with the errno `number`."""
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode.get(caught.value.errno or 0) == errno.errorcode[number]


@contextmanager
def running(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, dead and reaped at the end whatever happened."""
    process = subprocess.Popen([str(word) for word in command], **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


class Call:
    """A system call in a thread of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._answer: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._answer = function(*arguments)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def result(self, limit: float = LIMIT) -> Any:
        """What the call returned; raises what it raised; fails the test after `limit` seconds."""
        self._thread.join(limit)
        if self._thread.is_alive():
            pytest.fail(f"the call did not return within {limit:g} s")
        if self._error is not None:
            raise self._error
        return self._answer


def metric(mount: Mount, name: str) -> int:
    """The number of `wqfs_NAME` in the mount's `metrics`."""
    return dying.metric(mount.path, name)


def wait_for_tracer(pid: int) -> None:
    """Wait until somebody traces the process: strace -p takes a moment."""
    wait_until(lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), "strace to attach")


def waiting_readers(mount: Mount) -> int:
    """Reads that wait anywhere on the mount: those on the root's queue have no `status`."""
    return metric(mount, "waiting_readers")


def wait_for_any_readers(mount: Mount, count: int) -> None:
    wait_until(lambda: waiting_readers(mount) == count, f"{count} reads that wait")


@contextmanager
def new_watch(mount: Mount, names: Iterator[int] = itertools.count()) -> Iterator[Path]:  # noqa: B008
    """A watch under a name that no other has, removed at the end."""
    watch = mount.watch(f"w{next(names)}")
    try:
        yield watch
    finally:
        with suppress(FileNotFoundError):
            watch.rmdir()


def set_flags(fd: int, add: int = 0, take: int = 0) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~take | add)


def later(function: Callable[..., None], *arguments: object) -> threading.Thread:
    """Call it a moment after somebody began to wait."""

    def run() -> None:
        time.sleep(0.3)
        function(*arguments)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@contextmanager
def waiting(mount: Mount, call: Callable[[], object]) -> Iterator[Call]:
    """A call in a thread that waits on the mount."""
    asked = Call(call)
    wait_until(lambda: waiting_readers(mount) == 1, "a call that waits")
    yield asked
