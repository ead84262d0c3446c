"""FUSE requests as no kernel would send them, and as a hostile user can make one send them.

Everything comes from one random.Random, so that a seed is a conversation. A request is first one that makes sense:
its handle may be none, its sizes anything, its bytes a command or noise. Some are then broken: bytes changed, cut,
lengthened, their length field wrong. `Request.broken` says so, for what an answer may be depends on it.
"""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from wqfs.abi import fuse, ioctls
from wqfs.abi import records as r
from wqfs.fs import nodes
from wqfs.fs.handles.base import Handle
from wqfs.fs.handles.lines import LineHandle, RecordsHandle
from wqfs.fs.handles.queue import QueueHandle
from wqfs.fs.handles.text import EventsHandle
from wqfs.sim.language import COMMANDS

GETATTR: Final = 3
SETATTR: Final = 4
LOOKUP: Final = 1
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
OPENDIR: Final = 27
RELEASEDIR: Final = 29

_READ_BODY: Final = struct.Struct("=QQIIQII")
_WRITE_BODY: Final = struct.Struct("=QQIIQII")
_POLL_BODY: Final = struct.Struct("=QQII")
_IOCTL_BODY: Final = struct.Struct("=QIIQII")
_RELEASE_BODY: Final = struct.Struct("=QIIQ")
_LENGTH: Final = struct.Struct("=I")

