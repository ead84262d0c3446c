"""What is true of all keys together, whatever is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.key_service import ANN, BOB, Service
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.errors import Refused
from wqfs.sim.key_views import key_users_text, keys_text
from wqfs.sim.keys import NS_PER_S, Keyring

S = NS_PER_S


@pytest.fixture
def keys() -> Service:
    return Service()


# -- whatever is done

SHELL = Actor(ANN.uid, ANN.gid, ANN.groups, "sh")
ACTORS = (ROOT, ANN, BOB, SHELL)


def step(keys: Service, draw: Callable[[int], int], now_ns: int) -> None:
    """One operation chosen by numbers, refused or not."""
    actor = ACTORS[draw(4)]
    pool = list(keys.by_serial)
    rings = [s for s, key in keys.by_serial.items() if isinstance(key, Keyring)]
    key: int | str = pool[draw(len(pool))]
    ring: int | str = ("@s", "@u", "@t", "@p", rings[draw(len(rings))])[draw(5)]
    name = "abc"[draw(3)]
    operations: tuple[Callable[[], object], ...] = (
        lambda: keys.add(actor, "user", name, b"x" * (1 + draw(9)), ring, now_ns),
        lambda: keys.new_keyring(actor, name, ring, now_ns),
        lambda: keys.new_keyring(actor, name, ring, now_ns),
        lambda: keys.link(actor, key, ring, now_ns),
        lambda: keys.link(actor, rings[draw(len(rings))], ring, now_ns),
        lambda: keys.unlink(actor, key, ring, now_ns),
        lambda: keys.move(actor, key, ring, rings[draw(len(rings))], now_ns),
        lambda: keys.clear(actor, ring, now_ns),
        lambda: keys.revoke(actor, key, now_ns),
        lambda: keys.invalidate(actor, key, now_ns),
        lambda: keys.set_perm(actor, key, 0x3F3F3F3F, now_ns),
        lambda: keys.chown(actor, key, now_ns, uid=1000 + draw(2)),
        lambda: keys.set_timeout(actor, key, draw(3), now_ns),
        lambda: keys.update(actor, key, b"x" * draw(9), now_ns),
        lambda: keys.join_session(actor, None, now_ns),
        lambda: keys.collect(now_ns),
        lambda: keys.request(actor, "user", name, now_ns, None, ring),
        lambda: keys.request(actor, "user", name, now_ns, b"callout"),
        lambda: keys.request(actor, "user", name, now_ns, b"callout", ring),
        lambda: keys.instantiate(actor, key, b"x" * draw(9), now_ns, ring),
        lambda: keys.reject(actor, key, draw(99), 1 + draw(2), now_ns, ring),
        lambda: keys.purge(actor, "user", name, now_ns),
        lambda: keys.reap(actor, now_ns),
        lambda: keys.get_persistent(actor, ring, now_ns),
        lambda: keys.processes.exec(actor, "sh", now_ns),
        lambda: keys.processes.exit(actor, "child", now_ns),
        lambda: keys.processes.fork(actor, "sh", "child"),
    )
    before = keys_text(keys, None, now_ns), key_users_text(keys)
    told, ended = len(keys.told), len(keys.ended)
    try:
        operations[draw(len(operations))]()
    except Refused:
        # The keyrings of a user may have been made on the way; nothing else.
        if not any(
            name.startswith(("_uid", "_persistent")) or name in ("_ses", "_tid", "_pid")
            for name, _, _ in keys.told[told:]
        ):
            assert (keys_text(keys, None, now_ns), key_users_text(keys)) == before
            assert (len(keys.told), len(keys.ended)) == (told, ended)


def check(keys: Service) -> None:
    """What is true of all keys together, always."""
    held: dict[int, list[int]] = {}
    for serial, key in keys.by_serial.items():
        assert key.serial == serial
        assert key.usage > 0, key
        held.setdefault(key.uid, []).append(key.base_cost + key.cost)
        for ring in key.linked_by:
            assert ring.links[key.index] is key
            assert keys.by_serial[ring.serial] is ring
        if isinstance(key, Keyring):
            assert set(key.rings.values()) == {k for k in key.links.values() if isinstance(k, Keyring)}
            assert key.cost == 4 * len(key.links)
            for index, linked in key.links.items():
                assert linked.index == index
                assert key in linked.linked_by
                assert keys.by_serial[linked.serial] is linked
            assert not below(key, key)
    assert {uid: (user.keys, user.bytes) for uid, user in keys.users.items()} == {
        uid: (len(costs), sum(costs)) for uid, costs in held.items()
    }
    assert len(set(keys.ended)) == len(keys.ended)
    assert not set(keys.ended) & keys.by_serial.keys()


def below(ring: Keyring, wanted: Keyring) -> bool:
    seen: set[Keyring] = set()
    stack = list(ring.rings.values())
    while stack:
        at = stack.pop()
        if at is wanted:
            return True
        if at not in seen:
            seen.add(at)
            stack.extend(at.rings.values())
    return False


@given(st.data())
def test_any_operations_keep_links_quota_and_trees_consistent(data: st.DataObject) -> None:
    keys = Service()
    keys.processes.new(ANN, "sh", ANN.uid, ANN.gid, ANN.groups)
    keys.join_session(SHELL, None, 0)
    numbers = data.draw(st.randoms(use_true_random=False))
    for n in range(60):
        step(keys, numbers.randrange, n * 50 * S)
        check(keys)
