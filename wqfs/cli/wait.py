"""`wqfs wait`: wait until a condition holds, whether it does already or comes to hold later.

Race-free: it subscribes first, then reads the state, then follows it by the events with a higher number, one by
one: a condition that held for a moment between two looks is seen.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wqfs.cli.command import EXIT_LOST, EXIT_OK, EXIT_TIMED_OUT, CommandFailed, Parser, parser, poll_ms, seconds
from wqfs.cli.conditions import MEANINGS, SINCE, Condition, condition
from wqfs.cli.finding import find_mount
from wqfs.cli.following import Followed, Snapshot
from wqfs.cli.lines import is_gap
from wqfs.cli.watching import OwnWatch

_AGAIN_S = 1.0
"""Between two looks for what the clock alone may bring about."""


@dataclass(frozen=True)
class _Answer:
    """found: what fulfilled the condition, None when the time was over first; lost: events were lost meanwhile."""

    found: Any
    lost: bool


def make_parser() -> Parser:
    """The command's parser."""
    listed = "\n".join(f"  {name:<12} {meaning}" for name, meaning in MEANINGS.items())
    options = parser(
        "wait",
        f"Wait until a condition holds. If it does already, return at once; one that held for a moment only while\n"
        f"this command waited counts as well.\n\n{listed}",
        "exit codes: 0 it holds; 1 error or usage; 2 timed out; 3 timed out, and as events were lost it may have held\n"
        "for a moment; 130 Ctrl-C",
    )
    options.add_argument("condition", metavar="CONDITION", choices=tuple(MEANINGS), help=", ".join(MEANINGS))
    options.add_argument("name", metavar="NAME", help="the folder, superblock or key")
    options.add_argument("--timeout", "-t", metavar="SECONDS", type=seconds, help="wait no longer than this")
    options.add_argument(
        "--since-seq",
        metavar="N",
        type=int,
        help="for error and key-changed: only what changed after event N, such as `seq` of sim/snapshot",
    )
    options.add_argument("--print", action="store_true", help="print the mount, superblock or key as JSON")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = make_parser()
    given = options.parse_args(arguments)
    if given.since_seq is not None and given.condition not in SINCE:
        options.error("--since-seq is for error and key-changed")
    mount = find_mount(given.mount)
    wanted = condition(given.condition, given.name, given.since_seq)
    own = OwnWatch(mount, "wait", ["everything"], wanted.rules, None)
    try:
        answer = _wait(mount, own, wanted, given)
    finally:
        own.close()
    if answer.found is None:
        missed = f"not {given.condition} within {given.timeout:g} s"
        if answer.lost:
            print(f"wqfs wait: {given.name}: {missed}; events were lost: it may have been", file=sys.stderr)
            return EXIT_LOST
        print(f"wqfs wait: {given.name}: {missed}", file=sys.stderr)
        return EXIT_TIMED_OUT
    if given.print:
        print(json.dumps(answer.found, separators=(",", ":")))
    return EXIT_OK


def _wait(mount: Path, own: OwnWatch, wanted: Condition, given: argparse.Namespace) -> _Answer:
    deadline = None if given.timeout is None else time.monotonic() + given.timeout
    poll = select.poll()
    poll.register(own, select.POLLIN)
    # What the watch has heard before the snapshot is in it: `seq` tells.
    state = Followed(_snapshot(mount))
    lost = False
    found = wanted.holds(state, None)
    while found is None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return _Answer(None, lost)
        if wanted.looks_again:
            left = _AGAIN_S if left is None else min(left, _AGAIN_S)
        # A removed or detached watch hangs up.
        ready = poll.poll(poll_ms(left))
        if any(bits & ~select.POLLIN for _, bits in ready):
            raise CommandFailed("the mount ended while waiting.")
        # Events are read before the snapshot: it includes them, and what comes after wakes the poll.
        events = own.events()
        later = _snapshot(mount)
        for event in events:
            if is_gap(event):
                lost = True
                break  # from here on the state is not known, but by the snapshot
            if event["seq"] <= state.seq:
                continue
            state.apply(event, later)
            found = wanted.holds(state, event)
            if found is not None:
                return _Answer(found, lost)
        state.reset(later)
        found = wanted.holds(state, None)
    return _Answer(found, lost)


def _snapshot(mount: Path) -> Snapshot:
    try:
        snapshot: Snapshot = json.loads((mount / "sim/snapshot").read_bytes())
    except OSError as error:
        raise CommandFailed(f"cannot read {mount / 'sim/snapshot'}: {error.strerror}.") from None
    return snapshot
