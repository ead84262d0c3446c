"""A process that reads filters out of the memory of one user's processes, with that user's rights.

It becomes the user before it looks, so that the kernel allows what it would allow that user (ptrace(2)): of
a set-user-ID program, or of one that may not be dumped, nothing. Who puts the filter where reading waits for somebody
(a file of a mount that does not answer, userfaultfd(2)) keeps this process waiting, and nobody else.

Only what IOC_WATCH_QUEUE_SET_FILTER defines is read: the header, and as many rules as it says, if it may say so.

It is asked on its standard input, a SOCK_SEQPACKET, one thing at a time:

    request   number u32, pid i32, address u64
    answer    number u32 of the request, errno i32 or 0, and with 0 the filter

It ends with the server, even if its user has stopped it; with the socket; and by itself after ALONE_S, which the server
never lets pass.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Final

from wqfs.fs import vm

HEADER: Final = struct.Struct("=II")  # as in wqfs.abi.filters, whose import takes longer than all else here
RULE_SIZE: Final = 44
RULES_MAX: Final = 16
SHORT: Final = errno.EFAULT
"""Of memory that ends within the filter."""
REQUEST: Final = struct.Struct("=IiQ")
ANSWER: Final = struct.Struct("=Ii")
ANSWER_MAX: Final = ANSWER.size + HEADER.size + RULES_MAX * RULE_SIZE
assert (REQUEST.size, ANSWER.size, ANSWER_MAX) == (16, 8, 720)
NOT_ALLOWED: Final = 77
"""The exit code of a process that may not become the user; no code that Python itself ends with."""
ALONE_S: Final = 30
"""Seconds from one answer to the next, at most."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3: Final = 0x20080522


def main(arguments: Sequence[str]) -> int:
    """arguments: the process that asks; the user and group to become, or `-` twice to stay. Returns the exit code."""
    server, uid, gid = arguments
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.alarm(ALONE_S)
    try:
        if uid != "-":
            become(int(uid), int(gid))
        _keep_to_oneself()
    except PermissionError:
        return NOT_ALLOWED
    if os.getppid() != int(server):
        return 0  # it died before it was to be noticed
    with socket.socket(fileno=0) as asks:
        while request := asks.recv(REQUEST.size):
            asks.send(_answer(*REQUEST.unpack(request)))
            signal.alarm(ALONE_S)
    return 0


def _answer(number: int, pid: int, address: int) -> bytes:
    try:
        data = _read(pid, address, HEADER.size)
        count, reserved = HEADER.unpack(data)
        if 1 <= count <= RULES_MAX and not reserved:
            data += _read(pid, address + HEADER.size, count * RULE_SIZE)
    except OSError as error:
        return ANSWER.pack(number, error.errno or errno.EIO)
    return ANSWER.pack(number, 0) + data


def become(uid: int, gid: int) -> None:
    """Be that user in all respects, without privilege. Raises OSError."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # The kernel has done it already, unless securebits (capabilities(7)) say otherwise; the inheritable ones stay.
    _call("capset", struct.pack("=II", _CAPABILITY_VERSION_3, 0), bytes(24))


def _keep_to_oneself() -> None:
    """Nobody without privilege looks into this process, or leads it. After `become`, which undoes the first two."""
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    _call("prctl", _PR_SET_DUMPABLE, ctypes.c_ulong(0))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))


def _call(name: str, *arguments: object) -> None:
    """A function of the C library. Raises OSError."""
    if vm.libc[name](*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _read(pid: int, address: int, size: int) -> bytes:
    data = vm.read(pid, address, size)
    if len(data) < size:
        raise OSError(SHORT, os.strerror(SHORT))
    return data


def run(arguments: Sequence[str]) -> None:
    """The whole process."""
    os._exit(main(arguments))
