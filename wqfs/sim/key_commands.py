"""The `key` commands, with the words and the order of arguments of keyctl(1).

KEY and KEYRING are what `wqfs.sim.key_table` says: a serial number, `@t`, `@p`, `@s`, `@u`, `@us`,
`%TYPE:DESCRIPTION`, `%:RING`, or a bare description, found in the caller's session keyring.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wqfs.sim.command import Actor, Command
from wqfs.sim.errors import Refused
from wqfs.sim.key_store import KeyRefused

if TYPE_CHECKING:
    from wqfs.sim.system import System

Arguments = Sequence[str]
Body = Callable[["System", Actor, Arguments, int], object]

_WORDS = 2  # "key" and the verb, before the arguments
UINT32_MAX = 0xFFFFFFFF

_ERRORS = {"rejected": errno.EKEYREJECTED, "revoked": errno.EKEYREVOKED, "expired": errno.EKEYEXPIRED}
"""The words of keyctl(1) for the error of a rejected key."""


def _command(usage: str, summary: str, events: str, body: Body) -> Command:
    """A command whose arguments are counted by its usage: `KEY [KEYRING]` takes one or two."""
    words = usage.split()
    names = [word.strip("[]") for word in words[_WORDS:]]
    least = sum(not word.startswith("[") for word in words[_WORDS:])

    def run(system: System, actor: Actor, arguments: Arguments, now_ns: int) -> None:
        if not least <= len(arguments) <= len(names):
            raise _count_refusal(usage, names, least, arguments)
        try:
            body(system, actor, arguments, now_ns)
        except KeyRefused as refused:
            # Say which word it was, if it was one: the very object that was looked up.
            for at, argument in enumerate(arguments):
                if argument is refused.name:
                    refused.word = refused.word or _WORDS + 1 + at
            raise

    return Command((words[0], words[1]), usage, summary, events, run)


def _count_refusal(usage: str, names: list[str], least: int, arguments: Arguments) -> Refused:
    if len(arguments) < least:
        at = len(arguments)
        return Refused(errno.EINVAL, f"expected {names[at]} as argument {at + 1}: {usage}", _WORDS + 1 + at)
    at = len(names)
    return Refused(
        errno.EINVAL,
        f"expected no more than {at} arguments, found {arguments[at]!r}: {usage}",
        _WORDS + 1 + at,
    )


def _number(arguments: Arguments, at: int, name: str, limit: int) -> int:
    """Argument `at` as a number 0..limit, decimal or 0x."""
    text = arguments[at]
    try:
        value = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    except ValueError:
        value = -1
    if not 0 <= value <= limit or not text.isalnum():
        raise Refused(errno.EINVAL, f"expected {name} as a number 0..{limit:#x}, not {text!r}", _WORDS + 1 + at)
    return value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _add(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.add(actor, a[0], a[1], _bytes(a[2]), a[3], now_ns)


def _update(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.update(actor, a[0], _bytes(a[1]), now_ns)


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
    system.keys.set_perm(actor, a[0], _number(a, 1, "MASK", UINT32_MAX), now_ns)


def _chown(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.chown(actor, a[0], now_ns, uid=_number(a, 1, "UID", UINT32_MAX - 1))


def _chgrp(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.chown(actor, a[0], now_ns, gid=_number(a, 1, "GID", UINT32_MAX - 1))


def _timeout(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.set_timeout(actor, a[0], _number(a, 1, "SECONDS", UINT32_MAX), now_ns)


def _restrict(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.restrict(actor, a[0], now_ns, *a[1:])


def _request(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.request(actor, a[0], a[1], now_ns, None, _ring(a, 2))


def _request2(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.request(actor, a[0], a[1], now_ns, _bytes(a[2]), _ring(a, 3))


def _instantiate(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.instantiate(actor, a[0], _bytes(a[1]), now_ns, _ring(a, 2))


def _negate(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.negate(actor, a[0], _number(a, 1, "TIMEOUT", UINT32_MAX), now_ns, _ring(a, 2))


def _reject(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    error = _ERRORS.get(a[2]) or (a[2].isupper() and getattr(errno, a[2], None)) or _number(a, 2, "ERROR", UINT32_MAX)
    system.keys.reject(actor, a[0], _number(a, 1, "TIMEOUT", UINT32_MAX), error, now_ns, _ring(a, 3))


def _persistent(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    uid = _number(a, 1, "UID", UINT32_MAX) if len(a) > 1 else UINT32_MAX
    system.keys.get_persistent(actor, a[0], now_ns, None if uid == UINT32_MAX else uid)


def _ring(arguments: Arguments, at: int) -> str | None:
    """The keyring that may stand as argument `at`; 0 is none, as in keyctl(1)."""
    return arguments[at] if len(arguments) > at and arguments[at] != "0" else None


COMMANDS: tuple[Command, ...] = (
    _command(
        "key add TYPE DESCRIPTION PAYLOAD KEYRING",
        "Make a key of type user, logon or big_key in a keyring, or update the one there.",
        "instantiated on the key and linked on the keyring; updated if it was there",
        _add,
    ),
    _command(
        "key newring NAME KEYRING",
        "Make an empty keyring in a keyring; one of that name there is replaced.",
        "instantiated on the new keyring and linked on the other",
        lambda system, actor, a, now_ns: system.keys.new_keyring(actor, a[0], a[1], now_ns),
    ),
    _command(
        "key update KEY PAYLOAD",
        "Give a key another payload; its timeout goes.",
        "updated",
        _update,
    ),
    _command(
        "key link KEY KEYRING",
        "Link a key into a keyring; a link to one of the same type and description is replaced.",
        "linked on the keyring, aux: the key",
        lambda system, actor, a, now_ns: system.keys.link(actor, a[0], a[1], now_ns),
    ),
    _command(
        "key unlink KEY [KEYRING]",
        "Remove a link from a keyring, or all links from the session's; a key without links goes.",
        "unlinked on the keyring, aux: the key; META removal on watches of a key that goes",
        _unlink,
    ),
    _command(
        "key move [-f] KEY FROM TO",
        "Move a link from one keyring to another; -f replaces a key of that description there.",
        "unlinked on the one keyring, linked on the other",
        _move,
    ),
    _command(
        "key clear KEYRING",
        "Remove all links of a keyring.",
        "cleared; META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.keys.clear(actor, a[0], now_ns),
    ),
    _command(
        "key revoke KEY",
        "Make a key unusable, EKEYREVOKED; a keyring loses its links.",
        "revoked",
        lambda system, actor, a, now_ns: system.keys.revoke(actor, a[0], now_ns),
    ),
    _command(
        "key invalidate KEY",
        "Take a key out of all keyrings at once.",
        "invalidated, then META removal on its watches",
        lambda system, actor, a, now_ns: system.keys.invalidate(actor, a[0], now_ns),
    ),
    _command(
        "key setperm KEY MASK",
        "Set the permissions, a number as in keyrings(7): possessor, user, group, other, 6 bits each.",
        "setattr",
        _setperm,
    ),
    _command("key chown KEY UID", "Give a key to another user.", "setattr", _chown),
    _command("key chgrp KEY GID", "Give a key to another group.", "setattr", _chgrp),
    _command(
        "key timeout KEY SECONDS",
        "Let a key expire after so many seconds, EKEYEXPIRED; 0 takes the timeout away.",
        "setattr",
        _timeout,
    ),
    _command(
        "key restrict_keyring KEYRING [TYPE] [RESTRICTION]",
        "Refuse all further links to a keyring, EPERM; no TYPE here knows restrictions of its own, ENOENT.",
        "setattr",
        _restrict,
    ),
    _command(
        "key search KEYRING TYPE DESCRIPTION DESTINATION",
        "Find a key in a keyring or below it and link it into another.",
        "linked on the destination, aux: the key",
        lambda system, actor, a, now_ns: system.keys.search(actor, a[0], a[1], a[2], now_ns, a[3]),
    ),
    _command(
        "key request TYPE DESCRIPTION [KEYRING]",
        "Find a key in the keyrings of the process, and link it to a keyring; ENOKEY if there is none.",
        "linked on the keyring, aux: the key",
        _request,
    ),
    _command(
        "key request2 TYPE DESCRIPTION CALLOUT [KEYRING]",
        "As `key request`; if there is no such key, one appears that is under construction.",
        "linked on the keyring, or on the first of @t, @p and @s that there is; aux: the key",
        _request2,
    ),
    _command(
        "key instantiate KEY PAYLOAD [KEYRING]",
        "Give a key under construction its payload; who owns it may, and root.",
        "instantiated on the key, then linked on the keyring",
        _instantiate,
    ),
    _command(
        "key negate KEY TIMEOUT [KEYRING]",
        "Let a key under construction answer ENOKEY for so many seconds.",
        "instantiated on the key, aux: ENOKEY, then linked on the keyring",
        _negate,
    ),
    _command(
        "key reject KEY TIMEOUT ERROR [KEYRING]",
        "Let a key under construction answer an error, a number, a name, or rejected, revoked or expired.",
        "instantiated on the key, aux: the errno, then linked on the keyring",
        _reject,
    ),
    _command(
        "key purge TYPE [DESCRIPTION]",
        "Unlink all keys of a type, or of a type and description, from the session's keyrings.",
        "unlinked on each keyring, aux: the key; META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.keys.purge(actor, a[0], a[1] if len(a) > 1 else None, now_ns),
    ),
    _command(
        "key reap",
        "Unlink all keys that were revoked or have expired from the session's keyrings.",
        "unlinked on each keyring, aux: the key; META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.keys.reap(actor, now_ns),
    ),
    _command(
        "key get_persistent KEYRING [UID]",
        "Link a user's persistent keyring, which expires after three days without this, to a keyring.",
        "linked on the keyring, aux: the persistent keyring, which posts setattr",
        _persistent,
    ),
    _command(
        "key new_session [NAME]",
        "Begin another session keyring for the user, or join the one of that name.",
        "instantiated on the new keyring; META removal on watches of what goes with the old one",
        lambda system, actor, a, now_ns: system.keys.join_session(actor, a[0] if a else None, now_ns),
    ),
)
