"""Scenarios as TOML: reading them, with a sentence for each fault, and writing them."""

from __future__ import annotations

import difflib
import errno
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from wqfs.abi import records
from wqfs.abi.errors import Malformed
from wqfs.sim.expectation import Expectation, parse_expectation
from wqfs.sim.scenario import Scenario, Step, WatchSpec
from wqfs.sim.scenario_text import NS_PER_S, Complaint, text_of

SCENARIO_KEYS = ("title", "story", "seed", "watch", "step")
WATCH_KEYS = ("name", "objects", "filter", "depth")
STEP_KEYS = ("name", "at", "every", "repeat", "jitter", "run", "records", "refused", "expect")
REPEAT_MAX = 1_000_000
_UNITS_NS = {"us": 1_000, "ms": 1_000_000, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|ms|s|m|h)", re.ASCII)
_WATCH_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class ScenarioError(ValueError):
    """A text that is no scenario: a sentence that names the place."""


def parse(text: str, name: str = "scenario") -> Scenario:
    """The scenario in a TOML text. name: of the file, for what is said. Raises ScenarioError."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; a number of too many digits is only that
        raise ScenarioError(f"{name}: no TOML: {error}") from None
    except RecursionError:
        raise ScenarioError(f"{name}: no TOML: tables or lists too deep in one another") from None
    try:
        return _scenario(document)
    except Complaint as complaint:
        raise ScenarioError(f"{name}: {complaint}") from None


def _scenario(document: Mapping[str, Any]) -> Scenario:
    known = _Table("the scenario", document, SCENARIO_KEYS)
    watches = tuple(_watch(at, table) for at, table in enumerate(known.tables("watch"), 1))
    names = [watch.name for watch in watches]
    if len(set(names)) != len(names):
        raise Complaint(f"two watches are called {next(n for n in names if names.count(n) > 1)!r}")
    steps = tuple(_step(at, table, names) for at, table in enumerate(known.tables("step"), 1))
    return Scenario(
        title=known.text("title", ""),
        story=known.text("story", "").strip("\n"),
        seed=known.number("seed", 0, -(1 << 63), (1 << 63) - 1),
        watches=watches,
        steps=steps,
    )


def _watch(at: int, table: Mapping[str, Any]) -> WatchSpec:
    known = _Table(f"watch {at}", table, WATCH_KEYS)
    name = known.text("name", None)
    if not _WATCH_NAME.fullmatch(name) or name in (".", ".."):
        known.wrong("name", "letters, digits, _, . and -", name)
    depth = known.number("depth", None, 1, 512) if "depth" in table else None
    return WatchSpec(name, known.lines("objects"), known.lines("filter"), depth)


def _step(at: int, table: Mapping[str, Any], watches: Sequence[str]) -> Step:
    called = table.get("name")
    known = _Table(f"step {at} ({called})" if isinstance(called, str) else f"step {at}", table, STEP_KEYS)
    step = Step(
        name=known.text("name", f"step {at}"),
        at_ns=known.duration("at") if "at" in table else None,
        every_ns=known.duration("every") if "every" in table else 0,
        repeat=known.number("repeat", 1, 1, REPEAT_MAX),
        jitter_ns=known.duration("jitter") if "jitter" in table else 0,
        run=known.lines("run"),
        records=_raw(known),
        refused=known.text("refused", ""),
        expect=_expectations(known, watches),
    )
    if step.refused and (not step.refused.startswith("E") or not hasattr(errno, step.refused)):
        known.wrong("refused", "the name of an errno such as EBUSY", step.refused)
    if step.refused and not step.run:
        known.wrong("refused", "lines to run with it", step.refused)
    if not (step.run or step.records or step.expect):
        raise Complaint(f"{known.place}: expected run, records or expect")
    return step


def _raw(known: _Table) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for digits in known.lines("records"):
        try:
            found += records.split(bytes.fromhex(digits))
        except (ValueError, Malformed) as error:
            known.wrong("records", f"whole records in hexadecimal digits ({error})", digits)
    return tuple(found)


def _expectations(known: _Table, watches: Sequence[str]) -> tuple[Expectation, ...]:
    given = known.table.get("expect", [])
    tables = given if isinstance(given, list) else [given]
    for table in tables:
        if not isinstance(table, dict):
            known.wrong("expect", "a table or a list of tables", table)
    return tuple(parse_expectation(known.place, table, watches, known.duration_of) for table in tables)


class _Table:
    """A table of the text, and the questions that it must answer. place: how it is called."""

    def __init__(self, place: str, table: Mapping[str, Any], keys: Sequence[str]) -> None:
        self.place = place
        self.table = table
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                hint = f", did you mean {near[0]}?" if near else f": there are {', '.join(keys)}"
                raise Complaint(f"{place}: unknown key {key!r}{hint}")

    def wrong(self, key: str, expected: str, found: object) -> NoReturn:
        raise Complaint(f"{self.place}: {key}: expected {expected}, not {found!r}")

    def text(self, key: str, default: str | None) -> str:
        value = self.table.get(key, default)
        if not isinstance(value, str):
            self.wrong(key, "a text", value)
        return value

    def number(self, key: str, default: int | None, least: int, most: int) -> int:
        value = self.table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.wrong(key, f"a number of {least}..{most}", value)
        return value

    def lines(self, key: str) -> tuple[str, ...]:
        value = self.table.get(key, [])
        lines = [value] if isinstance(value, str) else value
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            self.wrong(key, "a text or a list of texts", value)
        for line in lines:
            if "\n" in line:
                self.wrong(key, "lines without a newline in them", line)
        return tuple(lines)

    def tables(self, key: str) -> list[Mapping[str, Any]]:
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise Complaint(f"{key}: expected [[{key}]] tables")
        return value

    def duration(self, key: str) -> int:
        return self.duration_of(key, self.table[key])

    def duration_of(self, key: str, value: object) -> int:
        """Nanoseconds of a number of seconds or a text such as "200ms"."""
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e9:
            return round(value * NS_PER_S)
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.wrong(key, 'a time, in seconds or as "200ms" or "2m"', value)
        return round(float(match[1]) * _UNITS_NS[match[2]])


# -- to TOML


def format(scenario: Scenario, comment: Callable[[Step], str] = lambda step: "") -> str:
    """The scenario as TOML, so that `parse` gives it back. comment: a line above each step, "" for none."""
    return head(scenario) + "".join(format_step(step, comment(step)) for step in scenario.steps)


def head(scenario: Scenario) -> str:
    """The text before the steps."""
    lines = [f"title = {text_of(scenario.title)}"]
    if scenario.story:
        lines.append(f"story = {text_of(scenario.story)}")
    if scenario.seed:
        lines.append(f"seed = {scenario.seed}")
    for watch in scenario.watches:
        lines += ["", "[[watch]]", f"name = {text_of(watch.name)}"]
        lines += [
            f"{key} = {text_of(value)}"
            for key, value in (("objects", watch.objects), ("filter", watch.filter))
            if value
        ]
        if watch.depth is not None:
            lines.append(f"depth = {watch.depth}")
    return "\n".join(lines) + "\n"


def format_step(step: Step, comment: str = "") -> str:
    """One [[step]]."""
    lines = ["", "[[step]]"]
    if comment:
        lines.append("# " + " ".join(comment.split()))
    if not re.fullmatch(r"step \d+", step.name):
        lines.append(f"name = {text_of(step.name)}")
    for key, value, default in (
        ("at", step.at_ns, None), ("every", step.every_ns, 0), ("repeat", step.repeat, 1), ("jitter", step.jitter_ns, 0)
    ):  # fmt: skip
        if value != default:
            assert value is not None
            lines.append(f"{key} = {value if key == 'repeat' else text_of(value / NS_PER_S)}")
    if step.run:
        lines.append(f"run = {text_of(step.run[0] if len(step.run) == 1 else step.run)}")
    if step.records:
        digits = [record.hex() for record in step.records]
        lines.append(f"records = {text_of(digits[0] if len(digits) == 1 else digits)}")
    if step.refused:
        lines.append(f"refused = {text_of(step.refused)}")
    if step.expect:
        tables = [each.table() for each in step.expect]
        lines.append(f"expect = {text_of(tables[0] if len(tables) == 1 else tables)}")
    return "\n".join(lines) + "\n"
