"""wqfs and its peers, mounted and taken down in one way."""

import itertools
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.keeper import Failed, Keeper, tail

TREE = Path(__file__).resolve().parent.parent
START_S = 15.0
# The bounds (DESIGN.md, Limits) that the 10,000s of the table need raised.
WQFS_OPTIONS = "max_watches=20000"


@dataclass(frozen=True)
class Paths:
    """What the client is given; `text` is one command that posts one record of 16 bytes."""

    queue: str
    records: str
    post: str
    text: str


class Server(ABC):
    """`name` is the column, `title` what it is in words."""

    name: str
    title: str

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    @contextmanager
    def queue(self) -> Iterator[Paths]:
        """An empty queue that sees what is posted, gone at the end."""
        yield Paths("", "", "", "")


def unmount(directory: Path) -> None:
    with suppress(subprocess.TimeoutExpired):
        command = ["fusermount3", "-uz", "--", str(directory)]
        subprocess.run(command, timeout=START_S, check=False, capture_output=True)


class Pipe(Server):
    name = "pipe"
    title = "os.pipe, inside the client; FIONREAD stands for the ioctl"

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    @contextmanager
    def queue(self) -> Iterator[Paths]:
        yield Paths("pipe", "-", "-", "-")


class Mounted(Server):
    """A server process with a mount. `command` gets the mountpoint in place of DIR."""

    text = "key update 5 blue"

    def __init__(self, keeper: Keeper, folder: Path, command: list[str]) -> None:
        self.keeper = keeper
        self.directory = folder / self.name
        self.log = folder / f"{self.name}.log"
        self.command = [str(self.directory) if word == "DIR" else word for word in command]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise Failed(f"{self.name} is not running")
        return self.process.pid

    def start(self) -> None:
        """Returns when a stat is answered."""
        self.directory.mkdir(exist_ok=True)
        self.process = self.keeper.start(self.command, self.log, TREE)
        until = time.monotonic() + START_S
        with self.keeper.deadline(START_S, f"{self.name}: first stat"):
            while not self.is_mounted():
                if self.process.poll() is not None:
                    raise Failed(f"{self.name} ended with {self.process.returncode}: {tail(self.log)}")
                if time.monotonic() > until:
                    raise Failed(f"{self.name}: not mounted after {START_S:.0f} s")
                time.sleep(0.02)
            self.directory.stat()

    def is_mounted(self) -> bool:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return any(line.split(" ")[4] == str(self.directory) for line in mounts)

    def stop(self) -> None:
        """However it stands; what it left mounted is unmounted."""
        if self.process is not None:
            self.keeper.end(self.process)
            self.process = None
        if self.is_mounted():
            unmount(self.directory)

    @contextmanager
    def queue(self) -> Iterator[Paths]:
        at = self.directory
        yield Paths(str(at / "queue"), str(at / "records"), str(at / "post"), self.text)


class LowLevel(Mounted):
    name = "c"
    title = "peer_lowlevel.c: C, libfuse's low-level API, one thread"


class Pyfuse3(Mounted):
    name = "pyfuse3"
    title = "peer_pyfuse3.py: pyfuse3 alone (no ioctl, no interrupt)"


class Wqfs(Mounted):
    name = "wqfs"
    title = "mount_wqfs.py"
    text = "key update colour blue"

    def __init__(self, keeper: Keeper, folder: Path, command: list[str]) -> None:
        super().__init__(keeper, folder, command)
        self.numbers = itertools.count()

    def start(self) -> None:
        super().start()
        with self.keeper.deadline(START_S, "wqfs: key add"):
            descriptor = os.open(self.directory / "post", os.O_WRONLY)
            try:
                os.write(descriptor, b"key add user colour red @s\n")
            finally:
                os.close(descriptor)

    def paths(self, watch: str) -> Paths:
        at = self.directory
        queue = at / "watches" / watch / "queue"
        return Paths(str(queue), str(at / "sim" / "records"), str(at / "post"), self.text)

    def make_watch(self, name: str) -> None:
        (self.directory / "watches" / name).mkdir()

    def warm_up(self) -> None:
        """Work, so that at rest it takes a checkpoint: before the first that it has a reason to take, what it changed
        since the mount is in memory twice, and would be counted as what is given back later."""
        for number in range(500):
            self.make_watch(f"warm{number}")
            (self.directory / "watches" / f"warm{number}").rmdir()

    @contextmanager
    def queue(self) -> Iterator[Paths]:
        name = f"bench{next(self.numbers)}"
        with self.keeper.deadline(START_S, "wqfs: mkdir of a watch"):
            self.make_watch(name)
        try:
            yield self.paths(name)
        finally:
            with suppress(OSError), self.keeper.deadline(START_S, "wqfs: rmdir of a watch"):
                (self.directory / "watches" / name).rmdir()

    def status(self, watch: str) -> dict[str, int]:
        text = (self.directory / "watches" / watch / "status").read_text()
        words = (line.split() for line in text.splitlines())
        return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


class NoSurvive(Wqfs):
    """As wqfs, but nobody takes over when the daemon dies: what that costs."""

    name = "nosurvive"
    title = "mount_wqfs.py -o nosurvive"


def make(name: str, keeper: Keeper, folder: Path) -> Server:
    """One of NAMES, not started; the C peer is expected compiled in `folder`."""
    if name == Pipe.name:
        return Pipe()
    if name == LowLevel.name:
        # Single-threaded and in the foreground by itself; -f says so to who reads the process list.
        return LowLevel(keeper, folder, [str(folder / "peer_lowlevel"), "DIR", "-f"])
    if name == Pyfuse3.name:
        return Pyfuse3(keeper, folder, [sys.executable, "-m", "bench.peer_pyfuse3", "DIR"])
    mount = str(TREE / "mount_wqfs.py")
    if name == NoSurvive.name:
        return NoSurvive(keeper, folder, [sys.executable, mount, "DIR", "-f", "-o", f"nosurvive,{WQFS_OPTIONS}"])
    return Wqfs(keeper, folder, [sys.executable, mount, "DIR", "-f", "-o", WQFS_OPTIONS])


KINDS: tuple[type[Server], ...] = (Wqfs, NoSurvive, LowLevel, Pyfuse3, Pipe)
NAMES = tuple(kind.name for kind in KINDS)
TITLES = {kind.name: kind.title for kind in KINDS}
