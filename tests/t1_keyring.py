"""Making, changing, linking and ending keys, against the rules of Linux 6.12."""

from __future__ import annotations

import errno

import pytest

from tests.key_service import ANN, Service, refused
from wqfs.sim.command import ROOT
from wqfs.sim.keys import GC_DELAY_NS, NS_PER_S, Keyring, Need

S = NS_PER_S


@pytest.fixture
def keys() -> Service:
    return Service()


# -- making keys


def test_add_new_key_posts_instantiated_then_linked(keys: Service) -> None:
    key = keys.user()
    assert keys.news() == [("colour", "instantiated", 0), ("_ses", "linked", key.serial)]


def test_add_same_description_updates_the_key_there(keys: Service) -> None:
    key = keys.user()
    keys.news()
    assert keys.add(ANN, "user", "colour", b"blue", "@s", 0) is key
    assert keys.news() == [("colour", "updated", 0)]
    assert key.payload == b"blue"


def test_add_same_description_other_type_is_another_key(keys: Service) -> None:
    assert keys.add(ANN, "big_key", "colour", b"x", "@s", 0) is not keys.user()


def test_add_over_revoked_key_replaces_it(keys: Service) -> None:
    old = keys.user()
    keys.revoke(ANN, old.serial, 0)
    assert keys.user() is not old
    assert keys.ended == [old.serial]


def test_add_over_expired_key_updates_it_for_good(keys: Service) -> None:
    key = keys.user()
    keys.set_timeout(ANN, key.serial, 1, 0)
    assert keys.add(ANN, "user", "colour", b"blue", "@s", 5 * S) is key
    assert key.expiry_ns is None


def test_add_without_write_on_the_key_there_is_eacces(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x3B3B0000, 0)
    refused(errno.EACCES, keys.user)


def test_newring_of_a_name_there_replaces_it(keys: Service) -> None:
    old, new = keys.ring(), keys.ring()
    assert old is not new
    assert keys.ended == [old.serial]


@pytest.mark.parametrize(
    ("type_", "description", "payload", "ring", "number"),
    [
        ("user", "d", b"", "@s", errno.EINVAL),
        ("user", "d", b"x" * 32768, "@s", errno.EINVAL),
        ("user", "", b"x", "@s", errno.EINVAL),
        ("user", "d" * 4096, b"x", "@s", errno.EINVAL),
        ("", "d", b"x", "@s", errno.EINVAL),
        ("t" * 32, "d", b"x", "@s", errno.EINVAL),
        (".user", "d", b"x", "@s", errno.EPERM),
        ("keyring", ".d", b"", "@s", errno.EPERM),
        ("keyring", "d", b"x", "@s", errno.EINVAL),
        ("nosuch", "d", b"x", "@s", errno.ENODEV),
        ("nosuch", "d", b"x", 77, errno.ENOKEY),
        ("logon", "plain", b"x", "@s", errno.EINVAL),
        ("logon", ":x", b"x", "@s", errno.EINVAL),
        ("big_key", "d", b"x" * (1 << 20), "@s", errno.EINVAL),
        ("user", "d", b"x", 12345, errno.ENOKEY),
        ("user", "d", b"x", 0, errno.EINVAL),
        ("user", "d", b"x", "@g", errno.EINVAL),
    ],
)
def test_add_refused(keys: Service, type_: str, description: str, payload: bytes, ring: int | str, number: int) -> None:
    refused(number, keys.add, ANN, type_, description, payload, ring, 0)
    assert keys.news() == []


def test_add_into_a_user_key_is_enotdir(keys: Service) -> None:
    refused(errno.ENOTDIR, keys.user, "other", keys.user().serial)


@pytest.mark.parametrize(("type_", "perm"), [("user", 0x3F010000), ("logon", 0x3D010000), ("big_key", 0x3F010000)])
def test_add_default_permissions(keys: Service, type_: str, perm: int) -> None:
    assert keys.add(ANN, type_, "a:b", b"x", "@s", 0).perm == perm


def test_newring_default_permissions(keys: Service) -> None:
    assert keys.ring().perm == 0x3F010000


# -- updating


