"""Load of every kind on one mount, that comes back to the same state: as many watches, keys and mounts as before.

What dying.Mount does (raw records, commands, blocking, polling and `events` readers, watches that come and go), and
beside it cat(1), `wqfs tail` and wqfs.client as readers, filters, sizes, interrupts, refusals, looks at the texts,
a program under `wqfs run`, and another user.
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
from tests.users import ADA, PYTHON, as_user
from wqfs.abi.ioctls import IOC_WATCH_QUEUE_SET_FILTER, wqfs_ioc_set_filter
from wqfs.client import Queue

_FILTER: Final = b"\x01\0\0\0\0\0\0\0" + b"\x01\0\0\0" + bytes(8) + b"\xff" * 32
"""One rule: keys, all subtypes."""
_libc = ctypes.CDLL(None, use_errno=True)
_STUCK_S: Final = 30.0
_HERE: Final = Path(__file__).resolve().parent
_CLI: Final = (sys.executable, "-m", "wqfs.cli")


class Load(Mount):
    """All of it. supervisor: the mount command's pid."""

    def __init__(self, path: Path, supervisor: int) -> None:
        super().__init__(path, supervisor)
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
        queues = ("blocking", "level", "edge", "poll", "cat")
        self.witnesses = {name: Witness(name, from_first=name in queues) for name, _ in self._reading}
        self._busy = [
            self.write,
            self.command,
            lambda: self.come_and_go("a"),
            lambda: self.come_and_go("b"),
            lambda: self._again(self._filter_and_size, 0.05),
            lambda: self._again(self._interrupt, 0.1),
            lambda: self._again(self._look, 0.1),
            lambda: self._again(self._be_refused, 0.05),
            self._watch_a_key,
            self._be_another,
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
            try:
                once()
            except OSError as error:
                self.faults.append(f"{once.__name__}: {error!r}")
            time.sleep(pause)

    # -- who reads, with other programs

    def _read_with_tail(self, witness: Witness, folder: Path) -> None:
        def lines(data: bytes) -> bytes:
            *whole, rest = data.split(b"\n")
            witness.lines(b"\n".join(whole))
            return rest

        command = [*_CLI, "tail", "--mount", str(self.path), "--json", folder.name]
        self.read_of(command, lines, witness)

    def _read_with_client(self, witness: Witness, folder: Path) -> None:
        with closing(Queue.open(folder)) as queue:
            while events := queue.read():
                for event in events:
                    witness.records(event.raw)

    # -- who asks for other things

    def _filter_and_size(self) -> None:
        folder = self.path / "watches/sized"
        self.timed("mkdir of sized", folder.mkdir)
        fd = self.timed("open of sized", lambda: os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK))
        if fd is None:
            return
        self.timed("SET_SIZE", lambda: fcntl.ioctl(fd, SET_SIZE, random.choice((8, 64, 512))))
        self.timed("SET_FILTER", lambda: fcntl.ioctl(fd, wqfs_ioc_set_filter(1), _FILTER))
        filter_ = ctypes.create_string_buffer(_FILTER)
        address = ctypes.c_void_p(ctypes.addressof(filter_))

        def by_pointer() -> None:
            if _libc.ioctl(fd, ctypes.c_ulong(IOC_WATCH_QUEUE_SET_FILTER), address) < 0:
                number = ctypes.get_errno()
                why = (self.path / "errors").read_text().splitlines()[-1:]
                raise OSError(number, f"SET_FILTER by pointer: {why}")

        self.timed("SET_FILTER by pointer", by_pointer)
        self.timed("close of sized", lambda: os.close(fd))
        self.timed("rmdir of sized", folder.rmdir)

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
        snapshot = self.timed("sim/snapshot", (self.path / "sim/snapshot").read_bytes)
        json.loads(snapshot or b"{}")
        for name in ("metrics", "errors", "sim/mountinfo", "watches/level/status", "watches/level/log"):
            self.timed(name, (self.path / name).read_bytes)

    def _be_refused(self) -> None:
        self._refused(errno.EINVAL, lambda: (self.path / "post").write_text("mount nothing nowhere never\n"))
        fd = self.timed("open of refused", lambda: os.open(self._folders["refused"] / "queue", os.O_RDONLY))
        if fd is None:
            return
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

    # -- programs that do a round for each line they are given

    def _watch_a_key(self) -> None:
        run = [*_CLI, "run", "--mount", str(self.path), "--"]
        self._rounds_of("a watched key", [*run, sys.executable, "-SI", str(_HERE / "watching.py")])

    def _be_another(self) -> None:
        self._rounds_of("another user", as_user(ADA, PYTHON, "-SIc", (_HERE / "another.py").read_text()))

    def _rounds_of(self, name: str, command: list[str]) -> None:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.path
        ) as program:
            asks, says = program.stdin, program.stdout
            assert asks is not None and says is not None

            while self.goes_on():
                asks.write("\n")
                asks.flush()
                said = says.readline()
                self.calls += 1
                if said != "\n":
                    self.faults.append(f"{name}: {said}")
                    break
                time.sleep(0.2)
            asks.close()
            if program.wait(_STUCK_S):
                self.faults.append(f"{name}: its program ended with {program.returncode}")
