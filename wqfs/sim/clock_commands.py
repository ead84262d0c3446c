"""clock: the simulated system's time."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wqfs.sim.command import Actor, Command
from wqfs.sim.errors import Refused

if TYPE_CHECKING:
    from wqfs.sim.system import System

_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?", re.ASCII)


def _advance(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    if len(arguments) != 1:
        raise Refused(errno.EINVAL, "expected SECONDS and no more", 3 + bool(arguments))
    if not _SECONDS.fullmatch(arguments[0]):
        raise Refused(errno.EINVAL, f"expected a number of seconds such as 10 or 0.25, not {arguments[0]!r}", 3)
    whole, _, part = arguments[0].partition(".")
    by_ns = int(whole) * 1_000_000_000 + int(part.ljust(9, "0") if part else 0)
    system.ahead_ns += by_ns
    system.keys.collect(now_ns + by_ns)


COMMANDS = (
    Command(
        ("clock", "advance"),
        "clock advance SECONDS",
        "The simulated system's clock goes forward at once: keys expire, events carry its time. It never goes back.",
        "META removal on watches of keys that are collected by then",
        _advance,
        "EINVAL: no number of seconds",
    ),
)