def test_update_posts_updated_and_takes_the_timeout_away(keys: Service) -> None:
    key = keys.user()
    keys.set_timeout(ANN, key.serial, 10, 0)
    keys.news()
    keys.update(ANN, key.serial, b"blue", 0)
    assert keys.news() == [("colour", "updated", 0)]
    assert (key.payload, key.expiry_ns) == (b"blue", None)


@pytest.mark.parametrize("size", [0, 4097])
def test_update_payload_of_wrong_size_is_einval(keys: Service, size: int) -> None:
    refused(errno.EINVAL, keys.update, ANN, keys.user().serial, b"x" * size, 0)


def test_update_keyring_is_eopnotsupp(keys: Service) -> None:
    refused(errno.EOPNOTSUPP, keys.update, ANN, keys.ring().serial, b"x", 0)


def test_update_without_write_is_eacces_even_for_root(keys: Service) -> None:
    refused(errno.EACCES, keys.update, ROOT, keys.user().serial, b"x", 0)


# -- links


def test_link_and_unlink_name_the_key_in_aux(keys: Service) -> None:
    ring, key = keys.ring(), keys.user()
    keys.news()
    keys.link(ANN, key.serial, ring.serial, 0)
    keys.unlink(ANN, key.serial, ring.serial, 0)
    assert keys.news() == [("r", "linked", key.serial), ("r", "unlinked", key.serial)]


def test_link_again_posts_again(keys: Service) -> None:
    key = keys.user()
    keys.news()
    keys.link(ANN, key.serial, "@s", 0)
    assert keys.news() == [("_ses", "linked", key.serial)]
    assert key.usage == 1


def test_link_replaces_one_of_the_same_type_and_description(keys: Service) -> None:
    ring = keys.ring()
    old = keys.user(ring=ring.serial)
    new = keys.user()
    keys.link(ANN, new.serial, ring.serial, 0)
    assert list(ring.links.values()) == [new]
    assert keys.ended == [old.serial]


def test_link_checks_the_keyring_before_the_key(keys: Service) -> None:
    key = keys.user()
    keys.revoke(ANN, key.serial, 0)
    refused(errno.ENOKEY, keys.link, ANN, key.serial, 999, 0)


def test_link_into_no_keyring_is_enotdir(keys: Service) -> None:
    refused(errno.ENOTDIR, keys.link, ANN, keys.user("a").serial, keys.user("b").serial, 0)


def test_link_without_link_right_is_eacces(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x2F2F0000, 0)
    refused(errno.EACCES, keys.link, ANN, key.serial, "@u", 0)


def test_link_to_itself_is_edeadlk(keys: Service) -> None:
    ring = keys.ring()
    refused(errno.EDEADLK, keys.link, ANN, ring.serial, ring.serial, 0)


def test_link_cycle_is_edeadlk(keys: Service) -> None:
    outer = keys.ring("outer")
    middle = keys.ring("middle", outer.serial)
    inner = keys.ring("inner", middle.serial)
    refused(errno.EDEADLK, keys.link, ANN, outer.serial, inner.serial, 0)
    assert not inner.links


def chain(keys: Service, length: int) -> list[Keyring]:
    """Keyrings, each in the one before."""
    rings = [keys.ring("0")]
    for n in range(1, length):
        rings.append(keys.ring(str(n), rings[-1].serial))
        keys.link(ANN, rings[-1].serial, "@s", 0)  # so that it is possessed, however deep
    return rings


@pytest.mark.parametrize(("length", "number"), [(7, 0), (8, errno.ELOOP)])
def test_link_of_a_tree_may_be_six_links_deep(keys: Service, length: int, number: int) -> None:
    top = chain(keys, length)[0]
    target = keys.ring("target")
    if number:
        refused(number, keys.link, ANN, top.serial, target.serial, 0)
    else:
        keys.link(ANN, top.serial, target.serial, 0)


def test_unlink_what_is_not_linked_is_enoent(keys: Service) -> None:
    ring, key = keys.ring(), keys.user()
    keys.news()
    refused(errno.ENOENT, keys.unlink, ANN, key.serial, ring.serial, 0)
    assert keys.news() == []


