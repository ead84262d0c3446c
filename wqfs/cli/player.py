"""Running a scenario on a mount: each step at its time, and what must come of it by its deadline."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from wqfs.cli.command import CommandFailed
from wqfs.cli.watching import Event, OwnWatch, refusal, wait_readable
from wqfs.sim.expectation import Expectation
from wqfs.sim.scenario import Occurrence, Scenario, schedule

_BATCH_BYTES: Final = 32 * 1024
_LOOK_AGAIN_S: Final = 0.02
"""How often a file or a status is looked at while an expectation waits for it."""
_SHOWN: Final = 20
"""Events of a failed expectation's watch that are shown."""
_NS: Final = 1_000_000_000


@dataclass
class Failure:
    """An expectation that did not hold. came: the events that its watch had instead, or the text looked at;
    lost: whether its watch lost events, so that nobody knows."""

    step: str
    expected: str
    came: list[str]
    lost: bool


@dataclass
class Outcome:
    """steps: occurrences run; events: seen on the watches; lost: that their `events` lost; late_ns: the most
    that one began late."""

    steps: int = 0
    events: int = 0
    lost: int = 0
    late_ns: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


@dataclass
class _Seen:
    """The events of a watch since the step began that no expectation took yet."""

    watch: OwnWatch
    fresh: list[Event] = field(default_factory=list)
    lost: bool = False


