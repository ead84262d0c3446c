"""A mount under a storm loses nothing untold, leaves nobody waiting and keeps nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tools import ROOT, Mount, wait_until


@pytest.mark.slow
def test_storm_is_told_in_order_and_leaves_nothing(mount: Mount) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/storm.py", mount.path, "10"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = mount.path / "metrics"
    wait_until(lambda: "\nwqfs_handles 1\n" in metrics.read_text(), "no open file but metrics itself")
    for left in (mount.path / "watches").iterdir():
        left.rmdir()
    text = metrics.read_text()
    for name in ("queues", "waiting_readers", "records_queued"):
        assert f"\nwqfs_{name} 0\n" in text, name
