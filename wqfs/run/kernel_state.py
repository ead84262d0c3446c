"""The kernel's own keys, as this process sees them: keyctl(2), and /proc/keys where it may be read.

The supervisor has the user and, at first, the session keyring of the program, and so mostly its rights. What it
may not see is None, and nothing is concluded from that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from wqfs.run.numbers import Machine
from wqfs.run.tasks import Task

_GET_KEYRING_ID, _DESCRIBE, _READ = 0, 6, 11
SESSION, USER, USER_SESSION = -3, -4, -5
VIEW, READ, WRITE, SEARCH, LINK, SETATTR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_GROUP_BITS: Final = 0x3F00
_ENDED: Final = frozenset("RDi")  # revoked, dead, invalidated
_SERIAL = struct.Struct("=i")
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Row:
    """A line of /proc/keys. flags: `IRDQUNi`, a dash for each that is not set; expiry: `perm`, `expd`, `16m`;
    type: its first nine letters; text: the description, and of a keyring or payload how large it is."""

    flags: str
    expiry: str
    uid: int
    type: str
    text: str

    @property
    def name(self) -> str:
        """The description, which stands alone as long as there is no payload."""
        return self.text if "N" in self.flags or "I" not in self.flags else self.text.rpartition(": ")[0]

    @property
    def count(self) -> int | None:
        """Links of a keyring; bytes of a payload."""
        size = self.text.rpartition(": ")[2]
        return 0 if size == "empty" else int(size) if size.isdecimal() else None


@dataclass(frozen=True, slots=True)
class State:
    """What KEYCTL_DESCRIBE says of a key. error: its errno, 0 where it told the rest."""

    error: int
    type: str = ""
    uid: int = -1
    gid: int = -1
    perm: int = 0
    description: str = ""

    def rights(self, task: Task, *, possessed: bool) -> int:
        """What the thread may do with the key, as key_task_permission() tells."""
        bits = self.perm
        if task.uid == self.uid:
            bits = self.perm >> 16
        elif self.perm & _GROUP_BITS and self.gid in (task.gid, *task.groups):
            bits = self.perm >> 8
        return (bits | self.perm >> 24 if possessed else bits) & 0x3F


class Kernel:
    """keyctl(2). Raises OSError as the kernel refuses."""

    def __init__(self, machine: Machine) -> None:
        self._number = machine.numbers["keyctl"]

    def _call(self, operation: int, *arguments: object) -> int:
        words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
        answer = int(_libc.syscall(ctypes.c_long(self._number), ctypes.c_long(operation), *words))
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return answer

    def keyring_id(self, name: int, *, create: bool = False) -> int:
        """The serial number behind -1..-5."""
        return self._call(_GET_KEYRING_ID, name, int(create))

    def describe(self, serial: int) -> State:
        """Never raises: the errno is in the answer."""
        try:
            text = self._answer(_DESCRIBE, serial)
        except OSError as error:
            return State(error.errno or errno.EIO)
        type_, uid, gid, perm, description = os.fsdecode(text.rstrip(b"\0")).split(";", 4)
        return State(0, type_, int(uid), int(gid), int(perm, 16), description)

    def read(self, serial: int) -> bytes | None:
        """The payload; None where it may not be read."""
        try:
            return self._answer(_READ, serial)
        except OSError:
            return None

    def _answer(self, operation: int, serial: int) -> bytes:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            whole = self._call(operation, serial, buffer, size)
            if whole <= size:
                return buffer.raw[:whole]
            size = whole + 64


class Look:
    """The keys at one moment: each is looked at once, when it is first asked for."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._states: dict[int, State] = {}
        self._contents: dict[int, bytes | None] = {}
        self._rows: dict[int, Row] | None = None

    def state(self, serial: int) -> State:
        if serial not in self._states:
            self._states[serial] = self._kernel.describe(serial)
        return self._states[serial]

    def content(self, serial: int) -> bytes | None:
        if serial not in self._contents:
            self._contents[serial] = self._kernel.read(serial)
        return self._contents[serial]

    def links(self, ring: int) -> list[int] | None:
        """What a keyring holds."""
        content = self.content(ring)
        if content is None or self.state(ring).type != "keyring" or len(content) % 4:
            return None
        return [serial for (serial,) in _SERIAL.iter_unpack(content)]

    def is_below(self, ring: int, key: int) -> bool:
        """Whether a key is in a keyring, or in one in it, as far as they can be read."""
        rings, seen = [ring], {ring}
        while rings and key not in seen:
            fresh = set(self.links(rings.pop()) or ()) - seen
            seen |= fresh
            rings += [each for each in fresh if self.state(each).type == "keyring"]
        return key in seen

    def row(self, serial: int) -> Row | None:
        return self.rows().get(serial)

    def count(self, serial: int) -> int | None:
        row = self.row(serial)
        return None if row is None else row.count

    def rows(self) -> dict[int, Row]:
        """/proc/keys; empty where it is not there or hidden."""
        if self._rows is None:
            self._rows = _rows()
        return self._rows

    def called(self, type_: str, description: str) -> set[int]:
        """The keys of a type and a description that can be seen, but for those that have ended."""
        return {
            serial
            for serial, row in self.rows().items()
            if row.type == type_[:9] and row.name == description and not _ENDED & set(row.flags)
        }


def _rows() -> dict[int, Row]:
    found: dict[int, Row] = {}
    try:
        with open("/proc/keys", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for line in file:
                words = line.rstrip("\n").split(None, 8)
                if len(words) == 9:
                    serial, flags, _, expiry, _, uid, _, type_, text = words
                    found[int(serial, 16)] = Row(flags, expiry, int(uid), type_, text)
    except (OSError, ValueError):
        pass
    return found
