"""Mounting and unmounting with fusermount3, and what can be known without touching the mount.

A mountpoint is never looked at with stat before it is mounted: under an automount that would wait
for the very mount that is being made. What is known comes from the text of /proc/self/mountinfo
and from the errors of mounting.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from wqfs.fs.options import Options

log = logging.getLogger(__name__)

FUSE_DEVICE: Final = "/dev/fuse"
_FUSERMOUNT_LIMIT: Final = 20  # seconds; it does nothing slow


TIMEOUT_CHECK: Final = 15
"""Seconds between the kernel's looks for requests that are too old (FUSE_TIMEOUT_TIMER_FREQ)."""


class MountFailed(Exception):
    """Mounting failed. A sentence with the next step; exit_code as mount(8) has them:
    1 usage or permission, 2 system error, 32 mount failure."""

    def __init__(self, sentence: str, exit_code: int = 32) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def _fusermount() -> str:
    # mount(8) runs helpers without PATH.
    found = shutil.which("fusermount3") or shutil.which("fusermount3", path="/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise MountFailed("fusermount3 is not installed: install the package fuse3 and try again.", 2)
    return found


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of /proc/self/mountinfo, as far as it is of use: device is `major:minor`; parent is the number of the
    mount that it is on; options are the mount's own, super_options the filesystem's."""

    mountpoint: str
    device: str
    type: str
    number: int
    parent: int
    options: str
    source: str
    super_options: str


def mount_table() -> list[Mounted]:
    """What this process's mount namespace has mounted, in the kernel's order."""
    with open("/proc/self/mountinfo", "rb") as file:
        return read_mount_table(file)


def read_mount_table(file: BinaryIO) -> list[Mounted]:
    """The same from mountinfo, open already: who reads it again needs no further descriptor."""
    file.seek(0)
    table = []
    for raw in file:
        fields = raw.split(b" ")
        type_, source, super_options = fields[fields.index(b"-") + 1 :][:3]
        table.append(
            Mounted(
                mountpoint=_unescaped(fields[4]),
                device=fields[2].decode(),
                type=type_.decode(),
                number=int(fields[0]),
                parent=int(fields[1]),
                options=fields[5].decode(),
                source=_unescaped(source),
                super_options=os.fsdecode(super_options.rstrip()),
            )
        )
    return table


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes((int(match[1], 8),)), field))


def mounted_at(mountpoint: str) -> Mounted | None:
    """The topmost filesystem mounted exactly at `mountpoint` (an absolute path), or None."""
    return topmost(mount_table(), mountpoint)


def topmost(table: list[Mounted], mountpoint: str) -> Mounted | None:
    """Of the mounts at that path the one that no other there is on. The table's order does not tell: it is that of
    their making, and a mount can be moved."""
    here = [mount for mount in table if mount.mountpoint == mountpoint]
    covered = {mount.parent for mount in here}
    return next((mount for mount in reversed(here) if mount.number not in covered), None)


def device_at(mountpoint: str) -> str:
    """The device number, `major:minor`, of what is mounted there; "" where nothing is seen to be."""
    with suppress(OSError):
        there = mounted_at(mountpoint)
        return "" if there is None else there.device
    return ""


def resolved(path: str) -> str:
    """As os.path.realpath, but the last part is not looked at, where a mount may be that nobody serves yet: readlink(2)
    of a directory asks no filesystem."""
    for _ in range(40):
        folder, name = os.path.split(os.path.abspath(path))
        path = os.path.join(os.path.realpath(folder), name)
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            break
    return path


def request_time_limit() -> int | None:
    """Seconds after which the kernel ends a mount that left a request unanswered; None without.

    Linux 6.15 and later, where an administrator set fs.fuse.max_request_timeout or
    default_request_timeout; the values at the time of the mount count, and below 15 they mean 15.
    """
    limits = []
    for name in ("max_request_timeout", "default_request_timeout"):
        try:
            with open(f"/proc/sys/fs/fuse/{name}", encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):
            continue
    limit = min((value for value in limits if value), default=None)
    return None if limit is None else max(limit, TIMEOUT_CHECK)


def mount(mountpoint: str, options: Options) -> int:
    """Mount at `mountpoint`, an absolute path; returns the descriptor of /dev/fuse, non-blocking.

    Raises MountFailed.
    """
    if not os.path.exists(FUSE_DEVICE):
        raise MountFailed(
            "/dev/fuse is missing: load the kernel module (modprobe fuse), or start the container "
            "with --device /dev/fuse, or mount outside it (wqfs handover).", 2
        )  # fmt: skip
    there = mounted_at(mountpoint)
    if there is not None and there.type == "fuse.wqfs" and is_dead(mountpoint):
        unmount(mountpoint, lazy=True)
        there = mounted_at(mountpoint)
    if there is not None and there.type != "autofs":
        raise MountFailed(
            f"{mountpoint} has a {there.type} filesystem mounted on it already: choose another folder, or "
            f"unmount it first (fusermount3 -u {mountpoint})."
        )
    if there is None:
        _check_folder(mountpoint)
    for path in (__file__, sys.prefix):
        if os.path.commonpath((mountpoint, os.path.realpath(path))) == mountpoint:
            raise MountFailed(
                f"{mountpoint} holds {path}, which wqfs needs while it is mounted: choose another folder.", 1
            )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.Popen(
            [_fusermount(), "-o", _mount_options(options), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        try:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            _, complaint = done.communicate(timeout=_FUSERMOUNT_LIMIT)
        except subprocess.TimeoutExpired:
            done.kill()
            raise MountFailed(f"fusermount3 did not end within {_FUSERMOUNT_LIMIT} s.", 2) from None
    if not fds:
        raise _explained(complaint.decode("utf-8", "replace"), mountpoint)
    os.set_blocking(fds[0], False)
    os.set_inheritable(fds[0], False)
    return fds[0]


_FUSE_NUMBER: Final = os.makedev(10, 229)
"""Of /dev/fuse, wherever it is."""


def taken_over(fd: int) -> int:
    """A descriptor of /dev/fuse that somebody else mounted, ready to be served. Raises MountFailed for another."""
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _FUSE_NUMBER:
        raise MountFailed(f"descriptor {fd} is not one of {FUSE_DEVICE}.", 1)
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return fd


def _check_folder(mountpoint: str) -> None:
    """Refuse what is no directory: fusermount3 mounts on a file too. Not for an automount's place."""
    try:
        mode = os.stat(mountpoint).st_mode
    except FileNotFoundError:
        raise MountFailed(f"{mountpoint} does not exist: make it first (mkdir -p {mountpoint}).") from None
    except OSError:
        return  # fusermount3 says why
    if not stat.S_ISDIR(mode):
        raise MountFailed(f"{mountpoint} is not a directory: wqfs is mounted on a folder.")


def _mount_options(options: Options) -> str:
    fsname = options.fsname.replace("\\", "\\\\").replace(",", "\\,")
    words = ["nosuid", "nodev", f"fsname={fsname}", "subtype=wqfs", "default_permissions"]
    if options.allow_other or options.allow_root:
        words.append("allow_other")
    if options.ro:
        words.append("ro")
    return ",".join(words + [word for word in options.kernel if word not in ("suid", "dev")])


def is_dead(mountpoint: str) -> bool:
    """Whether a mount's server is gone: asked of a mount that is known to be wqfs's own. A live one that hangs is
    waited for."""
    try:
        os.statvfs(mountpoint)  # never answered from a cache, as stat is
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _explained(complaint: str, mountpoint: str) -> MountFailed:
    """What fusermount3 said, as a sentence with the next step."""
    text = re.sub(r"^(\S*/)?fusermount3: ", "", complaint.strip(), flags=re.MULTILINE)
    low = text.lower()
    if "user_allow_other" in low:
        return MountFailed(
            "allow_other is not permitted to you: root must put a line `user_allow_other` into "
            "/etc/fuse.conf, or leave the option out.", 1
        )  # fmt: skip
    if "no such file or directory" in low and "bad mount point" in low:
        return MountFailed(f"{mountpoint} does not exist: make it first (mkdir -p {mountpoint}).")
    if "not a directory" in low:
        return MountFailed(f"{mountpoint} is not a directory: wqfs is mounted on a folder.")
    if "failed to open /dev/fuse" in low and "permission denied" in low:
        return MountFailed(
            "/dev/fuse may not be opened by you: ask root for `chmod 0666 /dev/fuse`, as Debian has it.", 2
        )
    if "failed to open /dev/fuse" in low or "device not found" in low:
        return MountFailed(f"/dev/fuse cannot be opened: {text}. In a container start it with --device /dev/fuse.", 2)
    if "no write access" in low or "permission denied" in low or "not permitted" in low:
        return MountFailed(
            f"Not permitted to mount on {mountpoint}: {text}. Choose a folder that you own, and in a "
            "container that may not mount at all add --cap-add SYS_ADMIN, or mount outside (wqfs handover).", 1
        )  # fmt: skip
    return MountFailed(f"Mounting on {mountpoint} failed: {text or 'fusermount3 said nothing'}.")


def unmount(mountpoint: str, lazy: bool, by: Callable[[str, bool], str] | None = None, device: str = "") -> bool:
    """Unmount; lazy: even while it is in use. Returns whether it is mounted there no more, for somebody else may
    have unmounted it meanwhile; logs why it still is, if lazy. by: who does it instead of
    `try_unmount`, for the mount that it knows; device: see there."""
    complaint = by(mountpoint, lazy) if by else try_unmount(mountpoint, lazy, device)
    if complaint and lazy:
        log.error("%s: cannot be unmounted: %s", mountpoint, complaint)
    return not complaint


_DEV_IOC_CLONE: Final = 0x8004E500
"""FUSE_DEV_IOC_CLONE (linux/fuse.h): _IOR(229, 0, uint32_t)."""


def clone(fuse_fd: int) -> int:
    """Another descriptor of the same mount, non-blocking: requests that were read on it are answered on it, and end
    with ECONNABORTED when its last copy is closed. Raises OSError."""
    fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _DEV_IOC_CLONE, struct.pack("=I", fuse_fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def is_connected(fuse_fd: int) -> bool:
    """Whether the mount of this descriptor is there, if only as what somebody has open: then no other one has its
    device number. It is not once it was unmounted and closed, or its connection aborted (fuse_dev_poll in
    fs/fuse/dev.c)."""
    poll = select.poll()
    poll.register(fuse_fd, 0)
    return not poll.poll(0)


def try_unmount(mountpoint: str, lazy: bool, device: str = "") -> str:
    """As `unmount`, but returns why it is mounted there still, in fusermount3's words, else "". device:
    `major:minor` of the only one that is meant; another one there is left alone. "" for whatever is there."""
    if device:
        with suppress(OSError):  # no descriptor is left to look with
            table = mount_table()
            if not any(mount.mountpoint == mountpoint and mount.device == device for mount in table):
                return ""
            top = topmost(table, mountpoint)
            if top is None or top.device != device:
                return "another filesystem is mounted over it"
    command = [_fusermount(), "-u", *(["-z"] if lazy else []), "--", mountpoint]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_FUSERMOUNT_LIMIT,
            env=environment,
            check=False,
        )
        code, said = done.returncode, done.stderr.decode("utf-8", "replace").strip()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        # No descriptor is left for pipes. This takes none, so that no dead mount is left either.
        pid = os.posix_spawn(command[0], [*command[:2], "-q", *command[2:]], environment)
        code, said = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), ""
    if code == 0:
        return ""
    with suppress(OSError):
        there = mounted_at(mountpoint)
        if there is None or there.type != "fuse.wqfs":
            return ""
    return said or f"fusermount3 ended with {code}"
