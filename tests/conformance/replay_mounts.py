"""Replays who is told what when mounts change:
`python -m tests.conformance.replay_mounts [--face core|mount|run] FILE...`

A file is a list of cases {"name", "why", "steps"}; each case starts with a root mount alone and one
watch of nothing. A step is one of

    mkdir   directories; the simulated system has none, every absolute path is a place
    watch   a path, under `id`, -1 to remove; `want` 0 or the errno's name
    do      a command line of mount(8) or umount(8); `want` its exit code (`rc`: 0, or another, as 32, when
            it is refused) and the `records` read after it

A record is named by `id` and `event`, `on` and `aux` (null for none) as mountpoints, those of after
the command, of before it for what is gone, and `flags`; or by `meta`, and for a removal `of`.

A line for each answer that differs, last `N cases, M mismatches`. Exit status 0 if M is 0, 1 if not,
2 for a file or a step that is not understood. It holds no expected answers of its own.
"""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import sys
from typing import Any

from tests.conformance.mounts_faces import FACES, Face, mountpoints
from tests.conformance.mounts_run_face import again_inside, is_inside
from tests.conformance.replay import NotUnderstood, load_cases
from wqfs.abi import records as r
from wqfs.abi.errors import Malformed
from wqfs.sim.language import quote

Step = dict[str, Any]
MOUNT_FAILED = 32
"""What mount(8) and umount(8) exit with for what is refused."""
KINDS = ("mkdir", "watch", "do")


def answer(step: Step, face: Face) -> Any:
    """What a step gives; None for one that gives nothing."""
    if "watch" in step:
        return _watch(step, face)
    if "mkdir" in step:
        face.mkdir(step["mkdir"])
    return _do(step, face) if "do" in step else None


def _watch(step: Step, face: Face) -> Any:
    place = f"mount {quote(step['watch'])}"
    try:
        face.watch(f"-{place}" if step["id"] == -1 else f"{place} id={step['id']}")
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]
    return 0


def _do(step: Step, face: Face) -> Any:
    names = mountpoints(face.mountinfo())
    rc = 0
    try:
        face.run(step["do"])
    except OSError:
        # The language says refused or not. umount(8) adds up the codes of several directories, and both
        # have 1 for what they did not try.
        rc = step["want"]["rc"] or MOUNT_FAILED
    names.update(mountpoints(face.mountinfo()))
    try:
        records = [_named(record, names) for record in r.decode(face.read())]
    except Malformed as error:
        return f"malformed records: {error}"
    return {"rc": rc, "records": records}


def _named(record: r.Record, names: dict[int, str]) -> dict[str, Any]:
    """A record in the words of the recordings."""
    if record.type == r.WatchType.META:
        named = {"id": record.watch_id, "meta": r.MetaSubtype(record.subtype).name.lower()}
        if len(record.body) == r.REMOVAL_BODY.size:
            named["of"] = _name(r.REMOVAL_BODY.unpack(record.body)[0], names)
        return named
    if record.type != r.WatchType.MOUNT_NOTIFY or len(record.body) != r.MOUNT_BODY.size:
        return {"id": record.watch_id, "type": record.type, "subtype": record.subtype, "body": record.body.hex()}
    on, aux = r.MOUNT_BODY.unpack(record.body)
    return {
        "id": record.watch_id,
        "event": r.MountSubtype(record.subtype).name.lower(),
        "on": _name(on, names),
        "aux": _name(aux, names) if aux else None,
        "flags": [flag.name for flag in r.MountFlag if record.info & flag],
    }


def _name(id_: int, names: dict[int, str]) -> str:
    return names.get(id_, f"?{id_}")


def run_case(case: dict[str, Any], face: Face) -> list[str]:
    """A line for each answer that differs."""
    differing = []
    for number, step in enumerate(case["steps"], 1):
        got = answer(step, face)
        if "want" in step and got != step["want"]:
            kind = next(kind for kind in KINDS if kind in step)
            differing.append(
                f"{case['name']} step {number} {kind} {step[kind]}: "
                f"wanted {json.dumps(step['want'])}, got {json.dumps(got)}"
            )
    return differing


def load(path: str) -> list[dict[str, Any]]:
    """The cases of a file, checked as far as their shape goes. Raises NotUnderstood."""
    cases = load_cases(path)
    for case in cases:
        for step in case["steps"]:
            if not _is_understood(step):
                raise NotUnderstood(f"{path}: {case['name']}: expected mkdir, watch or do: {json.dumps(step)}")
    return cases


def _is_understood(step: Any) -> bool:
    if not isinstance(step, dict) or sum(kind in step for kind in KINDS) != 1:
        return False
    if "mkdir" in step:
        return isinstance(step["mkdir"], list)
    if "watch" in step:
        return isinstance(step["watch"], str) and isinstance(step.get("id"), int) and "want" in step
    try:
        words = shlex.split(step["do"])
    except (ValueError, AttributeError):
        return False
    want = step.get("want")
    if words[:1] not in (["mount"], ["umount"]) or not isinstance(want, dict):
        return False
    return isinstance(want.get("rc"), int) and isinstance(want.get("records"), list)


def replay(paths: list[str], face: str) -> int:
    """Run all cases of the files; prints what the module says; returns the exit status."""
    loaded = [case for path in paths for case in load(path)]
    mismatches = 0
    for case in loaded:
        with FACES[face]() as fresh:
            differing = run_case(case, fresh)
        for line in differing:
            print(line)
        mismatches += len(differing)
    print(f"{len(loaded)} cases, {mismatches} mismatches")
    return 1 if mismatches else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.replay_mounts")
    parser.add_argument("--face", choices=sorted(FACES), default="core")
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    try:
        if arguments.face == "run" and not is_inside():
            return again_inside(arguments.files)
        return replay(arguments.files, arguments.face)
    except NotUnderstood as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
