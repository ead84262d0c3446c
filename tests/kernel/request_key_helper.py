"""What stands for /sbin/request-key while requests are recorded: does what the callout text says.

The kernel starts it as `request-key create KEY UID GID THREAD PROCESS SESSION`, with the session
keyring `_req.KEY` that holds the authorisation key. The callout text is a list of lines parted by
`;`, as record_requests.py says, with numbers for the keyrings. The key's number and the answers go,
as a JSON list, to the file RESULTS.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys

RESULTS = "/dev/wqfs-request-key"
SYS_KEYCTL = 250
READ, INSTANTIATE, NEGATE, ASSUME, REJECT, WATCH = 11, 12, 13, 16, 19, 32
AUTH_KEY, REQUESTOR = -7, -8
libc = ctypes.CDLL(None, use_errno=True)


def keyctl(*arguments: int | bytes) -> int | str:
    result = libc.syscall(SYS_KEYCTL, *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return errno.errorcode[ctypes.get_errno()] if result < 0 else int(result)


def ring(text: str) -> int:
    return REQUESTOR if text == "@requestor" else int(text)


def flags(key: int) -> str:
    """The second field of /proc/keys."""
    with open("/proc/keys") as file:
        (line,) = [line for line in file if line.startswith(f"{key:08x} ")]
    return line.split()[1]


def do(key: int, words: list[str]) -> int | str:
    if words[0] == "instantiate":
        payload = b"" if words[1] == "-" else words[1].encode()
        return keyctl(INSTANTIATE, key, payload, len(payload), ring(words[2]))
    if words[0] == "negate":
        return keyctl(NEGATE, key, int(words[1]), ring(words[2]))
    if words[0] == "reject":
        return keyctl(REJECT, key, int(words[1]), int(words[2]), ring(words[3]))
    if words[0] == "flags":
        return flags(key)
    assert words == ["watch"], words
    read_end = os.pipe2(os.O_EXCL | os.O_NONBLOCK)[0]
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(1)
    return keyctl(WATCH, key, read_end, 1)


def main() -> None:
    key = int(sys.argv[2])
    keyctl(ASSUME, key)
    buffer = ctypes.create_string_buffer(4096)
    size = keyctl(READ, AUTH_KEY, ctypes.addressof(buffer), 4096)
    assert isinstance(size, int), size
    results = [do(key, line.split()) for line in buffer.raw[:size].decode().split(";") if line]
    with open(RESULTS, "w") as file:
        json.dump([key, *results], file)


main()