class Player:
    """fast: do not wait, but put the clock of the mount forward; speed: so many times as fast as written;
    progress: told the occurrence and the outcome so far, often."""

    def __init__(
        self,
        mount: Path,
        scenario: Scenario,
        *,
        fast: bool = False,
        speed: float = 1.0,
        seed: int | None = None,
        keep_going: bool = False,
        progress: Callable[[Occurrence, Outcome], object] = lambda occurrence, outcome: None,
    ) -> None:
        self._mount = mount
        self._scenario = scenario
        self._fast = fast
        self._speed = speed
        self._seed = seed
        self._keep_going = keep_going
        self._progress = progress
        self._seen: dict[str, _Seen] = {}
        self._advances = fast
        self._clock_ns = 0

    def run(self) -> Outcome:
        """Run it all. Raises CommandFailed when the mount refuses what it should not."""
        outcome = Outcome()
        self._post = self._open("post")
        try:
            for spec in self._scenario.watches:
                watch = OwnWatch(self._mount, spec.name, spec.objects, spec.filter, spec.depth)
                self._seen[spec.name] = _Seen(watch)
            self._play(outcome)
        finally:
            os.close(self._post)
            for seen in self._seen.values():
                seen.watch.close()
        return outcome

    def _open(self, name: str) -> int:
        try:
            return os.open(self._mount / name, os.O_WRONLY)
        except OSError as error:
            raise CommandFailed(f"cannot open {self._mount / name}: {error.strerror}.") from None

    def _play(self, outcome: Outcome) -> None:
        start = time.monotonic_ns()
        pending = schedule(self._scenario, self._seed)
        batch: list[Occurrence] = []
        for occurrence in pending:
            if batch and not (self._joins(batch, occurrence) and self._is_due(start, occurrence)):
                self._run_batch(batch, outcome)
                batch = []
            self._wait(start, occurrence, outcome)
            self._progress(occurrence, outcome)
            outcome.steps += 1
            if self._is_plain(occurrence):
                batch.append(occurrence)
                continue
            failures = self._run_one(occurrence, outcome)
            outcome.failures += failures
            if failures and not self._keep_going:
                break
        self._run_batch(batch, outcome)
        self._collect(outcome)
        outcome.seconds = (time.monotonic_ns() - start) / _NS

    # -- time

    def _is_due(self, start: int, occurrence: Occurrence) -> bool:
        if self._fast:
            return occurrence.at_ns <= self._clock_ns
        return start + occurrence.at_ns / self._speed <= time.monotonic_ns()

    def _wait(self, start: int, occurrence: Occurrence, outcome: Outcome) -> None:
        """Until the occurrence is due, reading events meanwhile. Times are counted from the start, so that
        lateness is caught up with."""
        if self._fast:
            if occurrence.at_ns > self._clock_ns:
                self._advance(occurrence.at_ns - self._clock_ns)
                self._clock_ns = occurrence.at_ns
            return
        due = start + round(occurrence.at_ns / self._speed)
        while (left := due - time.monotonic_ns()) > 0:
            wait_readable([seen.watch for seen in self._seen.values()], min(left / _NS, 0.1))
            self._collect(outcome)
            self._progress(occurrence, outcome)
            rest = due - time.monotonic_ns()
            if 0 < rest < 2_000_000:
                time.sleep(rest / _NS)
        outcome.late_ns = max(outcome.late_ns, time.monotonic_ns() - due)

    def _advance(self, by_ns: int) -> None:
        if self._advances:
            try:
                os.write(self._post, f"clock advance {by_ns // _NS}.{by_ns % _NS:09}\n".encode())
            except OSError:
                self._advances = False  # a mount that has no such command

    # -- steps

    @staticmethod
    def _is_plain(occurrence: Occurrence) -> bool:
        step = occurrence.step
        return not (step.expect or step.refused or step.records)

    def _joins(self, batch: Sequence[Occurrence], occurrence: Occurrence) -> bool:
        size = sum(len(line) + 1 for each in batch[-1:] for line in each.step.run)
        return self._is_plain(occurrence) and len(batch) * size < _BATCH_BYTES

    def _run_batch(self, batch: Sequence[Occurrence], outcome: Outcome) -> None:
        """Steps that nothing is expected of, in one write."""
        lines = [line for occurrence in batch for line in occurrence.step.lines(occurrence.n)]
        if lines:
            self._write_lines(lines, batch[0].step.name if len(batch) == 1 else f"{batch[0].step.name} and after")
        self._collect(outcome)

    def _write_lines(self, lines: Sequence[str], step: str) -> None:
        data = os.fsencode("\n".join(lines) + "\n")
        while data:
            try:
                data = data[os.write(self._post, data) :]
            except OSError as error:
                raise CommandFailed(f"{step}: refused: {refusal(self._mount, error, *lines)}.") from None

    def _run_one(self, occurrence: Occurrence, outcome: Outcome) -> list[Failure]:
        step = occurrence.step
        self._collect(outcome)
        for seen in self._seen.values():
            seen.fresh.clear()
            seen.lost = False
        failures = []
        if step.refused:
            failures = [
                failure
                for line in step.lines(occurrence.n)
                for failure in self._run_refused(step.name, step.refused, line)
            ]
        elif step.run:
            self._write_lines(step.lines(occurrence.n), step.name)
        for record_group in _grouped(step.records):
            self._write_records(record_group, step.name)
        return failures + self._expect(step.name, step.expect, outcome)

    def _run_refused(self, step: str, wanted: str, line: str) -> list[Failure]:
        try:
            os.write(self._post, os.fsencode(line + "\n"))
        except OSError as error:
            if error.errno == getattr(errno, wanted):
                return []
            return [Failure(step, f"{wanted} for {line!r}", [refusal(self._mount, error, line)], False)]
        return [Failure(step, f"{wanted} for {line!r}", ["it was carried out"], False)]

    def _write_records(self, data: bytes, step: str) -> None:
        fd = self._open("sim/records")
        try:
            os.write(fd, data)
        except OSError as error:
            raise CommandFailed(f"{step}: records: refused: {refusal(self._mount, error)}.") from None
        finally:
            os.close(fd)

    # -- expectations

    def _collect(self, outcome: Outcome) -> None:
        """Read what has come, so that nothing is lost while nobody expects anything."""
        for seen in self._seen.values():
            self._count(seen.watch.events(), outcome)

    @staticmethod
    def _count(events: Sequence[Event], outcome: Outcome) -> int:
        lost: int = sum(event["lost"] for event in events if event["event"] == "lost")
        outcome.events += len(events)
        outcome.lost += lost
        return lost

    def _take_events(self, outcome: Outcome) -> None:
        for seen in self._seen.values():
            events = seen.watch.events()
            seen.lost = bool(self._count(events, outcome)) or seen.lost
            seen.fresh += events

    def _expect(self, step: str, expectations: Sequence[Expectation], outcome: Outcome) -> list[Failure]:
        """Those that do not hold by their deadline; of events each takes its own."""
        start = time.monotonic_ns()
        # What must not come is looked for among what nobody else takes, so it is asked last.
        open_ = sorted(expectations, key=lambda each: each.absent)
        failures: list[Failure] = []
        while open_:
            self._take_events(outcome)
            now = time.monotonic_ns()
            still: list[Expectation] = []
            for each in open_:
                late = now - start >= each.within_ns
                if each.absent and (found := self._matching(each)):
                    failures.append(self._failure(step, each, found))
                elif each.absent:
                    if not late:
                        still.append(each)
                elif not self._holds(each):
                    if late:
                        failures.append(self._failure(step, each, self._seen_of(each)))
                    else:
                        still.append(each)
            open_ = still
            if open_:
                next_ns = min(start + each.within_ns for each in open_) - now
                looks = any(each.file or each.status for each in open_)
                seconds = next_ns / _NS
                wait_readable([s.watch for s in self._seen.values()], min(seconds, _LOOK_AGAIN_S) if looks else seconds)
        return failures

    def _matching(self, expectation: Expectation) -> list[Event]:
        return [event for event in self._seen[expectation.watch].fresh if expectation.fits(event)]

    def _seen_of(self, expectation: Expectation) -> list[Event]:
        return self._seen[expectation.watch].fresh if expectation.watch else []

    def _holds(self, expectation: Expectation) -> bool:
        if expectation.file:
            return expectation.text_holds(self._text(expectation.file))
        if expectation.status:
            return expectation.status_holds(self._seen[expectation.watch].watch.status())
        found = self._matching(expectation)[: expectation.count]
        if len(found) < expectation.count:
            return False
        fresh = self._seen[expectation.watch].fresh
        for event in found:
            fresh.remove(event)
        return True

    def _text(self, file: str) -> str:
        try:
            return (self._mount / file).read_text(errors="replace")
        except OSError as error:
            raise CommandFailed(f"cannot read {self._mount / file}: {error.strerror}.") from None

    def _failure(self, step: str, expectation: Expectation, events: Sequence[Event]) -> Failure:
        if expectation.file:
            came = self._text(expectation.file).splitlines()[:_SHOWN]
            return Failure(step, _said(expectation), came, False)
        seen = self._seen[expectation.watch]
        if expectation.status:
            status = seen.watch.status()
            came = [f"{name} {status.get(name, 'is no line of it')}" for name in expectation.status]
            return Failure(step, _said(expectation), came, False)
        came = [_brief(event) for event in events[:_SHOWN]]
        if len(events) > _SHOWN:
            came.append(f"and {len(events) - _SHOWN} more")
        return Failure(step, _said(expectation), came or ["nothing"], seen.lost)


def _grouped(records: Sequence[bytes]) -> Iterator[bytes]:
    """Records in writes of a size that is delivered whole."""
    left = iter(records)
    while group := list(islice(left, 256)):
        yield b"".join(group)


def _said(expectation: Expectation) -> str:
    return ", ".join(f"{key} = {value!r}" for key, value in expectation.table().items())


def _brief(event: Event) -> str:
    """An event on one line, without what says nothing to people."""
    words = [f"{event['type']} {event['event']}"]
    words += [
        f"{key}={value}"
        for key, value in event.items()
        if key not in ("seq", "time", "type", "event") and value not in ([], "")
    ]
    return " ".join(words)
