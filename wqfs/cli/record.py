"""`wqfs record`: write what happens on a watch as a scenario that `wqfs play` runs."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from wqfs.cli.command import EXIT_LOST, EXIT_OK, EXIT_TIMED_OUT, CommandFailed, Parser, count, parser, seconds
from wqfs.cli.sources import Source, watch_source
from wqfs.cli.watching import Event
from wqfs.event import record_of
from wqfs.sim import scenario_toml
from wqfs.sim.scenario import Scenario, Step

_LOOK_AGAIN_S = 0.5
"""How often it is looked whether whoever reads the recording is still there."""


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "record",
        "Write what happens on a watch as a scenario: each event with its time, its exact bytes, and in words.\n"
        "`wqfs play FILE` delivers the same bytes again. Takes nothing from the watch's queue.",
        "exit codes: 0 recorded; 1 error or usage; 2 no event came within SECONDS; 3 events were lost, which the\n"
        "recording says where they are missing. Ctrl-C ends a recording, with 0",
    )
    options.add_argument("watch", metavar="WATCH", nargs="?", help="the name of a watch; by default one of its own")
    options.add_argument(
        "--object",
        metavar="LINE",
        action="append",
        default=[],
        help="what its own watch watches, as in `objects`; by default everything",
    )
    options.add_argument("--filter", metavar="RULE", action="append", default=[], help="its filter, as in `filter`")
    options.add_argument("--count", "-n", metavar="COUNT", type=count, help="end after so many events")
    options.add_argument("--timeout", "-t", metavar="SECONDS", type=seconds, help="end after so long")
    options.add_argument("--output", "-o", metavar="FILE", help="write to FILE, not to standard output")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = make_parser()
    given = options.parse_args(arguments)
    if given.watch and (given.object or given.filter):
        options.error("--object and --filter are for a watch of its own, not for WATCH")
    recorder = None
    rules = "\n".join(given.filter)
    try:
        with (
            _output(given.output) as output,
            watch_source(given.mount, given.watch, given.object, rules, None, None, "record") as source,
        ):
            recorder = _Recorder(output, f"watch {given.watch}" if given.watch else "everything")
            recorder.run(source, given.count, given.timeout)
    except KeyboardInterrupt:
        pass
    if recorder is not None and recorder.lost:
        return EXIT_LOST
    return EXIT_TIMED_OUT if given.timeout is not None and (recorder is None or not recorder.count) else EXIT_OK


@contextmanager
def _output(file: str | None) -> Iterator[TextIO]:
    if file is None:
        yield sys.stdout
        return
    try:
        with open(file, "w", encoding="utf-8") as opened:
            yield opened
    except OSError as error:
        if error.filename != file:
            raise
        raise CommandFailed(f"cannot write {file}: {error.strerror}.") from None


class _Recorder:
    """count: events written; lost: how many are missing."""

    def __init__(self, output: TextIO, what: str) -> None:
        self._output = output
        self.count = 0
        self.lost = 0
        self._first_s: float | None = None
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(f"# wqfs record, {moment}, on {socket.gethostname()}\n")
        self._write(scenario_toml.head(Scenario(title=f"recorded: {what}")))

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()

    def run(self, source: Source, count: int | None, timeout: float | None) -> None:
        """Write until COUNT events were written, the time is over, or the watch has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(source, select.POLLIN)
        hung_up = select.poll()
        hung_up.register(self._output, select.POLLERR)
        while True:
            left = _LOOK_AGAIN_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            poll.poll(min(left, _LOOK_AGAIN_S) * 1000)
            if any(events & select.POLLERR for _, events in hung_up.poll(0)):
                raise BrokenPipeError
            events = source.events()
            if events is None:
                return
            for event in events:
                self._event(event)
                if count is not None and self.count >= count:
                    return

    def _event(self, event: Event) -> None:
        if event["type"] == "meta" and event["event"] == "lost":
            self.lost += event["lost"]
            self._write(f"\n# {event['lost']} events were lost here\n")
            return
        if self._first_s is None:
            self._first_s = event["time"]
        at_ns = max(0, round((event["time"] - self._first_s) * 1_000_000) * 1000)
        record = record_of(event)
        words = {
            key: value for key, value in event.items() if key not in ("record", "error_text") and value not in ([], "")
        }
        step = Step(name="step 1", at_ns=at_ns, records=(record,))
        self._write(scenario_toml.format_step(step, json.dumps(words, ensure_ascii=False)))
        self.count += 1
