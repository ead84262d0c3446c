"""The keys that exist: their numbers, what they cost their owners, when they end.

A key ends when nothing holds it any more, neither a link nor a pin: `_reap` sees to that at the end
of an operation, after its events. Keys that expired or were revoked lose their links 300 s later,
when `collect` is called (security/keys/gc.c of Linux 6.12). Quota is the kernel's but in one thing:
the 4 bytes of a link that was collected are given back at once, not only when the keyring is cleared.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.keys import (
    GC_DELAY_NS,
    KEYRING,
    LINK_BYTES,
    Key,
    Keyring,
    KeyType,
    KeyUser,
    Quota,
)

KeyName = int | str
Notify = Callable[[Key, KeySubtype, int, int], None]
AnyKey = TypeVar("AnyKey", bound=Key)
Gone = Callable[[Key, int], None]

_SERIAL_STEP = 0x9E3779B1  # odd, so that all of 31 bits come once before the first comes again


class KeyRefused(Refused):
    """What the kernel would refuse about one key. name: how the caller named it, or None."""

    def __init__(self, errno_: int, reason: str, name: KeyName | None = None) -> None:
        super().__init__(errno_, reason)
        self.name = name


class KeyStore:
    """All keys, by serial number, and their owners' accounts. See Keyrings for the operations.

    by_serial: every key that exists; users: what each user has.
    """

    def __init__(
        self,
        notify: Notify,
        gone: Gone,
        *,
        quota: Quota = Quota(),  # noqa: B008  frozen
        max_keys: int = 1_000_000,
        seed: int = 0x2A5F31C7,
    ) -> None:
        """notify(key, subtype, aux, now_ns) and gone(key, now_ns) are told after the state changed.

        quota: each user's limits; max_keys: of all users together; seed: two tables with the same
        seed give the same serial numbers to the same operations.
        """
        self.quota = quota
        self.max_keys = max_keys
        self.by_serial: dict[int, Key] = {}
        self.users: dict[int, KeyUser] = {}
        self._notify = notify
        self._gone = gone
        self.on_silent: Callable[[Key], object] = _nobody_is_told
        """Told of a key that changed without an event."""
        self._seed = seed
        self._made = 0
        self._timed: dict[Key, None] = {}
        self._next_collection: int | None = None

    def _quietly(self, make: Callable[[], object]) -> None:
        notify, self._notify = self._notify, lambda key, subtype, aux, now_ns: None
        try:
            make()
        finally:
            self._notify = notify

    # -- coming and going

    def _make(self, type_: KeyType, description: str, actor: Actor, perm: int, *, payload: bytes = b"") -> Key:
        """A new key that nothing holds yet. Raises EDQUOT."""
        if type_ is KEYRING:
            return self._make_keyring(description, actor.uid, actor.gid, perm)
        key = Key(0, type_, description, actor.uid, actor.gid, perm)
        key.payload = payload
        key.cost = type_.cost(payload)
        return self._enter(key)

    def _make_keyring(self, description: str, uid: int, gid: int, perm: int, *, overrun: bool = False) -> Keyring:
        return self._enter(Keyring(0, description, uid, gid, perm), overrun=overrun)

    def _enter(self, key: AnyKey, *, overrun: bool = False) -> AnyKey:
        """Give the key its serial number and charge its owner. Raises EDQUOT unless overrun."""
        # What overruns its user's quota, such as the keyrings of a login, has a quarter of its own.
        if len(self.by_serial) >= self.max_keys + (self.max_keys // 4 if overrun else 0):
            raise KeyRefused(errno.EDQUOT, f"there are {self.max_keys} keys, the limit max_keys")
        self._charge(key.uid, 1, key.base_cost + key.cost, overrun=overrun)
        serial = 0
        while serial < 3 or serial in self.by_serial:
            serial = (self._seed + self._made * _SERIAL_STEP) & 0x7FFFFFFF
            self._made += 1
        key.serial = serial
        self.by_serial[serial] = key
        return key

    def _link_new(self, ring: Keyring, key: Key, now_ns: int) -> None:
        """A link that nothing refuses, quota neither."""
        self._charge(ring.uid, 0, LINK_BYTES, overrun=True)
        ring.cost += LINK_BYTES
        ring.attach(key)
        self._notify(ring, KeySubtype.LINKED, key.serial, now_ns)

    def _reap(self, keys: list[Key], now_ns: int) -> None:
        """End those of `keys` that nothing holds any more, and what then nothing holds either."""
        at = 0
        while at < len(keys):
            key = keys[at]
            at += 1
            if key.linked_by or key.pins or self.by_serial.get(key.serial) is not key:
                continue
            del self.by_serial[key.serial]
            self._timed.pop(key, None)
            self._charge(key.uid, -1, -key.base_cost - key.cost)
            if isinstance(key, Keyring):
                keys += key.detach_all()
            self._gone(key, now_ns)

    def _charge(self, uid: int, keys: int, bytes_: int, *, overrun: bool = False) -> None:
        """Add to what user `uid` has; less than nothing gives back. Raises EDQUOT unless overrun."""
        user = self.users.get(uid)
        if user is None:
            user = KeyUser(*self.quota.of(uid))
        if not overrun:
            if keys > 0 and user.keys + keys > user.maxkeys:
                raise KeyRefused(errno.EDQUOT, f"user {uid} has {user.keys} keys of {user.maxkeys}")
            if bytes_ > 0 and user.bytes + bytes_ > user.maxbytes:
                raise KeyRefused(
                    errno.EDQUOT,
                    f"user {uid} has {user.bytes} bytes of {user.maxbytes} and needs {bytes_} more",
                )
        user.keys += keys
        user.bytes += bytes_
        if user.keys:
            self.users[uid] = user
        else:
            self.users.pop(uid, None)

    def _recost(self, key: Key, cost: int) -> None:
        """Change what the key costs its owner. Raises EDQUOT."""
        if cost != key.cost:
            self._charge(key.uid, 0, cost - key.cost)
            key.cost = cost

    # -- the garbage collector

    @property
    def next_collection_ns(self) -> int | None:
        """When `collect` has to be called next, or None: never, as things are."""
        return self._next_collection

    def collect(self, now_ns: int) -> None:
        """Let go of keys that expired or were revoked 300 s ago or more, and of the links to them,
        silently."""
        if self._next_collection is None or now_ns < self._next_collection:
            return
        self._next_collection = None
        for key in list(self._timed):
            if key not in self._timed or key.expiry_ns is None:
                continue  # it went with a keyring that held it
            due = key.expiry_ns + GC_DELAY_NS
            if due <= now_ns:
                del self._timed[key]
                self._collect_links(key, now_ns)
            elif self._next_collection is None or due < self._next_collection:
                self._next_collection = due

    def _collect_links(self, key: Key, now_ns: int) -> None:
        for ring in list(key.linked_by):
            if not (ring.invalidated or ring.revoked):
                ring.detach(key.index)
                self._recost(ring, ring.cost - LINK_BYTES)
                self.on_silent(ring)
        self._reap([key], now_ns)

    def _set_expiry(self, key: Key, expiry_ns: int | None) -> None:
        key.expiry_ns = expiry_ns
        if expiry_ns is None:
            self._timed.pop(key, None)
            return
        self._timed[key] = None
        due = expiry_ns + GC_DELAY_NS
        if self._next_collection is None or due < self._next_collection:
            self._next_collection = due


def label(key: Key) -> str:
    return f"key {key.serial} ({key.description})"


def _nobody_is_told(key: Key) -> None:
    pass
