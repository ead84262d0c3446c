"""Keys and keyrings as such: types, permissions, validity, and what they cost their owner.

A key has a type and a description, an owner, 32 bits of permission, a payload (or, a keyring,
links), and perhaps an expiry. Rules here are those of Linux 6.12: security/keys/permission.c (who
may do what), key.c (states), user_defined.c, big_key.c and keyring.c (the types), keyrings(7).

A key lives as long as something holds it: a link from a keyring, or a pin (the session of a user).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum

from wqfs.sim.command import Actor
from wqfs.watch import Watchable

NS_PER_S = 1_000_000_000
GC_DELAY_NS = 300 * NS_PER_S
"""How long an expired key stays before it and its links are collected (sys/kernel/keys/gc_delay)."""

NO_GID = -1
"""The group of the user keyrings: none. /proc/keys shows the overflow group, 65534."""

LINK_BYTES = 4
"""What one link costs the owner of the keyring, in bytes of quota (KEYQUOTA_LINK_BYTES)."""


class Need(IntEnum):
    """What a caller wants to do with a key; the six bits of each of the four sets of rights."""

    VIEW = 0x01
    READ = 0x02
    WRITE = 0x04
    SEARCH = 0x08
    LINK = 0x10
    SETATTR = 0x20


PERM_ALL = 0x3F3F3F3F
POS_ALL = 0x3F000000
USR_ALL = 0x003F0000
USR_VIEW = 0x00010000
USR_READ = 0x00020000
USR_LINK = 0x00100000
_POS_READ = 0x02000000
_POS_WRITE = 0x04000000
_POS_VIEW_SEARCH_LINK_SETATTR = 0x39000000
_GRP_ALL = 0x3F00


@dataclass(frozen=True, slots=True)
class KeyType:
    """A type of key.

    payload_min, payload_max: bytes; updates, reads: whether it has these operations; quota: what
    a payload costs its owner whatever its size, or None for its size.
    """

    name: str
    payload_min: int
    payload_max: int
    updates: bool
    reads: bool
    quota: int | None = None

    def __reduce__(self) -> str:
        """A copy is the same one: there is one of each."""
        return self.name.upper()

    @property
    def default_perm(self) -> int:
        """The permissions of a key that add_key(2) makes."""
        perm = _POS_VIEW_SEARCH_LINK_SETATTR | USR_VIEW
        if self.reads:
            perm |= _POS_READ
        if self.updates or self.name == "keyring":
            perm |= _POS_WRITE
        return perm

    def describes(self, description: str) -> bool:
        """Whether a key of this type may be called `description`; a logon key's has a qualifier."""
        return bool(description) and (self.name != "logon" or description.find(":") > 0)

    def accepts(self, payload: bytes) -> bool:
        """Whether a key of this type may hold `payload`."""
        return self.payload_min <= len(payload) <= self.payload_max

    def cost(self, payload: bytes) -> int:
        """Bytes of quota that `payload` takes."""
        return len(payload) if self.quota is None else self.quota


USER = KeyType("user", 1, 32767, updates=True, reads=True)
LOGON = KeyType("logon", 1, 32767, updates=True, reads=False)
BIG_KEY = KeyType("big_key", 1, 1 << 20, updates=True, reads=True, quota=16)
KEYRING = KeyType("keyring", 0, 0, updates=False, reads=True)
TYPES = {t.name: t for t in (USER, LOGON, BIG_KEY, KEYRING)}


