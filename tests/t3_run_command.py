"""`wqfs run` itself: exit codes, signals, who ends whom, and what it says when it cannot."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import RUN, run, running, said
from tests.tools import LIMIT, ROOT, Mount, is_mounted, wait_until

PROGRAM = re.compile(r"^\[(\d+)\] ", re.MULTILINE)
ALIVE = "keyctl show @s >/dev/null; "
"""A first call about keys: its line in the trace says that the program runs, and its pid."""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between open and read
        return False


# -- exit codes


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15), ("kill -KILL $$", -9)]
)
def test_exit_code_is_the_programs(script: str, code: int) -> None:
    assert run("sh", "-c", script).returncode == code


def test_program_that_is_not_there_is_127() -> None:
    done = run("no-such-program")
    assert (done.returncode, done.stderr) == (
        127,
        "wqfs run: cannot run no-such-program: No such file or directory\n",
    )


def test_program_that_may_not_be_run_is_126() -> None:
    done = run("/etc/passwd")
    assert (done.returncode, done.stderr) == (126, "wqfs run: cannot run /etc/passwd: Permission denied\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected a PROGRAM to run"),
        (["--nonsense", "--", "true"], "unrecognized arguments: --nonsense"),
        (["-o", "nonsense", "true"], "Unknown option 'nonsense'"),
        (["--mount", "/", "true"], "/ is no wqfs mount"),
        (["--mount", "/x", "-o", "depth=1", "true"], "-o is for a private mount"),
    ],
)
def test_wrong_words_are_125_and_said(words: list[str], sentence: str) -> None:
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=LIMIT, check=False, cwd=ROOT)
    assert done.returncode == 125
    assert sentence in done.stderr


def test_words_after_the_program_are_its_own() -> None:
    done = subprocess.run([*RUN, "echo", "--trace", "-o", "x"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "--trace -o x\n")


def test_listener_that_is_there_already_is_explained() -> None:
    done = run(*RUN, "true")
    assert done.returncode == 125
    assert "has a seccomp listener already" in done.stderr


# -- what the program finds


def test_program_finds_the_mount_and_its_own_signals() -> None:
    out = said(
        sys.executable,
        "-c",
        "import os, signal; print(os.path.exists(os.environ['WQFS_MOUNT'] + '/post'),"
        "signal.pthread_sigmask(signal.SIG_BLOCK, []), os.listdir('/proc/self/fd'))",
    )
    # Three streams, and the descriptor of the listing itself.
    assert out == "True set() ['0', '1', '2', '3']\n"


def test_ignored_signals_stay_ignored() -> None:
    for script in ("exec grep SigIgn /proc/self/status", "trap '' HUP PIPE; exec grep SigIgn /proc/self/status"):
        outside = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        assert said("sh", "-c", script) == outside


def test_private_mount_is_strict_and_gone_afterwards() -> None:
    out = said("sh", "-c", "grep -c . $WQFS_MOUNT/sim/mountinfo; echo $WQFS_MOUNT; mkdir $WQFS_MOUNT/watches/w; "
               "cat $WQFS_MOUNT/watches/w/objects")  # fmt: skip
    lines = out.splitlines()
    assert lines[0] == "1"
    assert lines[2:] == []  # a strict watch watches nothing
    assert not os.path.exists(lines[1])


def test_a_mount_that_is_named_is_used(strict_mount: Mount) -> None:
    said("keyctl", "add", "user", "from inside", "x", "@s", options=["--mount", str(strict_mount.path)])
    assert "from inside" in (strict_mount.path / "sim/keys").read_text()
    assert '"pid.' not in (strict_mount.path / "sim/snapshot").read_text()  # its processes have ended


def test_trace_shows_calls_as_strace_does() -> None:
    done = run("keyctl", "add", "user", "a", "b", "@s", options=["--trace"])
    line = re.fullmatch(r"\[\d+\] add_key\(0x[0-9a-f]+, 0x[0-9a-f]+, 0x[0-9a-f]+, 1, -3\) = (\d+)\n", done.stderr)
    assert line is not None
    assert done.stdout == line[1] + "\n"


# -- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signal_to_the_command_reaches_the_program(number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number.name[3:]}; {ALIVE} sleep 60 & wait"
    with running("sh", "-c", script) as program:
        program.wait_for("KEYCTL_READ")
        program.process.send_signal(number)
        subprocess.run(["pkill", "-KILL", "-P", PROGRAM.findall(program.trace[0])[0], "sleep"], check=False)
        end_background(program.process.pid)
        assert program.end() == (9, "got\n")


def end_background(front: int) -> None:
    """End what the script left behind, which the run waits for."""
    wait_until(
        lambda: subprocess.run(["pkill", "-KILL", "-f", "^sleep 60$"], check=False).returncode == 1,
        "no sleep to be left",
    )


def test_ctrl_c_reaches_the_program_once(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if not child:
        script = f"trap 'echo got >> {tmp_path}/got; exit 5' INT; {ALIVE} while :; do sleep 0.01; done"
        os.execv(RUN[0], [*RUN, "--trace", "--", "sh", "-c", script])
    try:
        text = b""
        while b"KEYCTL_READ" not in text:
            text += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        deadline = time.monotonic() + LIMIT
        ended = (0, 0)
        while not ended[0] and time.monotonic() < deadline:
            ended = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 5
        assert (tmp_path / "got").read_text() == "got\n"
    finally:
        os.close(terminal)


def test_stopped_run_goes_on(tmp_path: Path) -> None:
    with running("sh", "-c", f"{ALIVE} read line; {ALIVE} echo $line", stdin=subprocess.PIPE) as program:
        program.wait_for("KEYCTL_READ")
        program.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: " T " in Path(f"/proc/{program.process.pid}/stat").read_text(), "the command to stop")
        program.process.send_signal(signal.SIGCONT)
        assert program.process.stdin is not None
        program.process.stdin.write("on\n")
        program.process.stdin.close()
        assert program.end() == (0, "on\n")


# -- who ends whom


def test_run_lasts_until_all_that_was_started_has_ended(tmp_path: Path) -> None:
    script = "(sleep 0.5; keyctl add user late x @s >/dev/null && echo late) & exit 4"
    done = run("sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (4, "late\n", "")


def test_what_is_left_ends_when_the_command_is_told_to() -> None:
    with running("sh", "-c", f"{ALIVE} sleep 60 & exit 3") as program:
        program.wait_for("KEYCTL_READ")
        shell = int(PROGRAM.findall(program.trace[0])[0])
        parent = int(Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split()[-1])
        wait_until(lambda: not is_alive(shell), "the program to end")
        wait_until(
            lambda: "sleep" in subprocess.run(
                ["ps", "-o", "comm=", "--ppid", str(parent)], capture_output=True, text=True, check=False
            ).stdout,
            "the rest to be adopted",
        )  # fmt: skip
        program.process.terminate()
        assert program.end() == (3, "")


def test_supervisor_that_dies_ends_the_program_with_a_message() -> None:
    with running("sh", "-c", f"{ALIVE} exec sleep 60") as program:
        program.wait_for("KEYCTL_READ")
        front = program.process.pid
        supervisor = int(Path(f"/proc/{front}/task/{front}/children").read_text().split()[-1])
        os.kill(supervisor, signal.SIGKILL)
        code, _ = program.end()
        assert code == 125
        assert "the supervisor was ended (SIGKILL)" in program.trace[-1]
    assert subprocess.run(["pgrep", "-f", "^sleep 60$"], check=False).returncode == 1


def test_command_that_dies_takes_program_and_mount_with_it() -> None:
    with running("sh", "-c", f"{ALIVE} echo $WQFS_MOUNT; exec sleep 60 >/dev/null") as program:
        program.wait_for("KEYCTL_READ")
        assert program.process.stdout is not None
        mount = Path(program.process.stdout.readline().strip())
        sleeping = [int(number) for number in PROGRAM.findall("\n".join(program.trace))]
        program.process.kill()
        wait_until(lambda: not is_mounted(mount), "the mount to go")
        wait_until(lambda: not any(map(is_alive, sleeping)), "the program to end")
    mount.rmdir()


def test_program_of_another_instruction_set_is_told_and_ended(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("32-bit programs are made for x86 here")
    source = tmp_path / "exit.s"
    source.write_text(".globl _start\n_start: mov $1, %eax\nmov $0, %ebx\nint $0x80\n")
    program = tmp_path / "exit"
    subprocess.run(["as", "--32", "-o", tmp_path / "exit.o", source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-o", program, tmp_path / "exit.o"], check=True)
    try:
        subprocess.run([program], check=True)
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    done = run("sh", "-c", f"{program}; echo ended with $?")
    assert done.stdout == "ended with 137\n"
    assert re.search(rf"{program} \(pid \d+\) is a program for 32-bit x86, which cannot be supervised", done.stderr)
