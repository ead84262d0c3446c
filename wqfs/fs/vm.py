"""The memory of another process: process_vm_readv(2) and process_vm_writev(2), by the rules of ptrace(2).

Unlike /proc/PID/mem they keep to what the process may do with its own pages, as a system call does.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

libc: Final = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_ARGUMENTS: Final[Any] = [
    ctypes.c_int,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.c_ulong,
]
_readv: Final = libc.process_vm_readv
_writev: Final = libc.process_vm_writev
for _call in (_readv, _writev):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = _ARGUMENTS


def read(pid: int, address: int, size: int) -> bytes:
    """`size` bytes at `address` of the process `pid`, fewer where mapped memory ends before.

    Raises OSError: EFAULT where nothing is mapped, EPERM where ptrace would not be allowed, ESRCH.
    """
    buffer = ctypes.create_string_buffer(size)
    count = _transfer(_readv, pid, ctypes.cast(buffer, ctypes.c_void_p), address, size)
    return buffer.raw[:count]


def write(pid: int, address: int, data: bytes) -> None:
    """Put `data` at `address` of the process `pid`. Raises OSError as `read`; EFAULT also where only a part fits,
    which then is written."""
    if data and _transfer(_writev, pid, ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), address, len(data)) < len(
        data
    ):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def _transfer(call: ctypes._NamedFuncPointer, pid: int, mine: ctypes.c_void_p, address: int, size: int) -> int:
    local = _IoVec(mine, size)
    remote = _IoVec(address, size)
    count = int(call(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return count
