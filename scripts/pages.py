"""The pages of README and docs/ as what can be run: their blocks, and a shell that runs them as a reader would.

A ```console block is a transcript: `$ command` (`> ` for its further lines), then its output, in which a line
`...` stands for any lines. A block of another language whose first line is a comment with a file's name is that
file, in the folder where the commands of the page run. ~ is a folder of its own, and a wqfs is mounted at ~/wqfs
unless the page mounts it itself.

    python -m scripts.pages PAGE...     # runs each page and writes what its commands print into it
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LIMIT: Final = 30.0
"""Seconds that one command of a page may take."""
_FENCE: Final = re.compile(r"(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NAME: Final = re.compile(r"(?:#|//|/\*)\s*([\w.-]+\.\w+)\s*(?:\*/)?$")
_MOUNTS: Final = re.compile(r"(?:wqfs|mount_wqfs\.py)(?: mount)? ~/wqfs")
_HOME: Final = "/home/ada"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. page: from the root of the project; line: of its first line of text, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """The file that it is, "" if it is none."""
        lines = self.text.splitlines() or [""]
        match = _NAME.match(lines[1] if lines[0].startswith("#!") and lines[1:] else lines[0])
        return match[1] if match else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a transcript: its lines as a shell takes them, and the output that the page shows."""

    text: str
    output: str


