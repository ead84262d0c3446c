"""Processes and their keyrings, by Python and by `process` and `as`."""

from __future__ import annotations

import errno
import json

import pytest

from tests.key_service import ANN, BOB, Service, refused
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.keys import Keyring
from wqfs.sim.system import System
from wqfs.sim.views import snapshot
from wqfs.watches import Watches


@pytest.fixture
def keys() -> Service:
    return Service()


@pytest.fixture
def shell(keys: Service) -> Actor:
    """Ann, as a process of hers without a session keyring."""
    keys.processes.new(ANN, "sh", ANN.uid, ANN.gid, ANN.groups)
    return keys.processes.actor(ANN, "sh")


@pytest.fixture
def system() -> System:
    system = System(Watches(), now_ns=0)
    system.keys.login(ANN)
    return system


def run(system: System, *lines: str, actor: Actor = ANN) -> None:
    for line in lines:
        system.run(line, actor, 0)


def ring_of(keys: Service, actor: Actor, name: str) -> Keyring:
    key, _ = keys.resolve(actor, name, 0)
    assert isinstance(key, Keyring)
    return key


# -- keyrings of a process


@pytest.mark.parametrize(("name", "description"), [("@t", "_tid"), ("@p", "_pid")])
def test_own_keyring_is_made_when_first_written_to(keys: Service, shell: Actor, name: str, description: str) -> None:
    refused(errno.ENOKEY, keys.resolve, shell, name, 0)
    keys.news()
    key = keys.user(ring=name, actor=shell)
    assert keys.news()[0] == (description, "instantiated", 0)
    ring = ring_of(keys, shell, name)
    assert (ring.description, ring.perm, ring.links) == (description, 0x3F010000, {key.index: key})


def test_own_keyrings_of_a_login_process_are_real(keys: Service) -> None:
    key = keys.user(ring="@p")
    assert keys.resolve(ANN, "colour", 0) == (key, True)


def test_session_without_one_is_the_user_session_keyring(keys: Service, shell: Actor) -> None:
    assert ring_of(keys, shell, "@s").description == "_uid_ses.1000"


def test_session_without_one_is_made_to_write_to(keys: Service, shell: Actor) -> None:
    keys.user(ring="@s", actor=shell)
    session = ring_of(keys, shell, "@s")
    assert session.description == "_ses"
    assert session is not ring_of(keys, ANN, "@s")


def test_search_order_is_thread_process_session(keys: Service, shell: Actor) -> None:
    in_session = keys.user(ring="@s", actor=shell)
    assert keys.resolve(shell, "colour", 0)[0] is in_session
    in_process = keys.user(ring="@p", actor=shell)
    assert keys.resolve(shell, "colour", 0)[0] is in_process
    in_thread = keys.user(ring="@t", actor=shell)
    assert keys.resolve(shell, "colour", 0)[0] is in_thread
    keys.revoke(shell, "@t", 0)
    assert keys.resolve(shell, "colour", 0)[0] is in_process


def test_thread_keyring_is_of_its_thread_alone(keys: Service, shell: Actor) -> None:
    other = keys.processes.actor(ANN, "sh", "2")
    key = keys.user(ring="@t", actor=shell)
    assert keys.possesses(shell, key)
    assert not keys.possesses(other, key)
    assert ring_of(keys, shell, "@t") is not keys.user(ring="@t", actor=other)


def test_process_keyring_is_of_all_its_threads_and_no_other_process(keys: Service, shell: Actor) -> None:
    key = keys.user(ring="@p", actor=keys.processes.actor(ANN, "sh", "2"))
    assert keys.possesses(shell, key)
    assert not keys.possesses(ANN, key)


# -- fork, exec, exit


def test_fork_shares_the_session_until_the_child_joins_another(keys: Service, shell: Actor) -> None:
    keys.user(ring="@s", actor=shell)
    keys.user("own", "@p", shell)
    keys.processes.fork(ANN, "sh", "child")
    child = keys.processes.actor(ANN, "child")
    shared = ring_of(keys, shell, "@s")
    assert ring_of(keys, child, "@s") is shared
    refused(errno.ENOKEY, keys.resolve, child, "own", 0)
    keys.join_session(child, None, 0)
    assert ring_of(keys, child, "@s") is not shared
    assert ring_of(keys, shell, "@s") is shared


def test_exec_drops_process_and_thread_keyrings(keys: Service, shell: Actor) -> None:
    ended = [keys.user(name, ring, shell).serial for name, ring in (("a", "@t"), ("b", "@p"))]
    kept = keys.user("c", "@s", shell)
    keys.processes.exec(ANN, "sh", 0)
    assert keys.resolve(shell, "c", 0)[0] is kept
    assert set(ended) < set(keys.ended)


def test_exit_ends_what_nothing_else_holds(keys: Service, shell: Actor) -> None:
    held = keys.user("held", "@s", ANN)
    keys.set_perm(ANN, held.serial, 0x3F3F0000, 0)
    keys.join_session(shell, None, 0)
    mine = keys.user("mine", "@s", shell)
    keys.link(shell, held.serial, "@s", 0)
    keys.processes.exit(ANN, "sh", 0)
    assert mine.serial in keys.ended
    assert held.serial not in keys.ended
    refused(errno.ESRCH, keys.resolve, shell, "@s", 0)


