"""Does to watched keys what can be done to them, and prints what each call answers and which records come of it:
under `wqfs run`, with simulated keys and with the kernel's, and on a kernel that has notification pipes, it must say
the same (tests/t3_run_kernel_keys.py).

Needs nothing but the standard library. In a session keyring of its own; what it makes goes with that.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import sys
from typing import Any

ADD_KEY, REQUEST_KEY, KEYCTL = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[os.uname().machine]
(
    GET_ID, JOIN, UPDATE, REVOKE, CHOWN, SETPERM, DESCRIBE, CLEAR, LINK, UNLINK, SEARCH, READ, INSTANTIATE, NEGATE,
    SET_REQKEY, SET_TIMEOUT, ASSUME, SECURITY, TO_PARENT, REJECT, INSTANTIATE_IOV, INVALIDATE, PERSISTENT,
) = range(23)  # fmt: skip
RESTRICT, MOVE, WATCH = 29, 30, 32
PROCESS, SESSION = -2, -3
EVENTS = "instantiated updated linked unlinked cleared revoked invalidated setattr".split()
FIONREAD, SET_SIZE = 0x541B, 0x5760
DEFAULT_PERM, ALL = 0x3F010000, 0x3F3F0000

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
names: dict[int, str] = {}
queues: list[int] = []


def call(number: int, *arguments: Any) -> int | str:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result


def told() -> list[str]:
    """What is in the queues by now: whoever asks how much there is finds all that happened before."""
    found = []
    for at, queue in enumerate(queues):
        while struct.unpack("i", fcntl.ioctl(queue, FIONREAD, bytes(4)))[0]:
            data = os.read(queue, 4096)
            while data:
                word, info = struct.unpack_from("II", data)
                found.append(text_of(word, info, data[8 : info & 0x7F]) + (f" at {at}" if at else ""))
                data = data[info & 0x7F :]
    return found


def text_of(word: int, info: int, body: bytes) -> str:
    watch = info >> 8 & 0xFF
    if word & 0xFFFFFF == 0:
        return f"removal {names.get(struct.unpack('Q', body)[0], '?')} {watch}"
    key, aux = struct.unpack("II", body)
    return f"{EVENTS[word >> 24]} {names.get(key, '?')} {names.get(aux, str(aux)) if aux else '-'} {watch}"


def do(what: str, number: int, *arguments: Any, name: str | None = None) -> int:
    """Make a call and print it; name: of the key that it makes."""
    answer = call(number, *arguments)
    if name and isinstance(answer, int):
        names[answer] = name
    shown = names.get(answer, answer) if isinstance(answer, int) else answer
    print(f"{what} = {shown}", *(f"[{each}]" for each in told()), flush=True)
    return answer if isinstance(answer, int) else 0


def add(what: str, type_: bytes, description: bytes, payload: bytes, ring: int, name: str) -> int:
    return do(what, ADD_KEY, type_, description, payload or None, len(payload), ring, name=name)


def keyctl(what: str, *arguments: Any, name: str | None = None) -> int:
    return do(what, KEYCTL, *arguments, name=name)


def pipe() -> int:
    reader, _ = os.pipe2(os.O_EXCL)
    fcntl.ioctl(reader, SET_SIZE, 64)
    queues.append(reader)
    return reader


def gone(what: str) -> None:
    """Wait for the removal of a key that has ended: a kernel does that by and by."""
    select.select(queues, [], [], 20)
    print(f"{what}:", *(f"[{each}]" for each in told()), flush=True)


names[int(call(KEYCTL, JOIN, None))] = "session"
session = int(call(KEYCTL, GET_ID, SESSION, 0))
queue, second = pipe(), pipe()
reader_only = os.open("/dev/null", os.O_RDONLY)
ring = add("new ring", b"keyring", b"ring", b"", SESSION, "ring")
other = add("new other", b"keyring", b"other", b"", SESSION, "other")
key = add("new key", b"user", b"key", b"one", ring, "key")

# What cannot be watched.
keyctl("watch under 256", WATCH, ring, queue, 256)
keyctl("watch what is not there", WATCH, 0x7FFFFFFF, queue, 1)
keyctl("watch on no pipe", WATCH, ring, reader_only, 1)
keyctl("watch on no descriptor", WATCH, ring, 999, 1)
keyctl("unwatch what is not watched", WATCH, ring, queue, -1)
hidden = add("new hidden", b"user", b"hidden", b"x", SESSION, "hidden")
keyctl("hide it", SETPERM, hidden, 0x3E000000)
keyctl("watch it", WATCH, hidden, queue, 1)

plain = add("new plain", b"user", b"plain", b"x", SESSION, "plain")

keyctl("watch ring", WATCH, ring, queue, 1)
keyctl("watch ring again", WATCH, ring, queue, 2)
keyctl("watch ring at another queue", WATCH, ring, second, 9)
keyctl("unwatch it there", WATCH, ring, second, -1)
keyctl("watch other", WATCH, other, queue, 2)
keyctl("watch key", WATCH, key, queue, 3)
keyctl("watch the session", WATCH, SESSION, queue, 4)

# Links.
twin = add("add to ring", b"user", b"twin", b"x", ring, "twin")
keyctl("link key to other", LINK, key, other)
keyctl("link it again", LINK, key, other)
keyctl("link what is not there", LINK, 0x7FFFFFFF, other)
keyctl("link other into itself", LINK, other, other)
keyctl("unlink twin from other", UNLINK, twin, other)
keyctl("move twin to other", MOVE, twin, ring, other, 0)
keyctl("move it to where it is", MOVE, twin, other, other, 0)
keyctl("move it from where it is not", MOVE, twin, ring, other, 0)
keyctl("search and link", SEARCH, SESSION, b"user", b"twin", ring)
keyctl("search in vain", SEARCH, SESSION, b"user", b"nobody", ring)
do("request and link", REQUEST_KEY, b"user", b"plain", None, other)
do("request and link again", REQUEST_KEY, b"user", b"plain", None, other)
do("request in vain", REQUEST_KEY, b"user", b"nobody", None, other)
keyctl("unlink key from other", UNLINK, key, other)
keyctl("unlink it again", UNLINK, key, other)
add("replace a ring", b"keyring", b"inner", b"", other, "inner")
add("by another", b"keyring", b"inner", b"", other, "inner 2")

# Keys.
add("add what is there", b"user", b"key", b"two", ring, "key")
add("add the same", b"user", b"key", b"two", ring, "key")
keyctl("update key", UPDATE, key, b"three", 5)
keyctl("update it with the same", UPDATE, key, b"three", 5)
keyctl("update it with nothing", UPDATE, key, None, 0)
keyctl("update it with too much", UPDATE, key, b"x" * 4000, 40000)
keyctl("update a keyring", UPDATE, ring, b"x", 1)
keyctl("permissions", SETPERM, key, ALL)
keyctl("the same permissions", SETPERM, key, ALL)
keyctl("no such permissions", SETPERM, key, 0xC0000000)
keyctl("owner", CHOWN, key, os.getuid(), -1)
keyctl("timeout", SET_TIMEOUT, key, 1000)
keyctl("the same timeout", SET_TIMEOUT, key, 1000)
keyctl("no timeout", SET_TIMEOUT, key, 0)
keyctl("no timeout again", SET_TIMEOUT, key, 0)
keyctl("no rights to write", SETPERM, key, 0x3B3B0000)
keyctl("update it", UPDATE, key, b"three", 5)
keyctl("no rights to set", SETPERM, key, 0x1F1F0000)
keyctl("timeout", SET_TIMEOUT, key, 0)
keyctl("permissions", SETPERM, key, 0x1F1F0000)

# Rings.
keyctl("clear ring", CLEAR, ring)
gone("key is gone")
keyctl("clear it again", CLEAR, ring)
keyctl("clear a key", CLEAR, twin)
keyctl("restrict it", RESTRICT, ring, None, None)
keyctl("restrict it again", RESTRICT, ring, None, None)
keyctl("restrict by nonsense", RESTRICT, other, b"user", b"x")
keyctl("link to the restricted", LINK, twin, ring)

# Ends.
keyctl("unwatch ring", WATCH, ring, queue, -1)
keyctl("clear ring", CLEAR, ring)
doomed = add("new doomed", b"user", b"doomed", b"x", other, "doomed")
keyctl("watch it", WATCH, doomed, queue, 5)
keyctl("revoke it", REVOKE, doomed)
keyctl("revoke it again", REVOKE, doomed)
keyctl("watch what is revoked", WATCH, doomed, second, 6)
keyctl("unlink it", UNLINK, doomed, other)
gone("it is gone")
doomed = add("new doomed", b"user", b"doomed", b"x", other, "doomed")
keyctl("watch it", WATCH, doomed, queue, 5)
keyctl("invalidate it", INVALIDATE, doomed)
gone("it is gone")
keyctl("keep the session", LINK, session, PROCESS)
keyctl("join another session", JOIN, b"tests of wqfs", name="another session")
keyctl("watch that", WATCH, SESSION, second, 7)
add("add to it", b"user", b"colour", b"red", SESSION, "colour")
empty = add("and a ring", b"keyring", b"empty", b"", SESSION, "empty")
if os.fork() == 0:
    add("a child adds to it", b"user", b"child", b"x", SESSION, "child")
    sys.exit(0)
os.wait()
if sys.argv[1:] == ["nobody"] and os.fork() == 0:
    os.setgid(65534)
    os.setuid(65534)
    own = add("a ring of nobody's", b"keyring", b"own", b"", PROCESS, "own")
    keyctl("permissions of another's", SETPERM, ring, DEFAULT_PERM)
    keyctl("watch it", WATCH, ring, second, 8)
    keyctl("clear another's that one does not possess", CLEAR, ring)
    keyctl("watch what is possessed", WATCH, empty, second, 9)
    keyctl("clear it, empty as it is", CLEAR, empty)
    keyctl("its timeout", SET_TIMEOUT, empty, 0)
    keyctl("its permissions", SETPERM, empty, DEFAULT_PERM)
    sys.exit(0)
if sys.argv[1:] == ["nobody"]:
    os.wait()
