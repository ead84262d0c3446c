"""What was recorded of key requests, asked again of the kernel that tests/kernel builds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests import KERNEL, in_guest
from tests.t3_run_kernel_keys import AS_NOBODY, WATCHED
from tests.tools import ROOT

RECORDED = ROOT / "tests/conformance/requests.json"


@pytest.fixture
def reference_kernel() -> Path:
    """The folder of a kernel that tests/kernel/build_vm.sh built."""
    folder = os.environ.get("VM_DIR", "")
    if not folder:
        pytest.skip("VM_DIR is not set: no reference kernel was built (tests/kernel/README.md)")
    if not Path(folder, "linux-source-6.12/arch/x86/boot/bzImage").is_file() or not Path(folder, "vmlinuz").exists():
        pytest.skip(f"no reference kernel was built in {folder} (tests/kernel/README.md)")
    return Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_key_requests_are_answered_as_recorded(reference_kernel: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    done = subprocess.run(
        [KERNEL / "run_recorder.sh", RECORDED, answers],
        env={**os.environ, "VM_DIR": str(reference_kernel)},
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert answers.exists(), done.stdout + done.stderr
    assert json.loads(answers.read_text()) == json.loads(RECORDED.read_text())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_events_of_watched_keys_are_those_that_wqfs_run_tells(reference_kernel: Path, tmp_path: Path) -> None:
    done = in_guest(reference_kernel, tmp_path, f"{sys.executable} tests/watched_keys.py nobody")
    said = done.stdout.replace("\r", "").partition("GUEST-START\n")[2].partition("GUEST-END")[0]
    assert said == WATCHED + AS_NOBODY, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_client_is_the_same_on_the_kernels_own_pipe(reference_kernel: Path, tmp_path: Path) -> None:
    # The tests of a mount need /dev/fuse, which this kernel was built without.
    pytest_command = "pytest -q --color=no -p no:cacheprovider tests/t3_client.py -k 'kernel or native'"
    done = in_guest(reference_kernel, tmp_path, f"{sys.executable} -m {pytest_command}")
    assert re.search(r"2\d passed, \d+ deselected", done.stdout, re.MULTILINE), done.stdout + done.stderr


TAIL = """
key=$(keyctl add user colour red @s)
{python} -m wqfs.cli tail --kernel --object 'key @s' --object "key $key id=5" -n 4 -o cat --color never 2>{said} &
until grep -q watching {said}; do sleep 0.05; done
keyctl update $key blue
keyctl add user shape round @s >/dev/null
keyctl revoke $key
keyctl unlink $key @s
wait $!
echo code $?
{python} -m wqfs.cli tail --kernel -t 0.1 -q
echo code $?
{python} -m wqfs.cli tail --kernel --object "key $key"
echo code $?
{python} -m wqfs.cli doctor --no-trial | grep 'notification pipes'
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_tail_of_the_kernels_own_pipe(reference_kernel: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.write_text(TAIL.format(python=sys.executable, said=tmp_path / "said"))
    done = in_guest(reference_kernel, tmp_path, f"keyctl session - bash {inner} 2>&1")
    lines = done.stdout.replace("\r", "").splitlines()
    assert any(re.fullmatch(r"key   updated colour \(\d+\) id=5", line) for line in lines), done.stdout + done.stderr
    assert any(re.fullmatch(r"key   linked \S+ \(\d+\) shape \(\d+\)", line) for line in lines), done.stdout
    assert any(re.fullmatch(r"key   revoked colour \(\d+\) id=5", line) for line in lines), done.stdout
    assert any(re.fullmatch(r"key   unlinked \S+ \(\d+\) colour \(\d+\)", line) for line in lines), done.stdout
    assert [line for line in lines if line.startswith("code ")] == ["code 0", "code 2", "code 1"], done.stdout
    assert "the kernel refuses to watch key" in done.stdout and "the kernel has them" in done.stdout
