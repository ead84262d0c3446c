"""The texts of sim/keys and sim/key-users: /proc/keys and /proc/key-users to the letter.

Formats: security/keys/proc.c of Linux 6.12, keyrings(7), proc_keys(5).
"""

from __future__ import annotations

from collections import Counter

from wqfs.sim.command import Actor
from wqfs.sim.key_store import KeyStore
from wqfs.sim.key_table import KeyTable
from wqfs.sim.keys import BIG_KEY, NS_PER_S, Key, Keyring, Need, permits, shown_gid

_BIG_KEY_FILE = 800
"""From this size on the kernel keeps a big_key in a file: the size of two of its structures, so
that it differs a little from kernel to kernel."""

# What root has from the start without a key: three references and two keys (root_key_user).
_ROOT_USAGE = 3
_ROOT_KEYS = 2


def keys_text(keyrings: KeyTable, viewer: Actor | None, now_ns: int) -> str:
    """A line for each key that grants View to `viewer`, or for all if None, by serial number.

        3f350f32 I--Q---     1 perm 1f3f0000     0 65534 keyring   _uid_ses.0: 1

    Serial number; flags (instantiated, revoked, dead, in quota, under construction, negative,
    invalidated); references; time until it expires; permissions; owner; group; type; description
    with the size.
    """
    lines = []
    for serial in sorted(keyrings.by_serial):
        key = keyrings.by_serial[serial]
        if viewer is None or permits(key, viewer, Need.VIEW, possessed=keyrings.possesses(viewer, key)):
            lines.append(_line(key, now_ns))
    return "".join(lines)


def key_users_text(keyrings: KeyStore) -> str:
    """A line for each user who has keys: references, keys and instantiated ones, keys and bytes of
    quota with their limits."""
    lines = []
    constructing = Counter(key.uid for key in keyrings.by_serial.values() if key.destination)
    for uid in sorted(keyrings.users):
        user = keyrings.users[uid]
        usage = user.keys + (0 if uid else _ROOT_USAGE)
        keys = user.keys + (0 if uid else _ROOT_KEYS)
        done = keys - constructing[uid]
        lines.append(f"{uid:5}: {usage:5} {keys}/{done} {user.keys}/{user.maxkeys} {user.bytes}/{user.maxbytes}\n")
    return "".join(lines)


def _line(key: Key, now_ns: int) -> str:
    flags = "".join(
        (
            "-" if key.destination else "I",
            "R" if key.revoked else "-",
            "-Q",
            "U" if key.destination else "-",
            "N" if key.error else "-",
            "i" if key.invalidated else "-",
        )
    )
    return (
        f"{key.serial:08x} {flags} {key.usage:5} {_timeout(key, now_ns):>4} {key.perm:08x}"
        f" {key.uid:5} {shown_gid(key.gid):5} {key.type.name:<9.9} {_described(key)}\n"
    )


def _timeout(key: Key, now_ns: int) -> str:
    if key.expiry_ns is None:
        return "perm"
    seconds = key.expiry_ns // NS_PER_S - now_ns // NS_PER_S
    if seconds <= 0:
        return "expd"
    for limit, unit, letter in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h"), (604800, 86400, "d")):
        if seconds < limit:
            return f"{seconds // unit}{letter}"
    return f"{seconds // 604800}w"


def _described(key: Key) -> str:
    if isinstance(key, Keyring):
        return f"{key.description}: {len(key.links) or 'empty'}"
    if key.error or key.destination:
        return key.description
    size = len(key.payload)
    if key.type is BIG_KEY:
        return f"{key.description}: {size} [{'file' if size > _BIG_KEY_FILE else 'buff'}]"
    return f"{key.description}: {size}"
