"""What was recorded of key requests, asked again of the kernel that tests/kernel builds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
RECORDED = TESTS / "conformance" / "requests.json"


@pytest.fixture
def reference_kernel() -> str:
    """The folder of a kernel that tests/kernel/build_vm.sh built."""
    folder = os.environ.get("ORACLE_DIR", "")
    if not folder:
        pytest.skip("ORACLE_DIR is not set: no reference kernel was built (tests/kernel/README.md)")
    if not Path(folder, "linux-source-6.12/arch/x86/boot/bzImage").is_file():
        pytest.skip(f"no reference kernel was built in {folder} (tests/kernel/README.md)")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_key_requests_are_answered_as_recorded(reference_kernel: str, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    done = subprocess.run(
        [TESTS / "kernel" / "run_recorder.sh", RECORDED, answers],
        env={**os.environ, "ORACLE_DIR": reference_kernel},
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert answers.exists(), done.stdout + done.stderr
    assert json.loads(answers.read_text()) == json.loads(RECORDED.read_text())
