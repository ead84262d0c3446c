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

Silent, as in the kernel: links that go because their key was invalidated, revoked or expired, or
their keyring revoked; a link that another one replaces.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import Actor
from wqfs.sim.key_search import find, link_refusal
from wqfs.sim.key_store import KeyName, KeyRefused, label
from wqfs.sim.key_table import SESSION_PERM, KeyTable, as_ring, no_right
from wqfs.sim.keys import (
    KEYRING,
    LINK_BYTES,
    NS_PER_S,
    PERM_ALL,
    POS_ALL,
    TYPES,
    USR_LINK,
    USR_READ,
    USR_VIEW,
    Key,
    Keyring,
    KeyType,
    Need,
    permits,
    shown_gid,
)

DESCRIPTION_MAX = 4095
PAYLOAD_MAX = (1 << 20) - 1
UPDATE_MAX = 4096  # a page
_NAMED_SESSION_PERM = POS_ALL | USR_VIEW | USR_READ | USR_LINK


class Keyrings(KeyTable):
    """The key service of the simulated system.

    A key is given as KeyName: a serial number, or text as `key_table` says. All operations raise
    KeyRefused.
    """

    # -- making and changing keys

    def add(self, actor: Actor, type_: str, description: str, payload: bytes, ring: KeyName, now_ns: int) -> Key:
        """add_key(2): make a key in `ring`, or update the one of that type and description there."""
        if len(payload) > PAYLOAD_MAX:
            raise KeyRefused(errno.EINVAL, f"expected at most {PAYLOAD_MAX} bytes of payload, not {len(payload)}")
        if not 0 < len(type_) < 32:
            raise KeyRefused(errno.EINVAL, f"expected the name of a type, not {type_!r}")
        if type_[0] == ".":
            raise KeyRefused(errno.EPERM, f"the type {type_!r} is the kernel's own")
        _check_description(description)
        if description[:1] == "." and type_.startswith("keyring"):
            raise KeyRefused(errno.EPERM, f"a keyring's name may not begin with a dot, as {description!r} does")
        target, possessed = self.lookup(actor, ring, Need.WRITE, now_ns, ring=True, create=True)
        key_type = TYPES.get(type_)
        if key_type is None:
            raise KeyRefused(errno.ENODEV, f"expected one of {', '.join(TYPES)}, not {type_!r}")
        keyring = as_ring(target, ring)
        _check_payload(key_type, payload)
        if not description:
            raise KeyRefused(errno.EINVAL, "expected a description, it is empty")
        index = (type_, description)
        with self._link_reserved(keyring, index):
            if keyring.restricted:
                raise KeyRefused(errno.EPERM, f"{label(keyring)} takes no new links")
            there = keyring.links.get(index) if key_type.updates else None
            if there is not None and not (there.invalidated or there.revoked):
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
        _check_payload(key.type, payload)
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

    # -- links

    def link(self, actor: Actor, name: KeyName, ring: KeyName, now_ns: int) -> None:
        """KEYCTL_LINK: needs Write on the keyring, then Link on the key."""
        target, _ = self.lookup(actor, ring, Need.WRITE, now_ns, ring=True, create=True)
        key, _ = self.lookup(actor, name, Need.LINK, now_ns, create=True)
        self._link(as_ring(target, ring), key, name, now_ns)

    def unlink(self, actor: Actor, name: KeyName, ring: KeyName, now_ns: int) -> None:
        """KEYCTL_UNLINK: needs Write on the keyring and nothing of the key. ENOENT if not linked."""
        target, _ = self.lookup(actor, ring, Need.WRITE, now_ns, ring=True)
        key, _ = self.resolve(actor, name, now_ns)
        self._unlink(as_ring(target, ring), key, name, now_ns)

    def unlink_everywhere(self, actor: Actor, name: KeyName, now_ns: int) -> int:
        """As `keyctl unlink KEY`: from each keyring of the session's tree that may be written to.
        Returns how many links went. Raises ENOENT if none."""
        key, _ = self.resolve(actor, name, now_ns)
        rings = [
            ring
            for ring in key.linked_by
            if not ring.refusal(now_ns)
            and self.possesses(actor, ring)
            and permits(ring, actor, Need.WRITE, possessed=True)
        ]
        if not rings:
            raise KeyRefused(errno.ENOENT, f"no keyring of the session links to {label(key)}", name)
        for ring in rings:
            if key.index in ring.links and ring in key.linked_by:
                self._unlink(ring, key, name, now_ns)
        return len(rings)

    def move(
        self,
        actor: Actor,
        name: KeyName,
        source: KeyName,
        target: KeyName,
        now_ns: int,
        *,
        exclusive: bool = False,
    ) -> None:
        """KEYCTL_MOVE. exclusive: EEXIST rather than replace a key of that name in `target`."""
        key, _ = self.lookup(actor, name, Need.LINK, now_ns, create=True)
        from_key, _ = self.lookup(actor, source, Need.WRITE, now_ns, ring=True)
        to_key, _ = self.lookup(actor, target, Need.WRITE, now_ns, ring=True, create=True)
        if from_key is to_key:
            return
        from_ring, to_ring = as_ring(from_key, source), as_ring(to_key, target)
        if key.index not in from_ring.links:
            raise KeyRefused(errno.ENOENT, f"{label(from_ring)} does not link to {label(key)}", name)
        with self._link_reserved(to_ring, key.index):
            if exclusive and key.index in to_ring.links:
                raise KeyRefused(errno.EEXIST, f"{label(to_ring)} has a {key.description!r} already", name)
            self._check_link(to_ring, key, name)
        removed = from_ring.detach(key.index)
        self._recost(from_ring, from_ring.cost - LINK_BYTES)
        displaced = to_ring.attach(key)
        self._notify(from_ring, KeySubtype.UNLINKED, key.serial, now_ns)
        self._notify(to_ring, KeySubtype.LINKED, key.serial, now_ns)
        self._reap([removed] if displaced is None else [removed, displaced], now_ns)

    def clear(self, actor: Actor, ring: KeyName, now_ns: int) -> Keyring:
        """KEYCTL_CLEAR: remove all links of a keyring, with one event, also if there were none."""
        target, _ = self.lookup_ring(actor, ring, Need.WRITE, now_ns, create=True)
        orphans = target.detach_all()
        self._recost(target, 0)
        self._notify(target, KeySubtype.CLEARED, 0, now_ns)
        self._reap(orphans, now_ns)
        return target

    def restrict(self, actor: Actor, ring: KeyName, now_ns: int) -> Keyring:
        """KEYCTL_RESTRICT_KEYRING without a type: the keyring takes no new links (EPERM) for good."""
        target, _ = self.lookup_ring(actor, ring, Need.SETATTR, now_ns)
        if target.restricted:
            raise KeyRefused(errno.EEXIST, f"{label(target)} is restricted already", ring)
        target.restricted = True
        self._notify(target, KeySubtype.SETATTR, 0, now_ns)
        return target

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
        wrong = key.validity(now_ns)
        if wrong:
            raise KeyRefused(wrong, f"{label(key)} is no longer valid", name)
        if not key.type.reads:
            raise KeyRefused(errno.EOPNOTSUPP, f"a key of type {key.type.name} cannot be read", name)
        if isinstance(key, Keyring):
            return b"".join(struct.pack("=i", linked.serial) for linked in key.links.values())
        return key.payload

    def search(
        self,
        actor: Actor,
        ring: KeyName,
        type_: str,
        description: str,
        now_ns: int,
        target: KeyName | None = None,
    ) -> Key:
        """KEYCTL_SEARCH: find a key in `ring` and below it; link it to `target` if that is given."""
        if not 0 < len(type_) < 32:
            raise KeyRefused(errno.EINVAL, f"expected the name of a type, not {type_!r}")
        if type_[0] == ".":
            raise KeyRefused(errno.EPERM, f"the type {type_!r} is the kernel's own")
        _check_description(description)
        top, possessed = self.lookup(actor, ring, Need.SEARCH, now_ns, ring=True)
        destination = (
            None if target is None else self.lookup(actor, target, Need.WRITE, now_ns, ring=True, create=True)[0]
        )
        if type_ not in TYPES:
            raise KeyRefused(errno.ENOKEY, f"expected one of {', '.join(TYPES)}, not {type_!r}")

        def refusal(key: Key) -> int:
            wrong = key.validity(now_ns)
            return errno.EKEYREVOKED if wrong == errno.ENOKEY else wrong or key.error

        key, wrong, _ = find(as_ring(top, ring), ((type_, description),), actor, refusal, possessed=possessed)
        if key is None:
            raise KeyRefused(wrong or errno.ENOKEY, f"no usable key {description!r} of type {type_} in {label(top)}")
        if destination is not None:
            if not permits(key, actor, Need.LINK, possessed=possessed):
                raise no_right(key, Need.LINK, actor)
            self._link(as_ring(destination, target), key, None, now_ns)
        return key

    def watch_target(self, actor: Actor, name: KeyName, now_ns: int) -> Key:
        """The key that KEYCTL_WATCH_KEY is about: needs View. (It looks at the watch's ID before
        this, and at the queue after.)"""
        return self.lookup(actor, name, Need.VIEW, now_ns, create=True)[0]

    # -- sessions

    def join_session(self, actor: Actor, name: str | None, now_ns: int) -> Keyring:
        """KEYCTL_JOIN_SESSION_KEYRING: another session keyring for the user, empty; with a name one
        of that name that grants Search, if there is one."""
        if name is None:
            return self._new_session(actor, "_ses", SESSION_PERM, now_ns)
        _check_description(name)
        if name[:1] == ".":
            raise KeyRefused(errno.EPERM, f"a keyring's name may not begin with a dot, as {name!r} does")
        for key in self.by_serial.values():
            if (
                isinstance(key, Keyring)
                and key.description == name
                and not key.revoked
                and permits(key, actor, Need.SEARCH, possessed=False)
            ):
                self._install_session(actor, key, now_ns)
                return key
        if not name:
            raise KeyRefused(errno.EINVAL, "expected a name, it is empty")
        return self._new_session(actor, name, _NAMED_SESSION_PERM, now_ns)

    # -- the inner parts of links and payloads

    def _link(self, ring: Keyring, key: Key, name: KeyName | None, now_ns: int) -> None:
        with self._link_reserved(ring, key.index):
            self._check_link(ring, key, name)
        displaced = ring.attach(key)
        self._notify(ring, KeySubtype.LINKED, key.serial, now_ns)
        if displaced is not None:
            self._reap([displaced], now_ns)

    def _unlink(self, ring: Keyring, key: Key, name: KeyName, now_ns: int) -> None:
        # As in the kernel (__key_unlink_begin) the link is found by type and description: if it is
        # one to another key of that name, that link goes, and the event names the key asked for.
        if key.index not in ring.links:
            raise KeyRefused(errno.ENOENT, f"{label(ring)} does not link to {label(key)}", name)
        removed = ring.detach(key.index)
        self._recost(ring, ring.cost - LINK_BYTES)
        self._notify(ring, KeySubtype.UNLINKED, key.serial, now_ns)
        self._reap([removed], now_ns)

    def _check_link(self, ring: Keyring, key: Key, name: KeyName | None) -> None:
        if ring.restricted:
            raise KeyRefused(errno.EPERM, f"{label(ring)} takes no new links")
        wrong = link_refusal(ring, key)
        if wrong == errno.EDEADLK:
            raise KeyRefused(wrong, f"{label(ring)} is in {label(key)}: the link would make a cycle", name)
        if wrong:
            raise KeyRefused(wrong, f"{label(key)} has keyrings more than 6 deep below it", name)

    @contextmanager
    def _link_reserved(self, ring: Keyring, index: tuple[str, str]) -> Iterator[None]:
        """Charge for a link that is not there yet, and give it back if the block raises."""
        cost = 0 if index in ring.links else LINK_BYTES
        self._recost(ring, ring.cost + cost)
        try:
            yield
        except KeyRefused:
            self._recost(ring, ring.cost - cost)
            raise

    def _set_payload(self, key: Key, payload: bytes) -> None:
        self._recost(key, len(payload))
        self._recost(key, key.type.cost(payload))
        key.payload = payload
        if key.expiry_ns is not None:
            self._set_expiry(key, None)
        key.error = 0


def _check_description(description: str) -> None:
    size = len(description.encode("utf-8", "surrogateescape"))
    if size > DESCRIPTION_MAX:
        raise KeyRefused(errno.EINVAL, f"expected a description of at most {DESCRIPTION_MAX} bytes, not {size}")


def _check_payload(type_: KeyType, payload: bytes) -> None:
    if not type_.accepts(payload):
        raise KeyRefused(
            errno.EINVAL,
            f"expected a payload of {type_.payload_min}..{type_.payload_max} bytes for type {type_.name},"
            f" not {len(payload)}",
        )
