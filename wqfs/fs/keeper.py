"""A process that stays root for one thing: to unmount the mount of a server that has given up its privilege.

It listens to the server alone, on a socket that it inherits, and understands two words: unmount, and unmount lazily.
It does so only while a mount of wqfs with the device number that it was made for is there. It ends with the server.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wqfs.fs import mounting

_PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv[1]); from wqfs.fs.keeper import run; run(sys.argv[2:])"
_PACKAGE_FOLDER: Final = str(Path(__file__).resolve().parent.parent.parent)
_WORDS: Final = {False: b"unmount", True: b"detach"}
_DONE: Final = b"done"
_LIMIT: Final = 30.0
"""Seconds for an answer; fusermount3 has 20."""
_MESSAGE_MAX: Final = 4096


class Keeper:
    """The server's side. Raises OSError where the process cannot be started."""

    def __init__(self, mountpoint: str, device: str) -> None:
        """mountpoint: absolute; device: of the mount there, `major:minor`. Without it nothing is ever unmounted."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_LIMIT)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, _PACKAGE_FOLDER, mountpoint, device],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", close_fds=True,
                env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")},
            )  # fmt: skip

    def try_unmount(self, mountpoint: str, lazy: bool) -> str:
        """As mounting.try_unmount, for the mount that it was made for."""
        try:
            self._socket.send(_WORDS[lazy])
            answer = self._socket.recv(_MESSAGE_MAX)
        except OSError as error:
            return f"the process that unmounts does not answer: {error}"
        return "" if answer == _DONE else answer.decode(errors="replace") or "the process that unmounts has ended"

    def close(self) -> None:
        """Let it end, and see that it has."""
        self._socket.close()
        self._process.wait()


def run(arguments: Sequence[str]) -> None:
    """The process itself, until the server is gone. arguments: mountpoint, device."""
    # Ctrl-C and systemd tell the whole group to stop; this one is needed for that.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mountpoint, device = arguments
    with socket.socket(fileno=0) as server:
        while word := server.recv(_MESSAGE_MAX):
            complaint = "what?"
            if word in _WORDS.values():
                complaint = mounting.try_unmount(mountpoint, word == _WORDS[True], device) if device else ""
            server.send(complaint.encode(errors="replace")[:_MESSAGE_MAX] or _DONE)
