"""Memory and descriptors of the three processes of a mount, from /proc."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.dying import daemon_of

ROLES: Final = ("supervisor", "daemon", "checkpoint")
_WAIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """At one moment at rest. seconds: since the start; deaths: of daemons before; kib: anonymous memory by role, what
    it shares with the others included; descriptors: open files by role."""

    seconds: float
    deaths: int
    kib: dict[str, int]
    descriptors: dict[str, int]


def processes_of(supervisor: int) -> dict[str, int]:
    """The pid of each role; raises TimeoutError while one is missing for long."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        daemon = daemon_of(supervisor)
        checkpoint = _named(daemon, "wqfs-checkpoint") if daemon else 0
        if checkpoint:
            return dict(zip(ROLES, (supervisor, daemon, checkpoint), strict=True))
        time.sleep(0.01)
    raise TimeoutError("no daemon with a checkpoint")


def _named(parent: int, name: str) -> int:
    """The child of `parent` with that name which lives; 0 if there is none."""
    try:
        for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            found, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
            if found == name and rest[0] not in "ZX":
                return pid
    except OSError:
        pass
    return 0


def sample(supervisor: int, seconds: float, deaths: int) -> Sample:
    """What the processes take now."""
    while True:
        pids = processes_of(supervisor)
        try:
            kib = {role: _anonymous(pid) for role, pid in pids.items()}
            descriptors = {role: len(os.listdir(f"/proc/{pid}/fd")) for role, pid in pids.items()}
            return Sample(seconds, deaths, kib, descriptors)
        except (FileNotFoundError, ProcessLookupError):
            continue  # a checkpoint was replaced meanwhile


def _anonymous(pid: int) -> int:
    found = re.search(r"^Anonymous:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    if found is None:
        raise ProcessLookupError(pid)  # a zombie
    return int(found[1])
