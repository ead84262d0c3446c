"""What docs/ shows is run: the examples, and the tables that name commands."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.tools import LIMIT, ROOT, Mount, running
from wqfs.cli import COMMANDS

DOCS = ROOT / "docs"


@pytest.mark.parametrize("how", ["blocking", "trio", "asyncio"])
def test_monitor_shows_mounts_as_they_come_and_go(shared: Mount, how: str) -> None:
    command = (sys.executable, str(DOCS / "examples/monitor.py"), str(shared.path), how)
    with running(*command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"watching\n"
        shared.post("mount a /mnt/example -t tmpfs", "umount /mnt/example")
        lines = [process.stdout.readline().decode(), process.stdout.readline().decode()]
    found = re.fullmatch(r"mounted (\d+)\nunmounted (\d+)\n", "".join(lines))
    assert found and found[1] == found[2]


def test_exit_codes_are_said_of_every_command() -> None:
    text = (DOCS / "reference/exit-codes.md").read_text()
    assert set(re.findall(r"^\| `wqfs (\w+)`", text, re.MULTILINE)) == {"mount", *COMMANDS}


def test_every_command_has_help_with_its_exit_codes() -> None:
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "wqfs.cli", command, "--help"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        )
        assert "exit codes: 0 " in done.stdout, command
