"""The `key` commands about keys that are asked for before they are there, and about many at once."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from wqfs.sim.command import Actor, Command
from wqfs.sim.key_commands import (
    NO_RING,
    QUOTA,
    UINT32_MAX,
    Arguments,
    as_bytes,
    errors,
    key_command,
    number,
)

if TYPE_CHECKING:
    from wqfs.sim.system import System

_ERRORS = {"rejected": errno.EKEYREJECTED, "revoked": errno.EKEYREVOKED, "expired": errno.EKEYEXPIRED}
"""The words of keyctl(1) for the error of a rejected key."""


def _request(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.request(actor, a[0], a[1], now_ns, None, _ring(a, 2))


def _request2(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.request(actor, a[0], a[1], now_ns, as_bytes(a[2]), _ring(a, 3))


def _instantiate(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.instantiate(actor, a[0], as_bytes(a[1]), now_ns, _ring(a, 2))


def _negate(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    system.keys.negate(actor, a[0], number(a, 1, "TIMEOUT", UINT32_MAX), now_ns, _ring(a, 2))


def _reject(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    error = _ERRORS.get(a[2]) or (a[2].isupper() and getattr(errno, a[2], None)) or number(a, 2, "ERROR", UINT32_MAX)
    system.keys.reject(actor, a[0], number(a, 1, "TIMEOUT", UINT32_MAX), error, now_ns, _ring(a, 3))


def _persistent(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    uid = number(a, 1, "UID", UINT32_MAX) if len(a) > 1 else UINT32_MAX
    system.keys.get_persistent(actor, a[0], now_ns, None if uid == UINT32_MAX else uid)


def _ring(arguments: Arguments, at: int) -> str | None:
    """The keyring that may stand as argument `at`; 0 is none, as in keyctl(1)."""
    return arguments[at] if len(arguments) > at and arguments[at] != "0" else None


COMMANDS: tuple[Command, ...] = (
    key_command(
        "key request TYPE DESCRIPTION [KEYRING]",
        "Find a key in the keyrings of the process, and link it to a keyring; ENOKEY if there is none.",
        "linked on the keyring, aux: the key",
        _request,
        errors(
            "ENOKEY: there is none",
            "EACCES: the keyring does not grant Write",
            "EINPROGRESS: it is under construction",
            NO_RING,
        ),
    ),
    key_command(
        "key request2 TYPE DESCRIPTION CALLOUT [KEYRING]",
        "As `key request`; if there is no such key, one appears that is under construction.",
        "linked on the keyring, or on the first of @t, @p and @s that there is; aux: the key",
        _request2,
        errors(
            "EINVAL: no description for that type",
            "EPERM: a keyring, which nobody constructs",
            "EINPROGRESS: it is under construction already",
            "EACCES: the keyring does not grant Write",
            NO_RING,
            QUOTA,
        ),
    ),
    key_command(
        "key instantiate KEY PAYLOAD [KEYRING]",
        "Give a key under construction its payload; who owns it may, and root.",
        "instantiated on the key, then linked on the keyring",
        _instantiate,
        errors(
            "EPERM: it is not under construction, or another user's",
            "ENOKEY: there is no such key",
            "EINVAL: no such payload",
            QUOTA,
        ),
    ),
    key_command(
        "key negate KEY TIMEOUT [KEYRING]",
        "Let a key under construction answer ENOKEY for so many seconds.",
        "instantiated on the key, aux: ENOKEY, then linked on the keyring",
        _negate,
        errors(
            "EPERM: it is not under construction, or another user's",
            "ENOKEY: there is no such key",
            "EINVAL: no number of seconds",
        ),
    ),
    key_command(
        "key reject KEY TIMEOUT ERROR [KEYRING]",
        "Let a key under construction answer an error, a number, a name, or rejected, revoked or expired.",
        "instantiated on the key, aux: the errno, then linked on the keyring",
        _reject,
        errors(
            "EPERM: it is not under construction, or another user's",
            "ENOKEY: there is no such key",
            "EINVAL: no number of seconds, or no errno",
        ),
    ),
    key_command(
        "key purge TYPE [DESCRIPTION]",
        "Unlink all keys of a type, or of a type and description, from the session's keyrings.",
        "unlinked on each keyring, aux: the key; META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.keys.purge(actor, a[0], a[1] if len(a) > 1 else None, now_ns),
        "EINVAL: no TYPE",
    ),
    key_command(
        "key reap",
        "Unlink all keys that were revoked or have expired from the session's keyrings.",
        "unlinked on each keyring, aux: the key; META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.keys.reap(actor, now_ns),
        "EINVAL: an argument",
    ),
    key_command(
        "key get_persistent KEYRING [UID]",
        "Link a user's persistent keyring, which expires after three days without this, to a keyring.",
        "linked on the keyring, aux: the persistent keyring, which posts setattr",
        _persistent,
        errors("EPERM: another user's, by root alone", "EACCES: the keyring does not grant Write", NO_RING),
    ),
)