def test_unlink_needs_nothing_of_the_key(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0, 0)
    keys.unlink(ANN, key.serial, "@s", 0)
    assert keys.ended == [key.serial]


def test_unlink_takes_a_revoked_key(keys: Service) -> None:
    key = keys.user()
    keys.revoke(ANN, key.serial, 0)
    keys.unlink(ANN, "colour", "@s", 0)
    assert keys.ended == [key.serial]


def test_unlink_finds_the_link_by_name_as_the_kernel_does(keys: Service) -> None:
    ring = keys.ring()
    there, asked = keys.user(ring=ring.serial), keys.user()
    keys.news()
    keys.unlink(ANN, asked.serial, ring.serial, 0)
    assert keys.news() == [("r", "unlinked", asked.serial)]
    assert keys.ended == [there.serial]


def test_unlink_last_link_ends_the_key_after_the_event(keys: Service) -> None:
    key = keys.user()
    order: list[str] = []
    keys._notify = lambda key, subtype, aux, now_ns: order.append(subtype.name)
    keys._gone = lambda key, now_ns: order.append("gone")
    keys.unlink(ANN, key.serial, "@s", 0)
    assert order == ["UNLINKED", "gone"]
    refused(errno.ENOKEY, keys.lookup, ANN, key.serial, Need.VIEW, 0)


def test_unlink_with_a_link_left_keeps_the_key(keys: Service) -> None:
    key = keys.user()
    keys.link(ANN, key.serial, "@u", 0)
    keys.unlink(ANN, key.serial, "@s", 0)
    assert keys.ended == []
    assert key.usage == 1


def test_unlink_everywhere_takes_all_links_of_the_session(keys: Service) -> None:
    key = keys.user()
    keys.link(ANN, key.serial, keys.ring().serial, 0)
    assert keys.unlink_everywhere(ANN, "colour", 0) == 2
    assert keys.ended == [key.serial]


def test_unlink_keyring_ends_what_only_it_held(keys: Service) -> None:
    outer = keys.ring()
    inner = keys.ring("inner", outer.serial)
    key = keys.user(ring=inner.serial)
    keys.unlink(ANN, "r", "@s", 0)
    assert keys.ended == [outer.serial, inner.serial, key.serial]


def test_move_posts_unlinked_then_linked_and_keeps_the_key(keys: Service) -> None:
    key = keys.user()
    keys.news()
    keys.move(ANN, key.serial, "@s", "@u", 0)
    assert keys.news() == [("_ses", "unlinked", key.serial), ("_uid.1000", "linked", key.serial)]
    assert keys.ended == []


def test_move_exclusive_over_a_key_there_is_eexist(keys: Service) -> None:
    key = keys.user()
    there = keys.user(ring="@u")
    refused(errno.EEXIST, keys.move, ANN, key.serial, "@s", "@u", 0, exclusive=True)
    keys.move(ANN, key.serial, "@s", "@u", 0)
    assert keys.ended == [there.serial]


def test_move_into_the_same_keyring_does_nothing(keys: Service) -> None:
    key = keys.user()
    keys.news()
    keys.move(ANN, key.serial, "@s", "@s", 0)
    assert keys.news() == []


def test_move_from_where_it_is_not_is_enoent(keys: Service) -> None:
    refused(errno.ENOENT, keys.move, ANN, keys.user().serial, "@u", "@s", 0)


def test_clear_posts_once_and_ends_the_keys(keys: Service) -> None:
    ring = keys.ring()
    held = [keys.user(d, ring.serial).serial for d in "ab"]
    keys.news()
    keys.clear(ANN, ring.serial, 0)
    assert keys.news() == [("r", "cleared", 0)]
    assert keys.ended == held


def test_clear_empty_keyring_posts_too(keys: Service) -> None:
    ring = keys.ring()
    keys.news()
    keys.clear(ANN, ring.serial, 0)
    assert keys.news() == [("r", "cleared", 0)]


def test_clear_user_key_is_enotdir(keys: Service) -> None:
    refused(errno.ENOTDIR, keys.clear, ANN, keys.user().serial, 0)


