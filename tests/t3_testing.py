"""wqfs.testing.PrivateMount without pytest's fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import is_mounted, wait_until
from wqfs.testing import PrivateMount


def test_mount_is_gone_at_the_end_whatever_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), PrivateMount("strict") as mount:
        assert tmp_path in mount.path.parents and is_mounted(mount.path)
        mount.post("mount a /a -t tmpfs")
        assert mount.expect("mount", "new_mount")["mountpoint"] == "/a"
        raise ZeroDivisionError
    assert not is_mounted(mount.path) and list(tmp_path.iterdir()) == []
    mount.close()  # again: nothing


def test_options_that_there_are_not_are_said_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="nosuchoption"):
        PrivateMount("nosuchoption")
    assert list(tmp_path.iterdir()) == []


def test_guard_that_is_killed_leaves_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with PrivateMount() as mount:
        mount._server._guard.kill()
        mount._server._guard.wait()
        # The guard is gone, and the daemon with nobody to watch it: close ends it all the same.
        assert is_mounted(mount.path)
    wait_until(lambda: not is_mounted(mount.path), "the mount to be gone")
