"""Replays what a real kernel answered: `python -m tests.conformance.replay [--face core|mount|run] FILE...`

A file is a list of cases {"name", "why", "steps"}; a step has `op`, its arguments, and `want`, the
kernel's answer: 0 or a number, an errno's name, or a value. Each case starts with nothing. A line
for each answer that differs; then how many steps ran without being compared; last
`N cases, M mismatches`. Exit status 0 if M is 0, 1 if not, 2 for a file or an operation that is
not understood.

`pause` (of gc.json and gc_random.json) lets the kernel's key collector run; here it does nothing, for
keys are collected at once.

The replay knows operations, never cases, and holds no expected answers of its own. What a face
cannot compare is that face's `SKIPPED`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from tests.conformance.core_face import CoreFace
from tests.conformance.mount_face import mount_face
from tests.conformance.run_face import again_inside, is_inside, run_face
from wqfs.abi import records as r
from wqfs.abi.errors import Malformed

Step = dict[str, Any]
Answer = Any

OPERATIONS = frozenset(
    "open open_plain close set_size set_filter watch post read readv poll fionread write ioctl lseek pread "
    "setpipe_sz sendfile splice_out splice_in tee pause request".split()
)


class NotUnderstood(Exception):
    """A file or an operation that the replay does not know."""


class Face(Protocol):
    """Something that answers the steps of one case."""

    def compared(self, step: Step) -> bool:
        """Whether this face can give the kernel's answer to this step."""

    def answer(self, step: Step) -> Answer:
        """The answer to a step: a number, an errno's name, a list, or {"bytes", "data"} for a read."""

    def key_name(self, serial: int) -> str | None:
        """The case's name for the key with this serial number."""

    def close(self) -> None:
        """The case is over."""


@contextmanager
def core_faces() -> Iterator[type[CoreFace]]:
    yield CoreFace


FACES: dict[str, Callable[[], AbstractContextManager[Any]]] = {"core": core_faces, "mount": mount_face, "run": run_face}


def records_as_answer(data: bytes, face: Face) -> Answer:
    """What a read gave, in the words of the recordings: equal neighbours folded with `times`."""
    folded: list[dict[str, Any]] = []
    for record in r.decode(data):
        named: dict[str, Any] = {"type": record.type, "subtype": record.subtype, "info": record.info}
        if record.type == r.WatchType.KEY_NOTIFY and len(record.body) == r.KEY_BODY.size:
            key, aux = r.KEY_BODY.unpack(record.body)
            named["key"] = face.key_name(key) or hex(key)
            named["aux"] = face.key_name(aux) or aux
        elif record.type == r.WatchType.META and len(record.body) == r.REMOVAL_BODY.size:
            (object_id,) = r.REMOVAL_BODY.unpack(record.body)
            named["id"] = face.key_name(object_id) or hex(object_id)
        elif record.body:
            named["body"] = record.body.hex()
        if folded and {name: value for name, value in folded[-1].items() if name != "times"} == named:
            folded[-1]["times"] = folded[-1].get("times", 1) + 1
        else:
            folded.append(named)
    return {"bytes": len(data), "records": folded}


def run_case(case: dict[str, Any], face: Face) -> tuple[list[str], int]:
    """(a line for each answer that differs, steps that were not compared)."""
    differing: list[str] = []
    uncompared = 0
    for number, step in enumerate(case["steps"], 1):
        compared = face.compared(step)
        got = face.answer(step)
        if isinstance(got, bytes):
            try:
                got = records_as_answer(got, face)
            except Malformed as error:
                got = f"malformed records: {error}"
        if not compared:
            uncompared += 1
        elif got != step["want"]:
            arguments = {name: value for name, value in step.items() if name != "want"}
            differing.append(
                f"{case['name']} step {number} {json.dumps(arguments)}: "
                f"wanted {json.dumps(step['want'])}, got {json.dumps(got)}"
            )
    return differing, uncompared


def load_cases(path: str) -> list[dict[str, Any]]:
    """The cases of a file, each with a name and a list of steps. Raises NotUnderstood."""
    try:
        with open(path, encoding="utf-8") as file:
            cases = json.load(file)
    except (OSError, ValueError) as error:
        raise NotUnderstood(f"{path}: {error}") from None
    if not isinstance(cases, list):
        raise NotUnderstood(f"{path}: expected a list of cases")
    for case in cases:
        if not isinstance(case, dict) or not {"name", "steps"} <= case.keys() or not isinstance(case["steps"], list):
            raise NotUnderstood(f"{path}: expected a case with name and steps, not {str(case)[:60]}")
    return cases


def load(path: str) -> list[dict[str, Any]]:
    """The cases of a file, checked as far as their shape goes. Raises NotUnderstood."""
    cases = load_cases(path)
    for case in cases:
        for step in case["steps"]:
            if not isinstance(step, dict) or step.get("op") not in OPERATIONS or "want" not in step:
                raise NotUnderstood(f"{path}: {case['name']}: expected a known op and its want: {json.dumps(step)}")
    return cases


def replay(paths: list[str], faces: AbstractContextManager[Any]) -> int:
    """Run all cases of the files; prints what the module says; returns the exit status."""
    count = mismatches = uncompared = 0
    loaded = [case for path in paths for case in load(path)]
    with faces as make_face:
        for case in loaded:
            face = make_face()
            try:
                differing, left_out = run_case(case, face)
            finally:
                face.close()
            for line in differing:
                print(line)
            count += 1
            mismatches += len(differing)
            uncompared += left_out
    print(f"{uncompared} steps ran without being compared on this face")
    print(f"{count} cases, {mismatches} mismatches")
    return 1 if mismatches else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.replay")
    parser.add_argument("--face", choices=sorted(FACES), default="core")
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.face == "run" and not is_inside():
        return again_inside(sys.argv[1:])
    try:
        return replay(arguments.files, FACES[arguments.face]())
    except NotUnderstood as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
