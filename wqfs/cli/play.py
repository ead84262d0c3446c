"""`wqfs play`: run a scenario on a mount."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from wqfs.cli.command import EXIT_LOST, EXIT_OK, EXIT_TIMED_OUT, CommandFailed, Parser, count, parser
from wqfs.cli.finding import find_mount
from wqfs.cli.player import Failure, Outcome, Player
from wqfs.sim import scenario_toml
from wqfs.sim.random_scenario import random_scenario
from wqfs.sim.scenario import Occurrence, Scenario

_REDRAW_S = 0.1


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = make_parser()
    given = options.parse_args(arguments)
    if given.list:
        for name, scenario in shipped():
            print(f"{name:<14} {scenario.title}")
        return EXIT_OK
    if (given.file is None) == (given.random is None):
        options.error("expected FILE, the NAME of a shipped scenario, - for standard input, or --random SEED")
    scenario = _scenario(given)
    if given.print:
        print(scenario_toml.format(scenario), end="")
        return EXIT_OK
    with _mount(given) as mount:
        return _play(mount, scenario, given)


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "play",
        "Run a scenario: a TOML file of commands at their times, with what must come of them.\n"
        "docs/scenarios/README.md has the format.",
        "exit codes: 0 all that was expected came; 1 error or usage, or a command was refused; 2 something\n"
        "expected did not come; 3 it may have: events were lost; 130 Ctrl-C",
    )
    options.add_argument(
        "file", metavar="FILE", nargs="?", help="a file, the NAME of a shipped scenario, - for standard input"
    )
    options.add_argument("--list", action="store_true", help="list the shipped scenarios")
    options.add_argument("--fast", action="store_true", help="do not wait: put the clock of the mount forward instead")
    options.add_argument("--speed", metavar="X", type=float, default=1.0, help="run X times as fast as written")
    options.add_argument("--seed", metavar="N", type=int, help="of the jitter, instead of the scenario's")
    options.add_argument("--keep-going", action="store_true", help="go on when something expected did not come")
    options.add_argument("--private", action="store_true", help="on a mount of its own, gone afterwards")
    options.add_argument("--random", metavar="SEED", type=int, help="a random scenario: the same seed, the same bytes")
    options.add_argument(
        "--count", metavar="N", type=count, default=1000, help="steps of a random scenario (default 1000)"
    )
    options.add_argument("--rate", metavar="N", type=float, default=100.0, help="of these in a second (default 100)")
    options.add_argument("--print", action="store_true", help="print the scenario instead of running it")
    options.add_argument("--quiet", "-q", action="store_true", help="say nothing unless something is wrong")
    return options


# -- which scenario


def shipped() -> Iterator[tuple[str, Scenario]]:
    """The scenarios that come with wqfs, by name."""
    for file in sorted(resources.files("wqfs.scenarios").iterdir(), key=lambda each: each.name):
        if file.name.endswith(".toml"):
            yield file.name.removesuffix(".toml"), scenario_toml.parse(file.read_text(encoding="utf-8"), file.name)


def _scenario(given: argparse.Namespace) -> Scenario:
    if not 0 < given.speed <= 1e6:
        raise CommandFailed(f"expected a speed of more than 0, not {given.speed}.")
    if given.random is not None:
        if not (1 <= given.count <= 1_000_000 and 0 < given.rate <= 1e6):
            raise CommandFailed("expected a count of 1..1000000, and a rate of more than 0.")
        return random_scenario(given.random, given.count, given.rate)
    try:
        return scenario_toml.parse(*_text(given.file))
    except scenario_toml.ScenarioError as error:
        raise CommandFailed(f"{error}.") from None


def _text(file: str) -> tuple[str, str]:
    """The text of a scenario, and how to call it."""
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode("utf-8"), "standard input"
        there = resources.files("wqfs.scenarios") / f"{file}.toml"
        if "/" not in file and not file.endswith(".toml") and there.is_file():
            return there.read_text(encoding="utf-8"), file
        return Path(file).read_text(encoding="utf-8"), file
    except OSError as error:
        raise CommandFailed(
            f"cannot read {file}: {error.strerror}. `wqfs play --list` lists the shipped ones."
        ) from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file}: no UTF-8 at byte {error.start}.") from None


# -- on which mount


@contextmanager
def _mount(given: argparse.Namespace) -> Iterator[Path]:
    if not given.private:
        yield find_mount(given.mount)
        return
    from wqfs.testing.server import PrivateServer

    try:
        server = PrivateServer(prefix="wqfs-play-")
    except RuntimeError as error:
        raise CommandFailed(f"{error}") from None
    try:
        yield server.path
    finally:
        server.close()


# -- running it


def _play(mount: Path, scenario: Scenario, given: argparse.Namespace) -> int:
    progress = _Progress(scenario, given)
    player = Player(
        mount,
        scenario,
        fast=given.fast,
        speed=given.speed,
        seed=given.seed,
        keep_going=given.keep_going,
        progress=progress.tell,
    )
    try:
        outcome = player.run()
    finally:
        progress.end()
    for failure in outcome.failures:
        _say(failure)
    if not given.quiet:
        failed = f", {len(outcome.failures)} expectations failed" if outcome.failures else ""
        lost = f", {outcome.lost} events lost" if outcome.lost else ""
        late = f", at most {outcome.late_ns / 1e6:.1f} ms late" if not given.fast else ""
        print(
            f"{scenario.title or 'scenario'}: {outcome.steps} steps, {outcome.events} events "
            f"in {outcome.seconds:.2f} s{late}{lost}{failed}",
            file=sys.stderr,
        )
    if not outcome.failures:
        return EXIT_OK
    return EXIT_LOST if all(failure.lost for failure in outcome.failures) else EXIT_TIMED_OUT


def _say(failure: Failure) -> None:
    print(f"{failure.step}: expected {failure.expected}", file=sys.stderr)
    print("  came: " + "\n        ".join(failure.came), file=sys.stderr)
    if failure.lost:
        print("  events were lost: it may have come", file=sys.stderr)


class _Progress:
    """A line that redraws on a terminal; a line for each named step where the output goes elsewhere."""

    def __init__(self, scenario: Scenario, given: argparse.Namespace) -> None:
        self._on = not given.quiet
        self._terminal = sys.stderr.isatty()
        self._total = sum(step.repeat for step in scenario.steps)
        self._drawn = 0.0
        self._told: set[int] = set()
        self._width = 0

    def tell(self, occurrence: Occurrence, outcome: Outcome) -> None:
        if not self._on:
            return
        if not self._terminal:
            if occurrence.number not in self._told and not occurrence.step.name.startswith("step "):
                self._told.add(occurrence.number)
                print(f"{occurrence.at_ns / 1e9:8.3f} s  {occurrence.step.name}", file=sys.stderr)
            return
        now = time.monotonic()
        if now - self._drawn < _REDRAW_S:
            return
        self._drawn = now
        line = f"{outcome.steps}/{self._total}  {occurrence.at_ns / 1e9:.1f} s  {occurrence.step.name}"[:78]
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def end(self) -> None:
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
