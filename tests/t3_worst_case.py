"""tests.worst_case with low limits: a hostile user fills every table to its errno, and another one goes on."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.tools import ROOT
from tests.users import needs_users

OPTIONS = (
    "allow_other,max_watches=64,max_objects=64,max_user_objects=256,max_handles=1024,max_user_handles=512,"
    "max_waiting=512,max_user_waiting=256,max_memory=8,max_processes=64"
)
FULL = {
    "make_watches": "64 EDQUOT", "add_objects": "4 EDQUOT", "begin_threads": "48 ENOMEM", "wait": "256 EDQUOT",
    "open_events": "509 EDQUOT",
}  # fmt: skip
"""How many of each a user gets, and the errno of the next one."""


@needs_users
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hostile_user_fills_each_table_to_its_errno_and_another_one_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.worst_case", "--depth", "32", "-o", OPTIONS],
        cwd=ROOT, capture_output=True, text=True, timeout=290, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reached = dict(re.findall(r"^(\w+) +(\d+ E[A-Z]+)", done.stdout, re.MULTILINE))
    assert {stage: reached.get(stage) for stage in FULL} == FULL, done.stdout
    assert re.findall(r"^(\S+): a watch and an event", done.stdout, re.MULTILINE) == ["another-user", "root"]
    assert re.search(r"^left +2 queues, ", done.stdout, re.MULTILINE), "those of the other two"
    assert max(map(int, re.findall(r"peak (\d+)", done.stdout))) < 100, "MiB"
