"""The file `errors`: the last commands and calls that were refused, each with the reason."""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from wqfs.fs.handles.base import Caller

log = logging.getLogger(__name__)

KEPT: Final = 100
_SHOWN: Final = 200


class Refusals:
    """The last `KEPT` refusals, oldest first. now_ns: nanoseconds since the epoch."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._lines: deque[str] = deque(maxlen=KEPT)
        self.count = 0
        """Refusals since the mount."""

    def add(
        self,
        where: str,
        reason: str,
        caller: Caller,
        *,
        line: str = "",
        number: int = 0,
        word: int = 0,
        code: int = errno.EINVAL,
    ) -> None:
        """where: the file; number: of the line since the file was opened, 0 if it has none; word:
        counted from 1, 0 for the whole line; code: the errno that the writer got."""
        self.count += 1
        place = where
        if number:
            place += f" line {number}"
        if word:
            words = line.split()
            place += f" word {word}" + (f" {words[word - 1]!r}" if word <= len(words) else "")
        name = errno.errorcode.get(code, str(code))
        shown = f": {line[:_SHOWN]}" if line else ""
        uid, _, pid = caller
        text = f"{place}: {reason} [{name}]{shown}"
        moment = datetime.fromtimestamp(self._now_ns() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._lines.append(f"{moment} uid={uid} pid={pid} {text}")
        log.info("refused: uid=%d pid=%d %s", uid, pid, text)

    def text(self) -> bytes:
        return "".join(line + "\n" for line in self._lines).encode("utf-8", "backslashreplace")


