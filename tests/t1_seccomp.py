"""The filter of `user=` on both machines, run as the kernel runs it (Documentation/networking/filter.rst): the one that
this is not cannot be tried otherwise. t3_service_user has this one's, in the kernel."""

from __future__ import annotations

import errno
import signal
import socket
import struct

import pytest

from wqfs.fs.privileges import MACHINES, program

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
CLONE_NEWUSER, CLONE_THREAD, CLONE_NEWNET = 0x10000000, 0x00010000, 0x40000000


def verdict(name: str, number: int, argument: int = 0, audit: int | None = None) -> int:
    """What the filter answers to a system call. argument: the first one."""
    machine = MACHINES[name]
    data = struct.pack("<IIQQ", number, machine.audit if audit is None else audit, 0, argument)
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = steps[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:  # BPF_RET
            return int(k)
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("name", MACHINES)
def test_each_call_that_is_refused_is_eperm_and_no_other(name: str) -> None:
    machine = MACHINES[name]
    refused = set(machine.refused.values())
    for number in range(500):
        if number not in (machine.clone, machine.clone3, machine.socket):
            assert verdict(name, number) == (EPERM if number in refused else ALLOW), number


@pytest.mark.parametrize("name", MACHINES)
def test_namespaces_other_sockets_and_other_instruction_sets_are_refused(name: str) -> None:
    machine = MACHINES[name]
    assert verdict(name, machine.clone, signal.SIGCHLD) == ALLOW
    assert verdict(name, machine.clone, CLONE_THREAD) == ALLOW
    for flag in (CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWUSER | signal.SIGCHLD):
        assert verdict(name, machine.clone, flag) == EPERM
    assert verdict(name, machine.clone3) == ENOSYS, "so that the C library takes clone"
    assert verdict(name, machine.socket, socket.AF_UNIX) == ALLOW
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
        assert verdict(name, machine.socket, family) == EPERM
    others = [machine.audit ^ 0x40000000, *(other.audit for other in MACHINES.values() if other is not machine)]
    assert {verdict(name, 0, audit=audit) for audit in others} == {EPERM}
    assert verdict(name, 0x40000000 | 1) == EPERM, "x32"
