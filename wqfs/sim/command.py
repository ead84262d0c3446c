"""What a command of the language is, and who gives it.

The modules of the simulated system each export a tuple COMMANDS; `wqfs.sim.language` reads lines
with them, and the reference page is made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wqfs.sim.system import System


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: the credentials of a process. gid is its own group, `groups` the further ones.

    process, thread: the names of the process and of its thread, for the keyrings that belong to
    them; "" is the user's login process, and a process's first thread.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    process: str = ""
    thread: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether the kernel would find CAP_SYS_ADMIN: root has it."""
        return self.uid == 0

    def in_group(self, gid: int) -> bool:
        return gid == self.gid or gid in self.groups


ROOT = Actor(0, 0)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the language.

    words: its name, ("key", "add"); usage: one line with the arguments in capitals; summary: one
    sentence; events: which events it makes, in words; run: carries it out; errors: what is refused,
    `ERRNO: why; ERRNO: why`. flags, valued: its options without and with a value, and what `arguments.parse` is
    to make of them.

    run takes the system, who asks, the arguments after the words, and the time in nanoseconds
    since the epoch. It raises Refused: EINVAL with `word` set (the words of the whole line, from 1)
    for arguments that make no sense, else what the kernel would answer. After a Refused nothing
    has changed, but by `umount`, which goes on as umount(8) does.
    """

    words: tuple[str, ...]
    usage: str
    summary: str
    events: str
    run: Callable[[System, Actor, Sequence[str], int], None]
    errors: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    valued: Mapping[str, str] = field(default_factory=dict)
