"""The system calls of keys on the simulated keyring: what `wqfs run` answers a program with.

Each is the kernel's call once its arguments are copied from the program's memory (security/keys/keyctl.c of
Linux 6.12), and gives what that returns, or the bytes that it would copy out.

    add_key(type, description, payload, keyring)      -> serial
    request_key(type, description, callout, keyring)  -> serial, or of a key under construction Constructing
    get_keyring_id, join_session, search, get_persistent, set_reqkey_keyring -> a number
    describe, read, get_security                      -> bytes
    all others                                        -> 0

Processes come and go by `process_fork`, `process_exec`, `process_exit` and `process_exit_thread`, which are
told and not asked.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from wqfs.sim.call_arguments import Answer, Argument, Arguments, Constructing, Run
from wqfs.sim.call_arguments import number as _number
from wqfs.sim.call_arguments import optional as _optional
from wqfs.sim.call_arguments import payload as _bytes
from wqfs.sim.call_arguments import text as _text
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.errors import Refused
from wqfs.sim.key_store import KeyRefused
from wqfs.sim.keys import Keyring, Need

if TYPE_CHECKING:
    from wqfs.sim.system import System

MOVE_EXCL = 0x1
_NOBODY = 0xFFFFFFFF  # (uid_t)-1: no change


def _ring(argument: Argument) -> int | None:
    """A keyring that may be left out, as 0."""
    return _number(argument) or None


# -- making and finding


def _add_key(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return system.keys.add(actor, _text(a[0]), _text(a[1] or b""), _bytes(a[2] or b""), _number(a[3]), now_ns).serial


def _request_key(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    callout = None if a[2] is None else _bytes(a[2])
    key = system.keys.request(actor, _text(a[0]), _text(a[1]), now_ns, callout, _ring(a[3]))
    return key.serial if key.destination is None else Constructing(key.serial)


def _get_keyring_id(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return system.keys.lookup(actor, _number(a[0]), Need.SEARCH, now_ns, create=bool(a[1]))[0].serial


def _join_session(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return system.keys.join_session(actor, _optional(a[0]), now_ns).serial


def _search(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return system.keys.search(actor, _number(a[0]), _text(a[1]), _text(a[2]), now_ns, _ring(a[3])).serial


def _get_persistent(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    uid = _number(a[0]) & _NOBODY
    return system.keys.get_persistent(actor, _number(a[1]), now_ns, None if uid == _NOBODY else uid).serial


# -- looking


def _describe(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    return system.keys.describe(actor, _number(a[0]), now_ns).encode("utf-8", "surrogateescape") + b"\0"


def _read(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """a[1]: the size of the caller's buffer, which for a keyring is to hold whole numbers (keyring_read)."""
    data = system.keys.read(actor, _number(a[0]), now_ns)
    size = _number(a[1])
    if size % 4 and isinstance(system.keys.resolve(actor, _number(a[0]), now_ns)[0], Keyring):
        raise Refused(errno.EINVAL, f"expected a buffer of whole serial numbers, not of {size} bytes")
    return data


