"""Requests for keys, their construction, and what keyctl(1) does with several calls."""

from __future__ import annotations

import errno

import pytest

from tests.key_service import ANN, BOB, Service, refused
from wqfs.sim.command import ROOT
from wqfs.sim.key_views import key_users_text, keys_text
from wqfs.sim.keys import GC_DELAY_NS, NS_PER_S, Key
from wqfs.sim.system import System
from wqfs.watches import Watches

S = NS_PER_S


@pytest.fixture
def keys() -> Service:
    return Service()


def request(keys: Service, ring: str | int | None = None, now_ns: int = 0) -> Key:
    return keys.request(ANN, "user", "d", now_ns, b"callout", ring)


def flags(keys: Service, key: Key, now_ns: int = 0) -> str:
    (line,) = [x for x in keys_text(keys, None, now_ns).splitlines() if x.startswith(f"{key.serial:08x}")]
    return line.split()[1]


# -- requests


def test_request_of_a_key_there_finds_it_silently(keys: Service) -> None:
    key = keys.user("d")
    keys.news()
    assert keys.request(ANN, "user", "d", 0, b"callout") is key
    assert keys.news() == []


def test_request_of_a_key_there_links_it(keys: Service) -> None:
    key, ring = keys.user("d"), keys.ring()
    keys.news()
    assert keys.request(ANN, "user", "d", 0, None, ring.serial) is key
    assert keys.news() == [("r", "linked", key.serial)]


def test_request_without_callout_is_enokey(keys: Service) -> None:
    refused(errno.ENOKEY, keys.request, ANN, "user", "d", 0)


def test_request_with_callout_begins_a_key(keys: Service) -> None:
    ring = keys.ring()
    keys.news()
    key = request(keys, ring.serial)
    assert keys.news() == [("r", "linked", key.serial)]
    assert flags(keys, key) == "---QU--"
    assert key_users_text(keys).splitlines()[1].split()[2] == "5/4"
    refused(errno.EINPROGRESS, keys.request, ANN, "user", "d", 0)
    refused(errno.EINPROGRESS, keys.watch_target, ANN, key.serial, 0)
    refused(errno.EINPROGRESS, keys.add, ANN, "user", "d", b"x", ring.serial, 0)


def test_request_goes_to_thread_process_then_session_keyring(keys: Service) -> None:
    for n, name in enumerate(("@s", "@p", "@t")):
        ring, _ = keys.lookup_ring(ANN, name, 4, 0, create=True)  # type: ignore[arg-type]
        key = keys.request(ANN, "user", f"d{n}", 0, b"")
        assert list(key.linked_by) == [ring]


def test_request_into_a_restricted_keyring_is_not_refused(keys: Service) -> None:
    ring = keys.ring()
    keys.restrict(ANN, ring.serial, 0)
    assert list(request(keys, ring.serial).linked_by) == [ring]


@pytest.mark.parametrize(
    ("type_", "description", "number"),
    [
        ("keyring", "d", errno.EPERM),
        ("logon", "d", errno.EINVAL),
        ("nosuch", "d", errno.ENOKEY),
        ("user", "", errno.EINVAL),
    ],
)
def test_request_that_cannot_begin(keys: Service, type_: str, description: str, number: int) -> None:
    refused(number, keys.request, ANN, type_, description, 0, b"callout")
    assert "d" not in [key.description for key in keys.by_serial.values()]


def test_request_passes_over_an_expired_key_and_replaces_it(keys: Service) -> None:
    old = keys.user("d")
    keys.set_timeout(ANN, old.serial, 1, 0)
    refused(errno.ENOKEY, keys.request, ANN, "user", "d", 2 * S)
    assert request(keys, now_ns=2 * S) is not old
    assert old.serial in keys.ended


def test_request_of_a_revoked_key_is_ekeyrevoked(keys: Service) -> None:
    keys.revoke(ANN, keys.user("d").serial, 0)
    refused(errno.EKEYREVOKED, keys.request, ANN, "user", "d", 0, b"callout")


def test_request_passes_over_a_revoked_key_where_another_keyring_has_none(keys: Service) -> None:
    keys.revoke(ANN, keys.user("d").serial, 0)
    keys.user("other", "@t")
    assert request(keys).destination is keys.resolve(ANN, "@t", 0)[0]


# -- construction


