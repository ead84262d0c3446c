"""The file `errors`: the last commands and calls that were refused, each with the reason."""

from __future__ import annotations

import errno
import logging
import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from wqfs.abi.errors import ERRNO_NAMES
from wqfs.fs.handles.base import Caller
from wqfs.sim.errors import Refused
from wqfs.sim.language import split

log = logging.getLogger(__name__)

KEPT: Final = 100
_SHOWN: Final = 200
# Controls, which a terminal would obey; line ends of any kind; bytes that are no UTF-8.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]")


class _Refusal(NamedTuple):
    time_ns: int
    where: str
    reason: str
    caller: Caller
    line: str
    number: int
    word: int
    code: int

    def text(self) -> str:
        """`2026-11-23T01:09:44Z uid=0 pid=799 post line 1 word 1 'bogus': why [EINVAL]: bogus foo`."""
        place = self.where
        if self.number:
            place += f" line {self.number}"
        if self.word:
            words = _words(self.line)
            place += f" word {self.word}" + (f" {words[self.word - 1]!r}" if self.word <= len(words) else "")
        name = ERRNO_NAMES.get(self.code, str(self.code))
        shown = f": {self.line[:_SHOWN]}" if self.line else ""
        moment = datetime.fromtimestamp(self.time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        uid, _, pid = self.caller
        return f"{moment} uid={uid} pid={pid} " + _UNSAFE.sub(_octal, f"{place}: {self.reason} [{name}]{shown}")


class Refusals:
    """The last `KEPT` refusals, oldest first. now_ns: nanoseconds since the epoch.

    They become text when somebody reads them: a program that tries and fails in a loop costs little.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._kept: deque[_Refusal] = deque(maxlen=KEPT)
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
        refusal = _Refusal(self._now_ns(), where, reason, caller, line, number, word, code)
        self._kept.append(refusal)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("refused: %s", refusal.text())

    def text(self) -> bytes:
        return "".join(refusal.text() + "\n" for refusal in self._kept).encode("utf-8", "backslashreplace")


def _words(line: str) -> list[str]:
    """The words as the command language counts them."""
    try:
        return split(line)
    except Refused:
        return line.split()


def _octal(match: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in match[0].encode("utf-8", "surrogateescape"))
