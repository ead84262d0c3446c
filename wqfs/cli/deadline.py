"""Asking something of a mount that may never answer: in a child process that can be given up.

A process that waits for a server that has stopped cannot always be killed: it then stays behind until the
server goes on or its mount ends. So nothing waits for it, and it holds none of our files.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

_SIZE = 64 * 1024


class TimedOut:
    """The answer of who did not answer in time."""


_left: set[int] = set()
"""Children that were given up and had not ended when last seen."""


def stuck_children() -> bool:
    """Whether a child that was given up still waits: then it makes no sense to send another."""
    for pid in list(_left):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                _left.discard(pid)
        except ChildProcessError:
            _left.discard(pid)
    return bool(_left)


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask()` returns (anything that JSON has), a TimedOut after so many seconds; an OSError that it raises
    is raised here with its errno. Not to be used by a program that has threads."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _answer(ask, writer)
    os.close(writer)
    answer = b""
    deadline = time.monotonic() + seconds
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                return TimedOut()
            data = os.read(reader, _SIZE)
            if not data:
                break
            answer += data
    finally:
        os.close(reader)
        _give_up(pid)
    kind, value = json.loads(answer) if answer else ("errno", 5)
    if kind == "errno":
        raise OSError(value, os.strerror(value))
    return value


def _answer(ask: Callable[[], Any], writer: int) -> None:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A reader of our output must not wait for this process.
        os.dup2(writer, 3)
        os.closerange(4, 1 << 16)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        try:
            answer = ["value", ask()]
        except OSError as error:
            answer = ["errno", error.errno]
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(3, data) :]
        code = 0
    finally:
        os._exit(code)


def _give_up(pid: int) -> None:
    _left.add(pid)
    for _ in range(20):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _left.discard(pid)
            return
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    stuck_children()
