"""The core answers as the recorded kernel did, and the replay sees it when it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "conformance"
MOUNT_FILES = [FOLDER / "mounts.json"]
FILES = sorted({*FOLDER.glob("*.json")} - {*MOUNT_FILES})


def replay(*arguments: str, module: str = "replay") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"tests.conformance.{module}", *arguments],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_core_answers_as_the_kernel(file: Path) -> None:
    done = replay(str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" cases, 0 mismatches")


def test_replay_counts_a_wrong_answer(tmp_path: Path) -> None:
    cases = [
        {
            "name": "wrong",
            "steps": [{"op": "open", "want": 0}, {"op": "set_size", "n": 0, "want": 0}],
        }
    ]
    (tmp_path / "wrong.json").write_text(json.dumps(cases))
    done = replay(str(tmp_path / "wrong.json"))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("wrong step 2 ") and lines[0].endswith('wanted 0, got "EINVAL"')
    assert lines[-1] == "1 cases, 1 mismatches"


@pytest.mark.parametrize(
    "text",
    ["", "{}", '[{"name": "x", "steps": [{"op": "fly", "want": 0}]}]', '[{"name": "x", "steps": [{"op": "open"}]}]'],
)
def test_replay_of_what_it_does_not_understand_exits_2(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    done = replay(str(tmp_path / "bad.json"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


# -- mounts


@pytest.mark.parametrize("file", MOUNT_FILES, ids=lambda file: file.stem)
def test_core_tells_of_mounts_as_the_kernel(file: Path) -> None:
    done = replay(str(file), module="replay_mounts")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" cases, 0 mismatches")


def test_replay_of_mounts_counts_a_wrong_answer(tmp_path: Path) -> None:
    steps = [
        {"watch": "/", "id": 1, "want": "EBUSY"},
        {"do": "umount /", "want": {"rc": 32, "records": []}},
        {"do": "mount -t tmpfs none /a", "want": {"rc": 0, "records": []}},
    ]
    (tmp_path / "wrong.json").write_text(json.dumps([{"name": "wrong", "steps": steps}]))
    done = replay(str(tmp_path / "wrong.json"), module="replay_mounts")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == 'wrong step 1 watch /: wanted "EBUSY", got 0'
    assert lines[1].startswith("wrong step 3 do mount -t tmpfs none /a: wanted ") and '"new_mount"' in lines[1]
    assert lines[2:] == ["1 cases, 2 mismatches"]


def test_replay_of_mounts_takes_any_exit_code_of_a_refusal(tmp_path: Path) -> None:
    lines = {"umount /a": 32, "umount /a /b": 64, "umount -R /a": 1, "mount -o shared /a": 1}
    steps = [{"do": line, "want": {"rc": rc, "records": []}} for line, rc in lines.items()]
    (tmp_path / "refused.json").write_text(json.dumps([{"name": "refused", "steps": steps}]))
    done = replay(str(tmp_path / "refused.json"), module="replay_mounts")
    assert done.stdout == "1 cases, 0 mismatches\n"
    for step in steps:
        step["want"]["rc"] = 0  # type: ignore[index]
    (tmp_path / "done.json").write_text(json.dumps([{"name": "done", "steps": steps}]))
    done = replay(str(tmp_path / "done.json"), module="replay_mounts")
    assert done.stdout.endswith("1 cases, 4 mismatches\n") and '"rc": 32' in done.stdout


@pytest.mark.parametrize(
    "step",
    [
        {"op": "open", "want": 0},
        {"do": "umount /a", "want": {"rc": "32", "records": []}},
        {"do": "mkfs /dev/sda", "want": {"rc": 0, "records": []}},
        {"do": "umount /a"},
        {"do": "umount 'a", "want": {"rc": 0, "records": []}},
        {"watch": "/", "want": 0},
        "mkdir",
    ],
    ids=str,
)
def test_replay_of_mounts_that_it_does_not_understand_exits_2(tmp_path: Path, step: object) -> None:
    (tmp_path / "bad.json").write_text(json.dumps([{"name": "x", "steps": [step]}]))
    done = replay(str(tmp_path / "bad.json"), module="replay_mounts")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
