"""Load of every kind on one mount, that comes back to the same state: as many watches, keys and mounts as before.

What dying.Mount does (raw records, commands, blocking, polling and `events` readers, watches that come and go), and
beside it cat(1), `wqfs tail` and wqfs.client as readers, filters, sizes, interrupts, refusals and looks at the texts.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.dying import SET_SIZE, Mount, Witness
from wqfs.abi.ioctls import IOC_WATCH_QUEUE_SET_FILTER, wqfs_ioc_set_filter
from wqfs.client import Queue

_FILTER: Final = b"\x01\0\0\0\0\0\0\0" + b"\x01\0\0\0" + bytes(8) + b"\xff" * 32
"""One rule: keys, all subtypes."""
_libc = ctypes.CDLL(None, use_errno=True)
_STUCK_S: Final = 30.0


class Load(Mount):
    """All of it. supervisor: the mount command's pid."""

    def __init__(self, path: Path, supervisor: int) -> None:
        super().__init__(path, supervisor)
        self.slow_is_fault = False  # each is many calls, and starts programs
        self._reading: list[tuple[str, Callable[[Witness, Path], None]]] = [
            ("blocking", self.read_blocking),
            ("level", lambda witness, folder: self.read_polling(witness, folder, edge=False)),
            ("edge", lambda witness, folder: self.read_polling(witness, folder, edge=True)),
            ("poll", self.read_with_poll),
            ("events", self.read_events),
            ("cat", self.read_with_cat),
            ("tail", self._read_with_tail),
            ("client", self._read_with_client),
        ]
        self.witnesses = {name: Witness(name) for name, _ in self._reading}
        self._busy = [
            self.write,
            self.command,
            lambda: self.come_and_go("a"),
            lambda: self.come_and_go("b"),
            lambda: self._again(self._filter_and_size, 0.05),
            lambda: self._again(self._interrupt, 0.1),
            lambda: self._again(self._look, 0.1),
            lambda: self._again(self._be_refused, 0.05),
        ]
        self._threads: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []
        self._folders: dict[str, Path] = {}

    def start(self) -> None:
        """Begin all of it."""
        for name in ("idle", "refused"):
            self._folders[name] = self.watch(name)
        (self._folders["idle"] / "filter").write_text("sb\n")
        for name, read in self._reading:
            folder = self._folders[name] = self.watch(name)
            self._readers.append(threading.Thread(target=read, args=(self.witnesses[name], folder), daemon=True))
        for thread in self._readers:
            thread.start()
        time.sleep(1.0)  # a process that reads has to come up
        self._threads = [threading.Thread(target=task, daemon=True) for task in self._busy]
        for thread in self._threads:
            thread.start()

    def end(self) -> list[str]:
        """End all of it; returns what was wrong."""
        self.stop.set()
        self.going.set()
        for thread in self._threads:
            thread.join(_STUCK_S)
        for folder in self._folders.values():
            folder.rmdir()
        for thread in self._readers:
            thread.join(_STUCK_S)
        if any(thread.is_alive() for thread in (*self._threads, *self._readers)):
            self.faults.append("somebody is stuck")
        for witness in self.witnesses.values():
            witness.end(self.posted)
            self.faults += witness.faults
        return self.faults

    def _again(self, once: Callable[[], None], pause: float) -> None:
        while self.goes_on():
            self.timed(once.__name__, once)
            time.sleep(pause)

    # -- who reads, with other programs

    def _read_with_tail(self, witness: Witness, folder: Path) -> None:
        def lines(data: bytes) -> bytes:
            *whole, rest = data.split(b"\n")
            witness.lines(b"\n".join(whole))
            return rest

        command = [sys.executable, "-m", "wqfs.cli", "tail", "--mount", str(self.path), "--json", folder.name]
        self.read_of(command, lines, witness)

    def _read_with_client(self, witness: Witness, folder: Path) -> None:
        with closing(Queue.open(folder)) as queue:
            while events := queue.read():
                for event in events:
                    witness.records(event.raw)

    # -- who asks for other things

    def _filter_and_size(self) -> None:
        folder = self.watch("sized")
        fd = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.ioctl(fd, SET_SIZE, random.choice((8, 64, 512)))
        fcntl.ioctl(fd, wqfs_ioc_set_filter(1), _FILTER)
        filter_ = ctypes.create_string_buffer(_FILTER)
        address = ctypes.c_void_p(ctypes.addressof(filter_))
        failed = _libc.ioctl(fd, ctypes.c_ulong(IOC_WATCH_QUEUE_SET_FILTER), address) < 0
        if failed:
            number = ctypes.get_errno()
            why = (self.path / "errors").read_text().splitlines()[-1:]
            raise OSError(number, f"SET_FILTER by pointer: {why}")
        os.close(fd)
        folder.rmdir()

    def _interrupt(self) -> None:
        with subprocess.Popen(["cat", self._folders["idle"] / "queue"], stdout=subprocess.DEVNULL) as cat:
            time.sleep(0.02)
            cat.send_signal(signal.SIGINT)
            try:
                if cat.wait(_STUCK_S) not in (-signal.SIGINT, 130):
                    self.faults.append(f"an interrupted cat ended with {cat.returncode}")
            except subprocess.TimeoutExpired:
                self.faults.append("an interrupted cat went on waiting")
                cat.kill()

    def _look(self) -> None:
        json.loads((self.path / "sim/snapshot").read_bytes())
        for name in ("metrics", "errors", "sim/mountinfo", "watches/level/status", "watches/level/log"):
            (self.path / name).read_bytes()

    def _be_refused(self) -> None:
        self._refused(errno.EINVAL, lambda: (self.path / "post").write_text("mount nothing nowhere never\n"))
        fd = os.open(self._folders["refused"] / "queue", os.O_RDONLY)
        reads, writes = os.pipe()
        try:
            self._refused(errno.EINVAL, lambda: os.splice(fd, writes, 4096))
            self._refused(errno.EPERM, lambda: os.rmdir(self.path / "sim"))
            self._refused(errno.EEXIST, lambda: os.mkdir(self.path / "watches/refused"))
        finally:
            for each in (fd, reads, writes):
                os.close(each)

    def _refused(self, number: int, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            if error.errno != number:
                self.faults.append(f"refused with {error!r}, not {errno.errorcode[number]}")
        else:
            self.faults.append(f"not refused, which had to be {errno.errorcode[number]}")
