"""Links between keys: making, removing, moving and refusing them, and searches that make one.

Rules as `wqfs.sim.keyring` says.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import Actor
from wqfs.sim.key_search import find, link_refusal
from wqfs.sim.key_store import KeyName, KeyRefused, label
from wqfs.sim.key_table import KeyTable, as_ring, no_right
from wqfs.sim.keys import LINK_BYTES, TYPES, Key, Keyring, KeyType, Need, permits

DESCRIPTION_MAX = 4095


class KeyLinks(KeyTable):
    """The keys with what can be done to their links. See Keyrings."""

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

    def restrict(
        self, actor: Actor, ring: KeyName, now_ns: int, type_: str | None = None, restriction: str | None = None
    ) -> Keyring:
        """KEYCTL_RESTRICT_KEYRING: without a type the keyring takes no new links (EPERM) for good.

        With one that type would choose which links to take. None of the types here can (ENOENT; the
        kernel's `asymmetric` can), and a type without a restriction, or the reverse, is EINVAL.
        """
        key, _ = self.lookup(actor, ring, Need.SETATTR, now_ns, ring=True)
        if (type_ is None) != (restriction is None):
            raise KeyRefused(errno.EINVAL, "expected a type and its restriction, or neither")
        if type_ is not None:
            check_type(type_)
        target = as_ring(key, ring)
        if type_ is not None and type_ not in TYPES:
            raise KeyRefused(errno.ENOKEY, f"expected one of {', '.join(TYPES)}, not {type_!r}")
        if type_ is not None:
            raise KeyRefused(errno.ENOENT, f"the type {type_} has no restrictions")
        if target.restricted:
            raise KeyRefused(errno.EEXIST, f"{label(target)} is restricted already", ring)
        target.restricted = True
        self._notify(target, KeySubtype.SETATTR, 0, now_ns)
        return target

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
        check_type(type_)
        check_description(description)
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

    # -- the inner parts

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
        """Charge for a link that is not there yet, and give it back if the block raises. A revoked
        keyring, which only a request may come to, takes none (__key_link_begin)."""
        if ring.revoked:
            raise KeyRefused(errno.EKEYREVOKED, f"{label(ring)} was revoked")
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


def check_type(type_: str) -> None:
    """As key_get_type_from_user() does, whether there is such a type or not."""
    if not 0 < len(type_) < 32:
        raise KeyRefused(errno.EINVAL, f"expected the name of a type, not {type_!r}")
    if type_[0] == ".":
        raise KeyRefused(errno.EPERM, f"the type {type_!r} is the kernel's own")


def check_description(description: str) -> None:
    size = len(description.encode("utf-8", "surrogateescape"))
    if size > DESCRIPTION_MAX:
        raise KeyRefused(errno.EINVAL, f"expected a description of at most {DESCRIPTION_MAX} bytes, not {size}")


def check_payload(type_: KeyType, payload: bytes) -> None:
    if not type_.accepts(payload):
        raise KeyRefused(
            errno.EINVAL,
            f"expected a payload of {type_.payload_min}..{type_.payload_max} bytes for type {type_.name},"
            f" not {len(payload)}",
        )
