"""Makes every call about keys and prints what came of each, with names for numbers of keys: run under `wqfs run`
and on the kernel itself, it must say the same (tests/t3_run_keys.py).

Needs nothing but the standard library. In a session keyring of its own; what it makes goes with that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import threading
from typing import Any

ADD_KEY, REQUEST_KEY, KEYCTL = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[os.uname().machine]
(
    GET_ID, JOIN, UPDATE, REVOKE, CHOWN, SETPERM, DESCRIBE, CLEAR, LINK, UNLINK, SEARCH, READ, INSTANTIATE, NEGATE,
    SET_REQKEY, SET_TIMEOUT, ASSUME, SECURITY, TO_PARENT, REJECT, INSTANTIATE_IOV, INVALIDATE, PERSISTENT,
) = range(23)  # fmt: skip
RESTRICT, MOVE, CAPABILITIES = 29, 30, 31
THREAD, PROCESS, SESSION, USER, USER_SESSION, GROUP, AUTH, REQUESTOR = -1, -2, -3, -4, -5, -6, -7, -8
BAD = 8
"""An address where nothing is."""

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
names: dict[int, str] = {}


def call(number: int, *arguments: Any) -> int | str:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result


def named(value: int | str, name: str | None = None) -> int | str:
    if isinstance(value, int) and name and value not in names and value > 1000:
        names[value] = name
    return names.get(value, value) if isinstance(value, int) else value


def say(what: str, value: int | str, name: str | None = None) -> int:
    print(f"{what}: {named(value, name)}", flush=True)
    return value if isinstance(value, int) else 0


def keyctl(what: str, *arguments: Any, name: str | None = None) -> int:
    return say(what, call(KEYCTL, *arguments), name)


def out(what: str, operation: int, key: int, size: int) -> None:
    buffer = ctypes.create_string_buffer(b"\xee" * 64, 64)
    answer = call(KEYCTL, operation, key, buffer, size)
    raw = buffer.raw[:size]
    shown: object
    if operation == READ and isinstance(answer, int) and size % 4 == 0 and raw[:4] != b"\xee" * 4 and what[0] == "@":
        # The kernel's order is that of its hash table.
        shown = sorted(str(named(serial)) for (serial,) in struct.iter_unpack("=i", raw[:answer]))
    else:
        shown = raw
    print(f"{what} into {size}: {named(answer)} {shown!r}", flush=True)


def making() -> None:
    key = say("add", call(ADD_KEY, b"user", b"one", b"first", 5, SESSION), "one")
    say("add again updates", call(ADD_KEY, b"user", b"one", b"second", 6, SESSION))
    ring = say("keyring", call(ADD_KEY, b"keyring", b"ring", None, 0, SESSION), "ring")
    say("add nothing", call(ADD_KEY, b"user", b"none", b"", 0, SESSION))
    say("add null payload", call(ADD_KEY, b"user", b"none", None, 3, SESSION))
    say("add bad payload", call(ADD_KEY, b"user", b"none", BAD, 3, SESSION))
    say("add bad type", call(ADD_KEY, BAD, b"none", b"x", 1, SESSION))
    say("add null type", call(ADD_KEY, None, b"none", b"x", 1, SESSION))
    say("add empty type", call(ADD_KEY, b"", b"none", b"x", 1, SESSION))
    say("add long type", call(ADD_KEY, b"t" * 32, b"none", b"x", 1, SESSION))
    say("add unknown type", call(ADD_KEY, b"nosuch", b"none", b"x", 1, SESSION))
    say("add dotted type", call(ADD_KEY, b".user", b"none", b"x", 1, SESSION))
    say("add no description", call(ADD_KEY, b"user", None, b"x", 1, SESSION))
    say("add empty description", call(ADD_KEY, b"user", b"", b"x", 1, SESSION))
    say("add bad description", call(ADD_KEY, b"user", BAD, b"x", 1, SESSION))
    say("add long description", call(ADD_KEY, b"user", b"d" * 4096, b"x", 1, SESSION))
    say("add dotted keyring", call(ADD_KEY, b"keyring", b".ring", None, 0, SESSION))
    say("keyring with payload", call(ADD_KEY, b"keyring", b"ring2", b"x", 1, SESSION))
    say("logon without qualifier", call(ADD_KEY, b"logon", b"plain", b"x", 1, SESSION))
    say("logon", call(ADD_KEY, b"logon", b"a:b", b"x", 1, SESSION), "logon")
    say("too large", call(ADD_KEY, b"user", b"none", b"x" * 40000, 40000, SESSION))
    say("much too large", call(ADD_KEY, b"user", b"none", b"x", 1 << 20, SESSION))
    say("into no keyring", call(ADD_KEY, b"user", b"none", b"x", 1, key))
    say("into nothing", call(ADD_KEY, b"user", b"none", b"x", 1, 0))
    say("into group", call(ADD_KEY, b"user", b"none", b"x", 1, GROUP))
    say("into number of nothing", call(ADD_KEY, b"user", b"none", b"x", 1, 0x7FFFFFF0))
    say("into -9", call(ADD_KEY, b"user", b"none", b"x", 1, -9))
    keyctl("update", UPDATE, key, b"third", 5)
    keyctl("update null", UPDATE, key, None, 0)
    keyctl("update bad", UPDATE, key, BAD, 5)
    keyctl("update keyring", UPDATE, ring, b"x", 1)
    keyctl("update too large", UPDATE, key, b"x" * 5000, 5000)


def looking() -> None:
    key, ring = (serial for serial, name in names.items() if name in ("one", "ring"))
    for size in (0, 1, 4, 5, 6, 64):
        out("read", READ, key, size)
    keyctl("read null", READ, key, None, 64)
    keyctl("read bad", READ, key, BAD, 64)
    out("@ read session", READ, SESSION, 64)
    out("@ read session", READ, SESSION, 3)
    out("@ read ring", READ, ring, 64)
    for size in (0, 5, 33, 64):
        out("describe", DESCRIBE, key, size)
    out("describe ring", DESCRIBE, ring, 64)
    keyctl("describe bad", DESCRIBE, key, BAD, 64)
    out("security", SECURITY, key, 64)
    out("security", SECURITY, key, 0)
    keyctl("security of nothing", SECURITY, 0x7FFFFFF0, None, 0)
    for size in (0, 1, 8):
        buffer = ctypes.create_string_buffer(b"\xee" * 8, 8)
        print(f"capabilities {size}: {call(KEYCTL, CAPABILITIES, buffer, size)} {buffer.raw[2:]!r}")
    keyctl("search", SEARCH, SESSION, b"user", b"one", 0)
    keyctl("search nothing", SEARCH, SESSION, b"user", b"nothing", 0)
    keyctl("search unknown type", SEARCH, SESSION, b"nosuch", b"one", 0)
    keyctl("search in no keyring", SEARCH, key, b"user", b"one", 0)
    keyctl("search into ring", SEARCH, SESSION, b"user", b"one", ring)
    out("@ read ring", READ, ring, 64)
    keyctl("search bad", SEARCH, SESSION, BAD, b"one", 0)
    keyctl("search null", SEARCH, SESSION, b"user", None, 0)


def changing() -> None:
    key, ring = (serial for serial, name in names.items() if name in ("one", "ring"))
    keyctl("setperm", SETPERM, key, 0x3F3F0000)
    keyctl("setperm wrong", SETPERM, key, 0xFFFFFFFF)
    keyctl("chown nothing", CHOWN, key, -1, -1)
    keyctl("chown nothing of nothing", CHOWN, 0x7FFFFFF0, -1, -1)
    keyctl("chown me", CHOWN, key, os.getuid(), os.getgid())
    keyctl("timeout", SET_TIMEOUT, key, 100)
    keyctl("no timeout", SET_TIMEOUT, key, 0)
    out("describe", DESCRIBE, key, 64)
    keyctl("link", LINK, key, ring)
    keyctl("link ring to itself", LINK, ring, ring)
    keyctl("link to no keyring", LINK, ring, key)
    keyctl("unlink", UNLINK, key, ring)
    keyctl("unlink again", UNLINK, key, ring)
    keyctl("move", MOVE, key, SESSION, ring, 0)
    keyctl("move with flags", MOVE, key, ring, SESSION, 2)
    keyctl("move back", MOVE, key, ring, SESSION, 1)
    keyctl("move what is not there", MOVE, key, ring, SESSION, 0)
    inner = say("inner", call(ADD_KEY, b"keyring", b"inner", None, 0, ring), "inner")
    keyctl("cycle", LINK, ring, inner)
    keyctl("restrict with type alone", RESTRICT, inner, b"user", None)
    keyctl("restrict by user", RESTRICT, inner, b"user", b"x")
    keyctl("restrict by nothing", RESTRICT, inner, b"nosuch", b"x")
    keyctl("restrict", RESTRICT, inner, None, None)
    keyctl("restrict again", RESTRICT, inner, None, None)
    keyctl("link to restricted", LINK, key, inner)
    keyctl("clear", CLEAR, ring)
    keyctl("clear a key", CLEAR, key)
    keyctl("revoke", REVOKE, key)
    keyctl("read revoked", READ, key, None, 0)
    keyctl("update revoked", UPDATE, key, b"x", 1)
    other = say("another", call(ADD_KEY, b"user", b"two", b"x", 1, SESSION), "two")
    keyctl("invalidate", INVALIDATE, other)
    keyctl("link invalidated", LINK, other, SESSION)


def constructing() -> None:
    key = next(serial for serial, name in names.items() if name == "logon")
    keyctl("instantiate what is", INSTANTIATE, key, b"x", 1, 0)
    keyctl("instantiate in pieces", INSTANTIATE_IOV, key, struct.pack("=QQ", 0, 0), 1, 0)
    keyctl("instantiate in bad pieces", INSTANTIATE_IOV, key, BAD, 1, 0)
    keyctl("negate what is", NEGATE, key, 10, 0)
    keyctl("reject what is", REJECT, key, 10, errno.EKEYREJECTED, 0)
    keyctl("reject with 0", REJECT, key, 10, 0, 0)
    keyctl("assume nothing", ASSUME, 0)
    keyctl("assume -1", ASSUME, -1)
    say("request what is", call(REQUEST_KEY, b"logon", b"a:b", None, 0))
    say("request what is not", call(REQUEST_KEY, b"user", b"what is not", None, 0))
    say("request null", call(REQUEST_KEY, b"user", None, None, 0))


def reqkey() -> None:
    sys.stdout.flush()
    if not os.fork():
        for setting in (-1, 4, -1, 6, 9, 2, 1, 0):
            keyctl(f"reqkey {setting}", SET_REQKEY, setting)
        keyctl("which made a thread keyring", GET_ID, THREAD, 0, name="thread's of reqkey")
        sys.stdout.flush()
        os._exit(0)
    os.wait()


def own_keyrings() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def other_thread() -> None:
        keyctl("no keyring of the other thread", GET_ID, THREAD, 0)
        begun.set()
        goes_on.wait()
        keyctl("its own", GET_ID, THREAD, 1, name="other thread")

    thread = threading.Thread(target=other_thread)
    thread.start()
    begun.wait()
    keyctl("no thread keyring", GET_ID, THREAD, 0)
    keyctl("thread keyring", GET_ID, THREAD, 1, name="thread")
    keyctl("thread keyring there", GET_ID, THREAD, 0)
    keyctl("process keyring", GET_ID, PROCESS, 1, name="process")
    say("in process keyring", call(ADD_KEY, b"user", b"mine", b"x", 1, PROCESS), "mine")
    goes_on.set()
    thread.join()
    keyctl("this thread's", GET_ID, THREAD, 0)
    sys.stdout.flush()
    if not os.fork():
        keyctl("child has no thread keyring", GET_ID, THREAD, 0)
        keyctl("child has no process keyring", GET_ID, PROCESS, 0)
        keyctl("child has the session", GET_ID, SESSION, 0)
        keyctl("child joins another", JOIN, None, name="child's")
        keyctl("its own", GET_ID, SESSION, 0)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    keyctl("still the session", GET_ID, SESSION, 0)
    sys.stdout.flush()
    if not os.fork():
        keyctl("child joins a named one", JOIN, b"called", name="called")
        keyctl("session to parent", TO_PARENT)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    keyctl("the parent has it", GET_ID, SESSION, 0, name="called")
    out("describe it", DESCRIBE, SESSION, 64)
    keyctl("join a dotted one", JOIN, b".called")
    keyctl("join an empty one", JOIN, b"")
    keyctl("join at a bad address", JOIN, BAD)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, __file__, "after", *[f"{k}={n}" for k, n in names.items()]])


def after_exec() -> None:
    names.update((int(word.partition("=")[0]), word.partition("=")[2]) for word in sys.argv[2:])
    keyctl("after exec the session stays", GET_ID, SESSION, 0)
    keyctl("the process keyring does not", GET_ID, PROCESS, 0)
    keyctl("nor the thread keyring", GET_ID, THREAD, 0)
    keyctl("no such operation", 99)


if __name__ == "__main__":
    if sys.argv[1:]:
        after_exec()
    else:
        keyctl("join", JOIN, None, name="session")
        for part in (making, looking, changing, constructing, reqkey, own_keyrings):
            print(f"-- {part.__name__}")
            part()
