"""An answered call as a line, as strace(1) writes it: `[77] keyctl(KEYCTL_READ, 591206539, 0x7ffc..., 64) = 3`."""

from __future__ import annotations

import errno
import json
import os

from wqfs.abi import ioctls
from wqfs.run.call import Call, signed, unsigned
from wqfs.run.keys import OPERATIONS
from wqfs.run.numbers import F_SETPIPE_SZ, FIONREAD

_LETTERS = {
    "add_key": "xxxui", "request_key": "xxxi",
    "mount": "xxxfx", "umount2": "xf", "open_tree": "dxf", "move_mount": "dxdxf", "mount_setattr": "dxfxu",
    "fsopen": "xf", "fsconfig": "iuxxd", "fsmount": "iff", "fspick": "dxf",
    "watch_mount": "dxfii", "watch_sb": "dxfii",
}  # fmt: skip
_AT_FDCWD = -100
_IOCTLS = {
    FIONREAD: "FIONREAD",
    ioctls.IOC_WATCH_QUEUE_SET_SIZE: "IOC_WATCH_QUEUE_SET_SIZE",
    ioctls.IOC_WATCH_QUEUE_SET_FILTER: "IOC_WATCH_QUEUE_SET_FILTER",
}
_FLAGS = ((os.O_EXCL, "O_NOTIFICATION_PIPE"), (os.O_NONBLOCK, "O_NONBLOCK"), (os.O_CLOEXEC, "O_CLOEXEC"))


def line(call: Call, outcome: str) -> str:
    """The call and what came of it."""
    return f"[{call.stopped.tid}] {call.name}({', '.join(_arguments(call))}) = {outcome}"


def failed(error: OSError) -> str:
    """How a refusal looks: `-1 ENOKEY (there is no key 7)`."""
    number = error.errno or 0
    return f"-1 {errno.errorcode.get(number, str(number))} ({error.strerror})"


def _arguments(call: Call) -> list[str]:
    a = call.arguments
    if call.name == "keyctl":
        operation = OPERATIONS.get(signed(a[0]))
        if operation is None:
            return [str(signed(a[0]))]
        letters = operation.arguments.replace("p", "pu").replace("v", "vu").replace("b", "bu")
        return [f"KEYCTL_{operation.name}", *map(_shown, letters, a[1:])]
    if call.name in _LETTERS:
        shown = map(_shown, _LETTERS[call.name], a)
        return [_quoted(call.texts[at]) if at in call.texts else word for at, word in enumerate(shown)]
    if call.name == "pipe2":
        flags = unsigned(a[1])
        named = [name for bit, name in _FLAGS if flags & bit]
        rest = flags & ~sum(bit for bit, _ in _FLAGS)
        return [_shown("x", a[0]), "|".join([*named, *([hex(rest)] if rest else [])])]
    if call.name == "ioctl":
        return [str(signed(a[0])), _IOCTLS.get(unsigned(a[1]), hex(unsigned(a[1]))), _shown("x", a[2])]
    if call.name == "fcntl":
        return [str(signed(a[0])), "F_SETPIPE_SZ" if unsigned(a[1]) == F_SETPIPE_SZ else "F_GETPIPE_SZ"]
    if call.name == "write":
        return [str(signed(a[0])), _shown("x", a[1]), "0"]
    return [_shown("x", each) for each in a]


def _quoted(text: bytes) -> str:
    return json.dumps(os.fsdecode(text))  # no byte of it reaches the terminal as it is


def _shown(letter: str, argument: int) -> str:
    if letter == "d" and signed(argument) == _AT_FDCWD:
        return "AT_FDCWD"
    if letter in "id":
        return str(signed(argument))
    if letter == "u":
        return str(unsigned(argument))
    return hex(argument) if argument or letter == "f" else "NULL"
