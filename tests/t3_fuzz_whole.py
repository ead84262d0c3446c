"""Hostile requests for the whole server, pyfuse3 and libfuse with it: tests/fuzz/whole.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tools import ROOT


@pytest.mark.parametrize("options", [(), ("--kill",)], ids=["", "killed"])
@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_whole_server_answers_hostile_requests(seconds: int, options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.whole", "--seconds", str(seconds), "--seed", str(1000 + seconds), *options],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "ERROR" not in done.stderr, done.stderr
