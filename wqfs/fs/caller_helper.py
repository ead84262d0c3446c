"""A process that reads one filter out of a caller's memory, with the caller's rights, and ends.

It becomes the caller's user before it looks, so that the kernel allows what it would allow that user (ptrace(2)): of
a set-user-ID program, or of one that may not be dumped, nothing. Who puts the filter where reading waits for somebody
(a file of a mount that does not answer, userfaultfd(2)) keeps this process waiting, and nobody else.

Only what IOC_WATCH_QUEUE_SET_FILTER defines is read: the header, and as many rules as it says, if it may say so.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Sequence
from typing import Final

from wqfs.fs import vm

HEADER: Final = struct.Struct("=II")  # as in wqfs.abi.filters, whose import takes longer than all else here
RULE_SIZE: Final = 44
RULES_MAX: Final = 16
SHORT: Final = errno.EFAULT
"""The exit code for memory that ends within the filter; other codes are errnos too."""


def main(arguments: Sequence[str]) -> int:
    """arguments: pid, address, and the user and group to become, or `-` twice to stay. Writes the filter to
    standard output; returns 0, or the errno of what failed."""
    pid, address = int(arguments[0]), int(arguments[1])
    try:
        if arguments[2] != "-":
            become(int(arguments[2]), int(arguments[3]))
        data = _read(pid, address, HEADER.size)
        count, reserved = HEADER.unpack(data)
        if 1 <= count <= RULES_MAX and not reserved:
            data += _read(pid, address + HEADER.size, count * RULE_SIZE)
    except OSError as error:
        return error.errno or errno.EIO
    os.write(1, data)
    return 0


def become(uid: int, gid: int) -> None:
    """Be that user in all respects, without privilege. Raises OSError."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _read(pid: int, address: int, size: int) -> bytes:
    data = vm.read(pid, address, size)
    if len(data) < size:
        raise OSError(SHORT, os.strerror(SHORT))
    return data


def run(arguments: Sequence[str]) -> None:
    """The whole process."""
    signal.alarm(30)  # whoever started it is gone, or has given up
    os._exit(main(arguments))
