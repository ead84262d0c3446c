"""Completion by the shells themselves, of what a mount knows, of the language of `post`, and of `-o`."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tools import LIMIT, ROOT, Mount, mounted, wait_until
from wqfs.cli.complete import split_line

SCRIPTS = ROOT / "docs/completion"
EVIL = "$(touch owned)"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount with names to complete."""
    with mounted(tmp_path_factory.mktemp("completion")) as mount:
        mount.watch("first")
        mount.watch("second")
        mount.watch(EVIL)
        mount.post("mount /dev/sdb1 '/mnt/a b' -t ext4", "key add user red:1 x @s", "process new shell")
        yield mount


@pytest.fixture(scope="module")
def environment(system: Mount, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One where `wqfs` is a command, and the mount the one that is meant."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "wqfs").write_text(f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m wqfs.cli "$@"\n')
    (folder / "wqfs").chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "WQFS_MOUNT": str(system.path),
        "TERM": "dumb", "LC_ALL": "C.UTF-8", "ZDOTDIR": str(folder),
    }  # fmt: skip


CASES = [
    ("wqfs tail fi", ["first"]),
    ("wqfs record se", ["second"]),
    ("wqfs settle first s", ["second"]),
    ("wqfs watch remove first s", ["second"]),
    ("wqfs watch change f", ["first"]),
    ("wqfs post um", ["umount"]),
    ("wqfs post -q umo", ["umount"]),
    ("wqfs post sb f", ["fill", "freeze"]),
    ("wqfs post sb error / EDQ", ["EDQUOT"]),
    ("wqfs post umount --la", ["--lazy"]),
    ("wqfs post mount -t ext", ["ext2", "ext3", "ext4"]),
    ("wqfs post mount -o ro,nosu", ["ro,nosuid"]),
    ("wqfs post as shell key update %user:re", ["%user:red:1"]),
    ("wqfs post as sh", ["shell"]),
    ("wqfs post --keep-g", ["--keep-going"]),
    ("wqfs mount -o ro,allow_", ["ro,allow_other", "ro,allow_root"]),
    ("wqfs mount -o allow_other,max_w", ["allow_other,max_waiting=", "allow_other,max_watches="]),
    ("wqfs /mnt -f -o max_o", ["max_objects="]),
    ("wqfs -o ro,enob", ["ro,enobufs"]),
    ("wqfs play us", ["usb-stick"]),
    ("wqfs wait key-present @u", ["@u", "@us"]),
    ("wqfs wait error /dev/sd", ["/dev/sdb1"]),
    ("wqfs tail --object de", ["devices"]),
    ("wqfs tail --since", ["--since-seq"]),
]


def ids(case: object) -> str | None:
    return case if isinstance(case, str) else None


@pytest.mark.parametrize(("line", "words"), CASES, ids=ids)
def test_fish_completes(environment: dict[str, str], line: str, words: list[str]) -> None:
    assert fish(environment, line) == words


def fish(environment: dict[str, str], line: str) -> list[str]:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {SCRIPTS}/wqfs.fish; complete -C $argv[1]", line],
        env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [each.partition("\t")[0] for each in done.stdout.splitlines()]


