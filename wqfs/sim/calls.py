"""The system calls that programs under `wqfs run` make, on the simulated system: one table of them all.

key_calls has those of keys, and mount_calls those of mounts; call_arguments says what they are given and give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from wqfs.sim import key_calls, mount_calls
from wqfs.sim.call_arguments import Answer, Arguments, Run, is_of_kind
from wqfs.sim.command import Actor

if TYPE_CHECKING:
    from wqfs.sim.system import System

CALLS: Final[Mapping[str, tuple[str, Run]]] = {**key_calls.CALLS, **mount_calls.CALLS}
"""Of each call the kinds of its arguments, and what carries it out."""


def call(system: System, actor: Actor, name: str, arguments: Arguments, now_ns: int) -> Answer:
    """Carry out the call `name` for `actor`.

    Raises Refused with what the kernel would answer; ValueError for a name of no call and for arguments of the
    wrong kind, which no program can cause.
    """
    entry = CALLS.get(name)
    if entry is None:
        raise ValueError(f"there is no call {name!r}")
    kinds, run = entry
    if len(kinds) != len(arguments) or not all(map(is_of_kind, kinds, arguments)):
        raise ValueError(f"expected the arguments {kinds!r} of {name}, not {len(arguments)} others")
    system.keys.collect(now_ns)
    if name not in mount_calls.CALLS:
        return run(system, actor, arguments, now_ns)
    system.changed += 1
    try:
        with system.watches.together():
            return run(system, actor, arguments, now_ns)
    finally:
        system.mark_touched()


def is_about_keys(name: str) -> bool:
    """Whether a call is a process's own, and needs to know whose."""
    return name in key_calls.CALLS
