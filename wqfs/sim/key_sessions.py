"""Session keyrings and who has which: joining one, handing it to the parent, the persistent keyring, and where
requested keys go.

Rules as `wqfs.sim.keyring` says (security/keys/process_keys.c, persistent.c and keyctl.c of Linux 6.12).
"""

from __future__ import annotations

import errno
from typing import Final

from wqfs.abi.records import KeySubtype
from wqfs.sim.command import Actor
from wqfs.sim.key_construction import KeyConstruction
from wqfs.sim.key_links import check_description
from wqfs.sim.key_store import KeyName, KeyRefused
from wqfs.sim.key_table import SESSION_PERM, no_right
from wqfs.sim.keys import (
    LINK_BYTES,
    NO_GID,
    NS_PER_S,
    POS_ALL,
    USR_LINK,
    USR_READ,
    USR_VIEW,
    Keyring,
    Need,
    permits,
)
from wqfs.sim.processes import REQKEY_PROCESS, REQKEY_SETTINGS, REQKEY_THREAD

_PERSISTENT_PERM = (POS_ALL & ~(Need.SETATTR << 24)) | USR_VIEW | USR_READ
_PERSISTENT_S = 3 * 24 * 3600  # sys/kernel/keys/persistent_keyring_expiry
_NAMED_SESSION_PERM = POS_ALL | USR_VIEW | USR_READ | USR_LINK
_NO_CHANGE: Final = -1


class KeySessions(KeyConstruction):
    """The keys with what belongs to sessions. See Keyrings."""

    def join_session(self, actor: Actor, name: str | None, now_ns: int) -> Keyring:
        """KEYCTL_JOIN_SESSION_KEYRING: another session keyring for the user, empty; with a name one
        of that name that grants Search, if there is one."""
        if name is None:
            return self._new_session(actor, "_ses", SESSION_PERM, now_ns)
        check_description(name)
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

    def session_to_parent(self, actor: Actor, parent: str, now_ns: int) -> None:
        """KEYCTL_SESSION_TO_PARENT: the process called `parent` gets the session keyring of the one that acts.

        Needs Link on it. Raises EPERM where the parent is another user's, or either session keyring is.
        """
        key, _ = self.lookup(actor, "@s", Need.LINK, now_ns)
        process = self.processes.find(parent)
        assert isinstance(key, Keyring)
        if process.session is key:
            return
        theirs = process.session
        if process.uid != actor.uid or process.gid != actor.gid:
            raise KeyRefused(errno.EPERM, f"process {parent} belongs to user {process.uid}, not to {actor.uid}")
        if key.uid != actor.uid or (theirs is not None and theirs.uid != actor.uid):
            raise KeyRefused(errno.EPERM, f"the session keyring of one of the two is not of user {actor.uid}")
        self._install_session(Actor(process.uid, process.gid, process.groups, process.name), key, now_ns)

    def set_reqkey_keyring(self, actor: Actor, setting: int, now_ns: int) -> int:
        """KEYCTL_SET_REQKEY_KEYRING: where this thread's requested keys go that name no keyring; returns what it
        was, -1 asks only. 0 default, 1 thread, 2 process, 3 session, 4 user, 5 user-session, 7 requestor."""
        process = self.processes.of(actor)
        old = process.reqkey_of(actor.thread)
        if setting == _NO_CHANGE:
            return old
        if setting not in REQKEY_SETTINGS:
            raise KeyRefused(errno.EINVAL, f"expected one of {sorted(REQKEY_SETTINGS)} or -1, not {setting}")
        if setting in (REQKEY_THREAD, REQKEY_PROCESS):
            self._special(actor, -setting, -setting, now_ns, create=True)
        process.reqkey[actor.thread] = setting
        return old

    def get_persistent(self, actor: Actor, ring: KeyName, now_ns: int, uid: int | None = None) -> Keyring:
        """KEYCTL_GET_PERSISTENT: link a user's persistent keyring to `ring`. It expires three days
        after this was last asked for. Another user's is root's alone, EPERM. It is made, quota or
        not, even where the link is then refused."""
        uid = actor.uid if uid is None else uid
        if uid != actor.uid and not actor.is_admin:
            raise KeyRefused(errno.EPERM, f"only root gets the persistent keyring of user {uid}")
        target, _ = self.lookup_ring(actor, ring, Need.WRITE, now_ns, create=True)
        if self.persistent_register is None:
            self.persistent_register = self._make_keyring(".persistent_register", 0, 0, _PERSISTENT_PERM, overrun=True)
            self.persistent_register.pins = 1
        name = f"_persistent.{uid}"
        persistent = self.persistent_register.rings.get(name)
        if persistent is None or persistent.revoked or persistent.invalidated:
            if persistent is not None:
                self.persistent_register.detach(persistent.index)
                self._recost(self.persistent_register, self.persistent_register.cost - LINK_BYTES)
                self._reap([persistent], now_ns)
            persistent = self._make_keyring(name, uid, NO_GID, _PERSISTENT_PERM, overrun=True)
            self._notify(persistent, KeySubtype.INSTANTIATED, 0, now_ns)
            self._link_new(self.persistent_register, persistent, now_ns)
            self._set_expiry(persistent, (now_ns // NS_PER_S + _PERSISTENT_S) * NS_PER_S)
        if not permits(persistent, actor, Need.LINK, possessed=True):
            raise no_right(persistent, Need.LINK, actor)
        self._link(target, persistent, None, now_ns)
        self._set_expiry(persistent, (now_ns // NS_PER_S + _PERSISTENT_S) * NS_PER_S)
        self._notify(persistent, KeySubtype.SETATTR, 0, now_ns)
        return persistent
