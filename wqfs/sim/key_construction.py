"""Requests for keys that are not there, and their construction: request_key(2) and what answers it.

As security/keys/request_key.c of Linux 6.12 does it. A search of the caller's keyrings comes first.
If it finds nothing and the caller gave callout text, a key under construction appears, linked to
the keyring that the caller named, or else to its thread, process or session keyring, whichever it
has. The kernel then starts /sbin/request-key and lets the caller wait. Here nothing waits: a key
under construction answers EINPROGRESS until a command instantiates, negates or rejects it, which
its owner and root may, who stand for the helper; the helper's authorisation key is not modelled.

    operation               posts
    request, found          linked on the keyring that was named, if any (aux: the key)
    request, not found      linked on the destination (aux: the key)
    instantiate             instantiated on the key, then linked on a keyring that is named
    negate, reject          instantiated on the key (aux: the positive errno), then as above

The aux: a released kernel passes the negative number (key_reject_and_link), but shows it to nobody,
for a watch on a key waits until the key is constructed. wqfs has the positive errno, as
linux/watch_queue.h describes the event.
"""

from __future__ import annotations

import errno

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import Actor
from wqfs.sim.key_links import KeyLinks, check_description, check_payload, check_type
from wqfs.sim.key_search import SKIP, find
from wqfs.sim.key_store import KeyName, KeyRefused, label
from wqfs.sim.key_table import SPECIAL, as_ring, no_right
from wqfs.sim.keys import KEYRING, NS_PER_S, TYPES, Key, Keyring, KeyType, Need, permits
from wqfs.sim.processes import (
    REQKEY_DEFAULT,
    REQKEY_REQUESTOR,
    REQKEY_SESSION,
    REQKEY_THREAD,
    REQKEY_USER,
    REQKEY_USER_SESSION,
)

CALLOUT_MAX = 4095  # strndup_user() of a page counts the NUL byte
_PAYLOAD_MAX = (1 << 20) - 1
_MAX_ERRNO = 4095
_RESTARTS = frozenset((512, 513, 514, 516))  # ERESTARTSYS and its kin never leave the kernel
_REQUESTOR = -8
_BELOW_PROCESS = (REQKEY_SESSION, REQKEY_USER, REQKEY_USER_SESSION)


