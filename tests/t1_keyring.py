"""The simulated key service against the rules of Linux 6.12: states, errnos, events, texts."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqfs.abi.records import KEY_BODY, REMOVAL_BODY, decode
from wqfs.abi.records import KeySubtype as Sub
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.errors import Refused
from wqfs.sim.key_commands import COMMANDS
from wqfs.sim.key_views import key_users_text, keys_text
from wqfs.sim.keyring import Keyrings
from wqfs.sim.keys import GC_DELAY_NS, NS_PER_S, Key, Keyring, Need, Quota
from wqfs.sim.system import System
from wqfs.watch import Watch, Watches

ANN = Actor(1000, 1000, (50,))
BOB = Actor(1001, 1001, (50,))
S = NS_PER_S


class Service(Keyrings):
    """A key service that writes down what it tells, with Ann logged in."""

    def __init__(self, **options: object) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.ended: list[int] = []
        super().__init__(self._note, lambda key, now_ns: self.ended.append(key.serial), **options)  # type: ignore[arg-type]
        self.login(ANN)

    def _note(self, key: Key, subtype: Sub, aux: int, now_ns: int) -> None:
        self.told.append((key.description, subtype.name.lower(), aux))

    def news(self) -> list[tuple[str, str, int]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told

    def user(self, description: str = "colour", ring: int | str = "@s", actor: Actor = ANN) -> Key:
        return self.add(actor, "user", description, b"red", ring, 0)

    def ring(self, name: str = "r", ring: int | str = "@s", actor: Actor = ANN) -> Keyring:
        made = self.new_keyring(actor, name, ring, 0)
        assert isinstance(made, Keyring)
        return made


@pytest.fixture
def keys() -> Service:
    return Service()


def refused(number: int, call: Callable[..., object], *arguments: object, **options: object) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments, **options)
    assert caught.value.errno == number, caught.value
    return caught.value


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
        ("nosuch", "d", b"x", "@p", errno.ENOKEY),
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


# -- attributes and rights


@pytest.mark.parametrize("what", ["setperm", "chgrp", "timeout"])
def test_attribute_change_posts_setattr(keys: Service, what: str) -> None:
    key = keys.user()
    keys.news()
    if what == "setperm":
        keys.set_perm(ANN, key.serial, 0x3F3F3F3F, 0)
    elif what == "chgrp":
        keys.chown(ANN, key.serial, 0, gid=50)
    else:
        keys.set_timeout(ANN, key.serial, 10, 0)
    assert keys.news() == [("colour", "setattr", 0)]


def test_setperm_outside_the_bits_is_einval_before_all_else(keys: Service) -> None:
    refused(errno.EINVAL, keys.set_perm, ANN, 999, 0x40000000, 0)


def test_setperm_of_anothers_key_is_eacces_but_for_root(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x3F3F3F3F, 0)
    refused(errno.EACCES, keys.set_perm, BOB, key.serial, 0, 0)
    keys.set_perm(ROOT, key.serial, 0x3F3F0000, 0)
    refused(errno.EACCES, keys.set_perm, ROOT, key.serial, 0, 0)


def test_chown_is_roots_alone(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x3F3F3F3F, 0)
    refused(errno.EACCES, keys.chown, ANN, key.serial, 0, uid=1001)
    refused(errno.EACCES, keys.chown, ANN, key.serial, 0, gid=77)
    keys.chown(ROOT, key.serial, 0, uid=1001, gid=77)
    assert (key.uid, key.gid) == (1001, 77)


def test_group_rights_count_for_members(keys: Service) -> None:
    key = keys.user()
    keys.chown(ANN, key.serial, 0, gid=50)
    keys.set_perm(ANN, key.serial, 0x3F3F0100, 0)
    keys.watch_target(BOB, key.serial, 0)
    refused(errno.EACCES, keys.watch_target, Actor(1002, 1002), key.serial, 0)


def test_group_rights_hide_the_others(keys: Service) -> None:
    key = keys.user()
    keys.chown(ANN, key.serial, 0, gid=50)
    keys.set_perm(ANN, key.serial, 0x3F3F023F, 0)
    refused(errno.EACCES, keys.watch_target, BOB, key.serial, 0)
    keys.watch_target(Actor(1002, 1002), key.serial, 0)


def test_watch_needs_view(keys: Service) -> None:
    key = keys.user()
    assert keys.watch_target(ANN, key.serial, 0) is key
    refused(errno.EACCES, keys.watch_target, ROOT, key.serial, 0)


def test_possession_needs_search_on_the_way(keys: Service) -> None:
    ring = keys.ring()
    key = keys.user(ring=ring.serial)
    assert keys.possesses(ANN, key)
    keys.set_perm(ANN, ring.serial, 0x37370000, 0)
    assert not keys.possesses(ANN, key)


def test_possession_reaches_six_links_deep(keys: Service) -> None:
    rings = [keys.ring("0")]
    for n in range(1, 7):
        rings.append(keys.ring(str(n), rings[-1].serial))
    # @s is one above "0": the key in "5" is in the last keyring that is searched, "6" is beyond.
    assert keys.possesses(ANN, rings[6])
    assert [ring.serial for ring in rings if not keys.possesses(ANN, ring)] == []
    beyond = keys._make(rings[0].type, "beyond", ANN, 0x3F010000)
    rings[6].attach(beyond)
    assert not keys.possesses(ANN, beyond)


# -- reading and finding


def test_describe_is_as_keyctl(keys: Service) -> None:
    assert keys.describe(ANN, keys.user().serial, 0) == "user;1000;1000;3f010000;colour"
    assert keys.describe(ANN, "@u", 0) == "keyring;1000;65534;1f3f0000;_uid.1000"


def test_read_gives_payload_and_serials(keys: Service) -> None:
    key = keys.user()
    assert keys.read(ANN, key.serial, 0) == b"red"
    ring = keys.ring()
    keys.link(ANN, key.serial, ring.serial, 0)
    assert int.from_bytes(keys.read(ANN, ring.serial, 0), "little") == key.serial


def test_read_logon_is_eopnotsupp(keys: Service) -> None:
    key = keys.add(ANN, "logon", "a:b", b"x", "@s", 0)
    refused(errno.EOPNOTSUPP, keys.read, ANN, key.serial, 0)


def test_read_of_anothers_key_is_eacces(keys: Service) -> None:
    refused(errno.EACCES, keys.read, ROOT, keys.user().serial, 0)


def test_search_finds_in_nested_keyrings_and_links(keys: Service) -> None:
    key = keys.user(ring=keys.ring().serial)
    keys.news()
    assert keys.search(ANN, "@s", "user", "colour", 0, "@u") is key
    assert keys.news() == [("_uid.1000", "linked", key.serial)]


@pytest.mark.parametrize(
    ("state", "number"),
    [("none", errno.ENOKEY), ("revoked", errno.EKEYREVOKED), ("expired", errno.EKEYEXPIRED)],
)
def test_search_that_finds_nothing_usable(keys: Service, state: str, number: int) -> None:
    if state == "revoked":
        keys.revoke(ANN, keys.user().serial, 0)
    elif state == "expired":
        keys.set_timeout(ANN, keys.user().serial, 1, 0)
    refused(number, keys.search, ANN, "@s", "user", "colour", 2 * S)


def test_search_prefers_a_live_key_below_to_a_dead_one(keys: Service) -> None:
    keys.revoke(ANN, keys.user().serial, 0)
    below = keys.user(ring=keys.ring().serial)
    assert keys.search(ANN, "@s", "user", "colour", 0) is below
    assert keys.lookup(ANN, "colour", Need.VIEW, 0)[0] is below


@pytest.mark.parametrize("spelling", ["{}", "{:#x}", "%user:colour", "colour"])
def test_name_of_a_key(keys: Service, spelling: str) -> None:
    key = keys.user()
    assert keys.lookup(ANN, spelling.format(key.serial), Need.VIEW, 0)[0] is key


@pytest.mark.parametrize(
    ("name", "description"), [("@s", "_ses"), ("-3", "_ses"), ("@u", "_uid.1000"), ("-4", "_uid.1000"),
                              ("@us", "_uid_ses.1000"), ("%:_uid.1000", "_uid.1000")]
)  # fmt: skip
def test_name_of_a_special_keyring(keys: Service, name: str, description: str) -> None:
    assert keys.lookup(ANN, name, Need.VIEW, 0)[0].description == description


@pytest.mark.parametrize(
    ("name", "number"),
    [("nosuch", errno.ENOKEY), ("999", errno.ENOKEY), ("0", errno.EINVAL), ("@x", errno.EINVAL),
     ("", errno.EINVAL), ("%user", errno.EINVAL), ("%user:no", errno.ENOKEY), ("@t", errno.ENOKEY),
     ("@p", errno.ENOKEY),
     ("@g", errno.EINVAL), ("-9", errno.EINVAL)],
)  # fmt: skip
def test_name_of_nothing(keys: Service, name: str, number: int) -> None:
    refused(number, keys.lookup, ANN, name, Need.VIEW, 0)


def test_name_with_a_digit_first_may_be_a_description(keys: Service) -> None:
    key = keys.user("3com")
    assert keys.lookup(ANN, "3com", Need.VIEW, 0)[0] is key


def test_name_of_type_and_description_outside_the_session_needs_view(keys: Service) -> None:
    key = keys.user()
    refused(errno.ENOKEY, keys.lookup, BOB, "%user:colour", Need.VIEW, 0)
    keys.set_perm(ANN, key.serial, 0x3F3F0001, 0)
    assert keys.lookup(BOB, "%user:colour", Need.VIEW, 0)[0] is key


def test_name_where_a_keyring_is_meant_prefers_keyrings(keys: Service) -> None:
    keys.user("both")
    ring = keys.ring("both")
    assert keys.lookup(ANN, "both", Need.VIEW, 0, ring=True)[0] is ring


# -- sessions, serials, quota


def test_session_of_a_new_user_is_made_with_events_before_its_use(keys: Service) -> None:
    keys.user(actor=BOB)
    assert [(name, what) for name, what, _ in keys.news()] == [
        ("_uid.1001", "instantiated"), (".user_reg", "linked"), ("_uid_ses.1001", "instantiated"),
        ("_uid_ses.1001", "linked"), (".user_reg", "linked"), ("_ses", "instantiated"), ("_ses", "linked"),
        ("colour", "instantiated"), ("_ses", "linked"),
    ]  # fmt: skip


def test_named_session_is_joined_if_it_grants_search(keys: Service) -> None:
    first = keys.join_session(ANN, "work", 0)
    keys.set_perm(ANN, first.serial, 0x3F3F0000, 0)
    keys.link(ANN, first.serial, "@u", 0)
    keys.join_session(ANN, None, 0)
    assert keys.join_session(ANN, "work", 0) is first


def test_serials_are_the_same_for_the_same_seed() -> None:
    assert Service(seed=7).user().serial == Service(seed=7).user().serial != Service(seed=8).user().serial


def test_serials_are_positive_and_not_reused(keys: Service) -> None:
    seen = set()
    for _ in range(5000):
        key = keys.user()
        assert 3 <= key.serial < 1 << 31
        seen.add(key.serial)
        keys.unlink(ANN, key.serial, "@s", 0)
    assert len(seen) == 5000


def test_quota_of_keys_is_edquot_and_leaves_no_trace() -> None:
    keys = Service(quota=Quota(maxkeys=4))
    keys.user()
    before = key_users_text(keys)
    refused(errno.EDQUOT, keys.user, "other")
    assert key_users_text(keys) == before


def test_quota_of_bytes_counts_descriptions_payloads_and_links() -> None:
    # _uid.1000, _uid_ses.1000 with a link, _ses with a link, and then the key with its own link.
    keys = Service(quota=Quota(maxbytes=10 + 14 + 4 + 5 + 4 + len("colour") + 1 + len(b"red") + 4))
    key = keys.user()
    refused(errno.EDQUOT, keys.update, ANN, key.serial, b"blue", 0)
    refused(errno.EDQUOT, keys.link, ANN, key.serial, "@u", 0)
    keys.revoke(ANN, key.serial, 0)
    keys.link(ANN, keys.resolve(ANN, "@u", 0)[0].serial, "@us", 0)


def test_max_keys_of_all_users_is_edquot() -> None:
    keys = Service(max_keys=7)
    keys.user()
    refused(errno.EDQUOT, keys.user, "other")


def test_root_may_have_more_keys_than_others(keys: Service) -> None:
    for n in range(300):
        keys.user(str(n), actor=ROOT)


# -- texts


def test_keys_text_is_as_proc_keys() -> None:
    keys = Keyrings(lambda *_: None, lambda *_: None)
    lines = [line[9:] for line in keys_text(keys, None, 0).splitlines()]
    assert sorted(lines) == [
        "I--Q---     1 perm 0c030000     0 65534 keyring   .user_reg: 2",
        "I--Q---     1 perm 1f3f0000     0 65534 keyring   _uid_ses.0: 1",
        "I--Q---     2 perm 1f3f0000     0 65534 keyring   _uid.0: empty",
    ]


def test_keys_text_begins_with_the_serial_and_is_sorted(keys: Service) -> None:
    for n in range(20):
        keys.user(str(n))
    serials = [int(line[:8], 16) for line in keys_text(keys, None, 0).splitlines()]
    assert serials == sorted(keys.by_serial)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59, " 59s"), (60, "  1m"), (3600, "  1h"), (90000, "  1d"), (604800, "  1w"), (0, "perm")],
)
def test_keys_text_timeout(keys: Service, seconds: int, text: str) -> None:
    key = keys.user()
    keys.set_timeout(ANN, key.serial, seconds, 0)
    assert f"I--Q---     1 {text} 3f010000  1000  1000 user      colour: 3\n" in keys_text(keys, None, 0)


def test_keys_text_of_expired_and_revoked_keys(keys: Service) -> None:
    keys.set_timeout(ANN, keys.user("old").serial, 1, 0)
    keys.revoke(ANN, keys.user("gone").serial, 0)
    text = keys_text(keys, None, S)
    assert "I--Q---     1 expd 3f010000  1000  1000 user      old: 3\n" in text
    assert "IR-Q---     1 expd 3f010000  1000  1000 user      gone: 0\n" in text


def test_keys_text_of_a_big_key_says_where_it_is(keys: Service) -> None:
    keys.add(ANN, "big_key", "small", b"x", "@s", 0)
    keys.add(ANN, "big_key", "large", b"x" * 2000, "@s", 0)
    text = keys_text(keys, None, 0)
    assert "big_key   small: 1 [buff]\n" in text
    assert "big_key   large: 2000 [file]\n" in text


def test_keys_text_shows_a_viewer_what_grants_view(keys: Service) -> None:
    keys.user()
    assert "colour" in keys_text(keys, ANN, 0)
    assert "colour" not in keys_text(keys, BOB, 0)
    assert "colour" not in keys_text(keys, ROOT, 0)


def test_key_users_text_is_as_proc_key_users() -> None:
    keys = Keyrings(lambda *_: None, lambda *_: None)
    assert key_users_text(keys) == "    0:     6 5/5 3/1000000 40/25000000\n"


def test_key_users_text_of_a_user(keys: Service) -> None:
    keys.user()
    assert re.search(r"^ 1000:     4 4/4 4/200 \d+/20000$", key_users_text(keys), re.M)


# -- commands


@pytest.fixture
def system() -> System:
    return System(Watches(), now_ns=0)


RUN = {command.words[1]: command.run for command in COMMANDS}


def post(system: System, line: str, actor: Actor = ANN) -> None:
    _, verb, *arguments = line.split()
    RUN[verb](system, actor, arguments, 0)


def test_commands_change_the_keys(system: System) -> None:
    for line in (
        "key add user colour red @s", "key update colour blue", "key newring r @s", "key link colour r",
        "key unlink colour @s", "key move colour r @s", "key setperm colour 0x3f3f3f3f",
        "key chgrp colour 50", "key timeout colour 100", "key search @s user colour @u",
        "key restrict_keyring r",
    ):  # fmt: skip
        post(system, line)
    key, _ = system.keys.lookup(ANN, "colour", Need.VIEW, 0)
    assert (key.payload, key.perm, key.gid, key.expiry_ns) == (b"blue", 0x3F3F3F3F, 50, 100 * S)
    assert [ring.description for ring in key.linked_by] == ["_ses", "_uid.1000"]
    post(system, "key add user other x @s")
    post(system, "key revoke other")
    post(system, "key invalidate %user:colour")
    post(system, "key clear @s")
    post(system, "key chown @s 1000")
    post(system, "key new_session work")
    session, _ = system.keys.resolve(ANN, "@s", 0)
    assert session.description == "work"


@pytest.mark.parametrize(
    ("line", "number", "word"),
    [
        ("key add user colour red", errno.EINVAL, 6),
        ("key update", errno.EINVAL, 3),
        ("key update a b c", errno.EINVAL, 5),
        ("key update nosuch b", errno.ENOKEY, 3),
        ("key add user a b nosuch", errno.ENOKEY, 6),
        ("key setperm @s 12z", errno.EINVAL, 4),
        ("key setperm @s 0x40000000", errno.EINVAL, 0),
        ("key timeout @s -1", errno.EINVAL, 4),
        ("key move a b", errno.EINVAL, 5),
        ("key move -f a b", errno.EINVAL, 3),
        ("key link @u nosuch", errno.ENOKEY, 4),
    ],
)
def test_command_refused_says_which_word(system: System, line: str, number: int, word: int) -> None:
    system.keys.login(ANN)
    assert refused(number, post, system, line).word == word


# -- what a watch reads (conformance/curated.json, key_* and watch_*, with ids that are ours)


def watch(system: System, name: str, id_: int = 1) -> Watch:
    """A sized strict queue that watches one key."""
    queue = system.watches.make("", 0, 0, 0)
    queue.queue.set_size(16)
    target = system.keys.watch_target(ANN, name, 0)
    system.watches.add(queue, target, id_, label=f"key {name}")
    return queue


def records(queue: Watch) -> list[tuple[int, int, int, bytes]]:
    return [(r.type, r.subtype, r.info, r.body) for r in decode(queue.queue.read(4096) or b"")]


@pytest.mark.parametrize(
    ("line", "subtype", "aux"),
    [
        ("key update k y", 1, ""), ("key link j r", 2, "j"), ("key unlink inside r", 3, "inside"),
        ("key clear r", 4, ""), ("key revoke k", 5, ""), ("key setperm k 0x3f3f3f3f", 7, ""),
        ("key add user k y @s", 1, ""), ("key add user new y r", 2, "new"),
        ("key move inside r @s", 3, "inside"),
    ],
)  # fmt: skip
def test_watch_reads_one_record(line: str, subtype: int, aux: str) -> None:
    system = System(Watches(strict=True), now_ns=0)
    system.keys.login(ANN)
    for making in (
        "key newring r @s",
        "key add user k x @s",
        "key add user j x @s",
        "key add user inside x r",
    ):
        post(system, making)
    watched = "r" if "r" in line.split()[2:] else "k"
    queue = watch(system, watched)
    serials = {key.description: key.serial for key in system.keys.by_serial.values()}
    post(system, line)
    serials |= {key.description: key.serial for key in system.keys.by_serial.values()}
    body = KEY_BODY.pack(serials[watched], serials[aux] if aux else 0)
    assert records(queue) == [(1, subtype, 16 | 1 << 8, body)]


def test_watch_on_an_invalidated_key_reads_removal_last() -> None:
    system = System(Watches(strict=True), now_ns=0)
    post(system, "key add user k x @s")
    key = system.keys.watch_target(ANN, "k", 0)
    queue = watch(system, "k")
    post(system, "key invalidate k")
    assert records(queue) == [
        (1, 6, 16 | 1 << 8, KEY_BODY.pack(key.serial, 0)),
        (0, 0, 16 | 1 << 8, REMOVAL_BODY.pack(key.serial)),
    ]
    assert queue.entries == ()


def test_watch_on_a_refused_operation_reads_nothing() -> None:
    system = System(Watches(strict=True), now_ns=0)
    post(system, "key newring r @s")
    post(system, "key add user k x @s")
    queue = watch(system, "r")
    refused(errno.ENOENT, post, system, "key unlink k r")
    assert records(queue) == []


# -- whatever is done

ACTORS = (ROOT, ANN, BOB)


def step(keys: Service, draw: Callable[[int], int], now_ns: int) -> None:
    """One operation chosen by numbers, refused or not."""
    actor = ACTORS[draw(3)]
    pool = list(keys.by_serial)
    rings = [s for s, key in keys.by_serial.items() if isinstance(key, Keyring)]
    key: int | str = pool[draw(len(pool))]
    ring: int | str = ("@s", "@u", rings[draw(len(rings))])[draw(3)]
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
    )
    before = keys_text(keys, None, now_ns), key_users_text(keys)
    told, ended = len(keys.told), len(keys.ended)
    try:
        operations[draw(len(operations))]()
    except Refused:
        # The keyrings of a user may have been made on the way; nothing else.
        if not any(name.startswith("_uid") or name == "_ses" for name, _, _ in keys.told[told:]):
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
    numbers = data.draw(st.randoms(use_true_random=False))
    for n in range(60):
        step(keys, numbers.randrange, n * 50 * S)
        check(keys)