BASH = """
source "$1"; line=$2 COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDS=()
while [[ -n $line ]]; do  # as readline parts it
    [[ $line =~ ^([[:space:]]+|[=:]+|[^[:space:]=:]+) ]]
    line=${line#"${BASH_REMATCH[0]}"}
    [[ ${BASH_REMATCH[0]} == [[:space:]]* ]] || COMP_WORDS+=("${BASH_REMATCH[0]}")
done
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$(complete -p wqfs | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" wqfs "${COMP_WORDS[COMP_CWORD]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("line", "words"), CASES, ids=ids)
def test_bash_completes(environment: dict[str, str], tmp_path: Path, line: str, words: list[str]) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", str(SCRIPTS / "wqfs.bash"), line],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # For readline a word begins after the last = or :
    typed = line.split()[-1]
    head = typed[: max(typed.rfind("="), typed.rfind(":")) + 1]
    assert [head + word for word in done.stdout.splitlines()] == words


class Terminal:
    """A shell at a terminal, to press keys on."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._seen = ""
        self.pid, self._fd = pty.fork()
        if not self.pid:
            with suppress(BaseException):
                os.chdir(folder)
                os.execvpe(command[0], command, environment)
            os._exit(127)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, text: str) -> str:
        """Wait until the shell has printed `text`; returns all up to it, and forgets that."""
        end = time.monotonic() + LIMIT
        while text not in self._seen:
            ready, _, _ = select.select([self._fd], [], [], max(end - time.monotonic(), 0))
            if not ready:
                pytest.fail(f"waited {LIMIT:g} s for {text!r}, and saw {self._seen!r}")
            self._seen += os.read(self._fd, 65536).decode("utf-8", "replace").replace("\r", "")
        before, _, self._seen = self._seen.partition(text)
        return before + text

    def completed(self, line: str, expected: str) -> None:
        """Type a line, and Tab: then it reads as expected. Leaves the line empty."""
        self.press(f"{line}\t")
        self.wait_for(expected)
        self.press("\x15echo don''e\n")  # Ctrl-U
        self.wait_for("done\n")

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._fd)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def zsh(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    Path(environment["ZDOTDIR"], ".zshrc").write_text(
        f"PS1='> ' RPS1= HISTFILE=; unsetopt prompt_sp; fpath=({SCRIPTS} $fpath)\n"
        "autoload -Uz compinit; compinit -u -D; setopt no_beep; bindkey -e; echo ready\n"
    )
    terminal = Terminal(["zsh", "--no-globalrcs", "-i"], environment, tmp_path_factory.mktemp("zsh"))
    try:
        terminal.wait_for("ready\n")
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize(("line", "words"), CASES, ids=ids)
def test_zsh_completes(zsh: Terminal, line: str, words: list[str]) -> None:
    if len(words) == 1:
        # With a blank after it, but for what a value follows.
        zsh.completed(line, line[: line.rindex(" ") + 1] + words[0] + ("" if words[0].endswith("=") else " "))
        return
    zsh.press(f"{line}\t\t")
    for word in words:  # a list, in order
        zsh.wait_for(word)
    zsh.press("\x15echo don''e\n")
    zsh.wait_for("done\n")


def test_folder_to_mount_on_is_completed_without_the_word_mount(
    environment: dict[str, str], zsh: Terminal, bash: Terminal
) -> None:
    assert fish(environment, "wqfs /proc/sys/ker") == ["/proc/sys/kernel/"]
    zsh.completed("wqfs /proc/sys/ker", "wqfs /proc/sys/kernel/")
    bash.completed("wqfs /proc/sys/ker", "wqfs /proc/sys/kernel/")


QUOTED = [
    ("wqfs post umount /mn", "wqfs post umount /mnt/a\\ b "),
    ("wqfs post umount '/mn", "wqfs post umount '/mnt/a b' "),
    ("wqfs post umount /mnt/a\\ ", "wqfs post umount /mnt/a\\ b "),
    ("wqfs tail \\$", "wqfs tail \\$\\(touch\\ owned\\) "),
]


@pytest.mark.parametrize(("line", "expected"), QUOTED)
def test_zsh_quotes_what_it_completes(zsh: Terminal, line: str, expected: str) -> None:
    zsh.completed(line, expected)


@pytest.fixture(scope="module")
def bash(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("bash")
    rc = folder / "rc"
    rc.write_text(f"PS1='> '; bind 'set enable-bracketed-paste off'; source {SCRIPTS}/wqfs.bash; echo ready\n")
    terminal = Terminal(["bash", "--rcfile", str(rc), "-i"], environment, folder)
    try:
        terminal.wait_for("ready\n")
        yield terminal
    finally:
        terminal.close()
    assert os.listdir(folder) == ["rc"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        *QUOTED,
        ("wqfs post key update %user:r", "wqfs post key update %user:red:1 "),
        ("wqfs mount -o dept", "wqfs mount -o depth="),
        ("wqfs play us", "wqfs play usb-stick "),
    ],
)
def test_bash_at_a_terminal_completes_and_quotes(bash: Terminal, line: str, expected: str) -> None:
    bash.completed(line, expected)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("wqfs tail ", ["tail", ""]),
        ("~/bin/wqfs tail fi", ["tail", "fi"]),
        ("wqfs post umount '/mnt/a ", ["post", "umount", "/mnt/a "]),
        ('wqfs post umount "/mnt/a b', ["post", "umount", "/mnt/a b"]),
        ("wqfs post umount /mnt/a\\ b", ["post", "umount", "/mnt/a b"]),
        ("wqfs post umount /mnt/a\\ ", ["post", "umount", "/mnt/a "]),
        ("wqfs post umount /mnt/a\\", ["post", "umount", "/mnt/a"]),
        ("wqfs", []),
        ("", []),
    ],
)
def test_line_is_parted_as_a_shell_parts_it(line: str, words: list[str]) -> None:
    assert split_line(line) == words


def asked(*words: str, mount: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wqfs.cli", "--complete", *words],
        env={**os.environ, "WQFS_MOUNT": mount}, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_mount_no_kind_and_no_words_are_no_errors(tmp_path: Path) -> None:
    assert asked("watch", "tail", "", mount=str(tmp_path)) == ""
    assert asked("condition-name", "wait", "mounted", "", mount=str(tmp_path)) == ""
    assert asked("nonsense", "tail", "", mount=str(tmp_path)) == ""
    assert asked("watch", mount=str(tmp_path)) == ""
    assert asked(mount=str(tmp_path)) == ""
    # The language needs no mount.
    assert asked("post", "post", "umoun", mount=str(tmp_path)).startswith("umount\t")


def test_mount_of_the_line_comes_before_that_of_the_environment(system: Mount, tmp_path: Path) -> None:
    where = str(system.path)
    assert asked("watch", "tail", "--mount", where, "fi", mount=str(tmp_path)) == "first\n"
    assert asked("watch", "tail", f"--mount={where}", "fi", mount=str(tmp_path)) == "first\n"
    assert asked("post", "post", "--mount", where, "umount", "/mn", mount=str(tmp_path)) == "/mnt/a b\n"
    assert where in asked("mount", "umount", "/", mount=str(tmp_path))


def test_mount_that_does_not_answer_is_given_up(mount: Mount) -> None:
    mount.watch("first")
    os.killpg(mount.process.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{mount.process.pid}/stat").read_text().split()[2] == "T", "the stop")
        began = time.monotonic()
        assert asked("watch", "tail", "fi", mount=str(mount.path)) == ""
        assert time.monotonic() - began < 10
    finally:
        os.killpg(mount.process.pid, signal.SIGCONT)
    wait_until(lambda: asked("watch", "tail", "fi", mount=str(mount.path)) == "first\n", "its answer")


def test_name_with_a_control_in_it_is_not_offered(mount: Mount) -> None:
    mount.post("mount none '/mnt/a\\033[2Jb' -t tmpfs".replace("\\033", "\033"))
    assert "[2J" not in asked("condition-name", "wait", "mounted", "", mount=str(mount.path))
