"""What a mount says of itself, for `status` and `top`: asked with a deadline."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from wqfs.cli.deadline import TimedOut, within

Numbers = dict[str, int]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a mount. state: `ok`, `dead` (its server is gone), `stuck` (no answer in time), `closed` (not
    for this user) or `failed`; watches: the numbers of each with `depth`, None where it is not ours to read."""

    state: str
    watches: dict[str, Numbers | None] = field(default_factory=dict)
    metrics: Numbers = field(default_factory=dict)


def look(mountpoint: str, seconds: float) -> Look:
    """Look at a mount, for so many seconds at most."""
    try:
        answer = within(seconds, lambda: _ask(mountpoint))
    except OSError as error:
        states = {errno.ENOTCONN: "dead", errno.ECONNABORTED: "dead", errno.EACCES: "closed", errno.EPERM: "closed"}
        return Look(states.get(error.errno or 0, "failed"))
    if isinstance(answer, TimedOut):
        return Look("stuck")
    return Look("ok", *answer)


def _ask(mountpoint: str) -> list[object]:
    folder = os.path.join(mountpoint, "watches")
    watches: dict[str, Numbers | None] = {}
    metrics = _numbers(os.path.join(mountpoint, "metrics"))
    for name in sorted(os.listdir(folder)):
        try:
            watches[name] = _numbers(os.path.join(folder, name, "status"))
            with open(os.path.join(folder, name, "depth"), encoding="ascii") as depth:
                watches[name]["depth"] = int(depth.read())  # type: ignore[index]  # just set
        except PermissionError:
            watches[name] = None
        except FileNotFoundError:
            watches.pop(name, None)  # removed meanwhile
    return [watches, metrics]


def _numbers(path: str) -> Numbers:
    found: Numbers = {}
    with open(path, encoding="ascii") as file:
        for line in file:
            if not line.startswith("#"):
                name, value = line.split()
                found[name] = int(value)
    return found
