"""Programs that know nothing of wqfs, under `wqfs run`: in C, static too, in Go, and keyctl(1)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import run, running, said
from tests.tools import ROOT, Mount, wait_until

# As on Linux 6.12.117 with notification pipes of its own, where the same programs said this, tried by hand.
RECORDS = """\
type 1 subtype 1 id 2 key none
type 1 subtype 2 id 1 session another
type 1 subtype 3 id 1 session key
type 1 subtype 4 id 1 session none
type 0 subtype 0 id 2 key
end
"""


@pytest.mark.parametrize("flags", [[], ["-static"]], ids=["dynamic", "static"])
def test_program_in_c_gets_its_records(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "notify"
    subprocess.run(["cc", "-Wall", "-Werror", "-O2", *flags, "-o", program, ROOT / "tests/notify.c"], check=True)
    assert said(program) == RECORDS


def test_program_in_go_gets_its_records(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("there is no Go compiler")
    program = tmp_path / "notify"
    environment = {**os.environ, "GO111MODULE": "off", "CGO_ENABLED": "0", "GOCACHE": str(tmp_path / "cache")}
    subprocess.run(["go", "build", "-o", program, ROOT / "tests/notify.go"], check=True, env=environment)
    assert said(program) == RECORDS


def test_program_is_refused_by_the_kernel_itself(tmp_path: Path) -> None:
    """Else the tests above show nothing."""
    program = tmp_path / "notify"
    subprocess.run(["cc", "-o", program, ROOT / "tests/notify.c"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        pytest.skip("this kernel has notification pipes of its own")
    assert done.stderr == "notify: pipe2: Package not installed\n"


# -- keyctl(1) of Debian's keyutils


def serial(mount: Mount, description: str) -> str:
    """The number of a key, as keyctl(1) prints it."""
    import json

    keys = json.loads((mount.path / "sim/snapshot").read_text())["keys"]
    return str(next(key["serial"] for key in keys if key["description"] == description))


def test_keyctl_watch_prints_what_happens_to_a_key(strict_mount: Mount) -> None:
    strict_mount.post("key newring ring @s")
    ring = serial(strict_mount, "ring")
    with running("keyctl", "watch", ring, options=["--mount", str(strict_mount.path)]) as program:
        program.wait_for("KEYCTL_WATCH_KEY")
        strict_mount.post("key add user one x ring", "key timeout ring 100", "key clear ring", "key unlink ring @s")
        code, out = program.end()
    one = re.findall(rf"^{ring} link (\d+)$", out, re.MULTILINE)
    assert len(one) == 1
    assert out == f"{ring} link {one[0]}\n{ring} attr\n{ring} clr\n{ring} gc\n"
    assert code == 0


def test_keyctl_watch_takes_a_filter(strict_mount: Mount) -> None:
    strict_mount.post("key newring ring @s")
    ring = serial(strict_mount, "ring")
    with running("keyctl", "watch", "-fc", ring, options=["--mount", str(strict_mount.path)]) as program:
        program.wait_for("KEYCTL_WATCH_KEY")
        strict_mount.post("key add user one x ring", "key clear ring", "key unlink ring @s")
        assert program.end() == (0, f"{ring} clr\n{ring} gc\n")


def test_keyctl_watch_says_that_records_were_lost(strict_mount: Mount) -> None:
    """keyctl(1) has 256 records of depth; while it is stopped more come."""
    strict_mount.post("key newring ring @s")
    ring = serial(strict_mount, "ring")
    with running("keyctl", "watch", ring, options=["--mount", str(strict_mount.path)]) as program:
        program.wait_for("KEYCTL_WATCH_KEY")
        pid = int(re.findall(r"^\[(\d+)\]", program.trace[0])[0])
        os.kill(pid, 19)
        wait_until(lambda: " T " in Path(f"/proc/{pid}/stat").read_text(), "it to stop")
        strict_mount.post(*["key clear ring"] * 300)
        os.kill(pid, 18)
        wait_until(lambda: queued_nowhere(strict_mount), "it to read")
        strict_mount.post("key unlink ring @s")
        _, out = program.end()
    assert out.splitlines() == [*[f"{ring} clr"] * 256, "-- LOSS --", f"{ring} gc"]


def queued_nowhere(mount: Mount) -> bool:
    return "wqfs_records_queued 0\n" in (mount.path / "metrics").read_text()


INNER = """\
keyctl add user colour red @s > colour
keyctl newring inner @s > inner
keyctl watch_add 3 $(cat inner)
keyctl add user deep x $(cat inner) > deep
keyctl watch_rm 3 $(cat inner)
keyctl add user deeper x $(cat inner) > deeper
keyctl unlink $(cat colour) @s
keyctl watch_sync 3
"""


def test_keyctl_watch_session_add_rm_and_sync(tmp_path: Path) -> None:
    (tmp_path / "inner.sh").write_text(INNER)
    done = run("sh", "-euc", f"cd {tmp_path} && keyctl watch_session -n called nlog glog 3 sh -eu inner.sh")
    assert (done.returncode, done.stdout) == (0, "")
    colour, inner, deep = ((tmp_path / name).read_text().strip() for name in ("colour", "inner", "deep"))
    lines = (tmp_path / "nlog").read_text().splitlines()
    session = re.fullmatch(r"Joined session keyring: (\d+)\n", done.stderr)[1]  # type: ignore[index]
    assert lines == [
        f"{session} link {colour}",
        f"{session} link {inner}",
        f"{inner} link {deep}",
        f"{session} unlk {colour}",
        "Monitoring terminated",
    ]
    assert (tmp_path / "glog").read_text() == f"{inner} gc\nMonitoring terminated\n"


@pytest.mark.parametrize("operation", ["dh_compute 1 2 3", "pkey_query 1 0"])
def test_keyctl_operations_that_need_a_kernels_crypto_are_refused(operation: str) -> None:
    done = run("keyctl", *operation.split())
    assert done.returncode == 1
    assert "Operation not supported" in done.stderr


def with_names(text: str) -> list[str]:
    """What keyctl_commands.sh printed, with names for the numbers of keys, and lists of keys in order: the kernel's is
    that of its hash table."""
    names = {number: name for name, number in re.findall(r"^is (\w+) (\d+)$", text, re.MULTILINE)}
    lines: list[str] = []
    for command in text.split("$ ")[1:]:
        head, *said = command.splitlines()
        said = [re.sub(r"\d{4,10}", lambda m: names.get(m[0], "KEY"), line) for line in [head, *said]]
        lines += [said[0], *sorted(" ".join(line.split()) for line in said[1:] if not line.startswith("is "))]
    return lines


def test_every_command_of_keyctl_answers_as_on_the_kernel() -> None:
    script = ROOT / "tests/keyctl_commands.sh"
    here = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    if "rc" not in here.stdout:
        pytest.skip(f"the kernel's own key calls are not allowed here: {here.stdout}{here.stderr}")
    assert with_names(said("sh", script)) == with_names(here.stdout)


def test_calls_about_keys_answer_as_the_kernels(tmp_path: Path) -> None:
    script = ROOT / "tests/key_calls.py"
    here = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    if "ENOSYS" in here.stdout.splitlines()[0] or "EPERM" in here.stdout.splitlines()[0]:
        pytest.skip("the kernel's own key calls are not allowed here (a container's filter)")
    assert here.returncode == 0, here.stderr
    assert said(sys.executable, script) == here.stdout
