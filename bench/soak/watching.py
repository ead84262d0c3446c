"""Under `wqfs run`: a key of its own is watched through a notification pipe and changed, again and again.

Needs nothing but the standard library. Reads a line for each round, and answers it with a line: empty, or what was
wrong. Ends at end of file.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys

ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
JOIN, UPDATE, INVALIDATE, WATCH = 1, 2, 21, 32
FIONREAD, SET_SIZE = 0x541B, 0x5760
SESSION = -3
KEY, UPDATED, INVALIDATED = 1, 1, 6
LOSS = 1 << 24
ID = 7

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number} with {arguments}")
    return result


def once() -> str:
    """ "" or what was wrong."""
    reads, writes = os.pipe2(os.O_EXCL | os.O_CLOEXEC)
    try:
        key = call(ADD_KEY, b"user", b"soak", b"1", 1, SESSION)
        fcntl.ioctl(reads, SET_SIZE, 512)
        call(KEYCTL, WATCH, key, reads, ID)
        while struct.unpack("i", fcntl.ioctl(reads, FIONREAD, bytes(4)))[0]:
            os.read(reads, 4096)  # on a mount that is not strict it saw everything until then
        call(KEYCTL, UPDATE, key, b"2", 1)
        call(KEYCTL, INVALIDATE, key)
        found: list[int] = []
        while INVALIDATED not in found:
            data = os.read(reads, 4096)
            while data:
                word, info = struct.unpack_from("=II", data)
                if word == LOSS:
                    return ""  # of raw records that others write came too many meanwhile
                if word & 0xFFFFFF == KEY and info >> 8 & 0xFF == ID:
                    found.append(word >> 24)
                data = data[info & 0x7F :]
        return "" if found == [UPDATED, INVALIDATED] else f"the watched key told {found}"
    finally:
        os.close(reads)
        os.close(writes)


def main() -> None:
    call(KEYCTL, JOIN, None)
    for _ in sys.stdin:
        try:
            said = once()
        except OSError as error:
            said = f"{errno.errorcode[error.errno or 0]}: {error}"
        print(said, flush=True)


if __name__ == "__main__":
    main()
