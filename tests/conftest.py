"""Fixtures for tests that mount: a daemon of its own for each, gone at the end whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOUNT_COMMAND = (sys.executable, str(ROOT / "mount_wqfs.py"))
LIMIT = 20.0
"""Seconds that anything may take before a test calls it hung."""


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Wait until `condition()` is true; fails the test, naming `what`, after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {limit:g} s for {what}")
        time.sleep(0.005)


def is_mounted(path: Path) -> bool:
    """Whether a wqfs is mounted at `path`, from the mount table alone."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split(" ")[4] == str(path) and " - fuse.wqfs " in line for line in table)


class Mount:
    """A running wqfs. path: the mountpoint; process: the daemon, in the foreground."""

    def __init__(self, path: Path, options: str, log: Path) -> None:
        self.path = path
        self._log = log
        command = [*MOUNT_COMMAND, str(path), "-f", *(["-o", options] if options else [])]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_until(lambda: "mounted" in self.log() or self.process.poll() is not None, "the mount")
            if self.process.poll() is not None:
                pytest.fail(f"the mount command ended with {self.process.returncode}: {self.log()}")
        except BaseException:
            self.close()
            raise

    def log(self) -> str:
        """What the daemon has said so far."""
        return self._log.read_text(errors="replace")

    def post(self, *lines: str) -> None:
        """Write lines to `post`, each in a write of its own. Raises OSError as write(2) does."""
        fd = os.open(self.path / "post", os.O_WRONLY)
        try:
            for line in lines:
                os.write(fd, line.encode("utf-8", "surrogateescape") + b"\n")
        finally:
            os.close(fd)

    def watch(self, name: str = "w") -> Path:
        """mkdir watches/NAME; returns its folder."""
        folder = self.path / "watches" / name
        folder.mkdir()
        return folder

    def status(self, folder: Path) -> dict[str, int]:
        """The numbers of a watch's `status`."""
        return {name: int(value) for name, value in map(str.split, (folder / "status").read_text().splitlines())}

    def wait_for_readers(self, folder: Path, count: int = 1) -> None:
        """Wait until `count` reads wait on the watch's queue."""
        wait_until(lambda: self.status(folder)["readers"] >= count, f"{count} waiting readers")

    def wait_for_pollers(self, folder: Path, count: int = 1) -> None:
        """Wait until `count` open files have a poll waiting on the watch's queue."""
        wait_until(lambda: self.status(folder)["pollers"] >= count, f"{count} waiting pollers")

    def close(self) -> None:
        """Unmount at once, end the daemon, wait for it."""
        subprocess.run(
            ["fusermount3", "-uz", "-q", "--", str(self.path)],
            check=False,
            capture_output=True,
            timeout=LIMIT,
        )
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT)


@pytest.fixture
def mount_with(tmp_path: Path) -> Iterator[Callable[[str], Mount]]:
    """A function that mounts with options in a temporary folder and returns the Mount. At the end
    all are unmounted, and the daemons must have logged no error."""
    mounts: list[Mount] = []

    def mount(options: str = "") -> Mount:
        path = tmp_path / f"mnt{len(mounts)}"
        path.mkdir()
        mounts.append(Mount(path, options, tmp_path / f"log{len(mounts)}"))
        return mounts[-1]

    try:
        yield mount
    finally:
        for each in mounts:
            each.close()
    for each in mounts:
        assert "Traceback" not in each.log(), each.log()
        assert "ERROR" not in each.log(), each.log()


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Mount:
    """A wqfs mounted without options."""
    return mount_with("")


@pytest.fixture
def strict_mount(mount_with: Callable[[str], Mount]) -> Mount:
    """A wqfs that answers as the kernel does: `-o strict,enobufs`."""
    return mount_with("strict,enobufs")
