"""add_key, request_key and keyctl: copied from the caller's memory, carried out by the simulated keyring.

One table says of each operation of keyctl(2) what its arguments are and which call of wqfs.sim.key_calls it is;
sizes and copying are as security/keys/keyctl.c of Linux 6.12 has them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wqfs.run.call import PAGE, Call, signed, unsigned
from wqfs.run.simulated import Constructing, System
from wqfs.run.tasks import Tasks, look

_TYPE_SIZE: Final = 32
_PAYLOAD_MAX: Final = (1 << 20) - 1
_IOV_MAX: Final = 1024
_CAPABILITIES: Final = bytes((0x01 | 0x02 | 0x10 | 0x20 | 0x40 | 0x80, 0x01 | 0x04))
"""keyctl(KEYCTL_CAPABILITIES): itself, persistent keyrings, big_key, invalidate, restrict_keyring, move; names of
keyrings by user namespace, notifications. Not Diffie-Hellman nor public keys: they need a kernel's crypto."""
NEGATIVE_S: Final = 60
"""Seconds that a key which nobody constructed stays negative (key_negative_timeout)."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of keyctl(2).

    name: KEYCTL_ and this; arguments: a letter each, i int, u unsigned, t a type, s a text, S one or a null
    pointer, T a type or a null pointer, p a payload and its size, v an iovec array and its length, b a buffer for
    the answer and its size; call: of wqfs.sim.key_calls; fits: whether an answer larger than its buffer is left
    out whole; limit: bytes of a payload.
    """

    name: str
    arguments: str = ""
    call: str = ""
    fits: bool = True
    limit: int = _PAYLOAD_MAX


OPERATIONS: Final = {
    0: Operation("GET_KEYRING_ID", "ii", "get_keyring_id"),
    1: Operation("JOIN_SESSION_KEYRING", "S", "join_session"),
    2: Operation("UPDATE", "ip", "update", limit=PAGE),
    3: Operation("REVOKE", "i", "revoke"),
    4: Operation("CHOWN", "iuu", "chown"),
    5: Operation("SETPERM", "iu", "setperm"),
    6: Operation("DESCRIBE", "ib", "describe"),
    7: Operation("CLEAR", "i", "clear"),
    8: Operation("LINK", "ii", "link"),
    9: Operation("UNLINK", "ii", "unlink"),
    10: Operation("SEARCH", "itsi", "search"),
    11: Operation("READ", "ib", "read"),
    12: Operation("INSTANTIATE", "ipi", "instantiate"),
    13: Operation("NEGATE", "iui", "reject"),
    14: Operation("SET_REQKEY_KEYRING", "i", "set_reqkey_keyring"),
    15: Operation("SET_TIMEOUT", "iu", "set_timeout"),
    16: Operation("ASSUME_AUTHORITY", "i", "assume_authority"),
    17: Operation("GET_SECURITY", "ib", "get_security", fits=False),
    18: Operation("SESSION_TO_PARENT", "", "session_to_parent"),
    19: Operation("REJECT", "iuui", "reject"),
    20: Operation("INSTANTIATE_IOV", "ivi", "instantiate"),
    21: Operation("INVALIDATE", "i", "invalidate"),
    22: Operation("GET_PERSISTENT", "ui", "get_persistent"),
    23: Operation("DH_COMPUTE"),
    24: Operation("PKEY_QUERY"),
    25: Operation("PKEY_ENCRYPT"),
    26: Operation("PKEY_DECRYPT"),
    27: Operation("PKEY_SIGN"),
    28: Operation("PKEY_VERIFY"),
    29: Operation("RESTRICT_KEYRING", "iTS", "restrict_keyring"),
    30: Operation("MOVE", "iiiu", "move"),
    31: Operation("CAPABILITIES", "b"),
    32: Operation("WATCH_KEY", "iii"),
}


