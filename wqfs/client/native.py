"""keyctl(2), as far as a notification pipe of the kernel needs it: Python has no function for it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

KEYCTL_WATCH_KEY: Final = 32
_NUMBERS: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280}
"""Of keyctl in each machine's table of system calls."""


def keyctl_watch_key(key: int, queue: int, watch_id: int) -> None:
    """keyctl(KEYCTL_WATCH_KEY). key: serial or special number; queue: the read end of the pipe; watch_id: 0..255,
    -1 removes. Raises OSError; ENOSYS on a machine whose system calls are not known here."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of keyctl(2) on {platform.machine()} is not known")
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_long(KEYCTL_WATCH_KEY),
        ctypes.c_long(key),
        ctypes.c_long(queue),
        ctypes.c_long(watch_id),
    )
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
