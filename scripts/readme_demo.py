"""Puts the real output of `make demo` into README.md: `make -s demo | python scripts/readme_demo.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"(`make demo`, with its real output[^\n]*\n\n```console\n)(.*?)(```\n)", re.DOTALL)


def block(readme: str) -> str:
    """The demo's output as README has it."""
    match = BLOCK.search(readme)
    if match is None:
        raise ValueError("README.md has no block after `make demo`")
    return match[2]


def settled(output: str) -> str:
    """The output with what differs from run to run (times, pids, the folder) as README writes it."""
    output = re.sub(r"wqfs-demo\.\w+", "wqfs-demo", output)
    output = re.sub(r'"time":[0-9.]+', '"time":1795397164.249826', output)
    output = re.sub(r"pid=\d+", "pid=8221", output)
    output = re.sub(r"uid=\d+", "uid=1000", output)
    output = re.sub(r"_uid\.\d+", "_uid.1000", output)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-11-23T01:26:04Z", output).strip("\n") + "\n"


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(text.replace(block(text), settled(sys.stdin.read())))
