"""What a call about the kernel's keys does to keys that are watched: which events it makes, and how that is seen.

The supervisor does not see the result of a call that goes on in the kernel. It looks at the watched keys before and
after, and tells an event from the difference. Some calls may leave none (a key is updated with what it has, an empty
keyring is cleared): then the rights decide that the caller has on the key, once the call is over.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wqfs.abi.records import KeySubtype
from wqfs.run.call import PAGE, Call, signed, unsigned
from wqfs.run.kernel_state import LINK, SETATTR, WRITE, Look

_NOBODY: Final = 0xFFFFFFFF  # (uid_t)-1: no change
_USER_PAYLOAD_MAX: Final = 32767
_NEVER_UPDATED: Final = ("keyring", "asymmetric", "dns_resolver", ".request_key_auth")
_COMPARED_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a key."""

    key: int
    subtype: KeySubtype
    aux: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """An event that a call may make. seen: looks whether it did; unseen: what is told once the call is over and
    nothing was seen, by the caller's rights; unless: what speaks against that."""

    seen: Callable[[Look], Told | None]
    unseen: Told | None = None
    unless: Callable[[Look], bool] = lambda after: False


class Plan:
    """The effects of one call. watched: whether a key is; resolve: the key that the caller means by a number, None
    if unknown; before: the keys as they are; restricted: keyrings that are known to be, and is added to."""

    def __init__(
        self,
        call: Call,
        watched: Callable[[int], bool],
        resolve: Callable[[int], int | None],
        before: Look,
        restricted: set[int],
    ) -> None:
        self._call = call
        self._watched = watched
        self._resolve = resolve
        self._before = before
        self._restricted = restricted

    def effects(self) -> list[Effect]:
        """Empty where the call is about no watched key."""
        if self._call.name == "add_key":
            return self._add_key()
        if self._call.name == "request_key":
            return self._request_key()
        planned = _PLANS.get(signed(self._call.arguments[0]))
        return planned(self) if planned is not None else []

    # -- arguments

    def _key(self, at: int) -> int | None:
        """The key that an argument names."""
        return self._resolve(signed(self._call.arguments[at]))

    def _watched_key(self, at: int) -> int | None:
        """The same, if it is watched."""
        serial = self._key(at)
        return serial if serial is not None and self._watched(serial) else None

    def _text(self, at: int, limit: int = PAGE) -> str | None:
        try:
            return os.fsdecode(self._call.read_text(self._call.arguments[at], limit))
        except OSError:
            return None

    def _may(self, serial: int, right: int) -> bool:
        state = self._before.state(serial)
        return not state.error and bool(state.rights(self._call.task) & right)

    def _may_link(self, ring: int, key: int) -> bool:
        return self._may(ring, WRITE) and self._may(key, LINK)

    # -- links

    def _links(self, ring: int | None, key: int | None, finds: Callable[[Look], int | None]) -> list[Effect]:
        """A key is linked to a keyring. key: if it is known before; finds: tells it afterwards otherwise."""
        if ring is None:
            return []
        before, count = self._before.links(ring), self._before.count(ring)

        def seen(after: Look) -> Told | None:
            links = after.links(ring)
            if before is not None and links is not None:
                fresh = [each for each in links if each not in before]
                if key is None and fresh:
                    return Told(ring, KeySubtype.LINKED, fresh[0])
                return Told(ring, KeySubtype.LINKED, key) if key is not None and key in fresh else None
            now = after.count(ring)
            found = finds(after) if key is None else key
            grown = now is not None and count is not None and now > count
            return Told(ring, KeySubtype.LINKED, found) if found is not None and grown else None

        again = key is not None and before is not None and key in before and self._may_link(ring, key)
        return [Effect(seen, Told(ring, KeySubtype.LINKED, key) if again and key is not None else None)]

    def _unlinks(self, ring: int | None, key: int | None) -> list[Effect]:
        if ring is None or key is None:
            return []
        before, count = self._before.links(ring), self._before.count(ring)

        def seen(after: Look) -> Told | None:
            links = after.links(ring)
            if before is not None and links is not None:
                gone = bool(set(before) - set(links))  # by type and description: it may be another key
            else:
                now = after.count(ring)
                gone = now is not None and count is not None and now < count
            return Told(ring, KeySubtype.UNLINKED, key) if gone else None

        return [Effect(seen)]

    def _the_only(self, type_: str | None, description: str | None) -> Callable[[Look], int | None]:
        """Finds the key that is called so, if there is one alone."""

        def finds(look: Look) -> int | None:
            called = look.called(type_, description) if type_ and description else set()
            return next(iter(called)) if len(called) == 1 else None

        return finds

    # -- calls

    def _add_key(self) -> list[Effect]:
        ring = self._key(4)
        type_, description = self._text(0, 32), self._text(1)
        called = self._before.called(type_, description) if type_ and description else set()
        links = None if ring is None else self._before.links(ring)

        def fresh(after: Look) -> int | None:
            found = after.called(type_, description) - called if type_ and description else set()
            return found.pop() if len(found) == 1 else None

        effects = []
        for there in filter(self._watched, called):
            # An update of what the keyring has, if it is certain that it has this one.
            if type_ in _NEVER_UPDATED or (there not in links if links is not None else len(called) > 1):
                continue
            for each in self._updates(there, self._call.arguments[2], self._call.arguments[3]):
                effects.append(Effect(each.seen, each.unseen, lambda after: fresh(after) is not None))
        if ring is None or not self._watched(ring) or (effects and links is not None):
            return effects
        linked = self._links(ring, None, fresh)[0]

        def seen(after: Look) -> Told | None:
            # A fresh key is in the keyring, also where it took another's place.
            made = fresh(after) if after.links(ring) is None else None
            return Told(ring, KeySubtype.LINKED, made) if made is not None else linked.seen(after)

        return [*effects, Effect(seen)]

    def _request_key(self) -> list[Effect]:
        return self._finds(0, 3)

    def _search(self) -> list[Effect]:
        return self._finds(2, 4)

    def _finds(self, type_at: int, ring_at: int) -> list[Effect]:
        """A key is searched for and linked to a keyring."""
        ring = self._watched_key(ring_at) if signed(self._call.arguments[ring_at]) else None
        if ring is None:
            return []
        only = self._the_only(self._text(type_at, 32), self._text(type_at + 1))
        linked = self._links(ring, None, only)[0]
        found, links = only(self._before), self._before.links(ring)
        from_there = type_at == 0 or self._key(1) == ring
        if found is None or links is None or found not in links or not from_there or not self._may_link(ring, found):
            return [Effect(linked.seen)]
        return [Effect(linked.seen, Told(ring, KeySubtype.LINKED, found))]

    def _get_persistent(self) -> list[Effect]:
        uid = unsigned(self._call.arguments[1])
        name = f"_persistent.{self._call.task.uid if uid == _NOBODY else uid}"
        ring = self._watched_key(2)
        found = self._the_only("keyring", name)
        return self._links(ring, found(self._before), found)

    def _link(self) -> list[Effect]:
        return self._links(self._watched_key(2), self._key(1), lambda after: None)

    def _unlink(self) -> list[Effect]:
        return self._unlinks(self._watched_key(2), self._key(1))

    def _move(self) -> list[Effect]:
        key, source, target = self._key(1), self._key(2), self._key(3)
        if source == target or key is None:
            return []
        to = self._links(self._watched_key(3), key, lambda after: None)
        return [*self._unlinks(self._watched_key(2), key), *(Effect(each.seen) for each in to)]

    def _clear(self) -> list[Effect]:
        ring = self._watched_key(1)
        if ring is None:
            return []
        told = Told(ring, KeySubtype.CLEARED)

        def held(look: Look) -> int | None:
            links = look.links(ring)
            return look.count(ring) if links is None else len(links)

        before = held(self._before)
        empty = before == 0 and self._may(ring, WRITE) and self._before.state(ring).type == "keyring"
        return [Effect(lambda after: told if before and held(after) == 0 else None, told if empty else None)]

    def _update(self) -> list[Effect]:
        key = self._watched_key(1)
        if key is None or self._before.state(key).type in _NEVER_UPDATED:
            return []
        return self._updates(key, self._call.arguments[2], self._call.arguments[3])

    def _updates(self, key: int, address: int, size: int) -> list[Effect]:
        told = Told(key, KeySubtype.UPDATED)
        state, content, count = self._before.state(key), self._before.content(key), self._before.count(key)
        row = self._before.row(key)

        def seen(after: Look) -> Told | None:
            now = after.content(key) if content is not None else None
            changed = (now is not None and now != content) or (
                count is not None and after.count(key) not in (None, count)
            )
            return told if changed else None

        possible = self._may(key, WRITE) and (row is None or not set("RNi") & set(row.flags))
        if state.type in ("user", "logon"):
            possible = possible and 0 < size <= _USER_PAYLOAD_MAX
            if possible and size <= _COMPARED_MAX:
                # A payload that differs and is not there afterwards was refused.
                possible = self._is_payload(address, size, content, count)
        return [Effect(seen, told if possible else None)]

    def _is_payload(self, address: int, size: int, content: bytes | None, count: int | None) -> bool:
        """Whether what is to be written may be what is there already."""
        if content is None:
            return count is None or count == size
        try:
            return self._call.read(address, size) == content
        except OSError:
            return False

    def _revoke(self) -> list[Effect]:
        return self._ends(KeySubtype.REVOKED, errno.EKEYREVOKED)

    def _invalidate(self) -> list[Effect]:
        return self._ends(KeySubtype.INVALIDATED, errno.ENOKEY)

    def _ends(self, subtype: KeySubtype, error: int) -> list[Effect]:
        key = self._watched_key(1)
        if key is None or self._before.state(key).error == error:
            return []
        told = Told(key, subtype)
        return [Effect(lambda after: told if after.state(key).error == error else None)]

    def _chown(self) -> list[Effect]:
        wanted = [unsigned(each) for each in self._call.arguments[2:4]]
        if wanted == [_NOBODY, _NOBODY]:
            return []
        return self._sets(
            lambda look, key: all(
                new in (_NOBODY, old)
                for new, old in zip(wanted, (look.state(key).uid, look.state(key).gid), strict=True)
            )
        )

    def _setperm(self) -> list[Effect]:
        wanted = unsigned(self._call.arguments[2])
        return self._sets(lambda look, key: look.state(key).perm == wanted, owner=True)

    def _sets(self, is_so: Callable[[Look, int], bool], *, owner: bool = False) -> list[Effect]:
        """An attribute gets a value."""
        key = self._watched_key(1)
        if key is None or self._before.state(key).error:
            return []
        told = Told(key, KeySubtype.SETATTR)
        if not is_so(self._before, key):

            def seen(after: Look) -> Told | None:
                error = after.state(key).error
                # Or so that it may not be seen any more.
                return told if error == errno.EACCES or (not error and is_so(after, key)) else None

            return [Effect(seen)]
        task = self._call.task
        may = self._may(key, SETATTR) and (not owner or task.uid in (0, self._before.state(key).uid))
        return [Effect(lambda after: None, told if may else None)]

    def _set_timeout(self) -> list[Effect]:
        key = self._watched_key(1)
        if key is None:
            return []
        told = Told(key, KeySubtype.SETATTR)
        row = self._before.row(key)

        def seen(after: Look) -> Told | None:
            now = after.row(key)
            # It grows shorter by itself.
            return told if row and now and (row.expiry == "perm") != (now.expiry == "perm") else None

        # Seen or not: from none to none, and from one time to another.
        none = unsigned(self._call.arguments[2]) == 0
        possible = row is None or (row.expiry == "perm") == none
        return [Effect(seen, told if possible and self._may(key, SETATTR) else None)]

    def _restrict(self) -> list[Effect]:
        """A restriction cannot be seen; with a type the kernel may know none, and then nothing is told."""
        ring = self._watched_key(1)
        if ring is None or ring in self._restricted or any(self._call.arguments[2:4]):
            return []
        if not self._may(ring, SETATTR) or self._before.state(ring).type != "keyring":
            return []
        self._restricted.add(ring)
        return [Effect(lambda after: None, Told(ring, KeySubtype.SETATTR))]

    def _constructs(self, ring_at: int, error: int) -> list[Effect]:
        """A key under construction gets its payload, or an error."""
        ring = self._watched_key(ring_at) if signed(self._call.arguments[ring_at]) else None
        key = self._key(1)
        linked = self._links(ring, key, lambda after: None) if key is not None else []
        row = self._before.row(key) if key is not None and self._watched(key) else None
        if key is None or row is None or "I" in row.flags or "N" in row.flags:
            return linked
        told = Told(key, KeySubtype.INSTANTIATED, error)

        def seen(after: Look) -> Told | None:
            now = after.row(key)
            return told if now and set(now.flags) & set("IN") else None

        return [Effect(seen), *linked]


_PLANS: Final[dict[int, Callable[[Plan], list[Effect]]]] = {
    2: Plan._update,
    3: Plan._revoke,
    4: Plan._chown,
    5: Plan._setperm,
    7: Plan._clear,
    8: Plan._link,
    9: Plan._unlink,
    10: Plan._search,
    12: lambda plan: plan._constructs(4, 0),
    13: lambda plan: plan._constructs(3, errno.ENOKEY),
    15: Plan._set_timeout,
    19: lambda plan: plan._constructs(4, unsigned(plan._call.arguments[3])),
    20: lambda plan: plan._constructs(4, 0),
    21: Plan._invalidate,
    22: Plan._get_persistent,
    29: Plan._restrict,
    30: Plan._move,
}
