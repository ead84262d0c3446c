"""The service manager's store of descriptors: where a mount is left for the next process of the service.

Left are the descriptor of /dev/fuse, which keeps the connection and all who wait in it, and the mount's state in a
sealed memory file (sd_notify(3), FDSTORE=1; FileDescriptorStoreMax= of the unit). The manager gives them to the next
process that it starts for the service (sd_listen_fds(3)), and closes them when the service has stopped for good.
"""

from __future__ import annotations

import fcntl
import os
import select
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from wqfs.fs import mounting, state, supervision
from wqfs.fs.nodes import Place
from wqfs.fs.recorder import Recorder

FUSE: Final = "wqfs-fuse"
STATE: Final = "wqfs-state"
_PROBE: Final = "wqfs-probe"
"""A pipe's end whose other end sees whether the manager keeps what it is sent: it gets room last."""
_FIRST_FD: Final = 3
_BARRIER_S: Final = 10.0
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class LeftInStore(BaseException):
    """Raised where a mount was left in the store: this process serves it no longer."""


class Left:
    """What is written down of a mount. device: `major:minor` in mountinfo; listings: open directories, see Names."""

    def __init__(
        self,
        mountpoint: str,
        device: str,
        recorder: Recorder,
        listings: dict[int, tuple[Place, int, int, int]],
        last_listing: int,
    ) -> None:
        self.mountpoint = mountpoint
        self.device = device
        self.recorder = recorder
        self.listings = listings
        self.last_listing = last_listing


@dataclass(frozen=True, slots=True)
class Found:
    """Descriptors that the manager kept: of /dev/fuse, and of the state; -1 for one that is not there."""

    fuse_fd: int
    state_fd: int

    def read(self, mountpoint: str) -> Left:
        """What was left at `mountpoint`. Raises StateRefused: a sentence why it cannot go on."""
        if self.fuse_fd < 0 or self.state_fd < 0:
            raise state.StateRefused(f"the store has no {FUSE if self.fuse_fd < 0 else STATE}")
        try:
            size = os.fstat(self.state_fd).st_size
            if fcntl.fcntl(self.state_fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise state.StateRefused("its memory file is not sealed")
            data = os.pread(self.state_fd, size, 0)
            while len(data) < size and (more := os.pread(self.state_fd, size - len(data), len(data))):
                data += more
        except OSError as error:
            raise state.StateRefused(f"it cannot be read: {error.strerror}") from None
        left = state.load(data)
        if not isinstance(left, Left):
            raise state.StateRefused("it is of something else than a mount")
        there = mounting.mounted_at(mountpoint)
        if left.mountpoint != mountpoint or there is None or (there.type, there.device) != ("fuse.wqfs", left.device):
            raise state.StateRefused(f"its mount, at {left.mountpoint}, is no longer there")
        return left

    def close(self) -> None:
        """Let go of them, and with the last of /dev/fuse of the mount's connection."""
        for fd in (self.fuse_fd, self.state_fd):
            if fd >= 0:
                os.close(fd)


def find() -> Found | None:
    """What the manager kept for this process, if anything; to be asked once, before descriptors are opened."""
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return None
    found = {FUSE: -1, STATE: -1}
    for fd, name in zip(range(_FIRST_FD, _FIRST_FD + int(count)), names.split(":"), strict=False):
        if name in (FUSE, STATE, _PROBE):
            with suppress(OSError):
                os.set_inheritable(fd, False)
                if name == _PROBE or found[name] >= 0:
                    os.close(fd)
                else:
                    found[name] = fd
    return Found(found[FUSE], found[STATE]) if max(found.values()) >= 0 else None


def forget() -> None:
    """Let the manager close what it keeps of us: it is taken up, or stale."""
    for name in (FUSE, STATE, _PROBE):
        supervision.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def leave(left: Left, fuse_fd: int) -> str:
    """Write a mount down and give it to the manager. Returns "" when the manager has it, else why not, and then it
    has nothing."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return "there is no service manager to keep it (NOTIFY_SOCKET is not set)"
    fds: list[int] = []
    try:
        fds.append(_sealed(state.dump(left)))
        hears, says = os.pipe2(os.O_CLOEXEC)
        fds += [hears, says]
        sent = all(
            supervision.notify(f"FDSTORE=1\nFDNAME={name}", fd)
            for name, fd in ((FUSE, fuse_fd), (STATE, fds[0]), (_PROBE, says))
        )
        os.close(fds.pop())
        if not sent or not _barrier():
            complaint = "the service manager does not answer"
        elif _is_ready(hears, 0.0):
            complaint = "the service manager keeps no descriptors for it (FileDescriptorStoreMax=)"
        else:
            return ""
        forget()
        return complaint
    except OSError as error:
        forget()
        return f"{error.strerror}"
    finally:
        for fd in fds:
            os.close(fd)


def _sealed(data: bytes) -> int:
    fd = os.memfd_create(STATE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _barrier() -> bool:
    """Wait until the manager has handled all that it was told before (sd_notify_barrier(3)): what a process says last
    is lost if it ends before."""
    hears, says = os.pipe2(os.O_CLOEXEC)
    try:
        sent = supervision.notify("BARRIER=1", says)
        os.close(says)
        return sent and _is_ready(hears, _BARRIER_S)
    finally:
        os.close(hears)


def _is_ready(fd: int, seconds: float) -> bool:
    """Whether the other end of a pipe is closed, everywhere, within that time."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(seconds * 1000))
