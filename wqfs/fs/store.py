"""The service manager's store of descriptors: where a mount is left for the next process of the service.

Left are the descriptor of /dev/fuse, which keeps the connection and all who wait in it, and the mount's state in a
sealed memory file (sd_notify(3), FDSTORE=1; FileDescriptorStoreMax= of the unit). The manager gives them to the next
process that it starts for the service (sd_listen_fds(3)), and closes them when the service has stopped for good.

    a line of JSON   where the mount is: "mountpoint", and "device", `major:minor` in mountinfo
    the state        of a Left, by wqfs.fs.state

With `user=` that user has written it, and root is the first to read: so root reads the line, and looks whether the rest
is whole and of this format; it is made into objects by who serves, as that user (`load`).
"""

from __future__ import annotations

import fcntl
import json
import os
import select
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wqfs.fs import mounting, state, supervision

if TYPE_CHECKING:  # whoever only holds what was left does without all that serves
    from wqfs.fs.nodes import Place
    from wqfs.fs.recorder import Recorder

FUSE: Final = "wqfs-fuse"
STATE: Final = "wqfs-state"
_PROBE: Final = "wqfs-probe"
"""A pipe's end whose other end sees whether the manager keeps what it is sent: it gets room last."""
_FIRST_FD: Final = 3
_LINE_MAX: Final = 1 << 16
_BARRIER_S: Final = 10.0
_MFD_NOEXEC_SEAL: Final = 8
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class LeftInStore(BaseException):
    """Raised where a mount was left in the store: this process serves it no longer."""


class Left:
    """What is written down of a mount. listings: open directories, see Names."""

    def __init__(self, recorder: Recorder, listings: dict[int, tuple[Place, int, int, int]], last_listing: int) -> None:
        self.recorder = recorder
        self.listings = listings
        self.last_listing = last_listing


@dataclass(slots=True)
class Found:
    """Descriptors that the manager kept: of /dev/fuse, and of the state; -1 for one that is not there. device: where
    the state says that its mount is, once that is known."""

    fuse_fd: int
    state_fd: int
    device: str = ""

    def check(self, mountpoint: str) -> mounting.Mounted:
        """See whether it is of the mount at `mountpoint`, which is still there and returned, and can be read here.
        Raises StateRefused: a sentence why it cannot go on."""
        if self.fuse_fd < 0 or self.state_fd < 0:
            raise state.StateRefused(f"the store has no {FUSE if self.fuse_fd < 0 else STATE}")
        line, data = _read(self.state_fd)
        state.check(data)
        try:
            label = json.loads(line)
            where, self.device = str(label["mountpoint"]), str(label["device"])
        except (ValueError, LookupError, TypeError):
            raise state.StateRefused("it does not say where its mount is") from None
        there = mounting.mounted_at(mountpoint)
        if where != mountpoint or there is None or (there.type, there.device) != ("fuse.wqfs", self.device):
            raise state.StateRefused(f"its mount, at {where}, is no longer there")
        return there

    def close(self) -> None:
        """Let go of them, and with the last of /dev/fuse of the mount's connection."""
        for fd in (self.fuse_fd, self.state_fd):
            if fd >= 0:
                os.close(fd)


def load(state_fd: int) -> Left:
    """What `check` has looked at; closes the descriptor. Raises StateRefused."""
    try:
        _, data = _read(state_fd)
    finally:
        os.close(state_fd)
    left = state.load(data)
    if not isinstance(left, Left):
        raise state.StateRefused("it is of something else than a mount")
    return left


def _read(state_fd: int) -> tuple[bytes, memoryview]:
    """The line, and the state."""
    try:
        size = os.fstat(state_fd).st_size
        if fcntl.fcntl(state_fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise state.StateRefused("its memory file is not sealed")
        data = bytearray(size)
        done = 0
        while done < size and (count := os.preadv(state_fd, [memoryview(data)[done:]], done)):
            done += count
    except OSError as error:
        raise state.StateRefused(f"it cannot be read: {error.strerror}") from None
    end = data.find(b"\n", 0, _LINE_MAX) + 1
    return bytes(data[:end]), memoryview(data)[end:]


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


def forget(*, wait: bool = False) -> None:
    """Let the manager close what it keeps of us: it is taken up, or stale. wait: until it has."""
    for name in (FUSE, STATE, _PROBE):
        supervision.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
    if wait:
        _barrier()


def leave(mountpoint: str, device: str, left: Left, fuse_fd: int) -> str:
    """Write a mount down and give it to the manager. Returns "" when the manager has it, else why not, and then it
    has nothing. device: `major:minor` in mountinfo."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return "there is no service manager to keep it (NOTIFY_SOCKET is not set)"
    complaint = ""
    fds: list[int] = []
    try:
        label = json.dumps({"mountpoint": mountpoint, "device": device})
        fds.append(_sealed(label.encode() + b"\n" + state.dump(left)))
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
    except OSError as error:
        complaint = str(error.strerror)
    finally:
        for fd in fds:
            os.close(fd)
    if complaint:
        forget()
    return complaint


def _sealed(data: bytes) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(STATE, flags | _MFD_NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        fd = os.memfd_create(STATE, flags)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
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
