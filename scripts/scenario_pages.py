"""Writes docs/scenarios/NAME.md for each shipped scenario: `python -m scripts.scenario_pages`.

Its story, its commands, and the events that they make on the simulated system, which is the same code
as a mount's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wqfs.cli.play import shipped
from wqfs.sim import Refused, Simulation
from wqfs.sim.scenario import Occurrence, Scenario, schedule

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "scenarios"
_LEFT_OUT = ("seq", "time", "id", "type", "event", "flags", "error_text", "fstype", "parent", "device", "key_type")
_SHOWN = 3
"""Repeats of a step whose events are shown."""


def page(name: str, scenario: Scenario) -> str:
    """The page as it should be."""
    parts = [
        f"# {scenario.title}\n\n{scenario.story}\n\n```console\n$ wqfs play {name}\n```\n\n"
        "Below are its steps, with the events that a watch of everything hears\n"
        f"([the file](../../wqfs/scenarios/{name}.toml) has what is expected of them).\n"
    ]
    simulation = Simulation()
    watch = simulation.watch()
    shown: dict[int, list[str]] = {}
    times: dict[int, list[int]] = {}
    for occurrence in schedule(scenario):
        if occurrence.at_ns > simulation.system.ahead_ns:
            simulation.advance((occurrence.at_ns - simulation.system.ahead_ns) / 1e9)
        collected = [] if _is_hidden(occurrence) else [f"    {_event(event)}" for event in watch.events()]
        ran = _run(simulation, occurrence)
        events = watch.events()
        times.setdefault(occurrence.number, []).append(occurrence.at_ns)
        if not _is_hidden(occurrence):
            lines = shown.setdefault(occurrence.number, [])
            lines += [*collected, *ran, *(f"    {_event(event)}" for event in events)]
    for number, step in enumerate(scenario.steps, 1):
        at = f"{times[number][0] / 1e9:g} s"
        if step.repeat > 1:
            at += f" to {times[number][-1] / 1e9:g} s, {step.repeat:,} times"
        parts.append(f"\n## {step.name[0].upper()}{step.name[1:]}\n\nAt {at}.\n")
        if shown.get(number):
            parts.append("\n```text\n" + "\n".join(shown[number]) + "\n")
            parts.append("...\n```\n" if step.repeat > _SHOWN else "```\n")
    return "".join(parts)


def _is_hidden(occurrence: Occurrence) -> bool:
    return occurrence.n >= _SHOWN


def _run(simulation: Simulation, occurrence: Occurrence) -> list[str]:
    said = []
    for line in occurrence.step.lines(occurrence.n):
        try:
            simulation.run(line)
            said.append(line)
        except Refused:
            said.append(f"{line}    # refused: {occurrence.step.refused}")
    return said


def _event(event: dict[str, Any]) -> str:
    """An event in words, without ids, which differ from mount to mount."""
    words = [str(event["type"]), str(event["event"])]
    words += event["flags"]
    ids = ("triggered_on", "auxiliary_mount", "sb", "key", "aux", "dev", "object")
    words += [f"{k}={v}" for k, v in event.items() if k not in _LEFT_OUT and k not in ids and v != ""]
    return " ".join(words)


def main() -> None:
    for name, scenario in shipped():
        (FOLDER / f"{name}.md").write_text(page(name, scenario), encoding="utf-8")


if __name__ == "__main__":
    main()
