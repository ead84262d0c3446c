"""A scenario: what happens to the simulated system, when, and what must come of it. As TOML:

    title = "A stick is pulled out"
    seed = 1                       # of the jitter
    [[watch]]
    name = "w"                     # how expectations call it
    objects = ["mount / id=1"]     # lines as of `objects`; none: everything
    filter = []                    # lines as of `filter`
    depth = 64
    [[step]]
    name = "plug in"
    at = 1.5                       # or "200ms", "2m"; none: right after the step before
    run = "mount /dev/sdb1 /media/usb -t vfat"     # a line as of `post`, or a list
    expect = { watch = "w", event = "new_mount", mountpoint = "/media/usb" }
    [[step]]
    every = "10ms"
    repeat = 100                   # {n} in a line is the count, from 0
    jitter = "2ms"
    run = ["umount /net/{n}"]
    refused = "EINVAL"             # the line must be refused so; its own step
    records = "0200..."            # raw records in hexadecimal digits, as to sim/records

`scenario_toml` reads and writes that; `wqfs.cli.play` runs it. No I/O and no clock in here.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from wqfs.sim.expectation import Expectation

_COUNT = re.compile(r"\{\{n\}\}|\{n\}")


@dataclass(frozen=True, slots=True)
class WatchSpec:
    """A watch of a scenario. objects, filter: lines as of those files; depth: records, None for the mount's."""

    name: str
    objects: tuple[str, ...] = ()
    filter: tuple[str, ...] = ()
    depth: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """at_ns: since the start, None for right after the step before; every_ns, repeat, jitter_ns: how often;
    run: lines; records: raw ones; refused: the errno's name that the lines must be refused with, or ""."""

    name: str
    at_ns: int | None = None
    every_ns: int = 0
    repeat: int = 1
    jitter_ns: int = 0
    run: tuple[str, ...] = ()
    records: tuple[bytes, ...] = ()
    refused: str = ""
    expect: tuple[Expectation, ...] = ()

    def lines(self, n: int) -> list[str]:
        """The lines of the repeat `n`."""
        return [_COUNT.sub(lambda match: str(n) if match[0] == "{n}" else "{n}", line) for line in self.run]


@dataclass(frozen=True, slots=True)
class Scenario:
    """seed: of the jitter."""

    title: str
    story: str = ""
    seed: int = 0
    watches: tuple[WatchSpec, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time that a step happens. number: of the step, from 1; n: of the repeat, from 0."""

    at_ns: int
    number: int
    n: int
    step: Step


def schedule(scenario: Scenario, seed: int | None = None) -> Iterator[Occurrence]:
    """All occurrences in the order of their times, then of their steps. seed: instead of the scenario's."""
    base = scenario.seed if seed is None else seed
    runs = []
    after_ns = 0
    for number, step in enumerate(scenario.steps, 1):
        at_ns = after_ns if step.at_ns is None else step.at_ns
        after_ns = at_ns + step.every_ns * (step.repeat - 1)
        runs.append(_occurrences(step, number, at_ns, random.Random(f"{base} {number}")))
    return heapq.merge(*runs, key=lambda each: (each.at_ns, each.number, each.n))


def _occurrences(step: Step, number: int, at_ns: int, chance: random.Random) -> Iterator[Occurrence]:
    last = 0
    for n in range(step.repeat):
        jitter = chance.randrange(step.jitter_ns + 1) if step.jitter_ns else 0
        # Jitter does not change the order of a step's own repeats, which may build on one another.
        last = max(last, at_ns + n * step.every_ns + jitter)
        yield Occurrence(last, number, n, step)
