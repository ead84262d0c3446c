"""The process that becomes the program: filter, listener, exec."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from wqfs.run import trap

_CANNOT_RUN: Final = 126
_NOT_FOUND: Final = 127
_WHY: Final = {
    errno.EBUSY: "this process has a seccomp listener already, and there can be only one: another `wqfs run`, a "
    "container engine (LXD, some Docker and Podman set-ups) or WSL2 has put it there. Run wqfs outside of it",
    errno.ENOSYS: "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER), or a container's own filter hides them",
    errno.EINVAL: "this kernel has no seccomp user notification: Linux 5.9 is needed",
}


class NotStarted(Exception):
    """The program was not started: a sentence for the user."""


def become(words: Sequence[str], mount: Path, made: bytes, mask: Set[int], supervisor: socket.socket) -> NoReturn:
    """Turn this process into the program.

    made: the filter; mask: the signals that the program has blocked; supervisor: gets the listener, or a sentence.
    """
    code = _CANNOT_RUN
    try:
        try:
            listener = trap.install(made)
        except OSError as error:
            supervisor.send(_WHY.get(error.errno or 0, f"the seccomp filter was refused: {error.strerror}").encode())
            os._exit(code)
        # Nothing from here on may make a call that stops, before somebody answers.
        socket.send_fds(supervisor, [b"\0"], [listener.fileno()])
        supervisor.recv(1)  # until it does
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them
        os.environ["WQFS_MOUNT"] = str(mount)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(words[0], list(words))
    except OSError as error:
        code = _NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else _CANNOT_RUN
        os.write(2, f"wqfs run: cannot run {words[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
    finally:
        os._exit(code)


@contextmanager
def listener_from(program: socket.socket) -> Iterator[int]:
    """The listener's descriptor, which is then the caller's; at the end the program goes on. Raises NotStarted."""
    data, fds, _, _ = socket.recv_fds(program, 1024, 1)
    if not fds:
        raise NotStarted(data.decode() or "the program's process ended before it began")
    try:
        yield fds[0]
        program.send(b"\0")
    finally:
        program.close()
