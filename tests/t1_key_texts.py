"""sim/keys and sim/key-users, the `key` commands, and what a watch on a key reads."""

from __future__ import annotations

import errno
import re

import pytest

from tests.key_service import ANN, BOB, Service, refused
from wqfs.abi.records import KEY_BODY, REMOVAL_BODY, decode
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.key_commands import COMMANDS
from wqfs.sim.key_views import key_users_text, keys_text
from wqfs.sim.keyring import Keyrings
from wqfs.sim.keys import NS_PER_S, Need
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Watches

S = NS_PER_S


@pytest.fixture
def keys() -> Service:
    return Service()


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
