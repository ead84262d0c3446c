"""Running programs under `wqfs run` in tests."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tools import LIMIT, ROOT, wait_until

RUN = (sys.executable, "-m", "wqfs.cli", "run")
KERNEL = ("--keys", "kernel")
_KEYCTL = {"x86_64": 250, "aarch64": 219}


def refusal_of_keyctl() -> int:
    """The errno with which the kernel's key calls are forbidden here, 0 where they are allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(ctypes.c_long(_KEYCTL[os.uname().machine]), 0, -5, 0)
    return ctypes.get_errno() if answer < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM) else 0


def run(*words: str | Path, options: Sequence[str] = (), **more: Any) -> subprocess.CompletedProcess[str]:
    """`wqfs run OPTIONS -- WORDS`, to its end."""
    command = [*RUN, *options, "--", *map(str, words)]
    more = {"stdin": subprocess.DEVNULL, "cwd": ROOT, "timeout": LIMIT, **more}
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def said(*words: str | Path, options: Sequence[str] = ()) -> str:
    """What a program says under `wqfs run`; it must end with 0 and complain of nothing."""
    done = run(*words, options=options)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


class Running:
    """A program under `wqfs run --trace` that goes on. trace: the lines of standard error so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.trace: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.trace.append(line.rstrip("\n"))

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until so many lines of the trace have `text`."""
        wait_until(lambda: sum(text in line for line in list(self.trace)) >= times, f"{text!r} in the trace")

    def end(self) -> tuple[int, str]:
        """(exit code, standard output) once the program has ended."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(LIMIT)
        self._reading.join(LIMIT)
        return code, out


@contextmanager
def running(*words: str | Path, options: Sequence[str] = (), **more: Any) -> Iterator[Running]:
    """A program that runs; at the end it is dead, whatever happened, and all that it started."""
    command = [*RUN, "--trace", *options, "--", *map(str, words)]
    more = {"stdin": subprocess.DEVNULL, "cwd": ROOT, **more}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    try:
        yield Running(process)
    finally:
        for _ in range(2):  # the second one kills what heeds no SIGTERM
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(3)
                except subprocess.TimeoutExpired:
                    continue
        if process.poll() is None:
            process.kill()
            process.wait(LIMIT)
