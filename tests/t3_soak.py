"""`make soak` for a minute: what an hour of it shows of losses, failures and descriptors; of memory 30 KiB a death, for
what a new daemon first needs is more than a minute's leak; of the waits at a kill the median; of p99 nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemons import can_ask_again
from tests.tools import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_ask_again(), reason="this kernel cannot send requests again (Linux 6.9)"),
]


def test_a_minute_of_everything(tmp_path: Path) -> None:
    report = tmp_path / "SOAK.md"
    with open(tmp_path / "said", "wb") as said:
        done = subprocess.run(
            [sys.executable, "-m", "bench.soak", "--seconds", "60", "--report", report],
            cwd=ROOT, stdout=said, stderr=said, timeout=220, check=False,
        )  # fmt: skip
    output = (tmp_path / "said").read_text(errors="replace")
    assert done.returncode == 0, output
    assert "0 criteria failed" in output
    text = report.read_text()
    kills = re.search(r"daemon killed (\d+) times", text)
    assert kills is not None and int(kills[1]) >= 10
    assert "| cat " in text and "FAILED" not in text