class Key(Watchable):
    """One key.

    serial: 3..0x7fffffff, never reused; index: (type's name, description), what a keyring finds it
    by; gid: NO_GID for none; perm: as keyrings(7); expiry_ns: when it expires, whole seconds, or
    None; error: the positive errno of a negative key, else 0; destination: while the key is under
    construction the keyring that it was requested for, else None; changed: number of the event that
    changed it last, kept by who numbers events; linked_by: the keyrings that link to it; pins: what
    else holds it; cost: bytes of quota beside the description.
    """

    __slots__ = ("changed", "cost", "description", "destination", "error", "expiry_ns", "gid", "index", "invalidated",
                 "linked_by", "payload", "perm", "pins", "revoked", "serial", "type", "uid")  # fmt: skip

    def __init__(self, serial: int, type_: KeyType, description: str, uid: int, gid: int, perm: int) -> None:
        super().__init__()
        self.serial = serial
        self.type = type_
        self.description = description
        self.index = (type_.name, description)
        self.uid = uid
        self.gid = gid
        self.perm = perm
        self.payload = b""
        self.cost = 0
        self.expiry_ns: int | None = None
        self.error = 0
        self.destination: Keyring | None = None
        self.revoked = False
        self.invalidated = False
        self.changed = 0
        self.linked_by: dict[Keyring, None] = {}
        self.pins = 0

    def __repr__(self) -> str:
        return f"<{self.type.name} {self.serial} {self.description!r}>"

    @property
    def watch_object_id(self) -> int:
        """The id in META removal."""
        return self.serial

    @property
    def usage(self) -> int:
        """References, as /proc/keys shows them."""
        return len(self.linked_by) + self.pins

    @property
    def base_cost(self) -> int:
        """Bytes of quota that the key takes by its description alone."""
        return len(self.description.encode("utf-8", "surrogateescape")) + 1

    def refusal(self, now_ns: int) -> int:
        """Why nobody may use the key now, an errno, or 0: a negative key's own error comes first. A key
        under construction is EINPROGRESS: the kernel would wait."""
        if self.destination is not None:
            return errno.EINPROGRESS
        return self.error or self.validity(now_ns)

    def validity(self, now_ns: int) -> int:
        """Why the key is no longer valid, ENOKEY, EKEYREVOKED, EKEYEXPIRED, or 0 (key_validate)."""
        if self.invalidated:
            return errno.ENOKEY
        if self.revoked:
            return errno.EKEYREVOKED
        if self.expiry_ns is not None and now_ns >= self.expiry_ns:
            return errno.EKEYEXPIRED
        return 0


class Keyring(Key):
    """A key that holds links to keys.

    links: by (type's name, description), one link each, oldest first, a replaced one in place;
    rings: those of the links that are keyrings; restricted: whether new links are refused.
    """

    __slots__ = ("links", "restricted", "rings")

    def __init__(self, serial: int, description: str, uid: int, gid: int, perm: int) -> None:
        super().__init__(serial, KEYRING, description, uid, gid, perm)
        self.links: dict[tuple[str, str], Key] = {}
        self.rings: dict[str, Keyring] = {}
        self.restricted = False

    def attach(self, key: Key) -> Key | None:
        """Link to `key`. Returns the other key that the link replaced, or None."""
        index = key.index
        displaced = self.links.get(index)
        self.links[index] = key
        if isinstance(key, Keyring):
            self.rings[key.description] = key
        if displaced is key:
            return None
        key.linked_by[self] = None
        if displaced is not None:
            del displaced.linked_by[self]
        return displaced

    def detach(self, index: tuple[str, str]) -> Key:
        """Remove the link under `index` and return its key. Raises KeyError."""
        key = self.links.pop(index)
        if isinstance(key, Keyring):
            del self.rings[key.description]
        del key.linked_by[self]
        return key

    def detach_all(self) -> list[Key]:
        """Remove all links and return their keys."""
        keys = list(self.links.values())
        for key in keys:
            del key.linked_by[self]
        self.links.clear()
        self.rings.clear()
        return keys


def permits(key: Key, actor: Actor, need: int, *, possessed: bool) -> bool:
    """Whether `key` grants `need` to `actor`.

    The owner's bits count for the owner, else the group's for a member if the group has any at
    all, else the others'; a possessor's are added. Root is nobody special here.
    """
    perm = key.perm
    if key.uid == actor.uid:
        granted = perm >> 16
    elif perm & _GRP_ALL and key.gid != NO_GID and actor.in_group(key.gid):
        granted = perm >> 8
    else:
        granted = perm
    if possessed:
        granted |= perm >> 24
    return granted & need == need


def shown_gid(gid: int) -> int:
    """A group as the kernel shows it: the overflow group for none."""
    return 65534 if gid == NO_GID else gid


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a user's keys and of the bytes that they take: root's, and anybody else's.

    The defaults are the kernel's (proc(5), /proc/sys/kernel/keys).
    """

    root_maxkeys: int = 1_000_000
    root_maxbytes: int = 25_000_000
    maxkeys: int = 200
    maxbytes: int = 20_000

    def of(self, uid: int) -> tuple[int, int]:
        """Keys and bytes that user `uid` may have."""
        return (self.root_maxkeys, self.root_maxbytes) if uid == 0 else (self.maxkeys, self.maxbytes)


class KeyUser:
    """What one user has: keys, and bytes of quota. All keys are in quota."""

    __slots__ = ("bytes", "keys", "maxbytes", "maxkeys")

    def __init__(self, maxkeys: int, maxbytes: int) -> None:
        self.keys = 0
        self.bytes = 0
        self.maxkeys = maxkeys
        self.maxbytes = maxbytes
