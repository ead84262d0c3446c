"""Medians, ratios and verdicts as Markdown; the same text goes to the terminal and RESULTS.md."""

from collections.abc import Iterable
from statistics import median

from bench.probe import Figures
from bench.rows import GROUPS, ROWS, Row, Target
from bench.run import COLUMNS, RunCost, section, verdict
from bench.servers import NAMES, TITLES
from bench.why import WHY

OURS = "wqfs"
DIGITS = {"us": 2, "per_s": 0, "us_per_watch": 2, "ratio": 2, "kib": 2, "count": 0}
WORDS = {"us": "us", "per_s": "/s", "us_per_watch": "us", "ratio": "", "kib": "KiB", "count": ""}
METHOD = """\
Medians over the rounds; within a round the servers take turns. Ratios are medians too, of those of
each round, so that a slow minute counts for both sides. Server and clients share one CPU in every
row. The client is C (`client.c`), the same for all; every answer is checked, and in the
throughput row each record's serial number. Operations are timed in batches of 256. Latency runs from
just before the write to just after the read of a process that was blocked in it. Text commands go to
one watch, whose full ring drops records during a write of 64 KiB (2,849 commands); it is drained
outside the timed part. Fan-out is the whole write system call divided by the watches, each 64 deep,
none lost. Memory is Pss. `reader` on the C server: each on its own descriptor. `wqfs run` has a C
program of its own (`run_client.c`), medians of 31 batches; its script is timed with the start of
Python, the private mount, and the end of both.
"""


def show(value: float, unit: str) -> str:
    return f"{value:,.{DIGITS[unit]}f} {WORDS[unit]}".strip()


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Columns padded, so that it reads in a terminal too."""
    rows = [list(head), *(list(line) for line in lines)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    text = ["| " + " | ".join(row) + " |" for row in padded]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text) + "\n"


class Report:
    """Of the rows whose keys are in `chosen`."""

    def __init__(self, figures: Figures, chosen: set[str], cost: RunCost | None = None) -> None:
        self.figures = figures
        self.cost = cost
        self.rows = [row for row in ROWS if row.key in chosen]
        self.medians = {key: median(values) for key, values in figures.values.items()}
        self.missed: list[str] = []
        self.unmeasured: list[str] = []

    def text(self, facts: list[tuple[str, str]]) -> str:
        parts = [
            "# wqfs beside its peers\n",
            "Written by `make bench`; do not edit, but for the reasons, which are in `why.py`.\n",
            table(("machine", ""), facts),
            "## Targets\n",
            table(("what", "target", "wqfs", "measured", "verdict"), self.verdicts()),
            *self.reasons(),
            "## All medians\n",
            table(("what", *NAMES, "wqfs: rounds from .. to"), (self.line(row) for row in self.rows)),
            *(f"- `{name}`: {title}" for name, title in TITLES.items()),
            "",
            *self.failures(),
            *self.run_cost(),
            "## How\n",
            METHOD,
        ]
        return "\n".join(parts)

    def verdicts(self) -> list[tuple[str, ...]]:
        return [self.verdict(row, target) for row in self.rows for target in row.targets]

    def verdict(self, row: Row, target: Target) -> tuple[str, ...]:
        ours = self.medians.get((row.key, OURS))
        base = self.medians.get((row.key, target.against)) if target.against else ours
        word = "at least" if target.least else "at most"
        if target.against:
            asked = f"{word} {target.limit} x {target.against}"
        else:
            asked = f"{word} {show(target.limit, row.unit)}"
        if ours is None or base is None:
            self.unmeasured.append(row.key)
            return row.title, asked, "" if ours is None else show(ours, row.unit), "", "not measured"
        value = self.ratio(row.key, target.against) if target.against else ours
        seen = f"{value:.2f} x" if target.against else show(value, row.unit)
        met = value >= target.limit if target.least else value <= target.limit
        if met:
            return row.title, asked, show(ours, row.unit), seen, "met"
        self.missed.append(row.key)
        by = f"by {abs(value / target.limit - 1):.0%}" if target.limit else f"by {show(value, row.unit)}"
        return row.title, asked, show(ours, row.unit), seen, f"MISSED {by}"

    def ratio(self, key: str, peer: str) -> float:
        """wqfs's figure in terms of the peer's: the median over the rounds that both have had."""
        pairs = zip(self.figures.values[key, OURS], self.figures.values[key, peer], strict=False)
        return median(ours / theirs for ours, theirs in pairs)

    def reasons(self) -> list[str]:
        """Why each missed row is missed; after `verdicts`."""
        titles = {row.key: row.title for row in self.rows}
        missed = dict.fromkeys(self.missed)
        lines = [f"- {titles[key]}: {WHY.get(key, 'not explained yet (why.py)')}" for key in missed]
        if lines:
            return ["## Why missed\n", *lines, ""]
        return [] if self.unmeasured else ["No target is missed.\n"]

    def line(self, row: Row) -> list[str]:
        cells = [self.cell(row, name) for name in NAMES]
        ours = self.figures.values.get((row.key, OURS), [])
        spread = f"{show(min(ours), row.unit)} .. {show(max(ours), row.unit)}" if ours else ""
        return [row.title, *cells, spread]

    def cell(self, row: Row, name: str) -> str:
        """The median, and for a peer what wqfs is in terms of it."""
        value = self.medians.get((row.key, name))
        ours = self.medians.get((row.key, OURS))
        if value is None:
            return "failed" if (row.key, name) in self.figures.failures else "n/a"
        ratio = f" ({self.ratio(row.key, name):.2f} x)" if name != OURS and ours is not None and value else ""
        return show(value, row.unit) + ratio

    def run_cost(self) -> list[str]:
        """What `wqfs run` costs a program."""
        if self.cost is None:
            return []
        lines = [f"- {row}, {column}: {why}" for (row, column), why in self.cost.failures.items()]
        return [
            "## wqfs run\n",
            table(("what", *COLUMNS), section(self.cost)),
            verdict(self.cost) + "\n",
            *(["Not measured:\n", *lines, ""] if lines else []),
        ]

    def failures(self) -> list[str]:
        """Each reason once, with the groups or rows that it cost."""
        reasons: dict[tuple[str, str], list[str]] = {}
        for (row, server), why in self.figures.failures.items():
            reasons.setdefault((server, why), []).append(row)
        whole = {frozenset(rows): group for group, rows in GROUPS.items()}
        lines = []
        for (server, why), rows in reasons.items():
            what = whole.get(frozenset(rows), ", ".join(rows))
            lines.append(f"- {server}, {what}: {why}")
        return ["## Not measured\n", *lines, ""] if lines else []
