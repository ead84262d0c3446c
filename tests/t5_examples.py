"""What docs/ shows is run: the examples, and the tables that name commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

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
        assert "exit codes: " in done.stdout, command  # of `run` they are the program's own


def wqfs(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wqfs.cli", *words]
    return subprocess.run(command, text=True, timeout=LIMIT, check=False, stderr=subprocess.PIPE, **options)


def test_help_is_found_by_any_word_for_it() -> None:
    said = [wqfs(*words, stdout=subprocess.PIPE) for words in (["--help"], ["-h"], ["help"])]
    assert all(each.returncode == 0 and each.stdout == said[0].stdout for each in said)
    assert all(f"\n  {command} " in said[0].stdout for command in COMMANDS)
    assert wqfs("help", "tail", stdout=subprocess.PIPE).stdout == wqfs("tail", "--help", stdout=subprocess.PIPE).stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["post", "--commands"], ["tail", "--help"], ["doctor", "--no-trial"], ["--version"]]
)
def test_reader_that_has_gone_is_no_error(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = wqfs(*words, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
