"""The keys that there are, who owns them, what a name means, and who may use the key it means.

A name is a serial number, the number of a special keyring (-3), or text: `@s`, `@u`, `@us`, a
number (`1234`, `0x4d2`), `%TYPE:DESCRIPTION` and `%:RING` as in keyctl(1), or, beyond keyctl, a
bare description, which is looked for in the caller's session keyring and below.

Looking up follows lookup_user_key() of Linux 6.12 (security/keys/process_keys.c): find the key,
see whether the caller possesses it, refuse what is negative, invalidated, revoked or expired, and
only then look at the permissions.

Session, process and thread keyrings are those of the process that acts (`wqfs.sim.processes`). The
login process of a user has a session keyring that is linked to the user keyring, as pam_keyinit(8)
does at login, made when first used. Another process begins without one: until it writes to @s, or
joins one, @s is the user-session keyring (lookup_user_key).
"""

from __future__ import annotations

import errno
import re

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.key_search import find, possesses
from wqfs.sim.key_store import Gone, KeyName, KeyRefused, KeyStore, Notify, label
from wqfs.sim.keys import (
    KEYRING,
    NO_GID,
    POS_ALL,
    TYPES,
    USR_ALL,
    USR_READ,
    USR_VIEW,
    Key,
    Keyring,
    Need,
    Quota,
    permits,
)
from wqfs.sim.processes import Process, Processes

SPECIAL = {"@t": -1, "@p": -2, "@s": -3, "@u": -4, "@us": -5, "@g": -6, "@a": -7}
"""Words of keyctl(1) for the special keyrings."""

_REGISTER_PERM = 0x0C030000
_USER_KEYRING_PERM = (POS_ALL & ~(Need.SETATTR << 24)) | USR_ALL
SESSION_PERM = POS_ALL | USR_VIEW | USR_READ
_OWN_PERM = POS_ALL | USR_VIEW  # of process and thread keyrings
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|-?[0-9]+")
_ANY_TYPE = tuple(TYPES)
_RING_FIRST = ("keyring", *(t for t in TYPES if t != "keyring"))


_WHY = {
    errno.ENOKEY: "was invalidated",
    errno.EKEYREVOKED: "was revoked",
    errno.EKEYEXPIRED: "has expired",
    errno.EKEYREJECTED: "was rejected",
    errno.EINPROGRESS: "is under construction",
}


