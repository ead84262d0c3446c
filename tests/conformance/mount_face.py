"""The face `mount`: system calls on files of a fresh mount with `-o strict,enobufs`.

`open` is mkdir of a watch, open of its queue for reading and for writing, rmdir: both descriptors
live on, and the one for writing is the write end. `watch` is wqfs's ioctl with the key's number in
the simulated keyring; `post` is a line written to `post`.

Not compared, because a file cannot give it whatever the server does: FIONREAD, F_SETPIPE_SZ, a
write of 0 bytes, splice into it, an unknown ioctl whose number promises an
argument, and everything on an ordinary pipe or on `fd`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import json
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.core_face import (
    POLL_NAMES,
    as_int,
    filter_bytes,
    helper_line,
    make_key_line,
    post_line,
    request_line,
)
from tests.conformance.fresh_mount import fresh_mount
from wqfs.abi import ioctls

Step = dict[str, Any]

_FIONREAD = 0x541B
_CLOSED = 1 << 20
"""A number that no descriptor has."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong]


@contextmanager
def mount_face() -> Iterator[Callable[[], MountFace]]:
    """A function that makes the face of one case; all cases of a run share one fresh mount, each
    with keys of its own."""
    cases = itertools.count(1)
    with fresh_mount() as mount:
        yield lambda: MountFace(mount, next(cases))


