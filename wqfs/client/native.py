"""keyctl(2), as far as a notification pipe of the kernel needs it: Python has no function for it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

KEYCTL_DESCRIBE: Final = 6
KEYCTL_WATCH_KEY: Final = 32
_NUMBERS: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280}
"""Of keyctl in each machine's table of system calls."""
_DESCRIPTION_MAX: Final = 8192
"""Bytes: a description is shorter than a page of 4096, and type and numbers stand before it."""


def _keyctl(*arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of keyctl(2) on {platform.machine()} is not known")
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer = int(libc.syscall(ctypes.c_long(number), *words))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def keyctl_watch_key(key: int, queue: int, watch_id: int) -> None:
    """keyctl(KEYCTL_WATCH_KEY). key: serial or special number; queue: the read end of the pipe; watch_id: 0..255,
    -1 removes. Raises OSError; ENOSYS on a machine whose system calls are not known here."""
    _keyctl(KEYCTL_WATCH_KEY, key, queue, watch_id)


def keyctl_describe(key: int) -> tuple[str, str]:
    """keyctl(KEYCTL_DESCRIBE): type and description of a key. Raises OSError: ENOKEY, EACCES without View,
    EKEYREVOKED."""
    buffer = ctypes.create_string_buffer(_DESCRIPTION_MAX)
    size = _keyctl(KEYCTL_DESCRIBE, key, buffer, len(buffer))
    # type;uid;gid;perm;description
    type_, _, _, _, description = os.fsdecode(buffer.raw[: size - 1]).split(";", 4)
    return type_, description
