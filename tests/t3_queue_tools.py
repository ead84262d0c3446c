"""Ordinary tools on a queue, into a pipe and into a file: the right bytes, or a clear refusal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import (
    LIMIT,
    NO_WAIT,
    Mount,
    deliver,
    opened,
    record,
    running,
    wait_for_any_readers,
)

ENVIRONMENT = {**os.environ, "LC_ALL": "C"}
QUEUED = record(1) + record(2)
LATER = record(3)
TOO_LONG = "Message too long"


@pytest.fixture
def watch(shared: Mount, watch: Path) -> Path:
    """A watch with two records queued."""
    deliver(shared, record(1), record(2))
    return watch


def needs(command: str) -> None:
    """Skip without the program that a shell line begins with."""
    program = command.split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: apt-get install {program}")


class Output:
    """Where a tool's output goes: a pipe or a file."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._file = folder / "output" if kind == "file" else None

    @contextmanager
    def of(self, command: str, queue: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A line of shell, with the queue as $Q, exec'ed so that its process is the tool's."""
        needs(command)
        sink = subprocess.PIPE if self._file is None else os.open(self._file, os.O_CREAT | os.O_WRONLY)
        try:
            with running(
                "sh", "-c", f"exec {command}", stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.PIPE, env={**ENVIRONMENT, "Q": str(queue)},
            ) as process:  # fmt: skip
                yield process
        finally:
            if self._file is not None:
                os.close(sink)

    def finish(self, process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
        """(exit status, output, what it said) when it has ended."""
        output, said = process.communicate(timeout=LIMIT)
        if self._file is not None:
            output = self._file.read_bytes()
        return process.returncode, output, said.decode()


@pytest.fixture(params=["pipe", "file"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    return Output(tmp_path, request.param)


TO_THE_END = {
    "cat": 'cat "$Q"',
    "cat from standard input": 'cat < "$Q"',
    "busybox cat": 'busybox cat "$Q"',
    "dd": 'dd if="$Q" bs=4096 status=none',
    "busybox dd": 'busybox dd if="$Q" bs=4096 status=none',
    "tee": 'tee < "$Q"',
    "tail": 'tail -c 1000 "$Q"',
    "head": 'head -c 1000 "$Q"',
    "xxd": 'xxd -p -c 16 "$Q"',
    "timeout": 'timeout 60 cat "$Q"',
    "cp": 'cp "$Q" /dev/stdout',
}


@pytest.mark.parametrize("command", TO_THE_END.values(), ids=TO_THE_END)
def test_tool_reads_to_the_end(shared: Mount, watch: Path, output: Output, command: str) -> None:
    """What is queued, what comes while it waits, and the end of file."""
    with output.of(command, watch / "queue") as process:
        shared.wait_for_readers(watch)
        deliver(shared, LATER)
        watch.rmdir()
        status, data, said = output.finish(process)
    if command.startswith("xxd"):
        data = bytes.fromhex(data.decode())
    assert (status, data, said) == (0, QUEUED + LATER, "")


COUNTED = {
    "dd of one record": ('dd if="$Q" bs=16 count=1 status=none', QUEUED[:16]),
    "dd of two blocks": ('dd if="$Q" bs=16 count=2 status=none', QUEUED),
    "dd of one large block": ('dd if="$Q" bs=4096 count=1 status=none', QUEUED),
    "dd of full blocks": ('dd if="$Q" bs=32 count=1 iflag=fullblock status=none', QUEUED),
    "dd that skips a record": ('dd if="$Q" bs=16 skip=1 count=1 status=none', QUEUED[16:]),
    "busybox dd": ('busybox dd if="$Q" bs=16 count=2 status=none', QUEUED),
    "head": ('head -c 32 "$Q"', QUEUED),
    "head of one record": ('head -c 16 "$Q"', QUEUED[:16]),
    "xxd": ('xxd -p -c 32 -l 32 "$Q"', QUEUED.hex().encode() + b"\n"),
}


@pytest.mark.parametrize(("command", "wanted"), COUNTED.values(), ids=COUNTED)
def test_tool_ends_after_what_it_was_asked_for(
    shared: Mount, watch: Path, output: Output, command: str, wanted: bytes
) -> None:
    with output.of(command, watch / "queue") as process:
        assert output.finish(process) == (0, wanted, "")


def test_head_waits_for_what_is_missing(shared: Mount, watch: Path, output: Output) -> None:
    with output.of('head -c 48 "$Q"', watch / "queue") as process:
        shared.wait_for_readers(watch)
        deliver(shared, LATER)
        assert output.finish(process) == (0, QUEUED + LATER, "")


def test_timeout_ends_a_waiting_cat(shared: Mount, watch: Path, output: Output) -> None:
    with output.of('timeout 60 cat "$Q"', watch / "queue") as process:
        shared.wait_for_readers(watch)
        process.send_signal(signal.SIGALRM)  # what its timer sends it when the time is over
        assert output.finish(process) == (124, QUEUED, "")


def test_dd_nonblocking_says_that_there_is_nothing(shared: Mount, watch: Path, output: Output) -> None:
    with output.of('dd if="$Q" bs=4096 iflag=nonblock status=none', watch / "queue") as process:
        status, data, said = output.finish(process)
        assert (status, data) == (1, QUEUED)
        assert "Resource temporarily unavailable" in said


def test_dd_direct_is_refused(shared: Mount, watch: Path, output: Output) -> None:
    with output.of('dd if="$Q" bs=4096 iflag=direct status=none', watch / "queue") as process:
        status, data, said = output.finish(process)
        assert (status, data) == (1, b"")
        assert "Invalid argument" in said
    assert shared.status(watch)["queued"] == 2


def test_dd_on_the_root_queue(shared: Mount, output: Output) -> None:
    with output.of('dd bs=16 count=2 status=none if="$Q"', shared.path / "queue") as process:
        wait_for_any_readers(shared, 1)
        deliver(shared, record(1), record(2))
        assert output.finish(process) == (0, QUEUED, "")


TOO_SMALL = {
    "bash read": ("bash -c 'read -r line < \"$Q\"'", 1, TOO_LONG),
    "bash read of 3": ("bash -c 'read -r -N 3 line < \"$Q\"'", 1, TOO_LONG),
    # The one that says nothing: it takes the error for the end.
    "bash mapfile": ('bash -c \'mapfile -t lines < "$Q"; exit "${#lines[@]}"\'', 0, ""),
    "sed -u": ('sed -u p "$Q"', 4, TOO_LONG),
    "dd bs=1": ('dd if="$Q" bs=1 status=none', 1, TOO_LONG),
    "dd bs=15": ('dd if="$Q" bs=15 count=1 status=none', 1, TOO_LONG),
    "busybox dd bs=1": ('busybox dd if="$Q" bs=1 status=none', 1, TOO_LONG),
    "head -c 15": ('head -c 15 "$Q"', 1, TOO_LONG),
}


@pytest.mark.parametrize(("command", "status", "message"), TOO_SMALL.values(), ids=TOO_SMALL)
def test_tool_that_reads_less_than_a_record(
    shared: Mount, watch: Path, output: Output, command: str, status: int, message: str
) -> None:
    """It says so, and nothing is lost."""
    before = shared.status(watch)
    with output.of(command, watch / "queue") as process:
        answer = output.finish(process)
    assert (answer[0], message in answer[2]) == (status, True), answer
    assert shared.status(watch) == before
    with opened(watch / "queue", NO_WAIT) as fd:
        assert os.read(fd, 4096) == QUEUED
