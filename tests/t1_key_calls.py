"""The calls about keys as a program makes them (wqfs.sim.key_calls), in memory."""

from __future__ import annotations

import errno

import pytest

from wqfs.sim import Simulation
from wqfs.sim.call_arguments import Answer, Argument, Constructing
from wqfs.sim.calls import call
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.processes import REQKEY_THREAD, REQKEY_USER

SESSION, THREAD, PROCESS, USER = -3, -1, -2, -4


class Program:
    """A process called `name` of the simulated system, forked from its user's login."""

    def __init__(self, simulation: Simulation, name: str, parent: str = "", uid: int = 1000) -> None:
        self.simulation = simulation
        self.actor = Actor(uid, uid, (), name)
        call(simulation.system, Actor(uid, uid), "process_fork", [parent.encode(), name.encode()], simulation.now_ns)

    def __call__(self, name: str, *arguments: Argument) -> Answer:
        return call(self.simulation.system, self.actor, name, arguments, self.simulation.now_ns)

    def refused(self, number: int, name: str, *arguments: Argument) -> None:
        with pytest.raises(Refused) as caught:
            self(name, *arguments)
        assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@pytest.fixture
def program() -> Program:
    return Program(Simulation(), "one")


def test_payload_is_bytes(program: Program) -> None:
    key = program("add_key", b"user", b"\xff\xfe", b"\0\1\xff", SESSION)
    assert isinstance(key, int)
    assert program("read", key, 64) == b"\0\1\xff"
    assert program("describe", key) == b"user;1000;1000;3f010000;\xff\xfe\0"


def test_keyring_is_read_into_whole_numbers(program: Program) -> None:
    ring = program("add_key", b"keyring", b"ring", None, SESSION)
    assert isinstance(ring, int)
    assert program("read", ring, 0) == b""
    program.refused(errno.EINVAL, "read", ring, 6)


def test_chown_of_nothing_to_nobody_is_nothing(program: Program) -> None:
    assert program("chown", 77, 0xFFFFFFFF, 0xFFFFFFFF) == 0
    program.refused(errno.ENOKEY, "chown", 77, 1000, 0xFFFFFFFF)


def test_child_has_the_session_and_nothing_else(program: Program) -> None:
    session = program("get_keyring_id", SESSION, 0)
    program("get_keyring_id", PROCESS, 1)
    child = Program(program.simulation, "child", "one")
    assert child("get_keyring_id", SESSION, 0) == session
    child.refused(errno.ENOKEY, "get_keyring_id", PROCESS, 0)
    assert child("join_session", None) != session
    assert program("get_keyring_id", SESSION, 0) == session


def test_exec_takes_process_and_thread_keyrings(program: Program) -> None:
    program("get_keyring_id", THREAD, 1)
    program("process_exec", b"one")
    program.refused(errno.ENOKEY, "get_keyring_id", THREAD, 0)


def test_session_goes_to_the_parent(program: Program) -> None:
    child = Program(program.simulation, "child", "one")
    joined = child("join_session", b"called")
    assert child("session_to_parent", b"one") == 0
    assert program("get_keyring_id", SESSION, 0) == joined
    child("process_exit", b"child")
    assert program("get_keyring_id", SESSION, 0) == joined


def test_session_does_not_go_to_another_users_process(program: Program) -> None:
    child = Program(program.simulation, "child", "one", uid=2000)
    child("join_session", None)
    child.refused(errno.EPERM, "session_to_parent", b"one")


def test_requested_key_goes_where_the_thread_said(program: Program) -> None:
    assert program("set_reqkey_keyring", -1) == 0
    assert program("set_reqkey_keyring", REQKEY_USER) == 0
    made = program("request_key", b"user", b"wanted", b"callout", 0)
    assert isinstance(made, Constructing)
    program("instantiate", made.serial, b"x", 0)
    assert isinstance(links := program("read", USER, 64), bytes)
    assert made.serial.to_bytes(4, "little") in links
    assert program("constructed", made.serial) == made.serial
    assert program("set_reqkey_keyring", REQKEY_THREAD) == REQKEY_USER
    program("get_keyring_id", THREAD, 0)  # the setting made it
    program.refused(errno.EINVAL, "set_reqkey_keyring", 6)


def test_request_in_vain_has_the_error(program: Program) -> None:
    made = program("request_key", b"user", b"wanted", b"callout", SESSION)
    assert isinstance(made, Constructing)
    program.refused(errno.EINPROGRESS, "constructed", made.serial)
    assert program("assume_authority", made.serial) == made.serial
    program("reject", made.serial, 60, errno.EKEYREJECTED, 0)
    program.refused(errno.EKEYREJECTED, "constructed", made.serial)
    program.refused(errno.ENOKEY, "assume_authority", made.serial)


def test_what_is_no_call_is_a_fault_of_the_asker(program: Program) -> None:
    with pytest.raises(ValueError, match="there is no call"):
        program("nonsense")
    with pytest.raises(ValueError, match="expected the arguments"):
        program("read", b"text")
