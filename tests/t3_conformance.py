"""A mount with `-o strict,enobufs` answers system calls as the recorded kernel did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.t1_conformance import FILES, MOUNT_FILES, replay


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_mount_answers_as_the_kernel(file: Path) -> None:
    done = replay("--face", "mount", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" cases, 0 mismatches")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_system_calls_under_wqfs_run_are_answered_as_by_the_kernel(file: Path) -> None:
    done = replay("--face", "run", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "0 steps ran without being compared on this face",
        f"{len(json.loads(file.read_text()))} cases, 0 mismatches",
    ]


@pytest.mark.parametrize("file", MOUNT_FILES, ids=lambda file: file.stem)
def test_mount_tells_of_mounts_as_the_kernel(file: Path) -> None:
    done = replay("--face", "mount", str(file), module="replay_mounts")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" cases, 0 mismatches")
