"""Scenarios as text and as a schedule; random ones; recordings. Pure: nothing is played here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import scenario_pages
from wqfs.abi import records as r
from wqfs.cli.play import shipped
from wqfs.event import Event, Gap, record_of
from wqfs.sim import Refused, Simulation
from wqfs.sim.expectation import Expectation
from wqfs.sim.random_scenario import random_scenario
from wqfs.sim.scenario import Scenario, Step, WatchSpec, schedule
from wqfs.sim.scenario_toml import ScenarioError, format, parse

DOCS = Path(__file__).resolve().parent.parent / "docs" / "scenarios"
SHIPPED = dict(shipped())
W = '[[watch]]\nname = "w"\n'


def times(scenario: Scenario, seed: int | None = None) -> list[tuple[float, int, int]]:
    return [(each.at_ns / 1e9, each.number, each.n) for each in schedule(scenario, seed)]


# -- text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 1", "title: expected a text, not 1"),
        ("titel = 'x'", "unknown key 'titel', did you mean title?"),
        ("zzz = 'x'", "unknown key 'zzz': there are title"),
        ("title = ", "no TOML"),
        ("step = 1", r"step: expected \[\[step\]\] tables"),
        ("[[step]]\nname = 'x'", r"step 1 \(x\): expected run, records or expect"),
        ("[[step]]\nat = 'soon'\nrun = 'x'", "step 1: at: expected a time, .* not 'soon'"),
        ("[[step]]\nat = -1\nrun = 'x'", "step 1: at: expected a time"),
        ("[[step]]\nat = true\nrun = 'x'", "step 1: at: expected a time"),
        (
            "[[step]]\nrun = 'x'\n[[step]]\nrepeat = 0\nrun = 'x'",
            "step 2: repeat: expected a number of 1",
        ),
        ("[[step]]\nrun = 1", "step 1: run: expected a text or a list of texts, not 1"),
        ('[[step]]\nrun = "a\\nb"', "step 1: run: expected lines without a newline"),
        ("[[step]]\nrun = 'x'\nrefused = 'NO'", "refused: expected the name of an errno such as EBUSY, not 'NO'"),
        ("[[step]]\nrecords = '00'\nrefused = 'EBUSY'", "expected whole records|lines to run"),
        ("[[step]]\nrecords = 'xyz'", "records: expected whole records in hexadecimal digits"),
        ("[[step]]\nrecords = '0000000110000000'", "records: expected whole records"),
        ("[[watch]]\nname = 'a/b'", "watch 1: name: expected letters, digits"),
        ("[[watch]]\nobjects = []", "watch 1: name: expected a text, not None"),
        (W + W, "two watches are called 'w'"),
        (W + "depth = 513", "watch 1: depth: expected a number of 1..512, not 513"),
        ("[[step]]\nexpect = 1", "expect: expected a table or a list of tables, not 1"),
        ("[[step]]\nexpect = { watch = 'v', event = 'x' }", "there is no watch 'v': there are none"),
        (W + "[[step]]\nexpect = { event = 'x' }", "expected watch or file"),
        (W + "[[step]]\nexpect = { watch = 'w' }", "expected members of an event"),
        (W + "[[step]]\nexpect = { watch = 'w', event = 'x', status = { lost = 1 } }", "expected members of an event"),
        (W + "[[step]]\nexpect = { watch = 'w', status = { lost = 'some' } }", "status: expected numbers such as 32"),
        (W + "[[step]]\nexpect = { watch = 'w', event = 'x', count = 0 }", "count = 1 or more"),
        (W + "[[step]]\nexpect = { watch = 'w', event = 'x', within = 'x' }", "expect: within: expected a time"),
        ("[[step]]\nexpect = { file = '/etc/passwd', contains = 'x' }", "expected a path within the mount"),
        ("[[step]]\nexpect = { file = '../x', contains = 'x' }", "expected a path within the mount"),
        ("[[step]]\nexpect = { file = 'sim/keys' }", "expected contains or lacks with file"),
    ],
)
def test_text_that_is_no_scenario_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said) as refused:
        parse(text, "a.toml")
    assert str(refused.value).startswith("a.toml: ")


@given(st.text(max_size=200))
def test_any_text_is_a_scenario_or_refused(text: str) -> None:
    try:
        parse(text)
    except ScenarioError:
        pass


names = st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1, max_size=20)
nanoseconds = st.integers(0, 10**12).map(lambda us: us * 1000)
expectations = st.one_of(
    st.builds(
        Expectation,
        watch=st.just("w"),
        members=st.fixed_dictionaries({"event": names}, optional={"source": names, "sector": st.integers(0, 2**60)}),
        within_ns=nanoseconds,
        count=st.integers(1, 5),
    ),
    st.builds(Expectation, watch=st.just("w"), status=st.just({"lost": ">=1", "queued": 3})),
    st.builds(Expectation, file=st.just("sim/keys"), contains=names),
)
steps = st.builds(
    Step,
    name=names.filter(lambda name: not re.fullmatch(r"step \d+", name)),
    at_ns=st.none() | nanoseconds,
    every_ns=nanoseconds,
    repeat=st.integers(1, 9),
    jitter_ns=nanoseconds,
    run=st.lists(names, min_size=1, max_size=3).map(tuple),
    records=st.lists(st.binary(max_size=119).map(lambda body: r.encode(2, 0, body)), max_size=2).map(tuple),
    refused=st.sampled_from(["", "EBUSY"]),
    expect=st.lists(expectations, max_size=2).map(tuple),
)
scenarios = st.builds(
    Scenario,
    title=names,
    story=names.map(lambda text: text.strip("\n")),
    seed=st.integers(-9, 9),
    watches=st.just((WatchSpec("w", ("mount / id=1",), ("sb *",), 64),)),
    steps=st.lists(steps, max_size=4).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(scenarios)
def test_scenario_written_is_read_back(scenario: Scenario) -> None:
    assert parse(format(scenario)) == scenario


# -- schedule


def test_schedule_is_in_the_order_of_times_then_of_steps() -> None:
    scenario = parse(
        "[[step]]\nat = 1\nevery = 1\nrepeat = 3\nrun = 'a'\n[[step]]\nat = 2\nrun = 'b'\n[[step]]\nrun = 'c'\n"
    )
    assert times(scenario) == [(1, 1, 0), (2, 1, 1), (2, 2, 0), (2, 3, 0), (3, 1, 2)]


def test_step_without_a_time_comes_after_the_last_repeat_before_it() -> None:
    scenario = parse("[[step]]\nevery = '500ms'\nrepeat = 3\nrun = 'a'\n[[step]]\nrun = 'b'\n")
    assert times(scenario)[-1] == (1, 2, 0)


def test_jitter_is_the_same_for_the_same_seed_and_keeps_the_order() -> None:
    scenario = parse("seed = 3\n[[step]]\nevery = '1ms'\njitter = '5ms'\nrepeat = 50\nrun = 'a'\n")
    assert times(scenario) == times(scenario, 3) != times(scenario, 4)
    assert [n for _, _, n in times(scenario)] == list(range(50))
    assert all(n * 0.001 <= at <= 0.0551 for at, _, n in times(scenario))


def test_count_stands_for_n_alone() -> None:
    step = Step("s", run=("mount none /a{n}b{n} {{n}} {x}",))
    assert step.lines(7) == ["mount none /a7b7 {n} {x}"]


# -- expectations


@pytest.mark.parametrize(
    ("members", "fits"),
    [
        ({"event": "readonly"}, True),
        ({"event": "readonly", "flags": "IS_NOW_RO"}, True),
        ({"flags": ["IS_NOW_RO", "IN_SUBTREE"]}, False),
        ({"sb": 2, "mountpoint": "/a"}, True),
        ({"sb": True}, False),
        ({"mountpoint": "/b"}, False),
        ({"nothing": ""}, False),
    ],
)
def test_expectation_fits_an_event_by_its_members(members: dict[str, Any], fits: bool) -> None:
    event = {"event": "readonly", "flags": ["IS_NOW_RO"], "sb": 2, "mountpoint": "/a"}
    assert Expectation("w", members).fits(event) is fits


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [(3, True), ("3", True), (">=3", True), ("> 3", False), ("<4", True), ("!=3", False), ("<=2", False)],
)
def test_status_is_compared(wanted: int | str, holds: bool) -> None:
    assert Expectation("w", status={"lost": wanted}).status_holds({"lost": 3}) is holds
    assert not Expectation("w", status={"none": wanted}).status_holds({"lost": 3})


# -- random


def test_random_scenario_of_a_seed_is_always_the_same_text() -> None:
    assert format(random_scenario(7, 200)) == format(random_scenario(7, 200)) != format(random_scenario(8, 200))


def test_random_scenario_runs_as_it_says() -> None:
    simulation = Simulation()
    refused = 0
    for occurrence in schedule(parse(format(random_scenario(11, 2000)))):
        (line,) = occurrence.step.lines(0)
        if occurrence.step.refused:
            refused += 1
            with pytest.raises(Refused):
                simulation.run(line)
        else:
            simulation.run(line)
    assert 100 < refused < 1500
    kinds = {(event["type"], event["event"]) for event in _events_of(11)}
    assert len(kinds) > 20


def _events_of(seed: int) -> list[dict[str, Any]]:
    simulation = Simulation()
    watch = simulation.watch()
    found = []
    for step in random_scenario(seed, 2000).steps:
        try:
            simulation.run(step.run[0])
        except Refused:
            pass
        found += watch.events()
    return found


# -- recording


@settings(max_examples=1000)
@given(
    st.integers(0, 6) | st.integers(0, 0xFFFFFF),
    st.integers(0, 12) | st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
    st.binary(max_size=119),
    st.booleans(),
)
def test_record_comes_back_from_its_line_to_the_byte(
    type_: int, subtype: int, flags: int, watch_id: int, body: bytes, bit: bool
) -> None:
    record = bytearray(r.encode(type_, subtype, body, flags=flags << 16, watch_id=watch_id))
    record[4] |= 0x80 * bit  # between the length and the ID: nobody's, and kept
    line = json.loads(Event(1, 1, bytes(record), {}).line())
    assert record_of(line) == bytes(record)


def test_gap_has_no_record() -> None:
    assert record_of(json.loads(Gap("lost", 5, 9).line())) == b""


@pytest.mark.parametrize("line", [{}, {"type": "mount", "event": "gone", "flags": [], "id": 0}, {"record": "x"}])
def test_line_that_is_none_of_an_event_is_refused(line: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no line of an event"):
        record_of(line)


# -- what is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_page_of_a_shipped_scenario_is_what_the_script_writes(name: str) -> None:
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == scenario_pages.page(name, SHIPPED[name])
    assert f"[{name}]({name}.md)" in (DOCS / "README.md").read_text(encoding="utf-8")


def test_example_of_the_format_is_a_scenario() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(parse(example).steps) == 4
