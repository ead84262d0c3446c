"""Each call about keys: which effects it may have. The rules are those of security/keys/ of Linux 6.12."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from wqfs.abi.records import KeySubtype
from wqfs.run.call import signed, unsigned
from wqfs.run.kernel_effects import About, Effect, Told
from wqfs.run.kernel_state import SETATTR, WRITE, Look

_NOBODY: Final = 0xFFFFFFFF  # (uid_t)-1: no change
_USER_PAYLOAD_MAX: Final = 32767
_NEVER_UPDATED: Final = ("keyring", "asymmetric", "dns_resolver", ".request_key_auth")
_COMPARED_MAX: Final = 1 << 16


def effects(about: About) -> list[Effect]:
    """Empty where the call is about no watched key."""
    if about.call.name == "add_key":
        return _add_key(about)
    if about.call.name == "request_key":
        return _request_key(about)
    planned = _PLANS.get(signed(about.call.arguments[0]))
    return planned(about) if planned is not None else []


def _add_key(about: About) -> list[Effect]:
    ring = about.key(4)
    type_, description = about.text(0, 32), about.text(1)
    called = about.before.called(type_, description) if type_ and description else set()
    links = None if ring is None else about.before.links(ring)

    def fresh(after: Look) -> int | None:
        found = after.called(type_, description) - called if type_ and description else set()
        return found.pop() if len(found) == 1 else None

    effects = []
    for there in filter(about.is_watched, called):
        # An update of what the keyring has, if it is certain that it has this one.
        if type_ in _NEVER_UPDATED or (there not in links if links is not None else len(called) > 1):
            continue
        for each in _updates(about, there, about.call.arguments[2], about.call.arguments[3]):
            effects.append(Effect(each.seen, each.unseen, lambda after: fresh(after) is not None))
    if ring is None or not about.is_watched(ring) or (effects and links is not None):
        return effects
    linked = about.linked(ring, None, fresh)[0]

    def seen(after: Look) -> Told | None:
        # A fresh key is in the keyring, also where it took another's place.
        made = fresh(after) if after.links(ring) is None else None
        return Told(ring, KeySubtype.LINKED, made) if made is not None else linked.seen(after)

    return [*effects, Effect(seen)]


def _request_key(about: About) -> list[Effect]:
    return _finds(about, 0, 3)


def _search(about: About) -> list[Effect]:
    return _finds(about, 2, 4)


def _finds(about: About, type_at: int, ring_at: int) -> list[Effect]:
    """A key is searched for and linked to a keyring."""
    ring = about.watched_key(ring_at) if signed(about.call.arguments[ring_at]) else None
    if ring is None:
        return []
    only = about.the_only(about.text(type_at, 32), about.text(type_at + 1))
    linked = about.linked(ring, None, only)[0]
    found = only(about.before)
    from_there = type_at == 0 or about.key(1) == ring
    if found is None or not about.holds(ring, found) or not from_there or not about.may_link(ring, found):
        return [Effect(linked.seen)]
    return [Effect(linked.seen, Told(ring, KeySubtype.LINKED, found))]


def _get_persistent(about: About) -> list[Effect]:
    uid = unsigned(about.call.arguments[1])
    name = f"_persistent.{about.call.task.uid if uid == _NOBODY else uid}"
    ring = about.watched_key(2)
    found = about.the_only("keyring", name)
    return about.linked(ring, found(about.before), found)


def _link(about: About) -> list[Effect]:
    return about.linked(about.watched_key(2), about.key(1), lambda after: None)


def _unlink(about: About) -> list[Effect]:
    return about.unlinked(about.watched_key(2), about.key(1))


def _move(about: About) -> list[Effect]:
    key, source, target = about.key(1), about.key(2), about.key(3)
    if source == target or key is None:
        return []
    to = about.linked(about.watched_key(3), key, lambda after: None)
    return [*about.unlinked(about.watched_key(2), key), *(Effect(each.seen) for each in to)]


def _clear(about: About) -> list[Effect]:
    ring = about.watched_key(1)
    if ring is None:
        return []
    told = Told(ring, KeySubtype.CLEARED)

    def held(look: Look) -> int | None:
        links = look.links(ring)
        return look.count(ring) if links is None else len(links)

    before = held(about.before)
    empty = before == 0 and about.may(ring, WRITE) and about.before.state(ring).type == "keyring"
    return [Effect(lambda after: told if before and held(after) == 0 else None, told if empty else None)]


def _update(about: About) -> list[Effect]:
    key = about.watched_key(1)
    if key is None or about.before.state(key).type in _NEVER_UPDATED:
        return []
    return _updates(about, key, about.call.arguments[2], about.call.arguments[3])


def _updates(about: About, key: int, address: int, size: int) -> list[Effect]:
    told = Told(key, KeySubtype.UPDATED)
    state, content, count = about.before.state(key), about.before.content(key), about.before.count(key)
    row = about.before.row(key)

    def seen(after: Look) -> Told | None:
        now = after.content(key) if content is not None else None
        changed = (now is not None and now != content) or (count is not None and after.count(key) not in (None, count))
        return told if changed else None

    possible = about.may(key, WRITE) and (row is None or not set("RNi") & set(row.flags))
    if state.type in ("user", "logon"):
        possible = possible and 0 < size <= _USER_PAYLOAD_MAX
        if possible and size <= _COMPARED_MAX:
            # A payload that differs and is not there afterwards was refused.
            possible = _is_payload(about, address, size, content, count)
    return [Effect(seen, told if possible else None)]


def _is_payload(about: About, address: int, size: int, content: bytes | None, count: int | None) -> bool:
    """Whether what is to be written may be what is there already."""
    if content is None:
        return count is None or count == size
    try:
        return about.call.read(address, size) == content
    except OSError:
        return False


def _revoke(about: About) -> list[Effect]:
    return _ends(about, KeySubtype.REVOKED, errno.EKEYREVOKED)


def _invalidate(about: About) -> list[Effect]:
    return _ends(about, KeySubtype.INVALIDATED, errno.ENOKEY)


def _ends(about: About, subtype: KeySubtype, error: int) -> list[Effect]:
    key = about.watched_key(1)
    if key is None or about.before.state(key).error == error:
        return []
    told = Told(key, subtype)
    return [Effect(lambda after: told if after.state(key).error == error else None)]


def _chown(about: About) -> list[Effect]:
    wanted = [unsigned(each) for each in about.call.arguments[2:4]]
    if wanted == [_NOBODY, _NOBODY]:
        return []
    return _sets(
        about,
        lambda look, key: all(
            new in (_NOBODY, old) for new, old in zip(wanted, (look.state(key).uid, look.state(key).gid), strict=True)
        ),
    )


def _setperm(about: About) -> list[Effect]:
    wanted = unsigned(about.call.arguments[2])
    return _sets(about, lambda look, key: look.state(key).perm == wanted, owner=True)


def _sets(about: About, is_so: Callable[[Look, int], bool], *, owner: bool = False) -> list[Effect]:
    """An attribute gets a value."""
    key = about.watched_key(1)
    if key is None or about.before.state(key).error:
        return []
    told = Told(key, KeySubtype.SETATTR)
    if not is_so(about.before, key):

        def seen(after: Look) -> Told | None:
            error = after.state(key).error
            # Or so that it may not be seen any more.
            return told if error == errno.EACCES or (not error and is_so(after, key)) else None

        return [Effect(seen)]
    task = about.call.task
    may = about.may(key, SETATTR) and (not owner or task.uid in (0, about.before.state(key).uid))
    return [Effect(lambda after: None, told if may else None)]


def _set_timeout(about: About) -> list[Effect]:
    key = about.watched_key(1)
    if key is None:
        return []
    told = Told(key, KeySubtype.SETATTR)
    row = about.before.row(key)

    def seen(after: Look) -> Told | None:
        now = after.row(key)
        # It grows shorter by itself.
        return told if row and now and (row.expiry == "perm") != (now.expiry == "perm") else None

    # Seen or not: from none to none, and from one time to another.
    none = unsigned(about.call.arguments[2]) == 0
    possible = row is None or (row.expiry == "perm") == none
    return [Effect(seen, told if possible and about.may(key, SETATTR) else None)]


def _restrict(about: About) -> list[Effect]:
    """A restriction cannot be seen; with a type the kernel may know none, and then nothing is told."""
    ring = about.watched_key(1)
    if ring is None or ring in about.known.restricted or any(about.call.arguments[2:4]):
        return []
    if not about.may(ring, SETATTR) or about.before.state(ring).type != "keyring":
        return []
    about.known.restricted.add(ring)
    return [Effect(lambda after: None, Told(ring, KeySubtype.SETATTR))]


def _constructs(about: About, ring_at: int, error: int) -> list[Effect]:
    """A key under construction gets its payload, or an error."""
    ring = about.watched_key(ring_at) if signed(about.call.arguments[ring_at]) else None
    key = about.key(1)
    linked = about.linked(ring, key, lambda after: None) if key is not None else []
    row = about.before.row(key) if key is not None and about.is_watched(key) else None
    if key is None or row is None or "I" in row.flags or "N" in row.flags:
        return linked
    told = Told(key, KeySubtype.INSTANTIATED, error)

    def seen(after: Look) -> Told | None:
        now = after.row(key)
        return told if now and set(now.flags) & set("IN") else None

    return [Effect(seen), *linked]


_PLANS: Final[dict[int, Callable[[About], list[Effect]]]] = {
    2: _update,
    3: _revoke,
    4: _chown,
    5: _setperm,
    7: _clear,
    8: _link,
    9: _unlink,
    10: _search,
    12: lambda about: _constructs(about, 4, 0),
    13: lambda about: _constructs(about, 3, errno.ENOKEY),
    15: _set_timeout,
    19: lambda about: _constructs(about, 4, unsigned(about.call.arguments[3])),
    20: lambda about: _constructs(about, 4, 0),
    21: _invalidate,
    22: _get_persistent,
    29: _restrict,
    30: _move,
}
