"""The daemon's log neither floods nor waits."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import LIMIT, MOUNT_COMMAND, Mount, is_mounted, wait_until
from wqfs.fs.logs import BURST, PERIOD_S, Flood, StandardError, Syslog


def line(number: int, at: int = 1, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("wqfs", level, "names.py", at, "mkdir %d refused", (number,), None)


def test_flood_lets_a_burst_through_and_says_later_how_much_it_left_out() -> None:
    now = 0.0
    flood = Flood(lambda: now)
    assert [flood.filter(line(n)) for n in range(BURST + 5)] == [True] * BURST + [False] * 5
    assert flood.filter(line(0, at=2)), "another kind of line"
    assert all(flood.filter(line(n, level=logging.DEBUG)) for n in range(BURST + 5))
    now = PERIOD_S
    later = line(7)
    assert flood.filter(later)
    assert later.getMessage() == "mkdir 7 refused (and 5 more like it before)"
    now = 2 * PERIOD_S
    assert flood.filter(quiet := line(8)) and quiet.getMessage() == "mkdir 8 refused"


def test_syslog_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(tmp_path / "log"))
        handler = Syslog(str(tmp_path / "log"))
        start = time.monotonic()
        for number in range(5000):
            handler.emit(line(number))
        assert time.monotonic() - start < 10
        assert b"mkdir 0 refused" in stuck.recv(1000), "what there was room for"
        handler.close()


def test_standard_error_that_nobody_reads_is_not_waited_for() -> None:
    reads, writes = os.pipe()
    try:
        handler = StandardError(writes)
        for number in range(5000):
            handler.emit(line(number))
        taken = os.read(reads, 1 << 20).decode().splitlines()
        assert taken[0] == "mkdir 0 refused" and len(taken) < 5000
        handler.emit(line(1))
        (later,) = os.read(reads, 4096).decode().splitlines()
        assert (
            later == f"mkdir 1 refused (and {5000 - len(taken)} lines before it were lost: nobody read standard error)"
        )
        handler.emit(line(2))
        assert os.read(reads, 4096) == b"mkdir 2 refused\n"
        handler.emit(logging.LogRecord("wqfs", logging.ERROR, "x", 1, "y" * 20000, (), None))
        assert os.read(reads, 1 << 20) == b"y" * 20000 + b"\n"
    finally:
        os.close(reads)
        os.close(writes)


def test_mount_whose_standard_error_nobody_reads_serves_on(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    reads, writes = os.pipe()
    command = [*MOUNT_COMMAND, str(path), "-d"]  # a line for each request
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writes, stderr=writes)
    os.close(writes)
    try:
        wait_until(lambda: is_mounted(path), "the mount")
        for _ in range(3000):
            (path / "metrics").stat()
            (path / "metrics").read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    finally:
        subprocess.run(["fusermount3", "-quz", "--", path], check=False)
        os.close(reads)
        process.kill()
        process.wait(LIMIT)


def test_refusals_in_a_loop_do_not_fill_the_log(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_watches=1")
    mount.watch()
    for number in range(500):
        with pytest.raises(OSError):
            mount.watch(f"w{number}")
    assert 0 < mount.log().count("refused") <= 3 * BURST
