"""The descriptors that open_tree, fsmount, fsopen and fspick return.

Each is the read end of a pipe, and known again by its inode wherever it comes from: fork, exec, SCM_RIGHTS. The
supervisor keeps the write end, through which it learns that the last copy is closed, and on which a context's
messages are read, one with each read, as from fsopen's own descriptor.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from dataclasses import dataclass

from wqfs.run.call import Answered, Call
from wqfs.run.simulated import System


@dataclass(frozen=True, slots=True)
class _File:
    """number: of the tree or context in the simulated system; writer: our end."""

    number: int
    inode: tuple[int, int]
    writer: int


class MountFiles:
    """Those that are open anywhere in the program. poll: hears of their ends, for `ended`."""

    def __init__(self, system: System, poll: select.epoll) -> None:
        self._system = system
        self._poll = poll
        self._by_inode: dict[tuple[int, int], _File] = {}
        self._by_writer: dict[int, _File] = {}

    def give(self, call: Call, number: int, *, cloexec: bool) -> Answered:
        """A descriptor of tree or context `number`, as what the call returns; without it the number goes.

        Raises OSError: EMFILE, ENFILE where the supervisor has too many; Gone.
        """
        # O_DIRECT: a message with each read. O_NONBLOCK: none is EAGAIN, for a pipe knows no ENODATA.
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
        except OSError:
            self._system.call(None, "", "close_mount_fd", number)
            raise OSError(errno.ENFILE, "the supervisor has no descriptor left") from None
        about = os.fstat(reader)
        file = _File(number, (about.st_dev, about.st_ino), writer)
        try:
            given = call.give_as_answer(reader, cloexec=cloexec)
        except BaseException:
            os.close(writer)
            self._system.call(None, "", "close_mount_fd", number)
            raise
        finally:
            os.close(reader)
        self._by_inode[file.inode] = self._by_writer[writer] = file
        self._poll.register(writer, 0)  # EPOLLERR comes unasked, when nobody has the read end any more
        return given

    def number(self, fd: int) -> int:
        """What a descriptor of this process stands for, 0 for any that is not of here."""
        about = os.fstat(fd)
        file = self._by_inode.get((about.st_dev, about.st_ino))
        return 0 if file is None else file.number

    def tell(self, fd: int, message: str) -> None:
        """A message of an error for who reads a context; dropped where nobody has read those before."""
        about = os.fstat(fd)
        file = self._by_inode.get((about.st_dev, about.st_ino))
        if file is not None:
            with suppress(OSError):
                os.write(file.writer, f"e {message}".encode("utf-8", "surrogateescape")[: select.PIPE_BUF])

    def ended(self, writer: int) -> bool:
        """A descriptor of `poll` is ready: whether it was one of ours, whose last copy the program has closed."""
        file = self._by_writer.pop(writer, None)
        if file is None:
            return False
        del self._by_inode[file.inode]
        self._poll.unregister(writer)
        os.close(writer)
        with suppress(OSError):
            self._system.call(None, "", "close_mount_fd", file.number)
        return True

    def close(self) -> None:
        """All of them go: the supervisor does."""
        for writer in list(self._by_writer):
            self.ended(writer)
