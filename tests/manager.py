"""A service manager that keeps descriptors, as systemd does for a service, in a few lines: for tests that hand a mount
from one process of a service to the next."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.daemons import wait_for_checkpoint
from tests.tools import LIMIT, MOUNT_COMMAND, Mount, wait_until


class Served(Mount):
    """The mount of a process that a Service has started."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], log: Path, options: str) -> None:
        self.path = path
        self.process = process
        self._log, self._options = log, options


class Service:
    """A mount under the manager. room: how many descriptors that keeps."""

    def __init__(self, folder: Path, options: str = "survive", room: int = 3) -> None:
        self.folder = folder
        self.path = folder / "mnt"
        self.path.mkdir()
        self.options = options
        self.room = room
        self.command: tuple[str, ...] = MOUNT_COMMAND
        self.said: list[str] = []
        self.stored: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = f"wqfs-{os.getpid()}-{id(self)}"  # abstract: any user may write to it
        self._socket.bind("\0" + self._address)
        self.process: subprocess.Popen[bytes]
        self.mount: Mount

    def start(self) -> Mount:
        """The next process, with what is kept; returns its mount once it is ready."""
        self.launch()
        self.wait("READY=1")
        self.mount = Served(self.path, self.process, self.folder / "log", self.options)
        if "nosurvive" not in self.options:
            wait_for_checkpoint(self.process.pid)
        return self.mount

    def launch(self) -> None:
        """The next process, not waited for."""
        self.said.clear()
        taken = dict(self.stored)
        script = " ".join(f"{number}<&{fd} {fd}<&-" for number, fd in enumerate(taken.values(), 3))
        listen = f"LISTEN_PID=$$ LISTEN_FDS={len(taken)} LISTEN_FDNAMES={':'.join(taken)}" if taken else ""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f'{listen} exec "$@" {script}', "bash", *self.command, self.path, "-f",
                 "-o", self.options],
                stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": "@" + self._address},
                start_new_session=True, pass_fds=tuple(taken.values()),
            )  # fmt: skip

    def hear(self, seconds: float = 0.1) -> bool:
        """One message, and what a manager does about it. Returns whether there was one."""
        self._socket.settimeout(seconds)
        try:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 8)
        except TimeoutError:
            return False
        words = message.decode().splitlines()
        self.said += words
        name = next((word.partition("=")[2] for word in words if word.startswith("FDNAME=")), "")
        if "FDSTORE=1" in words and name not in self.stored and len(self.stored) < self.room:
            self.stored[name] = fds.pop()
        if "FDSTOREREMOVE=1" in words and name in self.stored:
            os.close(self.stored.pop(name))
        for fd in fds:
            os.close(fd)
        return True

    def wait(self, word: str) -> None:
        wait_until(lambda: word in self.said or (self.hear(), word in self.said)[1], word)

    def wait_for_end(self) -> int:
        """Of the process; returns its exit code."""
        wait_until(lambda: (self.hear(), self.process.poll() is not None)[1], "the end of the process")
        return self.process.wait()

    def stop(self) -> None:
        """Order the hand-over, and wait for its end."""
        self.process.send_signal(signal.SIGUSR2)
        assert self.wait_for_end() == 0, self.log()
        if "wqfs-probe" in self.stored:  # its other end is closed: POLLERR
            os.close(self.stored.pop("wqfs-probe"))

    def restart(self) -> Mount:
        self.stop()
        assert set(self.stored) == {"wqfs-fuse", "wqfs-state"}, self.log()
        mount = self.start()
        while self.stored:
            self.hear()
        return mount

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        subprocess.run(["fusermount3", "-quz", "--", self.path], check=False, timeout=LIMIT)
        self.process.kill()
        self.process.wait(LIMIT)
        for fd in self.stored.values():
            os.close(fd)
        self._socket.close()
