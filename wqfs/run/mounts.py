"""mount, umount2, move_mount, open_tree and mount_setattr: copied from the caller's memory, carried out on the
simulated tree.

What is refused before a path is looked at is refused here, what comes after by wqfs.sim.mount_calls; both in the
order of fs/namespace.c of Linux 6.12. The simulated machine's root acts, whoever calls: EPERM is never for want of
a privilege.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from wqfs.run.call import PAGE, Call, unsigned
from wqfs.run.places import MountAnswers, data_at, text_at
from wqfs.sim.mount_calls import MS_TYPES, source_is_path
from wqfs.sim.mount_options import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
)

AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH, AT_RECURSIVE = 0x100, 0x800, 0x1000, 0x8000
MOUNT_ATTRIBUTES: Final = (
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME
    | MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW
)  # fmt: skip
ATIMES: Final = (MOUNT_ATTR_RELATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME)
"""What the field MOUNT_ATTR__ATIME may be."""

_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_FLAGS: Final = (
    _OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW
)
_SETATTR_FLAGS: Final = AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
_UMOUNT_FLAGS: Final = 0xF  # MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW
_MOVE_MOUNT_FLAGS: Final = 0x377
_F_EMPTY_PATH, _T_EMPTY_PATH, _SET_GROUP, _BENEATH = 0x4, 0x40, 0x100, 0x200
_MOUNT_ATTR = struct.Struct("=QQQQ")  # attr_set, attr_clr, propagation, userns_fd
assert _MOUNT_ATTR.size == 32
_INITIAL_NAMESPACE: Final = "user:[4026531837]"  # PROC_USER_INIT_INO


def only(flags: int, known: int) -> None:
    """Raises EINVAL for a flag that is not among the known ones."""
    if flags & ~known:
        raise OSError(errno.EINVAL, f"expected no flags but those in {known:#x}, not {flags:#x}")


class Mounts(MountAnswers):
    """Answers for the calls named above. Each takes a Call and returns its value; raises Gone, and OSError."""

    def mount(self, call: Call) -> int:
        """mount(source, target, type, flags, data)"""
        flags = call.arguments[3] & 0xFFFFFFFF
        fstype, source, data = text_at(call, 2), text_at(call, 0), data_at(call, 4)
        place = self._places.at(call, 1)
        tree, old = 0, source
        if source and source_is_path(flags):
            if len(source) >= PAGE:
                raise OSError(errno.ENAMETOOLONG, "the path is too long")
            tree, old = self._places.resolve(call, source)
        return int(self._ask("mount", tree, old, *place, fstype, flags, data))

    def umount2(self, call: Call) -> int:
        """umount2(target, flags)"""
        flags = unsigned(call.arguments[1])
        only(flags, _UMOUNT_FLAGS)
        return int(self._ask("umount2", *self._places.at(call, 0), flags))

    def move_mount(self, call: Call) -> int:
        """move_mount(from_dfd, from_path, to_dfd, to_path, flags)"""
        flags = unsigned(call.arguments[4])
        only(flags, _MOVE_MOUNT_FLAGS)
        if flags & (_SET_GROUP | _BENEATH) == _SET_GROUP | _BENEATH:
            raise OSError(errno.EINVAL, "MOVE_MOUNT_SET_GROUP and MOVE_MOUNT_BENEATH exclude one another")
        old = self._places.at(call, 1, 0, empty=bool(flags & _F_EMPTY_PATH))
        new = self._places.at(call, 3, 2, empty=bool(flags & _T_EMPTY_PATH))
        return int(self._ask("move_mount", *old, *new, flags))

    def open_tree(self, call: Call) -> int:
        """open_tree(dfd, path, flags)"""
        flags = unsigned(call.arguments[2])
        only(flags, _OPEN_TREE_FLAGS)
        if flags & AT_RECURSIVE and not flags & _OPEN_TREE_CLONE:
            raise OSError(errno.EINVAL, "AT_RECURSIVE is for OPEN_TREE_CLONE")
        if not call.free_numbers(1):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        place = self._places.at(call, 1, 0, empty=bool(flags & AT_EMPTY_PATH))
        number = int(self._ask("open_tree", *place, flags))
        return self._files.give(call, number, cloexec=bool(flags & os.O_CLOEXEC))

    def mount_setattr(self, call: Call) -> int:
        """mount_setattr(dfd, path, flags, attr, size)"""
        flags, size = unsigned(call.arguments[2]), call.arguments[4]
        only(flags, _SETATTR_FLAGS)
        if size > PAGE:
            raise OSError(errno.E2BIG, f"expected at most {PAGE} bytes of attributes, not {size}")
        if size < _MOUNT_ATTR.size:
            raise OSError(errno.EINVAL, f"expected at least {_MOUNT_ATTR.size} bytes of attributes, not {size}")
        given = call.read(call.arguments[3], size)
        if any(given[_MOUNT_ATTR.size :]):
            raise OSError(errno.E2BIG, "what the larger structure says more is of a later kernel")
        set_, clear, kind, userns = _MOUNT_ATTR.unpack_from(given)
        if not (set_ or clear or kind):
            return 0
        _check_attributes(set_, clear, kind)
        if (set_ | clear) & MOUNT_ATTR_IDMAP:
            _check_idmap(call, clear, userns)
        place = self._places.at(call, 1, 0, empty=bool(flags & AT_EMPTY_PATH))
        return int(self._ask("mount_setattr", *place, int(bool(flags & AT_RECURSIVE)), set_, clear, kind))


def _check_attributes(set_: int, clear: int, kind: int) -> None:
    """build_mount_kattr()"""
    if kind and kind not in MS_TYPES:
        raise OSError(errno.EINVAL, f"expected one propagation type, not {kind:#x}")
    if (set_ | clear) & ~(MOUNT_ATTRIBUTES | MOUNT_ATTR_IDMAP):
        raise OSError(errno.EINVAL, f"expected attributes of a mount, not {set_ | clear:#x}")
    if clear & MOUNT_ATTR__ATIME not in (0, MOUNT_ATTR__ATIME):
        raise OSError(errno.EINVAL, "the kind of access times is cleared as a whole, or not")
    if set_ & MOUNT_ATTR__ATIME and not clear & MOUNT_ATTR__ATIME:
        raise OSError(errno.EINVAL, "the kind of access times is set where it is cleared")
    if set_ & MOUNT_ATTR__ATIME not in ATIMES:
        raise OSError(errno.EINVAL, "expected one kind of access times")


def _check_idmap(call: Call, clear: int, userns: int) -> None:
    """build_mount_idmapped(), as far as it can be seen from here."""
    if clear & MOUNT_ATTR_IDMAP or userns > 0x7FFFFFFF:
        raise OSError(errno.EINVAL, "an idmap is set once, from a user namespace")
    with call.borrowed(userns) as mine:
        namespace = os.readlink(f"/proc/self/fd/{mine}")
        if not namespace.startswith("user:["):
            raise OSError(errno.EINVAL, f"descriptor {userns} is no user namespace")
        if namespace == _INITIAL_NAMESPACE:
            raise OSError(errno.EPERM, "the initial user namespace maps nothing")
