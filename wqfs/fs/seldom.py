"""Warnings about what a user can do as often as they like: one in ten seconds, with the count of those left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

PAUSE_S: Final = 10.0


class Seldom:
    """Warnings of one kind. log: where they go; clock: seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: float | None = None
        self._left_out = 0

    def warning(self, message: str, *arguments: object) -> None:
        """Log it, or count it."""
        now = self._clock()
        if self._said is not None and now - self._said < PAUSE_S:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last of these lines)" if self._left_out else ""
        self._log.warning(message + more, *arguments)
        self._said = now
        self._left_out = 0