NAMES: Final = ("w", "v", "a b", "w\udcff", "x" * 255, "x" * 256, ".", "log", "queue", "watches", "")
WORDS: Final = (
    "/", "/mnt", "/mnt/a", "/dev/sda1", "/dev/sdb", "/dev/x", "tmpfs", "-t", "ext4", "-o", "ro", "rw,remount", "bind",
    "--bind", "--rbind", "--make-shared", "--make-rslave", "--move", "-A", "-l", "-R", "user", "keyring", "logon:a",
    "desc", "payload", "@s", "@u", "@t", "@us", "%:desc", "%user:desc", "0", "1", "2", "-1", "id=3", "id=256", "21",
    "22", "uid=7", "EIO", "ENOSPC", "99999999999", "0x3f3f0000", "'a b'", '"', "\\040", "\\", "#", "everything",
    "devices", "mount", "sb", "key", "*", "new_mount", "flags=0x1/0x1", "p1", "p1/t", "1.5", "300", "100", "up", "é",
    "\udcff", "x" * 300,
)  # fmt: skip
OBJECTS: Final = (
    "mount / id=1", "-mount /", "sb / id=2", "key @s", "devices id=4", "-devices", "everything", "mount /mnt/a id=255",
)  # fmt: skip
FILTERS: Final = ("mount *", "mount unmount,new_mount", "key * id=3", "sb error flags=0x1/0x1", "mount\nkey *", "7 *")
COMMAND_NAMES: Final = tuple(" ".join(command.words) for command in COMMANDS)
LIKELY: Final = (
    "mount /dev/sda1 /mnt", "umount /mnt", "mount -t tmpfs t /mnt/a", "key add user desc payload @s", "key clear @s",
    "key unlink desc @s", "sb error / EIO", "device error /dev/sda1 io 5", "process new p1", "process exit p1",
    "clock advance 400", "mount -o remount,ro /mnt", "key timeout desc 1", "key request2 user d2 x @s",
)  # fmt: skip
_IOCTLS: Final = (
    ioctls.IOC_WATCH_QUEUE_SET_SIZE, ioctls.IOC_WATCH_QUEUE_SET_FILTER, ioctls.wqfs_ioc_set_filter(0),
    ioctls.wqfs_ioc_set_filter(1), ioctls.wqfs_ioc_set_filter(16), ioctls.WQFS_IOC_QUEUED, ioctls.WQFS_IOC_SETTLE,
    ioctls.WQFS_IOC_WATCH_KEY, ioctls.WQFS_IOC_WATCH_MOUNT, ioctls.WQFS_IOC_WATCH_SB, ioctls.WQFS_IOC_WATCH_DEVICES,
    ioctls.WQFS_IOC_WATCH_KEY_AS, ioctls.WQFS_IOC_DELIVER,
    0x5401, 0, 0xFFFFFFFF,
)  # fmt: skip
_SIZES: Final = (0, 1, 7, 8, 16, 127, 128, 433, 4096, 65536, 131072, 131073, 0x7FFFFFFF, 0xFFFFFFFF)
_FLAGS: Final = (0, 0, 0, os.O_NONBLOCK, os.O_NONBLOCK, os.O_DIRECT, os.O_RDWR | os.O_NONBLOCK, 0xFFFFFFFF)
_U64: Final = (0, 1, 4096, 1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
_OTHERS: Final = (LOOKUP, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, fuse.OPEN, fuse.OPEN, fuse.OPEN, fuse.OPEN)


SERVED: Final = (fuse.READ, fuse.WRITE, fuse.POLL, fuse.IOCTL, fuse.RELEASE)
"""What the channel answers itself."""


class Request(NamedTuple):
    """message: its bytes; opcode, unique: as in them; broken: whether no kernel could have sent it; size: bytes that
    a READ asks for, or a WRITE brings, -1 where it is broken or none."""

    message: bytes
    opcode: int
    unique: int
    broken: bool
    size: int


class Requests:
    """An endless conversation. handles: the open files by number, as the channel has them."""

    def __init__(self, dice: random.Random, handles: Mapping[int, Handle]) -> None:
        self._dice = dice
        self._handles = handles
        self._unique = 0
        self._sent: list[int] = [0]

    def next(self) -> Request:
        """The next request."""
        dice = self._dice
        self._unique += 2
        unique = self._unique
        opcode, body, size = self._sensible()
        caller = dice.choice((0, 0, 0, 7, 0xFFFFFFFF))
        node = nodes.ROOT.number
        if opcode in _OTHERS:
            node = self.node(opcode)
        message = (
            fuse.IN_HEADER.pack(fuse.IN_HEADER.size + len(body), opcode, unique, node, caller, caller, 1, 0, 0) + body
        )
        self._sent.append(unique)
        if len(self._sent) > 64:
            del self._sent[:32]
        # An ioctl's number says how many bytes come with it, and the kernel brings so many.
        broken = opcode == fuse.IOCTL and len(body) - _IOCTL_BODY.size != _carried(body)
        if dice.random() < 0.85:
            return Request(message, opcode, unique, broken, size)
        return self._broken(message, unique)

    def _sensible(self) -> tuple[int, bytes, int]:
        """Opcode, body, size."""
        dice = self._dice
        kind = dice.random()
        if kind < 0.28:
            fh = self._handle(QueueHandle, EventsHandle)
            size = dice.choice(_SIZES)
            locked = fuse.FUSE_READ_LOCKOWNER if dice.random() < 0.9 else 0
            offset = 0 if dice.random() < 0.7 else dice.choice(_U64)
            return fuse.READ, _READ_BODY.pack(fh, offset, size, locked, 0, dice.choice(_FLAGS), 0), size
        if kind < 0.53:
            fh = self._handle(LineHandle, RecordsHandle)
            data = self._data()
            return fuse.WRITE, _WRITE_BODY.pack(fh, dice.choice(_U64), len(data), 0, 0, 0, 0) + data, len(data)
        fh = self._handle(QueueHandle)
        if kind < 0.63:
            return fuse.POLL, _POLL_BODY.pack(fh, dice.choice((1, fh, *_U64)), dice.choice((0, 1, 1, 3)), 1), -1
        if kind < 0.76:
            command = dice.choice(_IOCTLS)
            data = self._argument(command)
            flags = 0 if dice.random() < 0.95 else dice.getrandbits(6)
            argument = dice.choice((0, 1, 32, 512, 513, *_U64))
            return fuse.IOCTL, _IOCTL_BODY.pack(fh, flags, command, argument, len(data), 4096) + data, -1
        if kind < 0.88:
            which = dice.choice(self._sent) if dice.random() < 0.9 else dice.choice(_U64)
            return fuse.INTERRUPT, struct.pack("=Q", which), -1
        if kind < 0.895:
            return fuse.RELEASE, _RELEASE_BODY.pack(fh, 0, 0, 0), -1
        if kind < 0.99:
            return self._name_request()
        return dice.choice((0, 2, 5, 30, 47, 60, 4096, 0xFFFFFFFF)), dice.randbytes(dice.randrange(64)), -1

    def _name_request(self) -> tuple[int, bytes, int]:
        dice = self._dice
        opcode = dice.choice(_OTHERS)
        name = dice.choice(NAMES).encode("utf-8", "surrogateescape") + b"\0"
        if opcode == fuse.OPEN:
            return opcode, struct.pack("=II", dice.choice((0, 1, 2, 3, os.O_DIRECT, os.O_TRUNC | 1, 0xFFFFFFFF)), 0), -1
        if opcode == MKDIR:
            return opcode, struct.pack("=II", 0o40755, 0) + name, -1
        if opcode in (LOOKUP, UNLINK, RMDIR):
            return opcode, name, -1
        return opcode, struct.pack("=IIQQ", dice.getrandbits(4), 0, self._handle(), dice.choice(_U64)) + bytes(64), -1

    def node(self, opcode: int) -> int:
        """The number of a node for such a request: one that is there, or may be, or anything."""
        dice = self._dice
        if opcode in (MKDIR, RMDIR, LOOKUP) and dice.random() < 0.8:
            return nodes.WATCHES.number
        if dice.random() < 0.1:
            return dice.choice(_U64)
        if dice.random() < 0.4:
            return dice.randrange(1, 16)
        return nodes.node_number(dice.choice(tuple(nodes.OF_A_WATCH.values())), dice.randrange(1, 12))

    def _handle(self, *likely: type[Handle]) -> int:
        """One of a kind for which the request makes sense, or any, or one that is not open."""
        dice = self._dice
        kind = dice.random()
        if kind < 0.7:
            fitting = [fh for fh, handle in self._handles.items() if isinstance(handle, likely)]
            if fitting:
                return dice.choice(fitting)
        if self._handles and kind < 0.95:
            return dice.choice(list(self._handles))
        return dice.choice(_U64)

    # -- what is written

    def _data(self) -> bytes:
        dice = self._dice
        kind = dice.random()
        if kind < 0.5:
            text = dice.choice(LIKELY)
        elif kind < 0.62:
            text = f"{dice.choice(COMMAND_NAMES)} {' '.join(dice.choices(WORDS, k=dice.randrange(6)))}"
        elif kind < 0.72:
            text = dice.choice(OBJECTS)
        elif kind < 0.76:
            text = dice.choice(FILTERS)
        elif kind < 0.78:
            text = dice.choice(("64", "0", "513", " 7 ", "x", "٣"))
        elif kind < 0.94:
            return self._records()
        elif kind < 0.95:
            return dice.randbytes(1) * dice.choice((4095, 4096, 4097, 65536, 131072))
        else:
            return dice.randbytes(dice.randrange(80))
        data = text.encode("utf-8", "surrogateescape")
        return data + b"\n" * dice.choice((1, 1, 1, 1, 0, 3))

    def _records(self) -> bytes:
        dice = self._dice
        parts = []
        for _ in range(dice.choice((1, 1, 2, 40))):
            length = dice.choice((8, 16, 24, 127))
            word = dice.choice((0, 1, 2, 3, 4, 9, 0xFFFFFF)) | dice.randrange(12) << 24
            parts.append(r.HEADER.pack(word, length | dice.getrandbits(24) << 8).ljust(length, b"\xa5"))
        data = b"".join(parts)
        return data if dice.random() < 0.9 else data[: dice.randrange(len(data))]

    def _argument(self, command: int) -> bytes:
        dice = self._dice
        if dice.random() < 0.1:
            return dice.randbytes(dice.choice((0, 1, 8, 52, 4096)))
        if command in ioctls.SIZED_SET_FILTER:
            count = ioctls.SIZED_SET_FILTER[command]
            rule = struct.pack("=11I", dice.randrange(6), 0, dice.choice((0, 0x30000, 1)), 0xFF, *bytes(7))
            return struct.pack("=II", count, 0) + rule * count
        if command == ioctls.WQFS_IOC_WATCH_KEY:
            return ioctls.WATCH_KEY.pack(dice.choice((-3, -4, 1, 1 << 30)), dice.choice((1, -1, 256)))
        if command in (ioctls.WQFS_IOC_WATCH_MOUNT, ioctls.WQFS_IOC_WATCH_SB):
            return ioctls.WATCH_PATH.pack(dice.choice((2, -1, -2)), dice.choice((b"/", b"/mnt", b"x", b"/" * 4096)))
        if command == ioctls.WQFS_IOC_WATCH_DEVICES:
            return ioctls.WATCH_DEVICES.pack(dice.choice((3, -1, 1000)))
        return b""

    # -- what no kernel sends

    def _broken(self, message: bytes, unique: int) -> Request:
        dice = self._dice
        data = bytearray(message)
        kind = dice.random()
        if kind < 0.5:
            for _ in range(dice.choice((1, 1, 2, 8))):
                at = dice.randrange(len(data))
                if not 8 <= at < 16:  # its number is how its answer is known
                    data[at] = dice.getrandbits(8)
        elif kind < 0.75:
            del data[dice.randrange(16, len(data)) :]
            if dice.random() < 0.7:
                _LENGTH.pack_into(data, 0, len(data))
        elif kind < 0.9:
            data += dice.randbytes(dice.choice((1, 8, 100)))
            if dice.random() < 0.7:
                _LENGTH.pack_into(data, 0, len(data))
        elif len(self._sent) > 1:  # a number that was given before, and may wait still
            unique = dice.choice(self._sent[-8:]) or unique
            struct.pack_into("=Q", data, 8, unique)
        _, opcode, unique = fuse.START.unpack_from(data)
        return Request(bytes(data), opcode, unique, True, -1)


def _carried(body: bytes) -> int:
    command = int(_IOCTL_BODY.unpack_from(body)[2])
    return command >> 16 & 0x3FFF if command >> 30 & 1 else 0


NEVER: Final = frozenset({errno.ENOSYS, 512})
"""Errnos that no request may be answered with (ABI.md, 3)."""
