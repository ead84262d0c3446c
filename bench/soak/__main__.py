"""`make soak`: python -m bench.soak [--seconds N] [--seed N] [--every S] [--report FILE]. Exit status 1 if a criterion
failed, with a line for each."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bench.machine import facts
from bench.soak.load import Load
from bench.soak.measure import processes_of, sample
from bench.soak.verdict import Seen, criteria, report
from tests.dying import daemon_of

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SHORT_S: Final = 600
"""A run below this cannot judge 1 % of memory, nor latency."""
_SAMPLES: Final = 30
_AT_REST_S: Final = 0.5
_CHECKPOINT_EVERY: Final = 10


class Killer:
    """Kills the daemon every few seconds, and every tenth time its checkpoint."""

    def __init__(self, load: Load, seen: Seen, every: float) -> None:
        self._load, self._seen, self._every = load, seen, every
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody is killed meanwhile, but by `kill`."""
        with self._turn:
            yield

    def kill(self, role: str = "daemon") -> None:
        """Kill it; returns when there is another one, with its checkpoint."""
        before = processes_of(self._load.supervisor)
        if role == "daemon":
            self._note_kill()
        else:
            self._seen.checkpoint_kills += 1
        os.kill(before[role], signal.SIGKILL)
        while processes_of(self._load.supervisor)[role] == before[role]:
            time.sleep(0.005)

    def _note_kill(self) -> None:
        self._seen.kills.append(time.monotonic())
        self._load.killed.append(self._seen.kills[-1])

    def _run(self) -> None:
        count = 0
        while not self._load.stop.wait(random.uniform(0.5, 1.5) * self._every):
            with self._turn:
                count += 1
                try:
                    if count % _CHECKPOINT_EVERY == 0:
                        self.kill("checkpoint")
                    elif count % 3 == 0:
                        self._kill_at_once()
                    else:
                        self.kill()
                except (TimeoutError, ProcessLookupError) as error:
                    self._load.faults.append(f"killing: {error!r}")
                    return

    def _kill_at_once(self) -> None:
        """Kill the daemon, and its successor as soon as that is there, wherever it is."""
        before = daemon_of(self._load.supervisor)
        self.kill()
        after = daemon_of(self._load.supervisor)
        if after not in (0, before):
            with suppress(ProcessLookupError):
                self._note_kill()
                os.kill(after, signal.SIGKILL)


def soak(seconds: float, seed: int, every: float, folder: Path) -> Seen:
    """A run on a mount in `folder`."""
    random.seed(seed)
    seen = Seen(seconds, seconds < SHORT_S, seed)
    path = folder / "mnt"
    path.mkdir()
    began = time.monotonic()
    with mounted(path, folder / "log") as supervisor:
        load = Load(path, supervisor)
        killer = Killer(load, seen, every)
        out = folder / "latencies"
        command = [sys.executable, "-m", "bench.soak.latency", str(path), str(out)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as latency:
            load.start()
            killer.start()
            warm_up = min(300.0, seconds / 2)
            time.sleep(warm_up)
            seen.warm = time.monotonic()
            pause = (seconds - warm_up) / (_SAMPLES if not seen.is_short else 5)
            while True:
                with killer.held():
                    load.going.clear()
                    time.sleep(_AT_REST_S)
                    killer.kill()
                    time.sleep(_AT_REST_S)
                    seen.samples.append(sample(supervisor, time.monotonic() - began, len(seen.kills)))
                    load.going.set()
                if time.monotonic() - began >= seconds:
                    break
                time.sleep(max(0.0, min(pause, seconds - (time.monotonic() - began))))
            load.stop.set()
            killer.join()
            assert latency.stdin is not None
            latency.stdin.close()
            if latency.wait(60):
                load.faults.append(f"the process that times records ended with {latency.returncode}")
        seen.faults = load.end()
    seen.latencies = [(float(a), float(b)) for a, b in map(str.split, out.read_text().splitlines())]
    seen.reads = {name: (witness.seen, witness.losses) for name, witness in load.witnesses.items()}
    seen.posted, seen.calls, seen.slowest_call = load.posted, load.calls, load.slowest
    log = (folder / "log").read_text(errors="replace")
    seen.faults += [line for line in log.splitlines() if line.startswith(("ERROR", "CRITICAL", "Traceback"))]
    return seen


@contextmanager
def mounted(path: Path, log: Path) -> Iterator[int]:
    """A wqfs at `path`; gives the pid of the mount command."""
    command = [
        sys.executable,
        str(ROOT / "mount_wqfs.py"),
        str(path),
        "-f",
        "-o",
        "survive,allow_other,depth=512,log_events=256",
    ]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        processes_of(process.pid)
        yield process.pid
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, help="seconds between kills (10; in a short run 1)")
    parser.add_argument("--report", type=Path, default=ROOT / "bench/SOAK.md")
    asked = parser.parse_args()
    # A shell ignores it in what it starts in the background, and so would the programs that are interrupted here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    where = facts(0, 1, quick=False)
    every = asked.every or (10.0 if asked.seconds >= SHORT_S else 1.0)
    with tempfile.TemporaryDirectory(prefix="wqfs-soak-") as folder:
        seen = soak(asked.seconds, asked.seed, every, Path(folder))
    found = criteria(seen)
    asked.report.write_text(report(seen, [fact for fact in where if fact[0] != "rounds"]))
    for each in found:
        state = {True: "held", False: "FAILED", None: "not judged"}[each.held]
        print(f"{state}: {each.what}: {each.measured}; must be {each.must}")
    for fault in seen.faults[:40]:
        print(fault)
    print(f"{len(seen.kills)} kills, {sum(each.held is False for each in found)} criteria failed")
    return int(any(each.held is False for each in found))


if __name__ == "__main__":
    sys.exit(main())
