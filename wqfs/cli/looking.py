"""What a mount says of itself, for `status` and `top`: asked with a deadline."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from wqfs.cli.deadline import TimedOut, within

Numbers = dict[str, int]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a mount. state: `ok`, `dead` (its server is gone), `stuck` (no answer in time), `closed` (not for
    this user), `gone` (unmounted since it was found) or `failed`; watches: the numbers of each with `depth`, None
    where it is not ours to read."""

    state: str
    watches: dict[str, Numbers | None] = field(default_factory=dict)
    metrics: Numbers = field(default_factory=dict)


WORDS = {
    "ok": "answers",
    "dead": "dead: its server is gone. `wqfs umount {0}` clears it",
    "stuck": "stuck: no answer within {1:g} s. Its server is stopped; `wqfs umount -l {0}` detaches it",
    "closed": "closed to you: it was mounted by another user without allow_other",
    "gone": "not mounted any more",
    "failed": "broken: it answers with an error",
}
"""Each state as a sentence, with the mountpoint and the seconds put in."""
_STATES = {errno.ENOTCONN: "dead", errno.ECONNABORTED: "dead", errno.EACCES: "closed", errno.EPERM: "closed",
           errno.ENOENT: "gone"}  # fmt: skip


def state_of(mountpoint: str, seconds: float) -> str:
    """The state alone, without looking at the watches; `none` where no mount of wqfs is."""
    try:
        answer = within(seconds, lambda: _is_ours(mountpoint))
    except OSError as error:
        return _STATES.get(error.errno or 0, "failed")
    if isinstance(answer, TimedOut):
        return "stuck"
    return "ok" if answer else "none"


def _is_ours(mountpoint: str) -> bool:
    try:
        os.statvfs(mountpoint)  # no cache answers it
        return all(stat.S_ISREG(os.stat(os.path.join(mountpoint, name)).st_mode) for name in ("post", "metrics"))
    except (FileNotFoundError, NotADirectoryError):
        return False


def look(mountpoint: str, seconds: float) -> Look:
    """Look at a mount, for so many seconds at most."""
    try:
        answer = within(seconds, lambda: _ask(mountpoint))
    except OSError as error:
        return Look(_STATES.get(error.errno or 0, "failed"))
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
