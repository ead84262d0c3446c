"""What was seen, against what must hold; and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final

from bench.report import table
from bench.soak.measure import ROLES, Sample

MEMORY: Final = 1.01
"""At most so many times the memory of after the warm-up."""
KIB_A_DEATH: Final = 30
"""What a short run may find more for each death instead: it is too short for 1 %, but not for a leak of 40 kB."""
POST_S: Final = 0.1
"""A record begun so soon after a kill waits for the successor too."""
PAUSE_S: Final = 1.0
"""The longest that anybody may wait for a restart."""
FLAT: Final = 1.25
"""At most so many times the p99 of the first third in the last one. Medians over windows of WINDOW_S, so that one
window in which the machine was busy with something else does not decide; what creeps up by a quarter does."""
WINDOW_S: Final = 10.0
AFTER_A_KILL_S: Final = 1.5
"""Seconds in which a record belongs to the restart, and not to the latency of a server that runs."""


@dataclass
class Seen:
    """All that a run has seen. kills: when, by the monotonic clock, warm: when the warm-up was over; latencies: when
    posted, and seconds until read; reads: by reader how many of `posted` it saw, and how many losses; slowest_call:
    seconds, and of what; faults: what
    must not have been, a sentence each."""

    seconds: float
    is_short: bool
    seed: int
    warm: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    checkpoint_kills: int = 0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    reads: dict[str, tuple[int, int]] = field(default_factory=dict)
    posted: int = 0
    calls: int = 0
    slowest_call: tuple[float, str] = (0.0, "none")
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Criterion:
    """held: None where the run was too short to say."""

    what: str
    must: str
    measured: str
    held: bool | None


def criteria(seen: Seen) -> list[Criterion]:
    """All of them."""
    return [*_memory(seen), *_descriptors(seen), _events(seen), _pause(seen), _flat(seen)]


def _memory(seen: Seen) -> list[Criterion]:
    few = max(1, len(seen.samples) // 6)
    first, last = seen.samples[:few], seen.samples[-few:]
    deaths = last[-1].deaths - first[0].deaths
    found = []
    for role in ROLES:
        before, after = (median(sample.kib[role] for sample in samples) for samples in (first, last))
        allowed, must = before * MEMORY, "at most 1 % more"
        if seen.is_short and before + KIB_A_DEATH * deaths > allowed:
            allowed, must = before + KIB_A_DEATH * deaths, f"at most {KIB_A_DEATH} KiB a death more"
        growth = (after / before - 1) * 100
        measured = f"{before:,.0f} to {after:,.0f} KiB ({growth:+.2f} %), {deaths} deaths"
        found.append(Criterion(f"memory of the {role}", must, measured, after <= allowed))
    return found


def _descriptors(seen: Seen) -> list[Criterion]:
    found = []
    for role in ROLES:
        before, after = seen.samples[0].descriptors[role], seen.samples[-1].descriptors[role]
        found.append(Criterion(f"descriptors of the {role}", "not one more", f"{before} to {after}", after <= before))
    return found


def _events(seen: Seen) -> Criterion:
    losses = sum(losses for _, losses in seen.reads.values())
    measured = f"{seen.posted:,} posted to {len(seen.reads)} readers, {losses} losses, {len(seen.faults)} faults"
    return Criterion("events and calls", "each once or in a loss; no call fails", measured, not seen.faults)


def _pause(seen: Seen) -> Criterion:
    longest = max((seconds for _, seconds in seen.latencies), default=0.0)
    if not seen.is_short:
        must, measured = f"{PAUSE_S:g} s", f"{longest:.3f} s"
        return Criterion("the longest wait of a record, restarts included", must, measured, longest <= PAUSE_S)
    at_kills = [
        max((took for begin, took in seen.latencies if begin - POST_S <= kill <= begin + took), default=0.0)
        for kill in seen.kills
    ]
    typical = median(at_kills) if at_kills else 0.0
    must, measured = f"median at most {PAUSE_S:g} s", f"{typical:.3f} s, the longest of all {longest:.3f} s"
    return Criterion("the wait of a record at a kill", must, measured, typical <= PAUSE_S)


def _flat(seen: Seen) -> Criterion:
    windows = _p99_of_windows(seen)
    third = len(windows) // 3
    must = f"last third at most {FLAT} x the first"
    if not third:
        return Criterion("p99 from post to read, between restarts", must, "too short to say", None)
    before, after = median(windows[:third]), median(windows[-third:])
    measured = f"{before * 1e6:,.0f} to {after * 1e6:,.0f} us ({after / before:.2f} x)"
    held = None if seen.is_short else after <= FLAT * before
    return Criterion("p99 from post to read, between restarts", must, measured, held)


def _p99_of_windows(seen: Seen) -> list[float]:
    kills = sorted(seen.kills)
    windows: dict[int, list[float]] = {}
    at = 0
    for begin, seconds in seen.latencies:
        while at < len(kills) and kills[at] + AFTER_A_KILL_S < begin:
            at += 1
        if begin < seen.warm or (at < len(kills) and kills[at] <= begin + seconds):
            continue
        windows.setdefault(int((begin - seen.warm) // WINDOW_S), []).append(seconds)
    return [quantiles(each, n=100)[-1] for _, each in sorted(windows.items()) if len(each) >= 20]


_WORDS: Final = {True: "held", False: "FAILED", None: "not judged"}


def report(seen: Seen, facts: list[tuple[str, str]]) -> str:
    """As Markdown."""
    found = criteria(seen)
    text = [
        "# Soak",
        "",
        f"`make soak SOAK={seen.seconds:.0f} SEED={seen.seed}`: one mount under load of every kind, its daemon killed "
        f"{len(seen.kills)} times and its checkpoint {seen.checkpoint_kills} times.",
        "",
        table(("what", "must be", "measured", ""), [(c.what, c.must, c.measured, _WORDS[c.held]) for c in found]),
        "Memory is `Anonymous` of /proc/PID/smaps_rollup, shared pages counted for each: sampled at rest, after a "
        "death, when the successor has its checkpoint; the medians of the first and the last sixth of the samples "
        "after the warm-up. Latency is that of another process, which posts a record every 20 ms and waits for it.",
        "",
        "## Readers",
        "",
        table(
            ("reader", "records", "losses"),
            [(name, f"{count:,}", str(losses)) for name, (count, losses) in seen.reads.items()],
        ),
        f"{seen.posted:,} records were posted. {seen.calls:,} other calls, the slowest {seen.slowest_call[0]:.3f} s "
        f"({seen.slowest_call[1]}).",
        "",
        "## At rest",
        "",
        table(
            ("seconds", "deaths", *(f"{role}, KiB" for role in ROLES), *(f"{role}, files" for role in ROLES)),
            [
                (
                    f"{sample.seconds:.0f}", str(sample.deaths),
                    *(f"{sample.kib[role]:,}" for role in ROLES),
                    *(str(sample.descriptors[role]) for role in ROLES),
                )
                for sample in seen.samples
            ],
        ),
        "## Where",
        "",
        table(("", ""), facts),
    ]  # fmt: skip
    if seen.faults:
        text += ["## Faults", "", *(f"- {fault}" for fault in seen.faults[:100]), ""]
    return "\n".join(text)
