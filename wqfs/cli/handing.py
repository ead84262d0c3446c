"""How `wqfs handover` runs the command that serves, and how it hands a mount over a socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from wqfs.cli.command import EXIT_OK, CommandFailed
from wqfs.fs import handover, mounting
from wqfs.fs.options import Options

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PEER = struct.Struct("3i")


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Run a command with all descriptors that may be inherited; it gets the signals that are meant to end us.
    Raises CommandFailed."""
    try:
        process = subprocess.Popen(command, close_fds=False)
    except OSError as error:
        raise CommandFailed(f"cannot run {command[0]}: {error.strerror}.") from None
    for number in _FORWARDED:
        signal.signal(number, lambda number, frame: process.send_signal(number))
    return process


def end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a command; returns its exit code, 128 and the number of the signal that ended it."""
    code = process.wait()
    if code >= 0:
        return code
    assert isinstance(process.args, list)
    print(f"wqfs handover: {process.args[0]} was ended by {signal.Signals(-code).name}", file=sys.stderr)
    return 128 - code


def by_socket(path: str, place: str, options: Options, told: str, command: Sequence[str]) -> int:
    """Mount at `place` for the first who connects to `path`, until that server or `command`, if any, ends.

    told: the options that the server hears, as after `-o`. Returns the exit code. Raises CommandFailed, MountFailed.
    """
    try:
        listener = handover.listen(path)
    except OSError as error:
        raise CommandFailed(f"cannot listen at {path}: {error.strerror or error}.") from None
    try:
        process = start(command) if command else None
        if process is None:
            signal.signal(signal.SIGHUP, signal.default_int_handler)
        try:
            if _comes(listener, process):
                connection, _ = listener.accept()
                with connection:
                    _gone(path, listener)
                    _serve(connection, place, options, told, process)
        except BaseException:
            if process is not None:  # it would wait for a mount that does not come
                process.terminate()
                process.wait()
            raise
        return EXIT_OK if process is None else end_of(process)
    finally:
        _gone(path, listener)


def _serve(
    connection: socket.socket, place: str, options: Options, told: str, process: subprocess.Popen[bytes] | None
) -> None:
    """Mount, hand over, and take the mount away when the server or the command has ended."""
    fuse_fd = mounting.mount(place, options)
    try:
        try:
            handover.give(connection, fuse_fd, told)
        finally:
            os.close(fuse_fd)  # held by the server alone: its death ends the mount
        pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        print(f"wqfs handover: {place}: handed over to pid {pid} of user {uid}", file=sys.stderr, flush=True)
        _comes(connection, process)
    except OSError as error:
        raise CommandFailed(f"{place}: the server went away: {error.strerror}.") from None
    finally:
        mounting.unmount(place, lazy=True)


def _comes(what: socket.socket, process: subprocess.Popen[bytes] | None) -> bool:
    """Wait until there is something on the socket; False: the command ended first."""
    waiting = select.poll()
    waiting.register(what, select.POLLIN)
    if process is None:
        waiting.poll()
        return True
    ended = os.pidfd_open(process.pid)
    try:
        waiting.register(ended, select.POLLIN)
        return any(fd == what.fileno() for fd, _ in waiting.poll())
    finally:
        os.close(ended)


def _gone(path: str, listener: socket.socket) -> None:
    """Take the socket away, once: another may stand there later."""
    if listener.fileno() >= 0:
        with suppress(OSError):
            os.unlink(path)
        listener.close()
