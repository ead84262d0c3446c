"""Paths in arguments: which place of the simulated tree a program means.

They are completed as the kernel would, from the caller's root and working directory and from directories that it has
open, and /proc/self/fd/N is what that is open on. But there are no directories in the simulated tree: every
absolute path is a place, symbolic links are not followed, and `..` is taken out as text.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Any, Final

from wqfs.run.call import PAGE, Call, signed
from wqfs.run.mount_files import MountFiles
from wqfs.run.simulated import System

Place = tuple[int, bytes]
"""0 and an absolute path, or the number of a tree and a path within it: two arguments for wqfs.sim.mount_calls."""

PATH_MAX: Final = 4096
_AT_FDCWD: Final = -100
_LINK = re.compile(rb"/proc/(self|thread-self|[0-9]+)/(cwd|root|fd/([0-9]{1,9}))(?:/(.*))?", re.DOTALL)
_DELETED: Final = " (deleted)"
_UNREACHABLE: Final = "(unreachable)"


class Places:
    """Raises, with each method, OSError as the kernel's path walk would, and Gone."""

    def __init__(self, files: MountFiles) -> None:
        self._files = files

    def at(self, call: Call, path: int, dfd: int | None = None, *, empty: bool = False) -> Place:
        """The place that an argument names. path, dfd: which of the call's arguments are the path and the directory
        where it begins, None for the working directory; empty: whether an empty path means that directory itself.
        """
        text = path_at(call, path)
        if not text and not empty:
            raise _error(errno.ENOENT, "the path is empty")
        return self.resolve(call, text, _AT_FDCWD if dfd is None else signed(call.arguments[dfd]))

    def resolve(self, call: Call, text: bytes, dfd: int = _AT_FDCWD) -> Place:
        """The place that a path means, beginning at the caller's descriptor `dfd` if it is relative."""
        if text[:1] == b"/":
            link = _LINK.fullmatch(text)
            if link is not None and link[1] in (b"self", b"thread-self", str(call.task.pid).encode()):
                rest = link[4] or b""
                if link[3] is not None:
                    return self._from(call, int(link[3]), rest, directory=bool(rest), missing=errno.ENOENT)
                return 0, _joined(_reachable(call.link(link[2].decode())), rest)
            return 0, _joined(_reachable(call.link("root")), os.path.normpath(text))
        if dfd == _AT_FDCWD:
            return 0, _joined(_reachable(call.link("cwd")), text)
        return self._from(call, dfd, text, directory=bool(text), missing=errno.EBADF)

    def _from(self, call: Call, fd: int, text: bytes, *, directory: bool, missing: int) -> Place:
        """A path from a descriptor of the caller's. directory: whether that must be one."""
        try:
            with call.borrowed(fd) as mine:
                number = self._files.number(mine)
                if number:
                    return number, text
                if directory and not stat.S_ISDIR(os.fstat(mine).st_mode):
                    raise _error(errno.ENOTDIR, f"descriptor {fd} is no directory")
                there = os.readlink(f"/proc/self/fd/{mine}")
        except OSError as error:
            if error.errno == errno.EBADF:
                raise _error(missing, f"there is no descriptor {fd}") from None
            raise
        if there[:1] != "/":
            raise _error(errno.EINVAL, f"descriptor {fd} is of no path: {there}")
        return 0, _joined(_reachable(there), text)


def _joined(base: str, rest: bytes) -> bytes:
    return os.fsencode(base).rstrip(b"/") + b"/" + rest.lstrip(b"/")


def _reachable(link: str) -> str:
    """What a link in /proc says of a directory that can be walked to."""
    if link.startswith(_UNREACHABLE) or (link.endswith(_DELETED) and not os.path.lexists(link)):
        raise _error(errno.ENOENT, f"{link} is not to be reached")
    return link


def path_at(call: Call, index: int) -> bytes:
    """The path in an argument (getname_flags)."""
    return _text_at(call, index, PATH_MAX, errno.ENAMETOOLONG)


def text_at(call: Call, index: int, limit: int = PATH_MAX) -> bytes | None:
    """A text of less than `limit` bytes in an argument, None for a null pointer (strndup_user)."""
    return _text_at(call, index, limit, errno.EINVAL) if call.arguments[index] else None


def data_at(call: Call, index: int) -> bytes | None:
    """The last argument of mount(2): of the bytes of a page what is there of them, as far as it is text
    (copy_mount_options)."""
    address = call.arguments[index]
    try:
        return text_at(call, index)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return call.read(address, PATH_MAX - 1)
        return call.read(address, PAGE - address % PAGE)  # what is mapped ends with a page


def _text_at(call: Call, index: int, limit: int, too_long: int) -> bytes:
    try:
        text = call.texts[index] = call.read_text(call.arguments[index], limit)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _error(too_long, f"expected less than {limit} bytes") from None
        raise
    return text


def _error(number: int, reason: str) -> OSError:
    return OSError(number, reason)


class MountAnswers:
    """What those have in common that answer calls about the simulated mounts."""

    def __init__(self, system: System, files: MountFiles, places: Places) -> None:
        self._system = system
        self._files = files
        self._places = places

    def _ask(self, name: str, *arguments: int | bytes | None) -> Any:
        return self._system.call(None, "", name, *arguments)