@pytest.mark.parametrize("who", [ANN, ROOT])
def test_instantiate_completes_the_key(keys: Service, who: object) -> None:
    key, ring = request(keys), keys.ring()
    keys.set_perm(ANN, ring.serial, 0x3F3F3F3F, 0)
    keys.news()
    keys.instantiate(who, key.serial, b"red", 0, ring.serial)  # type: ignore[arg-type]
    assert keys.news() == [("d", "instantiated", 0), ("r", "linked", key.serial)]
    assert (flags(keys, key), key.payload) == ("I--Q---", b"red")
    assert keys.request(ANN, "user", "d", 0) is key


def test_instantiate_twice_is_eperm(keys: Service) -> None:
    key = request(keys)
    keys.instantiate(ANN, key.serial, b"red", 0)
    refused(errno.EPERM, keys.instantiate, ANN, key.serial, b"red", 0)
    refused(errno.EPERM, keys.negate, ANN, key.serial, 9, 0)


def test_instantiate_by_another_user_is_eperm(keys: Service) -> None:
    key = request(keys)
    keys.login(BOB)
    refused(errno.EPERM, keys.instantiate, BOB, key.serial, b"red", 0)


@pytest.mark.parametrize(
    ("payload", "ring", "number"),
    [(b"", None, errno.EINVAL), (b"x", "@a", errno.EINVAL), (b"x", "colour", errno.ENOTDIR), (b"x", 77, errno.ENOKEY),
     (b"x", -9, errno.ENOKEY)],
)  # fmt: skip
def test_instantiate_refused_leaves_it_under_construction(
    keys: Service, payload: bytes, ring: str | int | None, number: int
) -> None:
    keys.user()
    key = request(keys)
    refused(number, keys.instantiate, ANN, key.serial, payload, 0, ring)
    assert key.destination is not None


def test_instantiate_into_a_restricted_keyring_is_eperm(keys: Service) -> None:
    key, ring = request(keys), keys.ring()
    keys.restrict(ANN, ring.serial, 0)
    refused(errno.EPERM, keys.instantiate, ANN, key.serial, b"x", 0, ring.serial)
    refused(errno.EPERM, keys.negate, ANN, key.serial, 9, 0, ring.serial)


def test_instantiate_into_a_special_keyring_means_the_destination(keys: Service) -> None:
    ring = keys.ring()
    key = request(keys, ring.serial)
    keys.news()
    keys.instantiate(ANN, key.serial, b"x", 0, "@u")
    assert keys.news()[1] == ("r", "linked", key.serial)


def test_instantiate_beyond_the_quota_is_edquot(keys: Service) -> None:
    key = request(keys)
    refused(errno.EDQUOT, keys.instantiate, ANN, key.serial, b"x" * 20_000, 0, "@s")
    keys.instantiate(ANN, key.serial, b"x", 0)


def test_instantiate_of_a_key_that_lost_its_link_ends_it(keys: Service) -> None:
    key = request(keys)
    keys.unlink(ANN, key.serial, "@s", 0)
    assert key.serial not in keys.ended
    keys.instantiate(ANN, key.serial, b"x", 0)
    assert key.serial in keys.ended


def test_negate_answers_enokey_until_it_expires(keys: Service) -> None:
    key = request(keys)
    keys.news()
    keys.negate(ANN, key.serial, 30, 0)
    assert keys.news() == [("d", "instantiated", errno.ENOKEY)]
    assert flags(keys, key) == "I--Q-N-"
    refused(errno.ENOKEY, keys.request, ANN, "user", "d", 0, b"callout")
    refused(errno.ENOKEY, keys.update, ANN, key.serial, b"x", 0)
    keys.collect(30 * S + GC_DELAY_NS)
    assert key.serial in keys.ended


def test_reject_tells_the_errno(keys: Service) -> None:
    key, ring = request(keys), keys.ring()
    keys.news()
    keys.reject(ANN, key.serial, 30, errno.EKEYREJECTED, 0, ring.serial)
    assert keys.news() == [("d", "instantiated", errno.EKEYREJECTED), ("r", "linked", key.serial)]
    refused(errno.EKEYREJECTED, keys.request, ANN, "user", "d", 0, b"callout")
    refused(errno.EKEYREJECTED, keys.search, ANN, "@s", "user", "d", 0)
    assert keys.add(ANN, "user", "d", b"new", "@s", 0) is key
    assert keys.read(ANN, key.serial, 0) == b"new"


@pytest.mark.parametrize("error", [0, 512, 513, 514, 516, 4095])
def test_reject_with_no_errno_is_einval(keys: Service, error: int) -> None:
    refused(errno.EINVAL, keys.reject, ANN, request(keys).serial, 30, error, 0)


