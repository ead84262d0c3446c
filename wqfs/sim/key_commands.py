"""The `key` commands, with the words and the order of arguments of keyctl(1).

KEY and KEYRING are what `wqfs.sim.key_table` says: a serial number, `@t`, `@p`, `@s`, `@u`, `@us`,
`%TYPE:DESCRIPTION`, `%:RING`, or a bare description, found in the caller's session keyring.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wqfs.sim.arguments import Count
from wqfs.sim.command import Actor, Command
from wqfs.sim.errors import Refused
from wqfs.sim.key_store import KeyRefused

if TYPE_CHECKING:
    from wqfs.sim.system import System

Arguments = Sequence[str]
Body = Callable[["System", Actor, Arguments, int], object]

_WORDS = 2  # "key" and the verb, before the arguments
UINT32_MAX = 0xFFFFFFFF

NO_KEY = "ENOKEY, EKEYREVOKED, EKEYEXPIRED: there is no such key, or it is no longer valid"
NO_RING = "ENOTDIR: it is no keyring"
QUOTA = "EDQUOT: the user's quota"


def errors(*parts: str) -> str:
    return "; ".join(parts)


def key_command(
    usage: str, summary: str, events: str, body: Body, refusals: str, flags: tuple[str, ...] = ()
) -> Command:
    """A command whose arguments are counted by its usage: `KEY [KEYRING]` takes one or two."""
    words = usage.split()
    count = Count(usage, _WORDS)

    def run(system: System, actor: Actor, arguments: Arguments, now_ns: int) -> None:
        count.check(arguments)
        try:
            body(system, actor, arguments, now_ns)
        except KeyRefused as refused:
            # Say which word it was, if it was one: the very object that was looked up.
            for at, argument in enumerate(arguments):
                if argument is refused.name:
                    refused.word = refused.word or _WORDS + 1 + at
            raise

    return Command((words[0], words[1]), usage, summary, events, run, refusals, dict.fromkeys(flags, ""))


def number(arguments: Arguments, at: int, name: str, limit: int) -> int:
    """Argument `at` as a number 0..limit, decimal or 0x."""
    text = arguments[at]
    try:
        value = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    except ValueError:
        value = -1
    if not 0 <= value <= limit or not text.isalnum():
        raise Refused(errno.EINVAL, f"expected {name} as a number 0..{limit:#x}, not {text!r}", _WORDS + 1 + at)
    return value


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _add(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.add(actor, a[0], a[1], as_bytes(a[2]), a[3], now_ns)


def _update(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.update(actor, a[0], as_bytes(a[1]), now_ns)


def _unlink(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    if len(a) == 1:
        system.keys.unlink_everywhere(actor, a[0], now_ns)
    else:
        system.keys.unlink(actor, a[0], a[1], now_ns)


def _move(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    force = a[0] == "-f"
    if len(a) != 3 + force:
        raise Refused(errno.EINVAL, "expected KEY FROM TO, or -f KEY FROM TO", _WORDS + 1)
    key, source, target = a[force:]
    system.keys.move(actor, key, source, target, now_ns, exclusive=not force)


def _setperm(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.set_perm(actor, a[0], number(a, 1, "MASK", UINT32_MAX), now_ns)


def _chown(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.chown(actor, a[0], now_ns, uid=number(a, 1, "UID", UINT32_MAX - 1))


def _chgrp(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.chown(actor, a[0], now_ns, gid=number(a, 1, "GID", UINT32_MAX - 1))


def _timeout(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.set_timeout(actor, a[0], number(a, 1, "SECONDS", UINT32_MAX), now_ns)


def _restrict(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.restrict(actor, a[0], now_ns, *a[1:])


COMMANDS: tuple[Command, ...] = (
    key_command(
        "key add TYPE DESCRIPTION PAYLOAD KEYRING",
        "Make a key of type user, logon or big_key in a keyring, or update the one there.",
        "instantiated on the key and linked on the keyring; updated if it was there",
        _add,
        errors(
            "EINVAL: no such payload, description or a bad argument",
            "ENODEV: no such type",
            "EPERM: a name of the kernel's, or a restricted keyring",
            "EACCES: it does not grant Write",
            NO_KEY,
            NO_RING,
            QUOTA,
        ),
    ),
    key_command(
        "key newring NAME KEYRING",
        "Make an empty keyring in a keyring; one of that name there is replaced.",
        "instantiated on the new keyring and linked on the other",
        lambda system, actor, a, now_ns: system.keys.new_keyring(actor, a[0], a[1], now_ns),
        "as key add",
    ),
    key_command(
        "key update KEY PAYLOAD",
        "Give a key another payload; its timeout goes.",
        "updated",
        _update,
        errors(
            "EOPNOTSUPP: a type that has no update",
            "EINVAL: no such payload",
            "EACCES: it does not grant Write",
            NO_KEY,
            QUOTA,
        ),
    ),
    key_command(
        "key link KEY KEYRING",
        "Link a key into a keyring; a link to one of the same type and description is replaced.",
        "linked on the keyring, aux: the key",
        lambda system, actor, a, now_ns: system.keys.link(actor, a[0], a[1], now_ns),
        errors(
            "EDEADLK: a cycle",
            "ELOOP: keyrings too deep below it",
            "EPERM: a restricted keyring",
            "EACCES: the keyring does not grant Write, or the key Link",
            NO_RING,
            NO_KEY,
            QUOTA,
        ),
    ),
    key_command(
        "key unlink KEY [KEYRING]",
        "Remove a link from a keyring, or all links from the session's; a key without links goes.",
        "unlinked on the keyring, aux: the key; META removal on watches of a key that goes",
        _unlink,
        errors(
            "ENOENT: it is not linked there",
            "EACCES: the keyring does not grant Write",
            NO_RING,
            NO_KEY,
        ),
    ),
    key_command(
        "key move [-f] KEY FROM TO",
        "Move a link from one keyring to another; -f replaces a key of that description there.",
        "unlinked on the one keyring, linked on the other",
        _move,
        errors(
            "EEXIST: one of that type and description is there",
            "ENOENT: it is not linked there",
            "EDEADLK: a cycle",
            "EACCES: the key does not grant Link, or a keyring Write",
            "EPERM: a restricted keyring",
            NO_RING,
            NO_KEY,
            QUOTA,
        ),
        ("-f",),
    ),
    key_command(
        "key clear KEYRING",
        "Remove all links of a keyring.",
        "cleared; META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.keys.clear(actor, a[0], now_ns),
        errors(
            "EACCES: it does not grant Write",
            NO_RING,
            NO_KEY,
        ),
    ),
    key_command(
        "key revoke KEY",
        "Make a key unusable, EKEYREVOKED; a keyring loses its links.",
        "revoked",
        lambda system, actor, a, now_ns: system.keys.revoke(actor, a[0], now_ns),
        errors(
            "EACCES: it grants neither Write nor Setattr",
            NO_KEY,
        ),
    ),
    key_command(
        "key invalidate KEY",
        "Take a key out of all keyrings at once.",
        "invalidated, then META removal on its watches",
        lambda system, actor, a, now_ns: system.keys.invalidate(actor, a[0], now_ns),
        errors(
            "EACCES: it does not grant Search",
            NO_KEY,
        ),
    ),
    key_command(
        "key setperm KEY MASK",
        "Set the permissions, a number as in keyrings(7): possessor, user, group, other, 6 bits each.",
        "setattr",
        _setperm,
        errors(
            "EINVAL: no permissions",
            "EACCES: it does not grant Setattr, or belongs to another user",
            NO_KEY,
        ),
    ),
    key_command(
        "key chown KEY UID",
        "Give a key to another user.",
        "setattr",
        _chown,
        errors(
            "EACCES: it does not grant Setattr, or only root may",
            "EDQUOT: the new owner's quota",
            NO_KEY,
        ),
    ),
    key_command(
        "key chgrp KEY GID",
        "Give a key to another group.",
        "setattr",
        _chgrp,
        errors(
            "EACCES: it does not grant Setattr, or only root may",
            NO_KEY,
        ),
    ),
    key_command(
        "key timeout KEY SECONDS",
        "Let a key expire after so many seconds, EKEYEXPIRED; 0 takes the timeout away.",
        "setattr",
        _timeout,
        errors(
            "EINVAL: no number of seconds",
            "EACCES: it does not grant Setattr",
            NO_KEY,
        ),
    ),
    key_command(
        "key restrict_keyring KEYRING [TYPE] [RESTRICTION]",
        "Refuse all further links to a keyring, EPERM; no TYPE here knows restrictions of its own, ENOENT.",
        "setattr",
        _restrict,
        errors(
            "EEXIST: it is restricted already",
            "ENOENT: TYPE knows no restrictions",
            "EACCES: it does not grant Setattr",
            NO_RING,
            NO_KEY,
        ),
    ),
    key_command(
        "key search KEYRING TYPE DESCRIPTION DESTINATION",
        "Find a key in a keyring or below it and link it into another.",
        "linked on the destination, aux: the key",
        lambda system, actor, a, now_ns: system.keys.search(actor, a[0], a[1], a[2], now_ns, a[3]),
        errors(
            "ENOKEY: nothing found",
            "EKEYREVOKED, EKEYEXPIRED: what was found is no longer valid",
            "EACCES: no Search on it, no Link on the key, or no Write on the destination",
            "EDEADLK, ELOOP: as key link",
            NO_RING,
            QUOTA,
        ),
    ),
    key_command(
        "key new_session [NAME]",
        "Begin another session keyring for the user, or join the one of that name.",
        "instantiated on the new keyring; META removal on watches of what goes with the old one",
        lambda system, actor, a, now_ns: system.keys.join_session(actor, a[0] if a else None, now_ns),
        errors(
            "EPERM: a name of the kernel's",
            QUOTA,
        ),
    ),
)
