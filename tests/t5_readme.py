"""README says what is: its demo's output is real, its pages are those of the tables."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from scripts import commands_page, readme_demo

ROOT = Path(__file__).resolve().parent.parent


def without_serials(text: str) -> str:
    text = re.sub(r'"(key|aux)":\d+', r'"\1":0', text)
    return re.sub(r"(?m)^(00000[0-9a-f]{3}: ).*$", r"\1", text)


def test_demo_prints_what_readme_shows() -> None:
    done = subprocess.run(
        ["bash", "scripts/demo.sh"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    came, shown = readme_demo.settled(done.stdout), readme_demo.block((ROOT / "README.md").read_text())
    if os.getuid():  # another user's keyrings come before: other serial numbers
        came, shown = without_serials(came), without_serials(shown)
    assert came == shown


def test_commands_page_is_that_of_the_table() -> None:
    assert (ROOT / "docs/commands.md").read_text() == commands_page.page()
