"""A log that neither floods nor waits: who is refused in a loop fills no disk, and a stuck logger stops no mount."""

from __future__ import annotations

import logging
import logging.handlers
import os
import select
import time
from collections.abc import Callable
from typing import Final

BURST: Final = 20
"""Lines from one place in the code within PERIOD_S seconds; what is more is only counted."""
PERIOD_S: Final = 10.0


class Flood(logging.Filter):
    """Lets BURST lines of each kind through in each PERIOD_S seconds; the next says how many were left out.

    A kind is the place in the code, so that this table is as large as the code. Debugging wants all. clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        kind = (record.pathname, record.lineno)
        now = self._clock()
        since, count = self._seen.get(kind, (now, 0))
        if now - since >= PERIOD_S:
            if count > BURST:
                record.msg = f"{record.getMessage()} (and {count - BURST} more like it before)"
                record.args = None
            since, count = now, 0
        self._seen[kind] = (since, count + 1)
        return count < BURST


class StandardError(logging.Handler):
    """Standard error, where a line that is not taken at once is lost: a pipe that nobody reads, a terminal that was
    stopped with Ctrl-S. The next one that is taken says how many were. The stream itself is not made non-blocking, for
    it is also that of whoever started this."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._fd = fd
        self._lost = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self._lost:
            line += f" (and {self._lost} lines before it were lost: nobody read standard error)"
        text = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            while text and any(events & select.POLLOUT for _, events in self._poll.poll(0)):
                text = text[os.write(self._fd, text[: select.PIPE_BUF]) :]  # so much has room where anything has
        except OSError:
            pass
        self._lost = self._lost + 1 if text else 0


class Syslog(logging.handlers.SysLogHandler):
    """A line that /dev/log does not take at once is lost."""

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]  # typeshed has it not
        self.socket.setblocking(False)  # type: ignore[attr-defined]

    def handleError(self, record: logging.LogRecord) -> None:
        """Nowhere to say it."""
