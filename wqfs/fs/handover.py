"""Handing a mount over a socket: the descriptor of /dev/fuse, and what its server must know of the mount.

A Unix stream socket, and one message: the mount's options as after `-o`, the descriptor with it (SCM_RIGHTS). The
server keeps the connection for as long as it serves, so that who mounted sees the server's end as the connection's.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import Final

from wqfs.fs.mounting import MountFailed

_MESSAGE_MAX: Final = 64 * 1024


def listen(path: str) -> socket.socket:
    """A socket at `path` that only this user and root may connect to: its mode is 0600.

    What a dead listener left there is removed. Raises OSError: EADDRINUSE for anything else that is there,
    ENAMETOOLONG from 108 bytes on.
    """
    _remove_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _remove_dead(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    # Of another type than the listener's: it is told EPROTOTYPE by one that lives, which hears nothing of it.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            with suppress(OSError):
                os.unlink(path)
        except OSError:
            pass


def give(connection: socket.socket, fuse_fd: int, options: str) -> None:
    """Send the one message. Raises OSError when the other side is gone."""
    socket.send_fds(connection, [options.encode("utf-8", "surrogateescape") + b"\n"], [fuse_fd])


def take(path: str) -> tuple[socket.socket, int, str]:
    """Connect, and wait for the message; returns the connection, which must stay open, the descriptor, and the
    options. Raises MountFailed."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        message, fds, _, _ = socket.recv_fds(connection, _MESSAGE_MAX, 1)
    except OSError as error:
        connection.close()
        raise MountFailed(
            f"{path}: {error.strerror or error}: `wqfs handover --socket` must wait at it, and let you connect.", 1
        ) from None
    if not fds:
        connection.close()
        raise MountFailed(f"{path}: no mount was handed over; the other side says why.", 2)
    return connection, fds[0], message.decode("utf-8", "surrogateescape").rstrip("\n")
