"""Reading the memory of who calls an ioctl: only that process's, only what the ioctl defines.

process_vm_readv(2) follows the rules of ptrace(2): root, or the same user where Yama allows and
the caller is dumpable. The pid of a request is that of the mounter's pid namespace, which is the
daemon's own, and 0 for a caller outside it: refused, for no number could be right.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_readv: Final = _libc.process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = [
    ctypes.c_int,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.c_ulong,
]


def read_memory(pid: int, address: int, size: int) -> bytes:
    """`size` bytes at `address` of the process `pid`.

    Raises OSError: EFAULT where nothing is mapped; EPERM where ptrace would not be allowed or the
    process is not of this pid namespace.
    """
    if pid <= 0:
        raise PermissionError(errno.EPERM, "the caller is in another pid namespace: use the sized ioctl")
    buffer = ctypes.create_string_buffer(size)
    local = _IoVec(ctypes.cast(buffer, ctypes.c_void_p), size)
    remote = _IoVec(address, size)
    count = _readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if count == size:
        return buffer.raw
    number = ctypes.get_errno() if count < 0 else errno.EFAULT
    if number in (errno.EPERM, errno.EACCES):
        raise PermissionError(
            errno.EPERM, "the caller's memory may not be read, by the rules of ptrace: use the sized ioctl"
        )
    raise OSError(errno.EFAULT, f"expected a filter at address {address:#x}: {os.strerror(number)}")


def read_no_memory(pid: int, address: int, size: int) -> bytes:
    """Instead of read_memory where the mount is somebody else's: the pids are of the mounter's pid namespace, and may
    name other processes here. Raises PermissionError."""
    raise PermissionError(
        errno.EPERM, "the mount was handed over, perhaps by another pid namespace: use the sized ioctl"
    )
