"""fsopen, fspick, fsconfig and fsmount: from a type and its parameters to a mount that move_mount attaches.

Checks in the order of fs/fsopen.c and fs/namespace.c of Linux 6.12. A filesystem of any type is there and takes any
parameter. Why a parameter or a superblock was refused is read from the context's descriptor.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from wqfs.run.call import PAGE, Call, signed, unsigned
from wqfs.run.mounts import ATIMES, MOUNT_ATTRIBUTES, only
from wqfs.run.places import MountAnswers, path_at, text_at
from wqfs.sim.context_calls import (
    CMD_CREATE,
    CMD_CREATE_EXCL,
    CMD_RECONFIGURE,
    SET_BINARY,
    SET_FD,
    SET_FLAG,
    SET_PATH,
    SET_PATH_EMPTY,
    SET_STRING,
)
from wqfs.sim.mount_options import MOUNT_ATTR__ATIME

_AT_FDCWD: Final = -100
_NAME_MAX: Final = 256
_BINARY_MAX: Final = 1 << 20
_CLOEXEC: Final = 0x1  # FSOPEN_CLOEXEC, FSPICK_CLOEXEC, FSMOUNT_CLOEXEC
_PICK_FLAGS: Final = 0xF
_PICK_EMPTY_PATH: Final = 0x8


class Contexts(MountAnswers):
    """Answers for the calls named above. Each takes a Call and returns its value; raises Gone, and OSError."""

    def fsopen(self, call: Call) -> int:
        """fsopen(type, flags)"""
        flags = unsigned(call.arguments[1])
        only(flags, _CLOEXEC)
        fstype = text_at(call, 0, PAGE)
        if fstype is None:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return self._files.give(call, int(self._ask("fsopen", fstype)), cloexec=bool(flags & _CLOEXEC))

    def fspick(self, call: Call) -> int:
        """fspick(dfd, path, flags)"""
        flags = unsigned(call.arguments[2])
        only(flags, _PICK_FLAGS)
        place = self._places.at(call, 1, 0, empty=bool(flags & _PICK_EMPTY_PATH))
        return self._files.give(call, int(self._ask("fspick", *place)), cloexec=bool(flags & _CLOEXEC))

    def fsmount(self, call: Call) -> int:
        """fsmount(context, flags, attributes)"""
        flags, attributes = unsigned(call.arguments[1]), unsigned(call.arguments[2])
        only(flags, _CLOEXEC)
        only(attributes, MOUNT_ATTRIBUTES)
        if attributes & MOUNT_ATTR__ATIME not in ATIMES:
            raise OSError(errno.EINVAL, "expected one kind of access times")
        with call.borrowed(signed(call.arguments[0])) as mine:
            number = int(self._ask("fsmount", self._files.number(mine), attributes))
        return self._files.give(call, number, cloexec=bool(flags & _CLOEXEC))

    def fsconfig(self, call: Call) -> int:
        """fsconfig(context, command, key, value, aux)"""
        fd, command, aux = signed(call.arguments[0]), unsigned(call.arguments[1]), signed(call.arguments[4])
        if fd < 0:
            raise OSError(errno.EINVAL, f"expected a descriptor, not {fd}")
        _check_arguments(command, bool(call.arguments[2]), bool(call.arguments[3]), aux)
        with call.borrowed(fd) as mine:
            number = self._files.number(mine)
            if not number:
                raise OSError(errno.EINVAL, f"descriptor {fd} is not of fsopen(2) or fspick(2)")
            key = text_at(call, 2, _NAME_MAX)
            try:
                return int(self._ask("fsconfig", number, command, key, self._value(call, command, aux)))
            except OSError as error:
                self._files.tell(mine, str(error.strerror))
                raise

    def _value(self, call: Call, command: int, aux: int) -> bytes | None:
        """What a parameter is set to, as far as it is shown."""
        if command == SET_STRING:
            return text_at(call, 3, _NAME_MAX)
        if command in (SET_PATH, SET_PATH_EMPTY):
            path = path_at(call, 3)
            if not path and command == SET_PATH:
                raise OSError(errno.ENOENT, "the path is empty")
            return path
        if command == SET_BINARY:
            call.read(call.arguments[3], aux)
        elif command == SET_FD:
            with call.borrowed(aux):
                pass
        return None


def _check_arguments(command: int, key: bool, value: bool, aux: int) -> None:
    """Which arguments a command takes; EOPNOTSUPP for one that there is not."""
    if command == SET_FLAG:
        fits = key and not value and not aux
    elif command == SET_STRING:
        fits = key and value and not aux
    elif command == SET_BINARY:
        fits = key and value and 0 < aux <= _BINARY_MAX
    elif command in (SET_PATH, SET_PATH_EMPTY):
        fits = key and value and (aux == _AT_FDCWD or aux >= 0)
    elif command == SET_FD:
        fits = key and not value and aux >= 0
    elif command in (CMD_CREATE, CMD_RECONFIGURE, CMD_CREATE_EXCL):
        fits = not key and not value and not aux
    else:
        raise OSError(errno.EOPNOTSUPP, f"there is no command {command} of fsconfig(2)")
    if not fits:
        raise OSError(errno.EINVAL, "expected the arguments of that command of fsconfig(2), and no others")
