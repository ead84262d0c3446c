"""Processes that never outlive the benchmark, and calls into mounts that never hang it.

Every process is started in a session of its own, pinned to one CPU, and dies with the benchmark
(PR_SET_PDEATHSIG). A call that waits for a server has a deadline: when it passes, the servers are
killed, which ends their connections, so that whoever waited in them gets an error and goes on.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_S = 5.0


class Failed(Exception):
    """What could not be measured, in words."""


class Keeper:
    """Starts, remembers, ends. `cpu` is where every process runs."""

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Standard output is a pipe, standard error goes to `log`."""
        prefix = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(self.cpu)]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                prefix + command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=cwd,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
        """With all its children; SIGKILL if `how` is not enough."""
        for number in (how, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
                break
        if process.stdout is not None:
            process.stdout.close()
        if process in self.running:
            self.running.remove(process)

    def kill_all(self) -> None:
        """Only kills, so that a timer's thread may call it."""
        for process in list(self.running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill_all()
        for process in list(self.running):
            self.end(process, signal.SIGKILL)

    @contextmanager
    def deadline(self, seconds: float, what: str) -> Iterator[None]:
        """Failed, and every process killed, if the body takes longer."""
        passed = threading.Event()

        def strike() -> None:
            passed.set()
            self.kill_all()

        timer = threading.Timer(seconds, strike)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, Failed) as error:
            if passed.is_set():
                raise Failed(f"{what}: no end after {seconds:.0f} s") from error
            raise
        finally:
            timer.cancel()
        if passed.is_set():
            raise Failed(f"{what}: no end after {seconds:.0f} s")


def tail(log: Path) -> str:
    """The last line that a process wrote to its standard error."""
    with suppress(OSError):
        lines = log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no word")
    return "no word"