class MountFace:
    """One case, on a mount. number: of the case, for names that no other case has."""

    def __init__(self, mount: Path, number: int) -> None:
        self._mount = mount
        self._number = number
        self._ends: dict[str, tuple[int, int]] = {}
        self._plain: set[str] = set()
        self._open: list[int] = []
        self._keys: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._count = 0

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)
        self._post_line("key clear @s")  # an ordinary user's quota holds the keys of few cases

    def compared(self, step: Step) -> bool:
        op = step["op"]
        if step.get("q", "q") in self._plain or "fd" in step or op == "open_plain":
            return False
        if op in ("fionread", "setpipe_sz", "splice_in"):
            return False
        if op == "ioctl" and step["cmd"] >> 16 & 0x3FFF:
            return False  # FUSE's kernel side copies the argument that the number promises: EFAULT first
        if op == "watch" and self._fd(step) not in self._open:
            return False  # keyctl(2) says EINVAL to a closed descriptor, ioctl(2) EBADF
        return not (op == "write" and step.get("size") == 0)

    def key_name(self, serial: int) -> str | None:
        return self._names.get(serial)

    def answer(self, step: Step) -> Any:
        try:
            return getattr(self, f"_do_{step['op']}")(step)
        except OSError as error:
            return errno.errorcode[error.errno or errno.EIO]

    def _fd(self, step: Step) -> int:
        return self._ends[step.get("q", "q")][1 if step.get("end") == "write" else 0]

    def _post_line(self, line: str) -> None:
        fd = os.open(self._mount / "post", os.O_WRONLY)
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)

    def _key(self, name: str) -> int:
        if name not in self._keys:
            description = f"case{self._number}-{name}"
            self._post_line(make_key_line(name, description))
            serial = next(key["serial"] for key in self._snapshot_keys() if key["description"] == description)
            self._keys[name] = serial
            self._names[serial] = name
        return self._keys[name]

    def _do_open(self, step: Step) -> int:
        self._count += 1
        folder = self._mount / "watches" / f"q{self._count}"
        folder.mkdir()
        read_end = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
        write_end = os.open(folder / "queue", os.O_WRONLY | os.O_NONBLOCK)
        folder.rmdir()
        self._keep(step, read_end, write_end)
        self._plain.discard(step.get("q", "q"))
        return 0

    def _do_open_plain(self, step: Step) -> int:
        self._keep(step, *os.pipe2(os.O_NONBLOCK))
        self._plain.add(step.get("q", "q"))
        return 0

    def _keep(self, step: Step, read_end: int, write_end: int) -> None:
        self._ends[step.get("q", "q")] = (read_end, write_end)
        self._open += (read_end, write_end)

    def _do_close(self, step: Step) -> int:
        fd = self._fd(step)
        os.close(fd)
        self._open.remove(fd)
        # The next open would get this number: a closed end must not come to mean another.
        at = 1 if step.get("end") == "write" else 0
        ends = list(self._ends[step.get("q", "q")])
        ends[at] = _CLOSED
        self._ends[step.get("q", "q")] = (ends[0], ends[1])
        return 0

    def _do_pause(self, step: Step) -> int:
        return 0

    def _ioctl(self, fd: int, command: int, argument: int) -> int:
        result = int(_libc.ioctl(fd, command, argument))
        if result < 0:
            raise OSError(ctypes.get_errno(), "ioctl")
        return result

    def _do_set_size(self, step: Step) -> int:
        return self._ioctl(self._fd(step), ioctls.IOC_WATCH_QUEUE_SET_SIZE, step["n"])

    def _do_set_filter(self, step: Step) -> int:
        if step["filters"] is None:
            address = 0
        elif step["filters"] == "bad-pointer":
            address = 8
        else:
            buffer = ctypes.create_string_buffer(filter_bytes(step))
            address = ctypes.addressof(buffer)
        return self._ioctl(self._fd(step), ioctls.IOC_WATCH_QUEUE_SET_FILTER, address)

    def _do_watch(self, step: Step) -> int:
        key = self._key(step["key"])
        fd = step["fd"] if "fd" in step else self._fd(step)
        fcntl.ioctl(fd, ioctls.WQFS_IOC_WATCH_KEY, ioctls.WATCH_KEY.pack(key, as_int(step["id"])))
        return 0

    def _do_post(self, step: Step) -> int:
        key = self._key(step["key"])
        for _ in range(step.get("times", 1)):
            aux = self._key(step["aux"]) if step["event"] in ("linked", "unlinked") else None
            self._post_line(post_line(step, key, aux))
        return 0

    def _do_request(self, step: Step) -> dict[str, Any]:
        name = step["key"]
        description = f"case{self._number}-{name}"
        ring = self._key(step["ring"]) if "ring" in step else None
        result = self._line(request_line(step, description, ring))
        helped: list[Any] = []
        made = next((key["serial"] for key in self._snapshot_keys() if key["state"] == "EINPROGRESS"), None)
        if made is not None:
            self._keys[name] = made
            self._names[made] = name
            for words in map(str.split, step["helper"]):
                if words[0] == "flags":
                    lines = (self._mount / "sim/keys").read_text().splitlines()
                    helped.append(next(line.split()[1] for line in lines if line.startswith(f"{made:08x} ")))
                elif words[0] == "watch":
                    # Where the kernel waits, until a signal, wqfs says EINPROGRESS.
                    watched = self.answer({"op": "watch", "key": name, "id": 200})
                    helped.append("EINTR" if watched == "EINPROGRESS" else watched)
                else:
                    named = str(self._key(words[-1])) if words[-1][0] == "r" else words[-1]
                    helped.append(self._line(helper_line(words, made, named)))
            result = self._line(f"key request user {description}")
        return {"result": result, "helper": helped}

    def _line(self, line: str) -> int | str:
        try:
            self._post_line(line)
        except OSError as error:
            return errno.errorcode[error.errno or errno.EIO]
        return 0

    def _snapshot_keys(self) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = json.loads((self._mount / "sim/snapshot").read_text())["keys"]
        return keys

    def _do_read(self, step: Step) -> bytes:
        return os.read(self._fd(step), step["size"])

    def _do_readv(self, step: Step) -> bytes:
        buffers = [bytearray(size) for size in step["sizes"]]
        count = os.readv(self._fd(step), buffers)
        return b"".join(buffers)[:count]

    def _do_poll(self, step: Step) -> list[str]:
        poll = select.poll()
        poll.register(self._fd(step), select.POLLIN | select.POLLOUT | 0x40 | 0x100)
        ready = poll.poll(0)
        mask = ready[0][1] if ready else 0
        return [name for name, bit in POLL_NAMES if mask & bit]

    def _do_fionread(self, step: Step) -> int:
        answer = bytearray(4)
        fcntl.ioctl(self._fd(step), _FIONREAD, answer)
        return int(struct.unpack("=i", answer)[0])

    def _do_write(self, step: Step) -> int:
        return os.write(self._fd(step), b"z" * step["size"])

    def _do_ioctl(self, step: Step) -> int:
        return self._ioctl(self._fd(step), step["cmd"], step.get("arg", 0))

    def _do_lseek(self, step: Step) -> int:
        return os.lseek(self._fd(step), 0, os.SEEK_SET)

    def _do_pread(self, step: Step) -> int:
        return len(os.pread(self._fd(step), 64, 0))

    def _do_setpipe_sz(self, step: Step) -> int:
        return fcntl.fcntl(self._fd(step), 1031, 65536)

    def _do_sendfile(self, step: Step) -> int:
        with _pipe() as (_, writer):
            return os.sendfile(writer, self._fd(step), None, 4096)

    def _do_splice_out(self, step: Step) -> int:
        with _pipe() as (_, writer):
            return os.splice(self._fd(step), writer, 4096)

    def _do_splice_in(self, step: Step) -> int:
        with _pipe() as (reader, writer):
            os.write(writer, b"q" * 16)
            return os.splice(reader, self._fd(step), 16)

    def _do_tee(self, step: Step) -> int:
        with _pipe() as (_, writer):
            result = int(_libc.tee(self._fd(step), writer, ctypes.c_size_t(4096), 0))
        if result < 0:
            raise OSError(ctypes.get_errno(), "tee")
        return result


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)
