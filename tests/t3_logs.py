"""The daemon's log neither floods nor waits."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import Mount
from wqfs.fs.logs import BURST, PERIOD_S, Flood, Syslog


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


def test_refusals_in_a_loop_do_not_fill_the_log(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_watches=1")
    mount.watch()
    for number in range(500):
        with pytest.raises(OSError):
            mount.watch(f"w{number}")
    assert 0 < mount.log().count("refused") <= 3 * BURST
