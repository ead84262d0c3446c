"""The faces of the replay of mounts.json: one case's watch, command lines and mount table.

`core` is in memory; `mount` is `post`, `objects` and `queue` of a fresh mount with
`-o strict,enobufs`; `run` is in mounts_run_face. The queue is 512 deep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.conformance.fresh_mount import fresh_mount
from tests.conformance.mounts_run_face import RunMounts, read_all, run_mounts
from wqfs.sim import objects, views
from wqfs.sim.command import ROOT
from wqfs.sim.system import System
from wqfs.watches import Watches

DEPTH = 512
_CHUNK = 4096


class CoreMounts:
    """One case, in memory."""

    def __init__(self) -> None:
        self._system = System(Watches(strict=True), now_ns=0)
        self._watch = self._system.watches.make("", 0, 0, 0)
        self._watch.queue.set_size(DEPTH)

    def mkdir(self, paths: list[str]) -> None:
        """Nothing: every path is a place."""

    def run(self, line: str) -> None:
        """Carry out a command line. Raises OSError for one that is refused."""
        self._system.run(line, ROOT, 0)

    def watch(self, line: str) -> None:
        """A line for `objects`. Raises OSError."""
        objects.apply(self._system, self._watch, line, ROOT, 0)

    def read(self) -> bytes:
        """The records that are queued."""
        raw = b""
        while more := self._watch.queue.read(_CHUNK):
            raw += more
        return raw

    def mountinfo(self) -> str:
        return views.mountinfo(self._system.mounts)


@contextmanager
def core_mounts() -> Iterator[CoreMounts]:
    yield CoreMounts()


class RealMounts:
    """One case, on a mount."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._folder = mount / "watches/case"
        self._folder.mkdir()
        (self._folder / "depth").write_text(f"{DEPTH}\n")
        self._queue = os.open(self._folder / "queue", os.O_RDONLY | os.O_NONBLOCK)

    def mkdir(self, paths: list[str]) -> None:
        """Nothing."""

    def run(self, line: str) -> None:
        _write(self._mount / "post", line)

    def watch(self, line: str) -> None:
        _write(self._folder / "objects", line)

    def read(self) -> bytes:
        return read_all(self._queue)

    def mountinfo(self) -> str:
        return (self._mount / "sim/mountinfo").read_text(errors="surrogateescape")

    def close(self) -> None:
        os.close(self._queue)


def _write(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, line.encode("utf-8", "surrogateescape") + b"\n")
    finally:
        os.close(fd)


@contextmanager
def real_mounts() -> Iterator[RealMounts]:
    with fresh_mount() as mount:
        face = RealMounts(mount)
        try:
            yield face
        finally:
            face.close()


Face = CoreMounts | RealMounts | RunMounts
FACES: dict[str, Callable[[], AbstractContextManager[Face]]] = {
    "core": core_mounts,
    "mount": real_mounts,
    "run": run_mounts,
}

_OCTAL = re.compile(r"\\([0-7]{3})")


def mountpoints(mountinfo: str) -> dict[int, str]:
    """Mount ids and mountpoints of a mountinfo."""
    fields = [line.split(" ") for line in mountinfo.splitlines()]
    return {int(line[0]): _OCTAL.sub(lambda match: chr(int(match[1], 8)), line[4]) for line in fields}