# -- keyctl's own


@pytest.mark.parametrize(
    ("type_", "restriction", "number"),
    [("user", "", errno.ENOENT), ("keyring", "", errno.ENOENT), ("asymmetric", "x", errno.ENOKEY),
     ("user", None, errno.EINVAL), (None, "x", errno.EINVAL)],
)  # fmt: skip
def test_restrict_by_a_type_that_cannot(keys: Service, type_: str | None, restriction: str | None, number: int) -> None:
    refused(number, keys.restrict, ANN, keys.ring().serial, 0, type_, restriction)


@pytest.mark.parametrize(("perm", "links"), [(0x37070000, 1), (0x37050000, 0), (0x3F050000, 1)])
def test_purge_goes_only_where_it_may_list(keys: Service, perm: int, links: int) -> None:
    """Who possesses a keyring may, without Read too; who does not, for it grants a possessor no Search, needs Read."""
    ring = keys.ring()
    keys.user("d", ring.serial)
    keys.set_perm(ANN, ring.serial, perm, 0)
    assert keys.purge(ANN, "user", "d", 0) == links


def test_purge_unlinks_all_of_a_description(keys: Service) -> None:
    ring = keys.ring()
    one, two, other = keys.user("d"), keys.user("d", ring.serial), keys.user("e", ring.serial)
    assert keys.purge(ANN, "user", "d", 0) == 2
    assert keys.ended == [two.serial, one.serial]
    assert keys.purge(ANN, "user", None, 0) == 1
    assert keys.ended[-1] == other.serial


def test_reap_unlinks_what_is_dead(keys: Service) -> None:
    dead, old, well = keys.user("a"), keys.user("b"), keys.user("c")
    keys.revoke(ANN, dead.serial, 0)
    keys.set_timeout(ANN, old.serial, 1, 0)
    assert keys.reap(ANN, 2 * S) == 2
    assert sorted(keys.ended) == sorted([dead.serial, old.serial])
    assert well.linked_by


def test_persistent_keyring_is_the_same_again_and_expires(keys: Service) -> None:
    ring = keys.get_persistent(ANN, "@s", 0)
    assert (ring.description, ring.expiry_ns) == ("_persistent.1000", 259200 * S)
    assert keys.get_persistent(ROOT, "@s", 10 * S, 1000) is ring
    assert ring.expiry_ns == 259210 * S
    refused(errno.EPERM, keys.get_persistent, ANN, "@s", 0, 0)
    refused(errno.ENOTDIR, keys.get_persistent, ANN, keys.user().serial, 0)


def test_persistent_keyring_that_was_revoked_is_made_anew(keys: Service) -> None:
    old = keys.get_persistent(ANN, "@s", 0)
    keys.revoke(ANN, old.serial, 0)
    new = keys.get_persistent(ANN, "@s", 0)
    assert new is not old
    assert keys.ended == [old.serial]
    assert keys.persistent_register is not None
    assert keys.persistent_register.cost == 4


# -- commands


def test_commands_construct_keys() -> None:
    system = System(Watches(), now_ns=0)
    for line in (
        "key request2 user a make", "key instantiate a red", "key request user a @u",
        "key request2 user b make @u", "key reject %user:b 10 rejected",
        "key request2 user c make", "key reject %user:c 10 ENOMEM @s",
        "key request2 user e make", "key negate %user:e 10 0",
        "key purge user a", "key get_persistent @s", "key reap",
    ):  # fmt: skip
        system.run(line, ANN, 0)
    errors = {key.description: key.error for key in system.keys.by_serial.values() if key.type.name == "user"}
    assert errors == {"b": errno.EKEYREJECTED, "c": errno.ENOMEM, "e": errno.ENOKEY}


@pytest.mark.parametrize(
    ("line", "number", "word"),
    [
        ("key request user d", errno.ENOKEY, None),
        ("key request2 user d", errno.EINVAL, 5),
        ("key negate nosuch 10", errno.ENOKEY, 3),
        ("key negate @s 10", errno.EPERM, 3),
        ("key reject @s 10 EWHAT", errno.EINVAL, 5),
        ("key purge", errno.EINVAL, 3),
        ("key restrict_keyring @s user", errno.EINVAL, None),
        ("key instantiate_iov a b", errno.EINVAL, 2),
    ],
)
def test_command_refused_says_which_word(line: str, number: int, word: int | None) -> None:
    system = System(Watches(), now_ns=0)
    assert (refused(number, system.run, line, ANN, 0).word or None) == word
