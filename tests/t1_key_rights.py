"""Rights, names, sessions and quota of keys, against the rules of Linux 6.12."""

from __future__ import annotations

import errno

import pytest

from tests.key_service import ANN, BOB, Service, refused
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.key_views import key_users_text
from wqfs.sim.keys import NS_PER_S, Need, Quota

S = NS_PER_S


@pytest.fixture
def keys() -> Service:
    return Service()


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


def test_group_without_any_rights_hides_nothing(keys: Service) -> None:
    key = keys.user()
    keys.chown(ANN, key.serial, 0, gid=50)
    keys.set_perm(ANN, key.serial, 0x3F3F003F, 0)
    keys.watch_target(BOB, key.serial, 0)


def test_possessors_rights_are_added_to_the_owners(keys: Service) -> None:
    key = keys.user()
    keys.set_perm(ANN, key.serial, 0x28010000, 0)  # possessor: search and setattr; owner: view
    keys.watch_target(ANN, key.serial, 0)
    keys.set_perm(ANN, key.serial, 0x29000000, 0)
    keys.watch_target(ANN, key.serial, 0)
    refused(errno.EACCES, keys.update, ANN, key.serial, b"blue", 0)


@pytest.mark.parametrize(("keys_more", "bytes_more"), [(1, 99), (2, 10)])
def test_quota_ends_at_its_last_key_and_byte(keys_more: int, bytes_more: int) -> None:
    there = Service()
    account = there.users[ANN.uid]
    limited = Service(quota=Quota(maxkeys=account.keys + keys_more, maxbytes=account.bytes + bytes_more))
    cost = len("a") + 1 + len(b"red") + 4  # a link takes four
    if keys_more == 1:
        limited.user("a")
        refused(errno.EDQUOT, limited.user, "b")
    else:
        assert bytes_more - cost == 1
        limited.user("a")
        refused(errno.EDQUOT, limited.user, "b")
        assert (limited.users[ANN.uid].keys, limited.users[ANN.uid].bytes) == (account.keys + 1, account.bytes + cost)


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