def test_exit_of_one_sharer_keeps_the_session(keys: Service, shell: Actor) -> None:
    key = keys.user(ring="@s", actor=shell)
    keys.processes.fork(ANN, "sh", "child")
    keys.processes.exit(ANN, "sh", 0)
    assert key.serial not in keys.ended
    keys.processes.exit(ANN, "child", 0)
    assert key.serial in keys.ended


def test_thread_exit_ends_its_keyring(keys: Service, shell: Actor) -> None:
    key = keys.user(ring="@t", actor=keys.processes.actor(ANN, "sh", "2"))
    keys.processes.exit_thread(ANN, "sh", "2", 0)
    assert key.serial in keys.ended
    refused(errno.ESRCH, keys.processes.exit_thread, ANN, "sh", "2", 0)


def test_login_process_begins_anew_after_its_exit(keys: Service) -> None:
    old = ring_of(keys, ANN, "@s")
    keys.processes.exit(ANN, "login.1000", 0)
    assert old.serial in keys.ended
    assert "_uid.1000" in [key.description for key in ring_of(keys, ANN, "@s").links.values()]


# -- who may


def test_new_process_of_another_user_is_roots_alone(keys: Service) -> None:
    refused(errno.EPERM, keys.processes.new, ANN, "p", BOB.uid, BOB.gid)
    refused(errno.EPERM, keys.processes.new, ANN, "p", ANN.uid, 0)
    assert keys.processes.new(ROOT, "p", BOB.uid, BOB.gid).uid == BOB.uid


@pytest.mark.parametrize(("name", "number"), [("sh", errno.EEXIST), ("login.7", errno.EEXIST), ("a/b", errno.EINVAL)])
def test_new_process_of_a_bad_name(keys: Service, shell: Actor, name: str, number: int) -> None:
    refused(number, keys.processes.new, ANN, name, ANN.uid, ANN.gid)


def test_process_of_another_user_is_eperm_but_for_root(keys: Service, shell: Actor) -> None:
    processes = keys.processes
    refused(errno.EPERM, processes.actor, BOB, "sh")
    refused(errno.EPERM, processes.fork, BOB, "sh", "child")
    refused(errno.EPERM, processes.exec, BOB, "sh", 0)
    refused(errno.EPERM, processes.exit, BOB, "sh", 0)
    refused(errno.EPERM, processes.exit_thread, BOB, "sh", "", 0)
    assert processes.actor(ROOT, "sh") == shell
    refused(errno.ESRCH, processes.actor, ROOT, "nobody")


# -- commands


def test_commands_act_as_the_process(system: System) -> None:
    run(system, "process new sh", "as sh key add user colour red @p", "process fork sh child")
    run(system, "as sh/2 key add user shade dark @t", "as child key new_session work")
    shown = {p["name"]: p for p in json.loads(snapshot(system, ANN, 0))["processes"]}
    assert list(shown) == ["login.1000", "sh", "child"]
    assert system.keys.by_serial[shown["sh"]["process_keyring"]].description == "_pid"
    assert system.keys.by_serial[shown["sh"]["threads"]["2"]].description == "_tid"
    assert system.keys.by_serial[shown["child"]["session"]].description == "work"
    assert json.loads(snapshot(system, BOB, 0))["processes"] == []


def test_commands_of_roots_process_for_another_are_of_that_user(system: System) -> None:
    run(system, "process new daemon uid=7 gid=8", "as daemon key add user k x @p", actor=ROOT)
    ring = system.processes.find("daemon").ring
    assert ring is not None
    key = ring.links["user", "k"]
    assert (key.uid, key.gid) == (7, 8)
    run(system, "process exit daemon", actor=ROOT)
    assert key.serial not in system.keys.by_serial


@pytest.mark.parametrize(
    ("line", "number", "word"),
    [
        ("process new", errno.EINVAL, 3),
        ("process new p uid=x", errno.EINVAL, 4),
        ("process new p uid=4294967296", errno.EINVAL, 4),
        ("process new p uid=1000 uid=1000", errno.EINVAL, 5),
        ("process new p uid=0", errno.EPERM, 3),
        ("process exit p", errno.ESRCH, 3),
        ("process exit sh/9", errno.ESRCH, 3),
        ("process fork sh sh", errno.EEXIST, 3),
        ("process exec sh now", errno.EINVAL, 4),
        ("as", errno.EINVAL, 2),
        ("as sh", errno.EINVAL, 3),
        ("as sh/ key reap", errno.EINVAL, 2),
        ("as nobody key clear @s", errno.ESRCH, 2),
        ("as login.0 key clear @s", errno.EPERM, 2),
        ("as sh key nonsense", errno.EINVAL, 4),
        ("as sh key clear @q", errno.EINVAL, 5),
    ],
)
def test_command_refused_says_which_word(system: System, line: str, number: int, word: int) -> None:
    system.keys.login(ROOT)
    run(system, "process new sh")
    assert refused(number, run, system, line).word == word