def _constructed(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """The end of a request: EINPROGRESS as long as nobody has constructed the key, then its number or its error."""
    serial = _number(a[0])
    key = system.keys.by_serial.get(serial)
    wrong = key.refusal(now_ns) if key is not None else 0
    if wrong:
        raise KeyRefused(wrong, f"key {serial} was requested in vain, or is not constructed yet")
    return serial


def _watch_target(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """What KEYCTL_WATCH_KEY looks at before it looks at the queue."""
    return system.keys.watch_target(actor, _number(a[0]), now_ns).serial


def _get_security(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.keys.lookup(actor, _number(a[0]), Need.VIEW, now_ns, partial=True)
    return b"\0"  # no security module labels keys here


# -- changing


def _chown(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    uid, gid = (_number(each) & _NOBODY for each in a[1:])
    if uid == gid == _NOBODY:
        return 0
    system.keys.chown(
        actor, _number(a[0]), now_ns, uid=None if uid == _NOBODY else uid, gid=None if gid == _NOBODY else gid
    )
    return 0


def _move(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    flags = _number(a[3])
    if flags & ~MOVE_EXCL:
        raise Refused(errno.EINVAL, f"expected no flag but KEYCTL_MOVE_EXCL, not {flags:#x}")
    keys = system.keys
    keys.move(actor, _number(a[0]), _number(a[1]), _number(a[2]), now_ns, exclusive=bool(flags & MOVE_EXCL))
    return 0


def _restrict(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.keys.restrict(actor, _number(a[0]), now_ns, _optional(a[1]), _optional(a[2]))
    return 0


def _assume_authority(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """Whoever owns a key under construction has the authority already: there is nothing to assume."""
    serial = _number(a[0])
    if serial < 0:
        raise Refused(errno.EINVAL, f"expected the serial number of a key, not {serial}")
    if not serial:
        return 0
    key, _ = system.keys.resolve(actor, serial, now_ns)
    if key.destination is None or (key.uid != actor.uid and not actor.is_admin):
        raise KeyRefused(errno.ENOKEY, f"key {serial} is not under construction by user {actor.uid}")
    return serial


def _session_to_parent(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.keys.session_to_parent(actor, _text(a[0]), now_ns)
    return 0


# -- processes


def _process_fork(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    """fork(2) of the process named first, or for b"" of the user's login process; actor: the child's user."""
    processes = system.processes
    parent = _text(a[0]) or processes.of(Actor(actor.uid, actor.gid, actor.groups)).name
    child = processes.fork(ROOT, parent, _text(a[1]))
    child.uid, child.gid, child.groups = actor.uid, actor.gid, actor.groups
    return 0


def _process_exec(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.processes.exec(ROOT, _text(a[0]), now_ns)
    return 0


def _process_exit(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.processes.exit(ROOT, _text(a[0]), now_ns)
    return 0


def _process_exit_thread(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
    system.processes.exit_thread(ROOT, _text(a[0]), _text(a[1]), now_ns)
    return 0


def _nothing(run: Callable[[System, Actor, Arguments, int], object]) -> Run:
    """A call that returns 0."""

    def answer(system: System, actor: Actor, a: Arguments, now_ns: int) -> Answer:
        run(system, actor, a, now_ns)
        return 0

    return answer


CALLS: Mapping[str, tuple[str, Run]] = {
    "add_key": ("tnni", _add_key),
    "request_key": ("ttni", _request_key),
    "get_keyring_id": ("ii", _get_keyring_id),
    "join_session": ("n", _join_session),
    "update": ("in", _nothing(lambda s, who, a, now: s.keys.update(who, _number(a[0]), _bytes(a[1] or b""), now))),
    "revoke": ("i", _nothing(lambda s, who, a, now: s.keys.revoke(who, _number(a[0]), now))),
    "chown": ("iii", _chown),
    "setperm": ("ii", _nothing(lambda s, who, a, now: s.keys.set_perm(who, _number(a[0]), _number(a[1]), now))),
    "describe": ("i", _describe),
    "clear": ("i", _nothing(lambda s, who, a, now: s.keys.clear(who, _number(a[0]), now))),
    "link": ("ii", _nothing(lambda s, who, a, now: s.keys.link(who, _number(a[0]), _number(a[1]), now))),
    "unlink": ("ii", _nothing(lambda s, who, a, now: s.keys.unlink(who, _number(a[0]), _number(a[1]), now))),
    "search": ("itti", _search),
    "read": ("ii", _read),
    "instantiate": (
        "ini",
        _nothing(lambda s, who, a, now: s.keys.instantiate(who, _number(a[0]), _bytes(a[1] or b""), now, _ring(a[2]))),
    ),
    "reject": (
        "iiii",
        _nothing(
            lambda s, who, a, now: s.keys.reject(who, _number(a[0]), _number(a[1]), _number(a[2]), now, _ring(a[3]))
        ),
    ),
    "set_reqkey_keyring": ("i", lambda s, who, a, now: s.keys.set_reqkey_keyring(who, _number(a[0]), now)),
    "set_timeout": ("ii", _nothing(lambda s, who, a, now: s.keys.set_timeout(who, _number(a[0]), _number(a[1]), now))),
    "assume_authority": ("i", _assume_authority),
    "get_security": ("i", _get_security),
    "watch_target": ("i", _watch_target),
    "constructed": ("i", _constructed),
    "session_to_parent": ("t", _session_to_parent),
    "invalidate": ("i", _nothing(lambda s, who, a, now: s.keys.invalidate(who, _number(a[0]), now))),
    "get_persistent": ("ii", _get_persistent),
    "restrict_keyring": ("inn", _restrict),
    "move": ("iiii", _move),
    "process_fork": ("tt", _process_fork),
    "process_exec": ("t", _process_exec),
    "process_exit": ("t", _process_exit),
    "process_exit_thread": ("tt", _process_exit_thread),
}