class KeyConstruction(KeyLinks):
    """The keys with requests for those that are not there. See Keyrings."""

    def request(
        self,
        actor: Actor,
        type_: str,
        description: str,
        now_ns: int,
        callout: bytes | None = None,
        ring: KeyName | None = None,
    ) -> Key:
        """request_key(2): the key that a search finds, linked to `ring` if that is given; else, with
        `callout`, one under construction.

        Raises ENOKEY if there is none and no callout, else what is wrong with the one that was found,
        EINPROGRESS for one under construction; EPERM for a keyring, which nobody constructs.
        """
        check_type(type_)
        check_description(description)
        if callout is not None and len(callout) > CALLOUT_MAX:
            raise KeyRefused(errno.EINVAL, f"expected at most {CALLOUT_MAX} bytes of callout, not {len(callout)}")
        named = None
        if ring is not None:
            named, _ = self.lookup(actor, ring, Need.WRITE, now_ns, ring=True, create=True)
        key_type = TYPES.get(type_)
        if key_type is None:
            raise KeyRefused(errno.ENOKEY, f"expected one of {', '.join(TYPES)}, not {type_!r}")
        if not actor.process:
            self._session(actor, now_ns)  # a login has one
        key = self._search_as_request(actor, (type_, description), now_ns)
        if key is None:
            if callout is None:
                raise KeyRefused(errno.ENOKEY, f"no key {description!r} of type {type_}, and no callout to get one by")
            return self._begin(actor, key_type, description, named, ring, now_ns)
        if named is not None and not permits(key, actor, Need.LINK, possessed=True):
            raise no_right(key, Need.LINK, actor)
        if key.destination is not None:
            # The kernel links it and waits; what is refused here has done nothing.
            raise KeyRefused(errno.EINPROGRESS, f"{label(key)} is under construction")
        if named is not None:
            self._link(as_ring(named, ring), key, None, now_ns)
        return key

    def instantiate(self, actor: Actor, name: KeyName, payload: bytes, now_ns: int, ring: KeyName | None = None) -> Key:
        """KEYCTL_INSTANTIATE: give a key under construction its payload, and link it to `ring`.

        Raises EPERM for a key that is not under construction, as without the authority for it, and to
        who is neither its owner nor root. A special keyring as `ring` means the destination of the
        request, whichever it names, as in the kernel; @a is EINVAL.
        """
        if len(payload) > _PAYLOAD_MAX:
            raise KeyRefused(errno.EINVAL, f"expected at most {_PAYLOAD_MAX} bytes of payload, not {len(payload)}")
        key = self._constructed(actor, name, now_ns)
        target = self._instantiation_ring(actor, key, ring, now_ns)
        check_payload(key.type, payload)
        if target is None:
            self._recost(key, key.type.cost(payload))
        else:
            with self._link_reserved(target, key.index):
                self._check_link(target, key, None)
                self._recost(key, key.type.cost(payload))
        key.payload = payload
        self._complete(key, 0, target, now_ns)
        return key

    def negate(self, actor: Actor, name: KeyName, seconds: int, now_ns: int, ring: KeyName | None = None) -> Key:
        """KEYCTL_NEGATE: the key answers ENOKEY for so long."""
        return self.reject(actor, name, seconds, errno.ENOKEY, now_ns, ring)

    def reject(
        self, actor: Actor, name: KeyName, seconds: int, error: int, now_ns: int, ring: KeyName | None = None
    ) -> Key:
        """KEYCTL_REJECT: the key answers `error`, 1..4094, until it expires after `seconds`."""
        if not 0 < error < _MAX_ERRNO or error in _RESTARTS:
            raise KeyRefused(errno.EINVAL, f"expected an errno of 1..{_MAX_ERRNO - 1}, not {error}")
        key = self._constructed(actor, name, now_ns)
        target = self._instantiation_ring(actor, key, ring, now_ns)
        if target is not None:
            with self._link_reserved(target, key.index):
                self._check_link(target, key, None)
        key.error = error
        self._set_expiry(key, (now_ns // NS_PER_S + seconds) * NS_PER_S)
        self._complete(key, error, target, now_ns)
        return key

    # -- the inner parts

    def _search_as_request(self, actor: Actor, index: tuple[str, str], now_ns: int) -> Key | None:
        """The key, or None if a new one would be constructed. Raises what a search of all the caller's
        keyrings answers: a negative key's ENOKEY first, and any other error only where no keyring
        could be searched in vain (search_cred_keyrings_rcu)."""

        def refusal(key: Key) -> int:
            wrong = key.validity(now_ns)
            if wrong:
                return SKIP if wrong == errno.EKEYEXPIRED else errno.EKEYREVOKED
            return key.error

        errors: list[int] = []
        for top in self._tops(actor):
            if not permits(top, actor, Need.SEARCH, possessed=True):
                errors.append(errno.EACCES)
                continue
            key, error, _ = find(top, (index,), actor, refusal, possessed=True)
            if key is not None:
                return key
            errors.append(error)
        if (errors and 0 not in errors) or errno.ENOKEY in errors:
            wrong = errno.ENOKEY if errno.ENOKEY in errors else errors[-1]
            raise KeyRefused(wrong, f"the key {index[1]!r} of type {index[0]} cannot be used")
        return None

    def _begin(
        self, actor: Actor, type_: KeyType, description: str, named: Key | None, ring: KeyName | None, now_ns: int
    ) -> Key:
        if type_ is KEYRING:
            raise KeyRefused(errno.EPERM, "nobody constructs keyrings: make one")
        if named is None:
            named = self._default_ring(actor, now_ns)
        if not type_.describes(description):
            raise KeyRefused(errno.EINVAL, f"no key of type {type_.name} may be called {description!r}")
        target = as_ring(named, ring)
        # A restriction of the keyring does not count here, as construct_alloc_key() looks at none.
        with self._link_reserved(target, (type_.name, description)):
            key = self._make(type_, description, actor, type_.default_perm)
        self._recost(key, 0)
        key.pins += 1  # who constructs it holds it
        key.destination = target
        target.pins += 1
        displaced = target.attach(key)
        self._notify(target, KeySubtype.LINKED, key.serial, now_ns)
        if displaced is not None:
            self._reap([displaced], now_ns)
        return key

    def _default_ring(self, actor: Actor, now_ns: int) -> Keyring:
        """Where a key goes that was requested without a keyring (construct_get_dest_keyring): by default the first
        of thread, process and session keyring that there is; a setting begins further down that list."""
        process = self.processes.known(actor)
        setting = REQKEY_DEFAULT if process is None else process.reqkey_of(actor.thread)
        target = None
        if process is not None and setting in (REQKEY_DEFAULT, REQKEY_REQUESTOR, REQKEY_THREAD):
            target = process.threads.get(actor.thread)
        if process is not None and target is None and setting not in _BELOW_PROCESS:
            target = process.ring
        if process is not None and target is None and setting not in (REQKEY_USER, REQKEY_USER_SESSION):
            target = process.session
        if target is None:
            user, user_session = self._user_keyrings(actor, now_ns)
            target = user if setting == REQKEY_USER else user_session
        if not permits(target, actor, Need.WRITE, possessed=True):
            raise no_right(target, Need.WRITE, actor)
        return target

    def _constructed(self, actor: Actor, name: KeyName, now_ns: int) -> Key:
        """The key under construction, for who may complete it. Raises EPERM."""
        key, _ = self.resolve(actor, name, now_ns)
        if key.destination is None:
            raise KeyRefused(errno.EPERM, f"{label(key)} is not under construction", name)
        if not actor.is_admin and actor.uid != key.uid:
            raise KeyRefused(errno.EPERM, f"only user {key.uid} and root complete {label(key)}", name)
        return key

    def _instantiation_ring(self, actor: Actor, key: Key, ring: KeyName | None, now_ns: int) -> Keyring | None:
        number = SPECIAL.get(ring, ring) if isinstance(ring, str) else ring
        if number is None or number == 0:
            return None
        if isinstance(number, int) and number < 0:
            if number == SPECIAL["@a"]:
                raise KeyRefused(errno.EINVAL, "an authorisation key is no keyring", ring)
            if number < _REQUESTOR:
                raise KeyRefused(errno.ENOKEY, f"expected a keyring, not {ring}", ring)
            return key.destination
        return self.lookup_ring(actor, number, Need.WRITE, now_ns, create=True)[0]

    def _complete(self, key: Key, error: int, target: Keyring | None, now_ns: int) -> None:
        destination = key.destination
        assert destination is not None
        key.destination = None
        key.pins -= 1
        destination.pins -= 1
        displaced = None if target is None else target.attach(key)
        self._notify(key, KeySubtype.INSTANTIATED, error, now_ns)
        if target is not None:
            self._notify(target, KeySubtype.LINKED, key.serial, now_ns)
        self._reap([key, destination, *([] if displaced is None else [displaced])], now_ns)
