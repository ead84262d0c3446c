"""The face `run` of the replay of mounts.json: the very command lines, by mount(8) and umount(8), in a process under
`wqfs run --mounts simulated`, and watches by watch_mount on a queue of pipe2.

mount(8) insists on root. Each case has a simulated tmpfs of its own for its root, and real directories below it, for
mount(8) looks at them; nothing is mounted there on the machine. `umount -R` is one umount for each mount, deepest
first: umount(8) would look for them in /proc/self/mountinfo, which is the machine's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wqfs.abi import ioctls
from wqfs.run.numbers import O_NOTIFICATION_PIPE
from wqfs.sim.language import split

DEPTH = 512
_WATCH_MOUNT = 501
_INSIDE = "WQFS_REPLAY_MOUNTS_INSIDE"
_AT_FDCWD = -100
_CHUNK = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def is_inside() -> bool:
    """Whether this process is under `wqfs run` already."""
    return _INSIDE in os.environ


def again_inside(paths: list[str]) -> int:
    """The replay of these files in a process under `wqfs run`; returns its exit status."""
    options = ["--mounts", "simulated", "--watch-mount-nr", str(_WATCH_MOUNT)]
    command = [sys.executable, "-m", "wqfs.cli", "run", *options, "--"]
    command += [sys.executable, "-m", "tests.conformance.replay_mounts", "--face", "run", *paths]
    return subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode


class RunMounts:
    """One case. base: its root."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._queue, self._writer = os.pipe2(O_NOTIFICATION_PIPE | os.O_NONBLOCK)
        fcntl.ioctl(self._queue, ioctls.IOC_WATCH_QUEUE_SET_SIZE, DEPTH)
        _command("mount", "-t", "tmpfs", "case", base)

    def mkdir(self, paths: list[str]) -> None:
        for path in paths:
            os.makedirs(self._base + path, exist_ok=True)

    def run(self, line: str) -> None:
        words = [self._base + word if word[:1] == "/" else word for word in shlex.split(line)]
        if words[:2] == ["umount", "-R"]:
            below = [at for at in self._table().values() if at == words[2] or at.startswith(words[2] + "/")]
            for path in sorted(below, reverse=True):
                _command("umount", path)
        else:
            _command(*words)

    def watch(self, line: str) -> None:
        """A line as `objects` has it: `mount PATH id=N`, or with a - before it."""
        words = split(line)
        watch_id = -1 if line[0] == "-" else int(words[2].removeprefix("id="))
        path = (self._base + words[1]).rstrip("/").encode()
        numbers = [ctypes.c_long(number) for number in (_WATCH_MOUNT, _AT_FDCWD, 0, self._queue, watch_id)]
        if _libc.syscall(numbers[0], numbers[1], path, *numbers[2:]):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def read(self) -> bytes:
        return read_all(self._queue)

    def _lines(self) -> list[list[str]]:
        """The simulated mounts of the case."""
        text = Path(os.environ["WQFS_MOUNT"], "sim/mountinfo").read_text(errors="surrogateescape")
        lines = [line.split(" ") for line in text.splitlines()]
        return [line for line in lines if line[4] == self._base or line[4].startswith(self._base + "/")]

    def _table(self) -> dict[int, str]:
        return {int(line[0]): line[4] for line in self._lines()}

    def mountinfo(self) -> str:
        """With mountpoints seen from the case's root."""
        lines = [[*line[:4], line[4][len(self._base) :] or "/", *line[5:]] for line in self._lines()]
        return "".join(" ".join(line) + "\n" for line in lines)

    def close(self) -> None:
        os.close(self._queue)
        os.close(self._writer)
        _command("umount", "-l", self._base)


def read_all(queue: int) -> bytes:
    """What is in a queue that does not block."""
    raw = b""
    try:
        while more := os.read(queue, _CHUNK):
            raw += more
    except BlockingIOError:
        pass
    return raw


def _command(*words: str) -> None:
    """Run mount(8) or umount(8). Raises OSError when it failed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr}")


@contextmanager
def run_mounts() -> Iterator[RunMounts]:
    with tempfile.TemporaryDirectory(prefix="wqfs-case-") as base:
        face = RunMounts(base)
        try:
            yield face
        finally:
            face.close()