def test_restricted_keyring_takes_no_links(keys: Service) -> None:
    ring, key = keys.ring(), keys.user()
    keys.news()
    keys.restrict(ANN, ring.serial, 0)
    assert keys.news() == [("r", "setattr", 0)]
    refused(errno.EPERM, keys.link, ANN, key.serial, ring.serial, 0)
    refused(errno.EPERM, keys.user, "other", ring.serial)
    refused(errno.EEXIST, keys.restrict, ANN, ring.serial, 0)


# -- revoking, invalidating, expiring


def test_revoke_posts_once_and_then_refuses(keys: Service) -> None:
    key = keys.user()
    keys.news()
    keys.revoke(ANN, key.serial, 0)
    refused(errno.EKEYREVOKED, keys.revoke, ANN, key.serial, 0)
    refused(errno.EKEYREVOKED, keys.update, ANN, key.serial, b"x", 0)
    assert keys.news() == [("colour", "revoked", 0)]
    assert (key.payload, key.usage) == (b"", 1)


def test_revoke_needs_write_or_setattr(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x39390000, 0)
    keys.set_perm(ANN, key.serial, 0x21210000, 0)
    keys.revoke(ANN, key.serial, 0)
    other = keys.user("other")
    keys.set_perm(ANN, other.serial, 0x0B0B0000, 0)
    refused(errno.EACCES, keys.revoke, ANN, other.serial, 0)


def test_revoke_keyring_drops_its_links_silently(keys: Service) -> None:
    ring = keys.ring()
    key = keys.user(ring=ring.serial)
    keys.news()
    keys.revoke(ANN, ring.serial, 0)
    assert keys.news() == [("r", "revoked", 0)]
    assert keys.ended == [key.serial]
    refused(errno.EKEYREVOKED, keys.user, "other", ring.serial)


def test_invalidate_drops_links_silently_and_ends_the_key(keys: Service) -> None:
    ring, key = keys.ring(), keys.user()
    keys.link(ANN, key.serial, ring.serial, 0)
    keys.news()
    keys.invalidate(ANN, key.serial, 0)
    assert keys.news() == [("colour", "invalidated", 0)]
    assert keys.ended == [key.serial]
    assert not ring.links


def test_invalidate_needs_search(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x37370000, 0)
    refused(errno.EACCES, keys.invalidate, ANN, key.serial, 0)


def test_invalidated_session_keyring_stays_and_refuses(keys: Service) -> None:
    session = keys.resolve(ANN, "@s", 0)[0]
    keys.invalidate(ANN, "@s", 0)
    assert keys.ended == []
    refused(errno.ENOKEY, keys.user)
    keys.join_session(ANN, None, 0)
    assert keys.ended == [session.serial]
    keys.user()


def test_expired_key_is_ekeyexpired_then_collected(keys: Service) -> None:
    key = keys.user()
    keys.set_timeout(ANN, key.serial, 10, 5 * S + 999)
    keys.news()
    keys.lookup(ANN, key.serial, Need.VIEW, 15 * S - 1)
    refused(errno.EKEYEXPIRED, keys.lookup, ANN, key.serial, Need.VIEW, 15 * S)
    due = keys.next_collection_ns
    assert due == 15 * S + GC_DELAY_NS
    keys.collect(due - 1)
    assert keys.ended == []
    keys.collect(due)
    assert keys.ended == [key.serial]
    assert keys.news() == []
    assert keys.next_collection_ns is None


def test_revoked_key_is_collected_as_one_that_expired_then(keys: Service) -> None:
    key = keys.user()
    keys.revoke(ANN, key.serial, 7 * S + 1)
    assert keys.next_collection_ns == 7 * S + GC_DELAY_NS
    keys.collect(7 * S + GC_DELAY_NS)
    assert keys.ended == [key.serial]


def test_timeout_zero_takes_it_away(keys: Service) -> None:
    key = keys.user()
    keys.set_timeout(ANN, key.serial, 10, 0)
    keys.set_timeout(ANN, key.serial, 0, 0)
    keys.lookup(ANN, key.serial, Need.VIEW, 100 * S)