class Keys:
    """Answers for the calls about keys. Each takes a Call and returns its value; raises Gone, and OSError with the
    errno: EINPROGRESS where the kernel would wait until a key is constructed, and the call is to be asked again.

    waits: whether a requested key is waited for, until a command in `post` or another program constructs it; else
    nobody does, as where /sbin/request-key has no rule for it: the key is negative, and the call ENOKEY.
    """

    def __init__(self, system: System, tasks: Tasks, *, waits: bool) -> None:
        self._system = system
        self._tasks = tasks
        self._waits = waits

    def _ask(self, call: Call, name: str, *arguments: int | bytes | str | None) -> Any:
        return self._system.call(call.task, self._tasks.name(call.task), name, *arguments)

    def add_key(self, call: Call) -> int:
        type_at, description_at, payload_at, size, ring = call.arguments[:5]
        if size > _PAYLOAD_MAX:
            raise OSError(errno.EINVAL, f"expected at most {_PAYLOAD_MAX} bytes of payload, not {size}")
        type_ = _type(call, type_at)
        description = call.read_text(description_at, PAGE) if description_at else None
        return int(self._ask(call, "add_key", type_, description, call.read(payload_at, size), signed(ring)))

    def request_key(self, call: Call) -> int:
        if call.waits_for:
            return int(self._ask(call, "constructed", call.waits_for))
        type_at, description_at, callout_at, ring = call.arguments[:4]
        type_ = _type(call, type_at)
        description = call.read_text(description_at, PAGE)
        callout = call.read_text(callout_at, PAGE) if callout_at else None
        answer = self._ask(call, "request_key", type_, description, callout, signed(ring))
        if not isinstance(answer, Constructing):
            return int(answer)
        if self._waits:
            call.waits_for = answer.serial
            raise OSError(errno.EINPROGRESS, "the key is under construction")
        self._ask(call, "reject", answer.serial, NEGATIVE_S, errno.ENOKEY, 0)
        raise OSError(errno.ENOKEY, "nobody constructs keys here")

    def keyctl(self, call: Call) -> int:
        operation = OPERATIONS.get(signed(call.arguments[0]))
        if operation is None or (not operation.call and not operation.arguments):
            what = "a kernel's crypto" if operation else "another kernel"
            raise OSError(errno.EOPNOTSUPP, f"that operation needs {what}")
        if operation.name == "WATCH_KEY":
            return self._watch(call)
        values, buffer, size = self._copied(call, operation)
        if operation.name == "CAPABILITIES":
            return self._capabilities(call, buffer, size)
        if operation.name == "NEGATE":
            values.insert(2, errno.ENOKEY)
        elif operation.name == "SESSION_TO_PARENT":
            values.append(self._parent(call))
        elif operation.name == "READ":
            values.append(min(size, 0x7FFFFFFF) if buffer else 0)
        answer = self._ask(call, operation.call, *values)
        if not isinstance(answer, bytes):
            return int(answer)
        if buffer and size >= (len(answer) if operation.fits else 1):
            call.write(buffer, answer)
        return len(answer)

    def _copied(self, call: Call, operation: Operation) -> tuple[list[int | bytes | str | None], int, int]:
        """An operation's arguments as values, and the buffer for its answer, with its size."""
        given = iter(call.arguments[1:])
        values: list[int | bytes | str | None] = []
        buffer = size = 0
        # Sizes are refused before anything is copied.
        if "p" in operation.arguments and call.arguments[operation.arguments.index("p") + 2] > operation.limit:
            raise OSError(errno.EINVAL, f"expected at most {operation.limit} bytes of payload")
        for kind in operation.arguments:
            argument = next(given)
            if kind == "b":
                buffer, size = argument, next(given)
            elif kind == "p":
                values.append(call.read(argument, next(given)))
            elif kind == "v":
                values.append(_gathered(call, argument, unsigned(next(given))))
            else:
                values.append(_COPY[kind](call, argument))
        return values, buffer, size

    def _capabilities(self, call: Call, buffer: int, size: int) -> int:
        if size > 0:
            call.write(buffer, _CAPABILITIES[:size])
            if size > len(_CAPABILITIES):
                call.write(buffer + len(_CAPABILITIES), bytes(min(size - len(_CAPABILITIES), PAGE)))
        return len(_CAPABILITIES)

    def _watch(self, call: Call) -> int:
        key, fd, watch_id = (signed(each) for each in call.arguments[1:4])
        if not -1 <= watch_id <= 255:
            raise OSError(errno.EINVAL, f"expected a watch ID of -1..255, not {watch_id}")
        name = self._tasks.name(call.task)
        try:
            with call.borrowed(fd) as mine:
                if self._system.is_queue(mine):
                    self._system.watch_key(mine, key, watch_id, name, call.task.thread)
                    return 0
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        # The key is looked at first.
        self._ask(call, "watch_target", key)
        raise OSError(errno.EINVAL, f"descriptor {fd} is no notification pipe")

    def _parent(self, call: Call) -> bytes:
        """What the parent of the caller's process is called. Raises OSError EPERM where it is none of the program's,
        or has several threads."""
        parent = call.task.parent
        try:
            if parent <= 1 or parent == os.getpid() or len(os.listdir(f"/proc/{parent}/task")) > 1:
                raise OSError(errno.EPERM, "the parent is not of the program, or has several threads")
            return self._tasks.name(look(parent)).encode()
        except FileNotFoundError:
            raise OSError(errno.EPERM, "the parent has ended") from None


def _type(call: Call, address: int) -> bytes:
    """The name of a type, as key_get_type_from_user() takes it: 1..31 bytes."""
    type_ = call.read_text(address, _TYPE_SIZE)
    if not type_:
        raise OSError(errno.EINVAL, "expected the name of a type, it is empty")
    if type_[:1] == b".":
        raise OSError(errno.EPERM, f"the type {os.fsdecode(type_)!r} is the kernel's own")
    return type_


def _gathered(call: Call, address: int, count: int) -> bytes:
    """The bytes that an array of struct iovec names."""
    if count > _IOV_MAX:
        raise OSError(errno.EINVAL, f"expected at most {_IOV_MAX} pieces, not {count}")
    words = memoryview(call.read(address, 16 * count)).cast("Q")
    sizes = words[1::2].tolist()
    if sum(sizes) > _PAYLOAD_MAX:
        raise OSError(errno.EINVAL, f"expected at most {_PAYLOAD_MAX} bytes of payload, not {sum(sizes)}")
    return b"".join([call.read(at, size) for at, size in zip(words[::2].tolist(), sizes, strict=True)])


_COPY: Final[dict[str, Callable[[Call, int], int | bytes | None]]] = {
    "i": lambda call, argument: signed(argument),
    "u": lambda call, argument: unsigned(argument),
    "t": _type,
    "T": lambda call, argument: _type(call, argument) if argument else None,
    "s": lambda call, argument: call.read_text(argument, PAGE),
    "S": lambda call, argument: call.read_text(argument, PAGE) if argument else None,
}
