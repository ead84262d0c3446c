"""Asking the mount: what a call does to the simulated system, and which descriptors are its queues."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wqfs.abi import ioctls
from wqfs.client import Queue
from wqfs.fs import nodes

if TYPE_CHECKING:
    from wqfs.run.tasks import Task

_CHUNK: Final = 1 << 16
_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Constructing:
    """A key that a request made, which somebody has to complete."""

    serial: int


class System:
    """The simulated system of a mount. Raises OSError when it cannot be opened: it is for who mounted it."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self._fd = os.open(mount / "sim/calls", os.O_RDWR | os.O_CLOEXEC)
        self._post = os.open(mount / "post", os.O_WRONLY | os.O_CLOEXEC)
        self._device = os.fstat(self._fd).st_dev

    # -- calls

    def call(self, task: Task | None, process: str, name: str, *arguments: int | bytes | str | None) -> Any:
        """Carry out the call `name` (wqfs.sim.calls) for a thread, None for nobody's, as the process that the
        simulated system calls `process`, "" for the user's login.

        Returns a number, bytes, or Constructing. Raises OSError as the kernel would refuse, its text the reason.
        """
        who: dict[str, Any] = {"uid": 0, "gid": 0, "groups": (), "process": process, "thread": ""}
        if task is not None:
            who.update(uid=task.uid, gid=task.gid, groups=task.groups, thread=task.thread if process else "")
        args = [each.decode("latin-1") if isinstance(each, bytes) else each for each in arguments]
        self._write(json.dumps({**who, "call": name, "args": args}, separators=(",", ":")).encode() + b"\n")
        answer = json.loads(self._read())
        if "errno" in answer:
            raise OSError(answer["errno"], answer["reason"])
        if "data" in answer:
            return answer["data"].encode("latin-1")
        return Constructing(answer["constructing"]) if "constructing" in answer else answer["value"]

    def _write(self, request: bytes) -> None:
        if os.pwrite(self._fd, request, 0) != len(request):
            raise OSError(errno.EIO, "sim/calls took a part of a request")

    def _read(self) -> bytes:
        answer = os.pread(self._fd, _CHUNK, 0)
        while answer[-1:] != b"\n":
            more = os.pread(self._fd, _CHUNK, len(answer))
            if not more:
                raise OSError(errno.EIO, "sim/calls gave no whole answer")
            answer += more
        return answer

    def post(self, line: str) -> None:
        """Carry out a line of the command language. Raises OSError as it is refused."""
        os.write(self._post, os.fsencode(line) + b"\n")

    # -- queues

    def new_queue(self, flags: int) -> tuple[int, int]:
        """A queue's read and write end, which nothing else holds; flags: O_NONBLOCK or 0.

        Raises OSError: ENFILE where the user has as many as the mount allows.
        """
        folder = self.mount / "watches" / f"pipe.{os.getpid()}.{next(_names)}"
        try:
            os.mkdir(folder)
        except OSError as error:
            raise OSError(errno.ENFILE if error.errno == errno.EDQUOT else error.errno, error.strerror) from None
        reader = -1
        try:
            reader = os.open(folder / "queue", os.O_RDONLY | os.O_CLOEXEC | flags)
            return reader, os.open(folder / "queue", os.O_WRONLY | os.O_CLOEXEC | flags)
        except OSError:
            if reader >= 0:
                os.close(reader)
            raise
        finally:
            os.rmdir(folder)

    def constructions(self) -> Queue:
        """A queue that hears of every key that is instantiated, and of nothing else."""
        folder = self.mount / "watches" / f"run.{os.getpid()}"
        folder.mkdir()
        try:
            (folder / "objects").write_text("everything\n")
            return Queue.open(folder, depth=512, filter="key instantiated")
        finally:
            folder.rmdir()

    def is_queue(self, fd: int) -> bool:
        """Whether a descriptor of this process is of a queue of the mount."""
        about = os.fstat(fd)
        if about.st_dev != self._device:
            return False
        try:
            place, _ = nodes.place_of(about.st_ino)
        except KeyError:
            return False
        return place in (nodes.QUEUE, nodes.ROOT_QUEUE)

    def number(self, fd: int) -> int:
        """What tells a queue of watches/, or one that `new_queue` made, from the others. Raises OSError EINVAL for
        any other descriptor."""
        about = os.fstat(fd)
        if self.is_queue(fd) and nodes.place_of(about.st_ino)[0] is nodes.QUEUE:
            return about.st_ino
        raise OSError(errno.EINVAL, f"descriptor {fd} is no notification pipe")

    def deliver(self, fd: int, record: bytes) -> None:
        """Put a record into a queue; b"" only makes it hear of nothing else. Raises OSError."""
        fcntl.ioctl(fd, ioctls.WQFS_IOC_DELIVER, bytearray(ioctls.DELIVER.pack(len(record), record)))

    def queued(self, fd: int) -> ioctls.Queued:
        """What a queue holds."""
        answer = fcntl.ioctl(fd, ioctls.WQFS_IOC_QUEUED, bytes(ioctls.QUEUED.size))
        return ioctls.Queued(*ioctls.QUEUED.unpack(answer))

    def set_filter(self, fd: int, encoded: bytes, count: int) -> None:
        """IOC_WATCH_QUEUE_SET_FILTER with a filter of `count` rules as bytes, 0 removes it. Raises OSError."""
        fcntl.ioctl(fd, ioctls.wqfs_ioc_set_filter(count), bytearray(encoded), True)

    def watch_key(self, fd: int, key: int, watch_id: int, process: str, thread: str) -> None:
        """KEYCTL_WATCH_KEY for a process of the simulated system. Raises OSError."""
        request = ioctls.WATCH_KEY_AS.pack(key, watch_id, process.encode(), thread.encode())
        fcntl.ioctl(fd, ioctls.WQFS_IOC_WATCH_KEY_AS, bytearray(request), True)

    def watch_mount(self, fd: int, path: bytes, watch_id: int) -> None:
        """Let a queue watch the mount at a path, or its directory there; -1 stops it. Raises OSError."""
        fcntl.ioctl(fd, ioctls.WQFS_IOC_WATCH_MOUNT, bytearray(_watched_path(path, watch_id)), True)

    def watch_sb(self, fd: int, id_: bytes, watch_id: int) -> None:
        """Let a queue watch the superblock with an id; -1 stops it. Raises OSError."""
        fcntl.ioctl(fd, ioctls.WQFS_IOC_WATCH_SB, bytearray(_watched_path(id_, watch_id)), True)


def _watched_path(path: bytes, watch_id: int) -> bytes:
    if len(path) >= ioctls.PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return ioctls.WATCH_PATH.pack(watch_id, path)
