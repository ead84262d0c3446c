"""docs/reference/errnos.md, line by line: each errno of the files and calls comes when it is asked for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import LIMIT, ROOT, Mount, deliver, opened, record, refused, wait_until, waiting, waiting_readers
from wqfs.abi import ioctls
from wqfs.abi.errors import ERRNO_NAMES
from wqfs.abi.filters import FILTER_HEADER

WHOLE_PAGE = (ROOT / "docs/reference/errnos.md").read_text(encoding="utf-8")
PAGE = WHOLE_PAGE.partition("## Of the commands")[0]
ROWS = re.findall(r"^\| (E[A-Z0-9]+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", PAGE, re.MULTILINE)
OPTIONS = "max_waiting=1,max_objects=2,max_all_objects=4,max_watches=6,max_line=64"

Provoke = Callable[[Mount, Path], None]
"""Makes the call, which must raise OSError, on a mount with OPTIONS and a watch of its own."""
PROVOKED: dict[tuple[str, str], Provoke] = {}
NOT_PROVOKED = {
    ("EIO", "any"): "a fault of wqfs, which nobody knows how to make: tests/t1_channel.py has a broken handle",
    ("EACCES", "`objects`, watching by ioctl, with `private_mounts`"): "tests/t3_users.py, as root alone",
    ("EACCES", "any, by another user"): "tests/t3_tree.py and t3_mount_refused.py, as root alone",
    ("EPERM", "SET_FILTER by pointer"): "tests/t3_handover.py and t3_queue_set_filter.py",
    ("ENOMEM", "SET_FILTER by pointer"): "tests/t3_caller_process.py leaves the server no descriptor",
    ("EPIPE", "SETTLE"): "tests/t3_settle.py ends a mount under one that waits",
}
"""What other tests make, or nobody can."""


def provokes(errno_name: str, call: str) -> Callable[[Provoke], Provoke]:
    def keep(function: Provoke) -> Provoke:
        assert (errno_name, call) not in PROVOKED
        PROVOKED[errno_name, call] = function
        return function

    return keep


def ioctl(path: Path, command: int, argument: int | bytes | bytearray = 0, flags: int = os.O_RDONLY) -> None:
    with opened(path, flags) as fd:
        fcntl.ioctl(fd, command, argument)


def watch_path(path: bytes, watch_id: int = 1) -> bytearray:
    return bytearray(ioctls.WATCH_PATH.pack(watch_id, path))


def write(path: Path, text: str) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, text.encode())


@provokes("EACCES", "a command, or watching a key")
def _(mount: Mount, watch: Path) -> None:
    mount.post("key add user closed x @s")
    serial = next(line.split()[0] for line in (mount.path / "sim/keys").read_text().splitlines() if " closed" in line)
    mount.post("key setperm closed 0")
    with refused(errno.EACCES):
        write(watch / "objects", f"key {int(serial, 16)} id=1\n")
    mount.post("key update closed y")


@provokes("EAGAIN", "read of `queue` or `events` with O_NONBLOCK")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch / "events", os.O_RDONLY | os.O_NONBLOCK) as fd:
        os.read(fd, 100)


@provokes("EBADF", "read of a descriptor opened for writing alone")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        os.read(fd, 100)


@provokes("EBADSLT", "removing an object from a watch, or ID -1 in an ioctl")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.EBADSLT):
        write(watch / "objects", "-devices\n")
    ioctl(watch / "queue", ioctls.WQFS_IOC_WATCH_MOUNT, watch_path(b"/", -1))


@provokes("EBUSY", "SET_SIZE or `depth`")
def _(mount: Mount, watch: Path) -> None:
    write(watch / "depth", "32\n")
    with refused(errno.EBUSY):
        write(watch / "depth", "64\n")
    ioctl(watch / "queue", ioctls.IOC_WATCH_QUEUE_SET_SIZE, 32)


@provokes("EBUSY", "adding an object to a watch")
def _(mount: Mount, watch: Path) -> None:
    write(watch / "objects", "mount / id=1\n")
    with refused(errno.EBUSY):
        write(watch / "objects", "mount / id=2\n")
    ioctl(watch / "queue", ioctls.WQFS_IOC_WATCH_MOUNT, watch_path(b"/"))


@provokes("EBUSY", "umount(2) without a flag")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch / "events"):
        done = subprocess.run(
            ["fusermount3", "-u", mount.path], capture_output=True, text=True, timeout=LIMIT, check=False
        )
    assert done.returncode
    raise OSError(next(number for number in ERRNO_NAMES if f": {os.strerror(number)}\n" in done.stderr), "")


@provokes("EDQUOT", "mkdir in `watches/`, open of the root's `queue`")
def _(mount: Mount, watch: Path) -> None:
    for number in range(5):
        mount.watch(f"further{number}")
    with refused(errno.EDQUOT):
        os.open(mount.path / "queue", os.O_RDONLY)
    mount.watch("one-too-many")


@provokes("EDQUOT", "adding an object to a watch")
def _(mount: Mount, watch: Path) -> None:
    write(watch / "objects", "mount / id=1\nsb / id=2\n")
    write(watch / "objects", "devices id=3\n")


@provokes("ENOSPC", "adding an object to a watch")
def _(mount: Mount, watch: Path) -> None:
    for name in ("one", "two"):
        write(mount.watch(name) / "objects", "mount / id=1\nsb / id=2\n")
    write(watch / "objects", "devices id=3\n")


@provokes("EEXIST", "mkdir in `watches/`")
def _(mount: Mount, watch: Path) -> None:
    watch.mkdir()


@provokes("EFAULT", "SET_FILTER by pointer")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ioctl(fd, ctypes.c_ulong(ioctls.IOC_WATCH_QUEUE_SET_FILTER), ctypes.c_void_p(8)):
            raise OSError(ctypes.get_errno(), "")


@provokes("EINTR", "read that waits, SETTLE that waits")
def _(mount: Mount, watch: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n"
        "os.read(os.open(sys.argv[1], os.O_RDONLY), 100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, watch / "queue"])
    try:
        wait_until(lambda: waiting_readers(mount) == 1, "a read that waits")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(LIMIT) == 7  # Python runs the handler when read(2) gave EINTR
    finally:
        process.kill()
        process.wait(LIMIT)
    raise OSError(errno.EINTR, "")


@provokes("EINVAL", "a command, `objects`, `filter`, `depth`")
def _(mount: Mount, watch: Path) -> None:
    for name, text in (("objects", "nothing / id=1\n"), ("filter", "mont\n"), ("depth", "many\n"), ("depth", "0\n")):
        with refused(errno.EINVAL):
            write(watch / name, text)
    with refused(errno.EINVAL):
        mount.post("mount none /x -t tmpfs " + "#" * 64)
    mount.post("unmount /")


@provokes("EINVAL", "write to `sim/records`")
def _(mount: Mount, watch: Path) -> None:
    deliver(mount, record(1)[:-1])


@provokes("EINVAL", "SET_SIZE")
def _(mount: Mount, watch: Path) -> None:
    ioctl(watch / "queue", ioctls.IOC_WATCH_QUEUE_SET_SIZE, 513)


@provokes("EINVAL", "SET_FILTER")
def _(mount: Mount, watch: Path) -> None:
    ioctl(watch / "queue", ioctls.wqfs_ioc_set_filter(1), FILTER_HEADER.pack(17, 0).ljust(52, b"\0"))


@provokes("EINVAL", "watching by ioctl")
def _(mount: Mount, watch: Path) -> None:
    for command, argument in (
        (ioctls.WQFS_IOC_WATCH_MOUNT, watch_path(b"relative")),
        (ioctls.WQFS_IOC_WATCH_MOUNT, watch_path(b"x" * ioctls.PATH_MAX)),
        (ioctls.WQFS_IOC_WATCH_DEVICES, bytearray(ioctls.WATCH_DEVICES.pack(256))),
    ):
        with refused(errno.EINVAL):
            ioctl(watch / "queue", command, argument)
    ioctl(watch / "queue", ioctls.WQFS_IOC_WATCH_SB, watch_path(b"unknown"))


@provokes("EINVAL", "SETTLE")
def _(mount: Mount, watch: Path) -> None:
    ioctl(watch / "queue", ioctls.WQFS_IOC_SETTLE, 0x80)


@provokes("EINVAL", "open of `queue` or `events` with O_DIRECT")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.EINVAL):
        os.open(watch / "events", os.O_RDONLY | os.O_DIRECT)
    os.open(watch / "queue", os.O_RDONLY | os.O_DIRECT)


@provokes("EINVAL", "splice, sendfile, tee from `queue` or `events`")
def _(mount: Mount, watch: Path) -> None:
    reader, writer = os.pipe()
    try:
        with opened(watch / "queue") as fd:
            with refused(errno.EINVAL):
                os.sendfile(writer, fd, None, 100)
            os.splice(fd, writer, 100)
    finally:
        os.close(reader)
        os.close(writer)


@provokes("EINVAL", "truncate to a size above 0")
def _(mount: Mount, watch: Path) -> None:
    os.truncate(watch / "filter", 1)


@provokes("EISDIR", "open of a folder for writing")
def _(mount: Mount, watch: Path) -> None:
    os.open(watch, os.O_WRONLY)


@provokes("EMSGSIZE", "read of `queue`")
def _(mount: Mount, watch: Path) -> None:
    deliver(mount, record(1))
    with opened(watch / "queue") as fd:
        os.read(fd, 8)


@provokes("ENAMETOOLONG", "mkdir in `watches/`")
def _(mount: Mount, watch: Path) -> None:
    mount.watch("x" * 256)


@provokes("EOPNOTSUPP", "extended attributes, O_TMPFILE")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.EOPNOTSUPP):
        os.getxattr(mount.path / "post", "user.a")
    with refused(errno.EOPNOTSUPP):
        os.open(mount.path / "watches", os.O_WRONLY | os.O_TMPFILE)
    os.setxattr(mount.path / "post", "user.a", b"b")


@provokes("ENODEV", "mmap, shared")
def _(mount: Mount, watch: Path) -> None:
    with opened(mount.path / "sim/mountinfo") as fd:
        mmap.mmap(fd, 1, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


@provokes("ENOENT", "any by name")
def _(mount: Mount, watch: Path) -> None:
    os.rmdir(mount.path / "watches/nobody")


@provokes("ENOKEY", "watching a key, `objects`")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.ENOKEY):
        write(watch / "objects", "key 12345 id=1\n")
    ioctl(watch / "queue", ioctls.WQFS_IOC_WATCH_KEY, bytearray(ioctls.WATCH_KEY.pack(12345, 1)))


@provokes("ENOMEM", "read that would wait, SETTLE")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd, opened(watch / "events") as other:
        with waiting(mount, lambda: os.read(fd, 100)) as call:
            try:
                os.read(other, 100)
            finally:
                deliver(mount, record(1))
                call.result()


@provokes("ENOTDIR", "a name below a file")
def _(mount: Mount, watch: Path) -> None:
    os.stat(mount.path / "post/x")


@provokes("ENOTTY", "ioctl")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.ENOTTY):
        ioctl(mount.path / "metrics", ioctls.IOC_WATCH_QUEUE_SET_SIZE, 32)
    ioctl(watch / "queue", 0x5799)


@provokes("EPERM", "making, renaming, linking, removing anything but a watch")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.EPERM):
        os.mkdir(mount.path / "sim/x")
    with refused(errno.EPERM):
        os.rename(watch, mount.path / "watches/other")
    with refused(errno.EPERM):
        os.symlink("a", mount.path / "b")
    with refused(errno.EPERM):
        os.link(mount.path / "metrics", mount.path / "b")
    with refused(errno.EPERM):
        os.unlink(mount.path / "post")
    os.open(mount.path / "x", os.O_CREAT | os.O_WRONLY)


@provokes("EPERM", "chmod, chown")
def _(mount: Mount, watch: Path) -> None:
    with refused(errno.EPERM):
        os.chown(watch, os.getuid(), os.getgid())
    os.chmod(watch, 0o777)


@provokes("ESPIPE", "lseek and pread on `queue` or `events`")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch / "events") as fd, refused(errno.ESPIPE):
        os.lseek(fd, 0, os.SEEK_CUR)
    with opened(watch / "queue") as fd:
        os.pread(fd, 100, 0)


@provokes("ESTALE", "any, on a folder of a watch")
def _(mount: Mount, watch: Path) -> None:
    with opened(watch, os.O_PATH) as folder:
        watch.rmdir()
        os.stat(f"/proc/self/fd/{folder}")


@provokes("EXDEV", "write to `queue`")
def _(mount: Mount, watch: Path) -> None:
    write(watch / "queue", "x")


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Mount:
    return mount_with(OPTIONS)


@pytest.mark.parametrize(("name", "call"), PROVOKED)
def test_call_gives_the_errno_of_the_page(mount: Mount, name: str, call: str) -> None:
    watch = mount.watch()
    with refused(getattr(errno, name)):
        PROVOKED[name, call](mount, watch)


OF_OTHER_MOUNTS = {
    ("ENOBUFS", "read of `queue`, with `enobufs`"),
    ("EROFS", "any that changes, with `ro`"),
    ("ECONNABORTED", "a read or ioctl that waits"),
    ("ENOTCONN", "any, on an open file"),
    ("ENOTCONN", "any, by name"),
    ("ENFILE", "open, of a folder too"),
    ("EDQUOT", "open, of a folder too"),
    ("EDQUOT", "read that would wait, SETTLE"),
    ("ENOMEM", "read of a part of a text"),
    ("ENOSPC", "mkdir in `watches/`, open of the root's `queue`"),
}
"""What t3_errnos_mounts.py makes, each on a mount of its own."""


# -- the page


def test_every_row_of_the_page_is_provoked() -> None:
    known = [*PROVOKED, *NOT_PROVOKED, *OF_OTHER_MOUNTS]
    assert sorted((name, call) for name, _, call, _ in ROWS) == sorted(known)


def test_sentences_are_those_of_the_system() -> None:
    assert [(name, said) for name, said, _, _ in ROWS] == [
        (name, os.strerror(getattr(errno, name))) for name, _, _, _ in ROWS
    ]


def test_every_errno_that_the_files_name_is_on_the_page() -> None:
    """errnos of the mount's own system calls, which are nobody's answer, left out."""
    # Names in abi/errors.py; the daemon's own descriptors; what its filter answers it.
    own = {"EDEADLK", "EOPNOTSUPP", "EMFILE", "ENOSYS"}
    sources = [*(ROOT / "wqfs/fs").rglob("*.py"), *(ROOT / "wqfs/abi").glob("*.py"), ROOT / "wqfs/queue.py"]
    named = {
        name
        for source in [*sources, ROOT / "wqfs/watches.py"]
        for name in re.findall(r"errno\.(E[A-Z0-9]+)", source.read_text(encoding="utf-8"))
    }
    assert named - own <= {name for name, _, _, _ in ROWS}


def test_every_errno_that_a_command_is_refused_with_is_on_the_page() -> None:
    raised = {
        name
        for source in (ROOT / "wqfs/sim").glob("*.py")
        for name in re.findall(r"Refused\(\s*errno\.(E[A-Z0-9]+)", source.read_text(encoding="utf-8"))
    }
    assert len(raised) > 15
    assert raised <= set(re.findall(r"^\| (E[A-Z0-9]+) \|", WHOLE_PAGE, re.MULTILINE))
