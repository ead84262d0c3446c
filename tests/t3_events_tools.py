"""A watch's `events`, read by the tools that people read files with."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.reading import ERROR, THREE, running, wait_for_reads
from tests.tools import LIMIT, Mount, wait_until

TOOLS = [
    ("jq -c --unbuffered .event", ["error", "io", "error"]),
    ("jq -c --unbuffered '[.type, .error]'", ["sb,EIO", "block,null", "sb,EROFS"]),
    ('sed -u \'s/.*"event":"\\([a-z]*\\)".*/\\1/\'', ["error", "io", "error"]),
    ('grep --line-buffered -o \'"event":"[a-z]*"\'', ["error", "io", "error"]),
    ("awk -F'\"' '{ print $14; fflush() }'", ["error", "io", "error"]),
    ("cat", ["error", "io", "error"]),
    ("busybox cat", ["error", "io", "error"]),
    ("dd bs=1 status=none", ["error", "io", "error"]),
    ("dd bs=4096 status=none", ["error", "io", "error"]),
    ("timeout 60 cat", ["error", "io", "error"]),
    ("{ xxd -p | xxd -r -p; }", ["error", "io", "error"]),
    ("tee /dev/null", ["error", "io", "error"]),
    ("head -n 3", ["error", "io", "error"]),
    ("cut -c1-", ["error", "io", "error"]),
    ("sort", ["error", "io", "error"]),
    ('while read -r line; do printf "%s\\n" "$line"; done', ["error", "io", "error"]),
    ('{ mapfile -t a; printf "%s\\n" "${a[@]}"; }', ["error", "io", "error"]),
    ('{ mapfile -t -n 2 a; printf "%s\\n" "${a[@]}"; }', ["error", "io"]),
]


@pytest.mark.parametrize("redirect", ["| cat", ""], ids=["pipe", "file"])
@pytest.mark.parametrize(("tool", "words"), TOOLS, ids=[tool for tool, _ in TOOLS])
def test_events_are_read_by_tools_to_their_end(
    shared: Mount, watch: Path, tmp_path: Path, tool: str, words: list[str], redirect: str
) -> None:
    with running(
        "bash", "-c", f'{tool} < "$1" {redirect} > "$2"', "bash", watch / "events", tmp_path / "out"
    ) as process:
        wait_for_reads(shared)
        shared.post(*THREE)
        watch.rmdir()
        assert process.wait(LIMIT) == 0
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        for part in word.split(","):
            assert part in line


def has_lines(file: Path, count: int) -> bool:
    return file.read_text().count("error") >= count


@pytest.mark.parametrize(
    "tool",
    ["jq -c --unbuffered .event", "sed -u s/x/x/", "grep --line-buffered error", "cat", "busybox cat",
     "awk -W interactive '{ print; fflush() }'", "dd bs=1 status=none", "tee",
     'while read -r line; do echo "$line"; done'],
)  # fmt: skip
def test_events_come_out_of_tools_as_they_happen(shared: Mount, watch: Path, tmp_path: Path, tool: str) -> None:
    out = tmp_path / "out"
    with running("bash", "-c", f'{tool} < "$1" > "$2"', "bash", watch / "events", out) as process:
        for count in (1, 2):
            wait_for_reads(shared)
            shared.post(ERROR)
            wait_until(partial(has_lines, out, count), f"line {count}")
        assert process.poll() is None


@pytest.mark.parametrize(
    "tool",
    ["head -n 1", "head -c 20", "dd bs=20 count=1 status=none", "xxd -l 20", "grep -m1 seq", "sed -u 1q",
     "jq -cn input", "read -r line"],
)  # fmt: skip
def test_events_tools_that_want_little_end_by_themselves(shared: Mount, watch: Path, tool: str) -> None:
    with running("bash", "-c", f'{tool} < "$1"', "bash", watch / "events", stdout=subprocess.DEVNULL) as process:
        wait_for_reads(shared)
        shared.post(ERROR)
        assert process.wait(LIMIT) == 0


def test_events_under_timeout_end_with_124(watch: Path) -> None:
    assert subprocess.run(["timeout", "0.2", "cat", watch / "events"], timeout=LIMIT).returncode == 124
