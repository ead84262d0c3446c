"""System calls by number, of the machines that `wqfs run` knows, and the constants in their arguments.

Numbers from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; AUDIT_ARCH_* from
linux/audit.h.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Final

# name: x86-64, arm64
_TABLE: Final = {
    "write": (1, 64),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "pipe2": (293, 59),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
}
PIDFD_OPEN, PIDFD_GETFD = 434, 438  # on both

O_NOTIFICATION_PIPE: Final = os.O_EXCL
FIONREAD: Final = 0x541B
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032
PIDFD_THREAD: Final = os.O_EXCL
SIGSYS_ARCH: Final = {0xC000003E: "x86-64", 0x40000003: "32-bit x86", 0xC00000B7: "arm64", 0x40000028: "32-bit arm"}


@dataclass(frozen=True, slots=True)
class Machine:
    """audit_arch: as seccomp tells it; numbers: of calls by name; names: the reverse."""

    audit_arch: int
    numbers: dict[str, int]
    names: dict[int, str]

    def with_calls(self, more: dict[str, int]) -> Machine:
        """This one with further calls. Raises ValueError for a number that is another call's."""
        taken = dict(self.names)
        for name, number in more.items():
            if number in taken:
                raise ValueError(f"{number} is the number of {taken[number]}")
            taken[number] = name
        return Machine(self.audit_arch, {**self.numbers, **more}, taken)


def machine(name: str = "") -> Machine | None:
    """The machine called `name` in uname(2), by default this one; None if it is not known."""
    column, arch = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(name or platform.machine(), (-1, 0))
    if column < 0:
        return None
    numbers = {call: row[column] for call, row in _TABLE.items()}
    return Machine(arch, numbers, {number: call for call, number in numbers.items()})
