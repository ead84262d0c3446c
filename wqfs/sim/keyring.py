"""The key service: what can be done with keys, as the kernel does it.

Each operation follows its keyctl of Linux 6.12 (security/keys/keyctl.c, key.c, keyring.c): the
same checks in the same order, the same errno, the same notifications. State changes first, then
`notify` is told, then `gone` of each key that nothing holds any more. An operation that raises
has changed nothing.

    operation               posts
    add, a new key          instantiated on the key, linked on the keyring (aux: the key)
    add, one there already  updated on the key
    update                  updated
    link, unlink            linked, unlinked on the keyring (aux: the key)
    move                    unlinked on the one keyring, linked on the other
    clear                   cleared
    revoke, invalidate      revoked, invalidated
    setperm, chown, timeout, restrict    setattr
    purge, reap             unlinked on each keyring (aux: the key)

Requests for keys and their construction are in `wqfs.sim.key_construction`, sessions in `wqfs.sim.key_sessions`.

Silent, as in the kernel: links that go because their key was invalidated, revoked or expired, or
their keyring revoked; a link that another one replaces.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import Actor
from wqfs.sim.key_links import check_description, check_payload, check_type
from wqfs.sim.key_sessions import KeySessions
from wqfs.sim.key_store import KeyName, KeyRefused, label
from wqfs.sim.key_table import as_ring, no_right
from wqfs.sim.keys import (
    KEYRING,
    NS_PER_S,
    PERM_ALL,
    TYPES,
    Key,
    Keyring,
    Need,
    permits,
    shown_gid,
)

PAYLOAD_MAX = (1 << 20) - 1
UPDATE_MAX = 4096  # a page


class Keyrings(KeySessions):
    """The key service of the simulated system.

    A key is given as KeyName: a serial number, or text as `key_table` says. All operations raise
    KeyRefused.
    """

    # -- making and changing keys

    def add(self, actor: Actor, type_: str, description: str, payload: bytes, ring: KeyName, now_ns: int) -> Key:
        """add_key(2): make a key in `ring`, or update the one of that type and description there."""
        if len(payload) > PAYLOAD_MAX:
            raise KeyRefused(errno.EINVAL, f"expected at most {PAYLOAD_MAX} bytes of payload, not {len(payload)}")
        check_type(type_)
        check_description(description)
        if description[:1] == "." and type_.startswith("keyring"):
            raise KeyRefused(errno.EPERM, f"a keyring's name may not begin with a dot, as {description!r} does")
        target, possessed = self.lookup(actor, ring, Need.WRITE, now_ns, ring=True, create=True)
        key_type = TYPES.get(type_)
        if key_type is None:
            raise KeyRefused(errno.ENODEV, f"expected one of {', '.join(TYPES)}, not {type_!r}")
        keyring = as_ring(target, ring)
        check_payload(key_type, payload)
        if not description:
            raise KeyRefused(errno.EINVAL, "expected a description, it is empty")
        index = (type_, description)
        with self._link_reserved(keyring, index):
            if keyring.restricted:
                raise KeyRefused(errno.EPERM, f"{label(keyring)} takes no new links")
            there = keyring.links.get(index) if key_type.updates else None
            if there is not None and not (there.invalidated or there.revoked):
                if there.destination is not None:
                    raise KeyRefused(errno.EINPROGRESS, f"{label(there)} is under construction")
                if not permits(there, actor, Need.WRITE, possessed=possessed):
                    raise no_right(there, Need.WRITE, actor)
                self._set_payload(there, payload)
                self._notify(there, KeySubtype.UPDATED, 0, now_ns)
                return there
            if not key_type.describes(description):
                raise KeyRefused(errno.EINVAL, f"expected QUALIFIER:NAME for a logon, not {description!r}")
            key = self._make(key_type, description, actor, key_type.default_perm, payload=payload)
        displaced = keyring.attach(key)
        self._notify(key, KeySubtype.INSTANTIATED, 0, now_ns)
        self._notify(keyring, KeySubtype.LINKED, key.serial, now_ns)
        if displaced is not None:
            self._reap([displaced], now_ns)
        return key

    def new_keyring(self, actor: Actor, name: str, ring: KeyName, now_ns: int) -> Key:
        """Make a keyring in `ring`; one of that name there already is replaced."""
        return self.add(actor, KEYRING.name, name, b"", ring, now_ns)

    def update(self, actor: Actor, name: KeyName, payload: bytes, now_ns: int) -> Key:
        """KEYCTL_UPDATE. A timeout goes."""
        if len(payload) > UPDATE_MAX:
            raise KeyRefused(errno.EINVAL, f"expected at most {UPDATE_MAX} bytes to update with, not {len(payload)}")
        key, _ = self.lookup(actor, name, Need.WRITE, now_ns)
        if not key.type.updates:
            raise KeyRefused(errno.EOPNOTSUPP, f"a key of type {key.type.name} cannot be updated", name)
        check_payload(key.type, payload)
        self._set_payload(key, payload)
        self._notify(key, KeySubtype.UPDATED, 0, now_ns)
        return key

    def revoke(self, actor: Actor, name: KeyName, now_ns: int) -> Key:
        """KEYCTL_REVOKE: needs Write or Setattr. The key stays where it is linked for 300 s, without
        its payload; a keyring loses its links."""
        try:
            key, _ = self.lookup(actor, name, Need.WRITE, now_ns)
        except KeyRefused as refused:
            if refused.errno != errno.EACCES:
                raise
            key, _ = self.lookup(actor, name, Need.SETATTR, now_ns)
        key.revoked = True
        # The time of revocation stands in the place of the expiry: the key is collected like an
        # expired one, and /proc/keys says `expd`.
        now_s_ns = now_ns // NS_PER_S * NS_PER_S
        if key.expiry_ns is None or key.expiry_ns > now_s_ns:
            self._set_expiry(key, now_s_ns)
        key.payload = b""
        self._recost(key, 0)
        orphans = key.detach_all() if isinstance(key, Keyring) else []
        self._notify(key, KeySubtype.REVOKED, 0, now_ns)
        self._reap(orphans, now_ns)
        return key

    def invalidate(self, actor: Actor, name: KeyName, now_ns: int) -> Key:
        """KEYCTL_INVALIDATE: needs Search. The key's links go at once, and with them the key."""
        key, _ = self.lookup(actor, name, Need.SEARCH, now_ns)
        key.invalidated = True
        self._notify(key, KeySubtype.INVALIDATED, 0, now_ns)
        self._collect_links(key, now_ns)
        return key

    # -- attributes

    def set_perm(self, actor: Actor, name: KeyName, perm: int, now_ns: int) -> Key:
        """KEYCTL_SETPERM: needs Setattr, and to be the owner or root."""
        if perm & ~PERM_ALL:
            raise KeyRefused(errno.EINVAL, f"expected permissions within {PERM_ALL:#x}, not {perm:#x}")
        key, _ = self.lookup(actor, name, Need.SETATTR, now_ns, partial=True, create=True)
        if key.uid != actor.uid and not actor.is_admin:
            raise KeyRefused(errno.EACCES, f"{label(key)} belongs to user {key.uid}", name)
        key.perm = perm
        self._notify(key, KeySubtype.SETATTR, 0, now_ns)
        return key

    def chown(self, actor: Actor, name: KeyName, now_ns: int, *, uid: int | None = None, gid: int | None = None) -> Key:
        """KEYCTL_CHOWN: needs Setattr; another owner, or a group that one is not in, root alone."""
        if uid is None and gid is None:
            raise KeyRefused(errno.EINVAL, "expected another owner or another group, or both", name)
        key, _ = self.lookup(actor, name, Need.SETATTR, now_ns, partial=True, create=True)
        to_other = uid is not None and uid != key.uid
        to_foreign = gid is not None and gid != key.gid and not actor.in_group(gid)
        if (to_other or to_foreign) and not actor.is_admin:
            raise KeyRefused(errno.EACCES, f"only root may give {label(key)} away so", name)
        if uid is not None and uid != key.uid:
            self._charge(uid, 1, key.base_cost + key.cost)
            self._charge(key.uid, -1, -key.base_cost - key.cost)
            key.uid = uid
        if gid is not None:
            key.gid = gid
        self._notify(key, KeySubtype.SETATTR, 0, now_ns)
        return key

    def set_timeout(self, actor: Actor, name: KeyName, seconds: int, now_ns: int) -> Key:
        """KEYCTL_SET_TIMEOUT: expire after that many seconds; 0 takes a timeout away."""
        key, _ = self.lookup(actor, name, Need.SETATTR, now_ns, partial=True, create=True)
        self._set_expiry(key, (now_ns // NS_PER_S + seconds) * NS_PER_S if seconds else None)
        self._notify(key, KeySubtype.SETATTR, 0, now_ns)
        return key

    # -- looking

    def describe(self, actor: Actor, name: KeyName, now_ns: int) -> str:
        """KEYCTL_DESCRIBE: `user;1000;1000;3f010000;colour`. Needs View."""
        key, _ = self.lookup(actor, name, Need.VIEW, now_ns, partial=True)
        return f"{key.type.name};{key.uid};{shown_gid(key.gid)};{key.perm:08x};{key.description}"

    def read(self, actor: Actor, name: KeyName, now_ns: int) -> bytes:
        """KEYCTL_READ: the payload; a keyring's serial numbers, 4 bytes each. Needs Read, or to
        possess the key. EOPNOTSUPP for logon."""
        try:
            key, possessed = self.resolve(actor, name, now_ns)
        except KeyRefused as refused:
            raise KeyRefused(errno.ENOKEY, refused.reason, name) from None
        if key.error:
            raise KeyRefused(key.error, f"{label(key)} is negative", name)
        if not possessed and not permits(key, actor, Need.READ, possessed=False):
            raise no_right(key, Need.READ, actor, name)
        if not key.type.reads:
            raise KeyRefused(errno.EOPNOTSUPP, f"a key of type {key.type.name} cannot be read", name)
        wrong = key.validity(now_ns)
        if wrong:
            raise KeyRefused(wrong, f"{label(key)} is no longer valid", name)
        if isinstance(key, Keyring):
            return b"".join(struct.pack("=i", linked.serial) for linked in key.links.values())
        return key.payload

    def watch_target(self, actor: Actor, name: KeyName, now_ns: int) -> Key:
        """The key that KEYCTL_WATCH_KEY is about: needs View. (It looks at the watch's ID before
        this, and at the queue after.)"""
        return self.lookup(actor, name, Need.VIEW, now_ns, create=True)[0]

    # -- what keyctl(1) does with several calls

    def purge(self, actor: Actor, type_: str, description: str | None, now_ns: int) -> int:
        """As `keyctl purge`: unlink the keys of a type, and of a description if one is given, from the
        session's tree of keyrings, as far as they grant View and the keyrings Write. Returns how many
        links went."""

        def unwanted(key: Key, possessed: bool) -> bool:
            if key.type.name != type_ or description not in (None, key.description):
                return False
            return not key.validity(now_ns) and permits(key, actor, Need.VIEW, possessed=possessed)

        return self._unlink_those(actor, unwanted, now_ns)

    def reap(self, actor: Actor, now_ns: int) -> int:
        """As `keyctl reap`: unlink what was revoked, invalidated or has expired."""
        return self._unlink_those(actor, lambda key, possessed: bool(key.validity(now_ns)), now_ns)

    def _unlink_those(self, actor: Actor, unwanted: Callable[[Key, bool], bool], now_ns: int) -> int:
        session, _ = self.lookup(actor, "@s", Need.SEARCH, now_ns)
        assert isinstance(session, Keyring)
        gone = 0
        for ring in self._readable_below(actor, session, now_ns):
            possessed = self.possesses(actor, ring)
            for key in list(ring.links.values()):
                if (
                    unwanted(key, self.possesses(actor, key))
                    and not ring.refusal(now_ns)
                    and permits(ring, actor, Need.WRITE, possessed=possessed)
                ):
                    self._unlink(ring, key, key.serial, now_ns)
                    gone += 1
        return gone

    def _readable_below(self, actor: Actor, top: Keyring, now_ns: int) -> list[Keyring]:
        """`top` and the keyrings below it that may be listed, the lowest first."""
        found: dict[Keyring, None] = {}
        stack = [top]
        while stack:
            ring = stack.pop()
            if ring in found or ring.refusal(now_ns):
                continue
            possessed = self.possesses(actor, ring)
            if permits(ring, actor, Need.VIEW, possessed=possessed) and (
                possessed or permits(ring, actor, Need.READ, possessed=False)
            ):
                found[ring] = None
                stack.extend(ring.rings.values())
        return list(found)[::-1]