class KeyTable(KeyStore):
    """The keys, by all their names, and the special keyrings. See Keyrings for the operations."""

    def __init__(
        self,
        notify: Notify,
        gone: Gone,
        *,
        quota: Quota = Quota(),  # noqa: B008  frozen
        max_keys: int = 1_000_000,
        max_processes: int = 32_768,
        max_threads: int | None = None,
        seed: int = 0x2A5F31C7,
    ) -> None:
        """As a KeyStore, with root's keyrings, which the kernel makes when it starts."""
        super().__init__(notify, gone, quota=quota, max_keys=max_keys, seed=seed)
        self.processes = Processes(self._reap_all, limit=max_processes, max_threads=max_threads)
        self.register = self._make_keyring(".user_reg", 0, NO_GID, _REGISTER_PERM)
        self.register.pins = 1
        self.persistent_register: Keyring | None = None
        self._quietly(lambda: self._user_keyrings(ROOT, 0))

    def _reap_all(self, rings: list[Keyring], now_ns: int) -> None:
        self._reap([*rings], now_ns)

    def login(self, actor: Actor) -> None:
        """Make the session, user and user-session keyrings of a user, without events: they were
        there before. Without it they are made, with events, when first used."""
        self._quietly(lambda: self._session(actor, 0, create=True))

    # -- names

    def lookup(
        self,
        actor: Actor,
        name: KeyName,
        need: Need,
        now_ns: int,
        *,
        ring: bool = False,
        partial: bool = False,
        create: bool = False,
    ) -> tuple[Key, bool]:
        """The key called `name` if it may be used so, and whether `actor` possesses it.

        ring: prefer a keyring where a bare description means several; partial: a negative key will
        do, and one under construction; create: make the special keyring if it is not there yet.
        Raises ENOKEY, EKEYREVOKED, EKEYEXPIRED, a negative key's own errno, EINPROGRESS for a key
        under construction, then EACCES; EINVAL for what is no name.
        """
        key, possessed = self.resolve(actor, name, now_ns, ring=ring, create=create)
        wrong = key.validity(now_ns) if partial else key.refusal(now_ns)
        if wrong:
            raise KeyRefused(wrong, f"{label(key)} {_WHY.get(wrong, 'is negative')}", name)
        if not permits(key, actor, need, possessed=possessed):
            raise no_right(key, need, actor, name)
        return key, possessed

    def lookup_ring(
        self, actor: Actor, name: KeyName, need: Need, now_ns: int, *, create: bool = False
    ) -> tuple[Keyring, bool]:
        """As `lookup`, then ENOTDIR if it is no keyring."""
        key, possessed = self.lookup(actor, name, need, now_ns, ring=True, create=create)
        return as_ring(key, name), possessed

    def resolve(
        self, actor: Actor, name: KeyName, now_ns: int, *, ring: bool = False, create: bool = False
    ) -> tuple[Key, bool]:
        """The key that `name` means, in whatever state, and whether `actor` possesses it.

        Raises ENOKEY, EACCES (the one found grants no Search), EINVAL.
        """
        if isinstance(name, str):
            if name[:1] not in "@%-0123456789":
                return self._described(actor, name, now_ns, _RING_FIRST if ring else _ANY_TYPE), True
            if name[:1] == "%":
                return self._by_type_and_description(actor, name, now_ns)
            if name in SPECIAL:
                return self._special(actor, SPECIAL[name], name, now_ns, create=create), True
            if not _NUMBER.fullmatch(name):
                if not name or name[0] in "@-":
                    raise KeyRefused(errno.EINVAL, f"expected a key, not {name!r}", name)
                return self._described(actor, name, now_ns, _RING_FIRST if ring else _ANY_TYPE), True
            try:
                serial = int(name, 16 if name[:2] in ("0x", "0X") else 10)
            except ValueError:  # more digits than Python reads: with max_line above 4,300
                raise KeyRefused(errno.ENOKEY, f"there is no key {name[:20]}...", name) from None
        else:
            serial = name
        if serial < 1:
            return self._special(actor, serial, name, now_ns, create=create), True
        key = self.by_serial.get(serial)
        if key is None:
            raise KeyRefused(errno.ENOKEY, f"there is no key {serial}", name)
        return key, possesses(key, actor, self._tops(actor))

    def may_view(self, actor: Actor, key: Key) -> bool:
        """Whether the key grants View to `actor`: what watching it needs."""
        return permits(key, actor, Need.VIEW, possessed=possesses(key, actor, self._tops(actor)))

    def possesses(self, actor: Actor, key: Key) -> bool:
        """Whether a search of the actor's keyrings finds `key`."""
        return possesses(key, actor, self._tops(actor))

    def _described(self, actor: Actor, description: str, now_ns: int, types: tuple[str, ...]) -> Key:
        process = self.processes.known(actor)
        if types is _ANY_TYPE and process is not None and process.ring is None and not process.threads:
            session = process.session
            # The usual case: a user key right in the session keyring.
            key = None if session is None else session.links.get(("user", description))
            if (
                session is not None
                and key is not None
                and not (session.validity(now_ns) or key.refusal(now_ns))
                and permits(session, actor, Need.SEARCH, possessed=True)
                and permits(key, actor, Need.SEARCH, possessed=True)
            ):
                return key
        found = self._search_tops(actor, tuple((t, description) for t in types), description, now_ns)
        if found is None:
            raise KeyRefused(
                errno.ENOKEY, f"no key called {description!r} in the session keyring or below it", description
            )
        return found

    def _search_tops(self, actor: Actor, indexes: tuple[tuple[str, str], ...], name: str, now_ns: int) -> Key | None:
        """A usable key in the keyrings of the process if there is one, else one that is not: what is
        wrong with it is then said."""
        if self.processes.known(actor) is None:
            self._session(actor, now_ns)
        refusal: KeyRefused | None = None
        unusable: Key | None = None
        tops = self._tops(actor)
        for top in tops:
            wrong = top.validity(now_ns)
            if wrong:
                refusal = refusal or KeyRefused(wrong, f"{label(top)} {_WHY[wrong]}: see `key new_session`", name)
                continue
            if not permits(top, actor, Need.SEARCH, possessed=True):
                refusal = refusal or no_right(top, Need.SEARCH, actor, name)
                continue
            key, error, passed = find(top, indexes, actor, lambda k: k.refusal(now_ns), possessed=True)
            if key is not None:
                return key
            if error == errno.EACCES:
                assert passed is not None
                refusal = refusal or no_right(passed, Need.SEARCH, actor, name)
            else:
                unusable = unusable or passed
        if unusable is None and refusal is not None:
            raise refusal
        return unusable

    def _by_type_and_description(self, actor: Actor, name: str, now_ns: int) -> tuple[Key, bool]:
        """`%user:colour`: in the session keyring, else any key that may be viewed (keyctl(1))."""
        type_, colon, description = name[1:].partition(":")
        if not colon or not description:
            raise KeyRefused(errno.EINVAL, f"expected %TYPE:DESCRIPTION or %:RING, not {name!r}", name)
        index = (type_ or KEYRING.name, description)
        key = self._search_tops(actor, (index,), name, now_ns)
        if key is not None:
            return key, True
        for other in self.by_serial.values():
            if other.index == index and not other.refusal(now_ns):
                possessed = self.possesses(actor, other)
                if permits(other, actor, Need.VIEW, possessed=possessed):
                    return other, possessed
        raise KeyRefused(errno.ENOKEY, f"no key of type {index[0]} called {description!r}", name)

    # -- special keyrings

    def _special(self, actor: Actor, number: int, name: KeyName, now_ns: int, *, create: bool) -> Keyring:
        if number == -3:
            return self._session(actor, now_ns, create=create)
        if number == -4:
            return self._user_keyrings(actor, now_ns)[0]
        if number == -5:
            return self._user_keyrings(actor, now_ns)[1]
        if number in (-1, -2):
            return self._own_keyring(actor, number, name, now_ns, create=create)
        if number in (-7, -8):
            raise KeyRefused(errno.ENOKEY, "no process has assumed the authority to construct a key", name)
        if number == -6:
            raise KeyRefused(errno.EINVAL, "group keyrings do not exist, in the kernel either", name)
        raise KeyRefused(errno.EINVAL, f"expected the number of a key, not {number}", name)

    def _tops(self, actor: Actor) -> tuple[Keyring, ...]:
        """The keyrings that a search for the actor begins with: those of its thread and its process,
        then the session keyring, or as long as there is none the user-session keyring
        (search_cred_keyrings_rcu)."""
        process = self.processes.known(actor)
        session = None if process is None else process.session
        if session is None:
            session = self.register.rings.get(f"_uid_ses.{actor.uid}")
        if process is None or (process.ring is None and not process.threads):
            return () if session is None else (session,)
        tops = (process.threads.get(actor.thread), process.ring, session)
        return tuple([ring for ring in tops if ring is not None])

    def _own_keyring(self, actor: Actor, number: int, name: KeyName, now_ns: int, *, create: bool) -> Keyring:
        """@t or @p: made when first written to, quota or not."""
        process = self.processes.of(actor)
        ring = process.threads.get(actor.thread) if number == -1 else process.ring
        if ring is not None:
            return ring
        whose = f"thread {actor.thread or 'one'} of process" if number == -1 else "process"
        if not create:
            raise KeyRefused(errno.ENOKEY, f"{whose} {process.name} has no keyring of its own yet", name)
        called = "_tid" if number == -1 else "_pid"
        ring = self._make_keyring(called, actor.uid, actor.gid, _OWN_PERM, overrun=True)
        ring.pins = 1
        if number == -1:
            process.threads[actor.thread] = ring
        else:
            process.ring = ring
        self._notify(ring, KeySubtype.INSTANTIATED, 0, now_ns)
        return ring

    def _session(self, actor: Actor, now_ns: int, *, create: bool = False) -> Keyring:
        """@s. A login process gets one that is linked to @u; another process the user-session keyring,
        or if it wants to write one of its own."""
        process = self.processes.of(actor)
        session = process.session
        if self.processes.logins.get(actor.uid) is process:
            if session is None:
                user, _ = self._user_keyrings(actor, now_ns)
                session = self._new_session(actor, "_ses", SESSION_PERM, now_ns, overrun=True)
                self._link_new(session, user, now_ns)
            return session
        if session is None or (create and session.description == f"_uid_ses.{session.uid}"):
            _, of_user = self._user_keyrings(actor, now_ns)
            if create:
                return self._new_session(actor, "_ses", SESSION_PERM, now_ns, overrun=session is None)
            session = of_user
            self._install_session(actor, session, now_ns)
        return session

    def _new_session(self, actor: Actor, name: str, perm: int, now_ns: int, *, overrun: bool = False) -> Keyring:
        session = self._make_keyring(name, actor.uid, actor.gid, perm, overrun=overrun)
        self._install_session(actor, session, now_ns)
        self._notify(session, KeySubtype.INSTANTIATED, 0, now_ns)
        return session

    def _install_session(self, actor: Actor, session: Keyring, now_ns: int) -> None:
        process: Process = self.processes.of(actor)
        old, process.session = process.session, session
        session.pins += 1
        if old is not None:
            old.pins -= 1
            self._reap([old], now_ns)

    def _user_keyrings(self, actor: Actor, now_ns: int) -> tuple[Keyring, Keyring]:
        """@u and @us, made when first used; @us links to @u (look_up_user_keyrings)."""
        user = self._registered(actor, f"_uid.{actor.uid}", now_ns)
        if user is None:
            user = self._make_keyring(f"_uid.{actor.uid}", actor.uid, NO_GID, _USER_KEYRING_PERM)
            self._notify(user, KeySubtype.INSTANTIATED, 0, now_ns)
            self._link_new(self.register, user, now_ns)
        session = self._registered(actor, f"_uid_ses.{actor.uid}", now_ns)
        if session is None:
            session = self._make_keyring(f"_uid_ses.{actor.uid}", actor.uid, NO_GID, _USER_KEYRING_PERM)
            self._notify(session, KeySubtype.INSTANTIATED, 0, now_ns)
            self._link_new(session, user, now_ns)
            self._link_new(self.register, session, now_ns)
        return user, session

    def _registered(self, actor: Actor, name: str, now_ns: int) -> Keyring | None:
        ring = self.register.rings.get(name)
        if ring is not None and (ring.validity(now_ns) or not permits(ring, actor, Need.SEARCH, possessed=True)):
            raise KeyRefused(errno.ENOKEY, f"the keyring {name} cannot be used any more")
        return ring


def as_ring(key: Key, name: KeyName | None = None) -> Keyring:
    """`key` as a keyring. Raises ENOTDIR."""
    if not isinstance(key, Keyring):
        raise KeyRefused(errno.ENOTDIR, f"expected a keyring, {label(key)} is of type {key.type.name}", name)
    return key


def no_right(key: Key, need: Need, actor: Actor, name: KeyName | None = None) -> KeyRefused:
    """EACCES, to be raised."""
    return KeyRefused(errno.EACCES, f"{label(key)} does not grant {need.name} to user {actor.uid}", name)
