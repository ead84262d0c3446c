"""Reading the memory of who calls an ioctl: only that process's, only what the ioctl defines.

process_vm_readv(2) follows the rules of ptrace(2): root, or the same user where Yama allows and
the caller is dumpable. The pid of a request is that of the mounter's pid namespace, which is the
daemon's own, and 0 for a caller outside it: refused, for no number could be right.
"""

from __future__ import annotations

import errno
import os

from wqfs.fs import vm


def read_memory(pid: int, address: int, size: int) -> bytes:
    """`size` bytes at `address` of the process `pid`.

    Raises OSError: EFAULT where nothing is mapped; EPERM where ptrace would not be allowed or the
    process is not of this pid namespace.
    """
    if pid <= 0:
        raise PermissionError(errno.EPERM, "the caller is in another pid namespace: use the sized ioctl")
    number: int | None = errno.EFAULT
    try:
        data = vm.read(pid, address, size)
        if len(data) == size:
            return data
    except OSError as error:
        number = error.errno
    if number in (errno.EPERM, errno.EACCES):
        raise PermissionError(
            errno.EPERM, "the caller's memory may not be read, by the rules of ptrace: use the sized ioctl"
        )
    raise OSError(errno.EFAULT, f"expected a filter at address {address:#x}: {os.strerror(number or errno.EFAULT)}")


def read_no_memory(pid: int, address: int, size: int) -> bytes:
    """Instead of read_memory where the mount is somebody else's: the pids are of the mounter's pid namespace, and may
    name other processes here. Raises PermissionError."""
    raise PermissionError(
        errno.EPERM, "the mount was handed over, perhaps by another pid namespace: use the sized ioctl"
    )