def pages() -> list[str]:
    """README.md and every page below docs/."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("text")) + 1, match["language"], match["text"])
        for match in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def commands(transcript: str) -> list[Command]:
    """The commands of a ```console block. Raises ValueError for output before the first command."""
    found: list[Command] = []
    lines = iter(transcript.splitlines())
    text, pending = "", False
    output: list[str] = []
    for line in lines:
        if line.startswith("$ "):
            if pending:
                found.append(Command(text, "".join(output)))
            text, output, pending = line[2:] + "\n", [], True
        elif line.startswith("> ") or line == ">":
            text += line[2:] + "\n"
        elif pending:
            output.append(line + "\n")
        elif line:
            raise ValueError(f"expected `$ command`, not {line!r}")
    if pending:
        found.append(Command(text, "".join(output)))
    return found


# -- what differs from run to run

_EVEN: Final = (
    (r"wqfs-demo\.\w+", "wqfs-demo"),
    (r'"time":( ?)[0-9.]+', r'"time":\g<1>1795397164.249826'),
    (r"\bpid=\d+", "pid=8221"),
    (r"\buid=\d+ pid=", "uid=1000 pid="),
    (r"_uid\.\d+", "_uid.1000"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-11-23T01:26:04Z"),
    (r"\b\d\d:\d\d:\d\d\.\d{6}\b", "01:26:04.249826"),
    (r"(?m)^(# wqfs record, .*, on ).*$", r"\1host"),
    (r"(?m)^at = .*$", 'at = "13ms"'),
    (r"(?m)^bash: line \d+: ", "bash: "),
    (r"\bin \d+\.\d+( ?)s\b", r"in 0.25\1s"),
)


def settled(output: str) -> str:
    """The output with what differs from run to run (times, pids, folders) as the pages write it."""
    for pattern, instead in _EVEN:
        output = re.sub(pattern, instead, output)
    return output


def without_serials(text: str) -> str:
    """For users other than root, whose keyrings come before: without the serial numbers of keys."""
    text = re.sub(r'"(key|aux)":\d+', r'"\1":0', text)
    return re.sub(r"(?m)^(00000[0-9a-f]{3}: ).*$", r"\1", text)


def same(shown: str, came: str) -> bool:
    """Whether a page's output is what came; a line `...` of the page stands for any lines."""
    if os.getuid():
        shown, came = without_serials(shown), without_serials(came)
    parts = re.split(r"(?m)^\.\.\.\n", shown.strip("\n") + "\n")
    return re.fullmatch("(?:.*\n)*?".join(map(re.escape, parts)), came.strip("\n") + "\n") is not None


# -- running


class Shell:
    """bash in a fresh home, as the readers of a page have it before them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        scripts = f"{ROOT}/.venv/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.environment = {
            **os.environ,
            "PATH": scripts,
            "HOME": str(home),
            "USER": "ada",
            "WQFS_MOUNT": str(home / "wqfs"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TERM": "dumb",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=home,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._count = 0

    def run(self, command: str) -> str:
        """What a command prints, evened out; one that runs on in the background may print into a later one's.

        Raises TimeoutError with what came when it did not end in time, EOFError when the shell ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._count += 1
        mark = f"\x01end {self._count}\n".encode()
        end = f"printf '\\001end {self._count}\\n'\n"
        self._process.stdin.write((command + end).encode())
        self._process.stdin.flush()
        came, deadline = b"", time.monotonic() + LIMIT
        while not came.endswith(mark):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError(f"{command.strip()} did not end within {LIMIT:g} s; it printed: {came.decode()}")
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                raise EOFError(f"{command.strip()} ended the shell; it printed: {came.decode()}")
            came += more
        text = came[: -len(mark)].decode("utf-8", "replace").replace(str(self.home), _HOME)
        return settled(text)

    def run_python(self, code: str) -> str:
        """What a Python block prints that is no file: run in ~/wqfs, or by pytest if it has tests. Raises
        RuntimeError with what it printed when it ends with another code than 0."""
        is_test = re.search(r"^(async )?def test_", code, re.MULTILINE)
        file = self.home / ("test_block.py" if is_test else "block.py")
        file.write_text(code, encoding="utf-8")
        if is_test:
            how = f"python3 -m pytest -q -p no:cacheprovider --rootdir ~ ~/{file.name}"
        else:
            how = f"(cd ~/wqfs && python3 ~/{file.name})"
        came = self.run(f'{how}; echo "exit code $?"\n')
        if not came.endswith("exit code 0\n"):
            raise RuntimeError(came)
        return came

    def close(self) -> None:
        """End it, and all that it started and left."""
        for path in _mounts_below(self.home):
            subprocess.run(["fusermount3", "-uqz", "--", path], check=False, timeout=LIMIT)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(LIMIT)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _mounts_below(folder: Path) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        paths = [line.split(" ")[4] for line in table]
    return [path for path in reversed(paths) if path.startswith(f"{folder}/")]


@contextmanager
def shell_for(page: str) -> Iterator[Shell]:
    """A Shell with the page's files in its home, and a wqfs at ~/wqfs unless the page mounts one itself."""
    found = blocks(page)
    # Not below pytest's own folder: the paths in the output would be too long for a socket and for a reader.
    home = Path(os.path.realpath(tempfile.mkdtemp(prefix="wqfs-page.")))
    shell = Shell(home)
    try:
        for block in found:
            if block.name:
                (home / block.name).write_text(block.text, encoding="utf-8")
                (home / block.name).chmod(0o755)
        if not any(block.language == "console" and _MOUNTS.search(block.text) for block in found):
            said = shell.run("mkdir ~/wqfs && wqfs ~/wqfs\n")
            if said:
                raise OSError(f"could not mount for {page}: {said}")
        yield shell
    finally:
        shell.close()
        shutil.rmtree(home, ignore_errors=True)


def write_outputs(page: str) -> None:
    """Run a page and put what its commands print into it, where it is not so already."""
    texts: list[str] = []
    with shell_for(page) as shell:
        for block in blocks(page):
            is_console = block.language == "console"
            texts.append("".join(_written(shell, each) for each in commands(block.text)) if is_console else block.text)
    put = iter(texts)
    text = (ROOT / page).read_text(encoding="utf-8")
    text = _FENCE.sub(lambda match: match[0].replace(match["text"], next(put), 1), text)
    (ROOT / page).write_text(text, encoding="utf-8")


def _written(shell: Shell, command: Command) -> str:
    """A command with its output, as the page is to have it."""
    came = shell.run(command.text)
    if same(command.output, came):
        came = command.output
    head, *further = command.text.splitlines()
    lines = [f"$ {head}", *(f"> {line}".rstrip() for line in further)]
    return "".join(line + "\n" for line in lines) + (came.rstrip("\n") + "\n" if came.strip("\n") else "")


if __name__ == "__main__":
    for each in sys.argv[1:]:
        write_outputs(str(Path(each).resolve().relative_to(ROOT)))
