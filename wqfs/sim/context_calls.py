"""fsopen, fspick, fsconfig and fsmount on the simulated system (fs/fsopen.c of Linux 6.12); see mount_calls."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wqfs.sim import remounting
from wqfs.sim.call_arguments import Answer, Arguments, Run, number, optional, text
from wqfs.sim.call_places import find, root
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.mount_descriptors import Context, Parameters, Phase
from wqfs.sim.superblocks import DEVICE_TYPES, Superblock

if TYPE_CHECKING:
    from wqfs.sim.system import System

SET_FLAG, SET_STRING, SET_BINARY, SET_PATH, SET_PATH_EMPTY, SET_FD = range(6)
CMD_CREATE, CMD_RECONFIGURE, CMD_CREATE_EXCL = 6, 7, 8


def check_type(fstype: str) -> None:
    """The simulated machine has a filesystem of any name."""
    if not fstype:
        raise Refused(errno.ENODEV, "expected the type of a filesystem, it is empty")
    if fstype.endswith("."):
        raise Refused(errno.EINVAL, f"expected a subtype after the dot of {fstype!r}")


def new_superblock(system: System, fstype: str, parameters: Parameters, *, exclusive: bool = False) -> Superblock:
    source = parameters.source
    if not source and fstype in DEVICE_TYPES:
        raise Refused(errno.EINVAL, "No source specified")
    sb = system.superblocks.get(source or "none", fstype, bool(parameters.read_only), parameters.options().fs)
    if exclusive and sb.is_used:
        raise Refused(errno.EBUSY, f"{source} has a superblock already")
    return sb


def _fsopen(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    fstype = text(a[0])
    check_type(fstype)
    return system.descriptors.add(Context(fstype))


def _fspick(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    sb = root(find(system, a[:2])).sb
    return system.descriptors.add(Context(sb.fstype, sb))


def _fsconfig(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    context, command = system.descriptors.context(number(a[0])), number(a[1])
    if command in (CMD_CREATE, CMD_CREATE_EXCL):
        if context.phase is not Phase.CREATE_PARAMS:
            raise Refused(errno.EBUSY, "the superblock is created already, or cannot be")
        context.phase = Phase.FAILED  # unless all goes well
        exclusive = command == CMD_CREATE_EXCL
        context.hold(new_superblock(system, context.fstype, context.parameters, exclusive=exclusive))
        context.phase = Phase.AWAITING_MOUNT
    elif command == CMD_RECONFIGURE:
        if context.phase is not Phase.RECONF_PARAMS:
            raise Refused(errno.EBUSY, "the superblock is not mounted yet, or the context has failed")
        assert context.sb is not None
        context.phase = Phase.FAILED
        given = context.parameters.options()
        remounting.reconfigure(system, context.sb, given.read_only, given, now_ns)
        context.may_be_reconfigured()
    elif context.phase not in (Phase.CREATE_PARAMS, Phase.RECONF_PARAMS):
        raise Refused(errno.EBUSY, "the superblock is created already, or the context has failed")
    else:
        context.parameters.add(optional(a[2]) or "", optional(a[3]), is_text=command == SET_STRING)
    return 0


def _fsmount(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    context = system.descriptors.context(number(a[0]))
    if context.sb is None:
        raise Refused(errno.EINVAL, "no superblock is created yet (FSCONFIG_CMD_CREATE)")
    if context.phase is not Phase.AWAITING_MOUNT:
        raise Refused(errno.EBUSY, "the context was mounted already")
    made = system.descriptors.add_detached(system.mounts.make(context.sb, (), number(a[1])), system.mounts)
    context.may_be_reconfigured()
    return made


CALLS: Mapping[str, tuple[str, Run]] = {
    "fsopen": ("t", _fsopen),
    "fspick": ("it", _fspick),
    "fsconfig": ("iinn", _fsconfig),
    "fsmount": ("ii", _fsmount),
}
