"""What `wqfs run` costs a program: the same C program outside, under a filter that allows everything, and inside."""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from bench.keeper import Failed
from bench.probe import CLIENT_S, Workshop

OUTSIDE, ALLOWED, INSIDE = "outside", "a filter that allows all", "wqfs run"
COLUMNS = (INSIDE, ALLOWED, OUTSIDE)
PROCESSES, QUICK_PROCESSES = 2_000, 200
# 2 % is issue 5's.
GETPID_LIMIT = 1.02

TITLES = {
    "getpid": ("getpid", 20_000),
    "write": ("write of a byte to /dev/null: stops only where it is of nothing", 20_000),
    "ioctl": ("ioctl FIOCLEX: stops only for FIONREAD and type 'W'", 20_000),
    "plain": ("pipe2 and two closes of an ordinary pipe", 2_000),
    "fionread": ("FIONREAD of an ordinary pipe: stops, and goes on in the kernel", 100),
    "keyctl": ("keyctl GET_KEYRING_ID, answered", 100),
    "pipe2": ("pipe2 of a notification pipe, answered, and two closes", 20),
    "script": ("a shell script of {} processes, in all", 0),
}
"""Row -> what it is, and calls in each of the 31 batches."""
NOT_OUTSIDE = {"pipe2"}  # ENOPKG here


@dataclass
class RunCost:
    """values: nanoseconds by (row, column), one a round."""

    values: dict[tuple[str, str], list[float]]
    failures: dict[tuple[str, str], str]
    processes: int


def measure(shop: Workshop, rounds: int) -> RunCost:
    """All rows, in turn, pinned to the keeper's CPU."""
    cost = RunCost({}, {}, QUICK_PROCESSES if shop.quick else PROCESSES)
    shop.compile(["-O2", "-Wall", "-Wextra", "run_client.c"], "run_client", "")
    client = str(shop.folder / "run_client")
    script = f"n=0; while [ $n -lt {cost.processes} ]; do /bin/true; n=$((n+1)); done"
    for _ in range(rounds):
        for row, (_, count) in TITLES.items():
            for column in COLUMNS:
                if (column != INSIDE and row in NOT_OUTSIDE) or (row, column) in cost.failures:
                    continue
                words = [client, *(["-f"] if column == ALLOWED else []), row, str(count)]
                if row == "script":
                    if column == ALLOWED:
                        continue
                    words = ["sh", "-c", script]
                if column == INSIDE:
                    words = [sys.executable, "-m", "wqfs.cli", "run", "--", *words]
                try:
                    value = timed(shop, words) if row == "script" else told(shop, words)
                    cost.values.setdefault((row, column), []).append(value)
                except (Failed, OSError, subprocess.TimeoutExpired) as error:
                    cost.failures[row, column] = str(error)
    return cost


def pinned(shop: Workshop, words: list[str]) -> str:
    command = ["taskset", "-c", str(shop.keeper.cpu), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}")
    return done.stdout


def told(shop: Workshop, words: list[str]) -> float:
    found = re.fullmatch(r"median_ns ([0-9.]+)\n", pinned(shop, words))
    if found is None:
        raise Failed("the client said something else")
    return float(found[1])


def timed(shop: Workshop, words: list[str]) -> float:
    """The whole run, `wqfs run`'s own start, mount and end with it."""
    start = time.perf_counter_ns()
    pinned(shop, words)
    return time.perf_counter_ns() - start


def section(cost: RunCost) -> list[tuple[str, ...]]:
    """A line for each row: what, and a cell for each of COLUMNS."""
    medians = {key: median(values) for key, values in cost.values.items()}
    lines = []
    for row, (title, _) in TITLES.items():
        inside = medians.get((row, INSIDE))
        cells = []
        for column in COLUMNS:
            value = medians.get((row, column))
            if value is None:
                cells.append("failed" if (row, column) in cost.failures else "n/a")
                continue
            ratio = f" ({inside / value:.2f} x)" if column != INSIDE and inside is not None else ""
            cells.append(shown(value) + ratio)
        lines.append((title.format(f"{cost.processes:,}"), *cells))
    return lines


def shown(ns: float) -> str:
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if ns < limit:
            return f"{ns / (limit / 1e3):,.1f} {unit}"
    return f"{ns / 1e9:,.2f} s"


def verdict(cost: RunCost) -> str:
    """The one target that there is."""
    inside, allowed = (cost.values.get(("getpid", column)) for column in (INSIDE, ALLOWED))
    if not inside or not allowed:
        return "getpid: not measured"
    ratio = median(inside) / median(allowed)
    word = "met" if ratio <= GETPID_LIMIT else "MISSED"
    return f"getpid at most {GETPID_LIMIT} x a filter that allows everything: {ratio:.3f} x, {word}"
