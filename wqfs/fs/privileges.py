"""Giving up all privilege once the mount is made: `-o user=NAME`.

Afterwards the process is that user with that user's groups, has no capability and can get none: none in any set, the
bounding set too, and no_new_privs, so that no set-user-ID program helps it. A seccomp filter takes away system calls
that serving a mount never needs. It names what is refused, not what is allowed, so that another version of Python or
of the C library finds its own calls; other instruction sets are refused as a whole.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import pwd
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wqfs.fs.options import UsageError

log = logging.getLogger(__name__)

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITIES: Final = "/proc/sys/kernel/cap_last_cap"


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to become."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Privileged:
    """What was started while the process was root, and stays when it no longer is. try_unmount: unmounts, see
    mounting.try_unmount; check: looks through the mount, see supervision.start_check."""

    try_unmount: Callable[[str, bool], str] | None = None
    check: subprocess.Popen[bytes] | None = None


NOTHING_PRIVILEGED: Final = Privileged()


def identity_of(name: str) -> Identity:
    """The user of that name, or of that number, who then need not be known. Raises UsageError."""
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if not name.isdecimal() or int(name) >= 2**32 - 1:
            raise UsageError(f"Option user: there is no user called {name!r}.") from None
        return Identity(name, int(name), int(name), ())
    return Identity(name, found.pw_uid, found.pw_gid, tuple(os.getgrouplist(found.pw_name, found.pw_gid)))


def drop(identity: Identity) -> None:
    """Become that user for good, with all of the above. Raises OSError.

    Credentials are a thread's, so this must be the only one there is; those that begin later have what it has.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise OSError(errno.EBUSY, f"expected one thread when privilege is given up, not {threads}")
    with open(_CAPABILITIES, encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not refuse_calls():
        log.warning("the system calls of %s are not known here: served without a seccomp filter", platform.machine())


def _prctl(operation: int, argument: int) -> None:
    if _libc.prctl(operation, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {operation}: {os.strerror(number)}")


def _drop_capabilities() -> None:
    """Permitted, effective and inheritable: becoming a user has left the last one, and all for a user of number 0."""
    head = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    if _libc.capset(head, bytes(24)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


# -- the filter


@dataclass(frozen=True, slots=True)
class _Machine:
    """audit: the instruction set as seccomp calls it; the numbers of clone, clone3 and socket; refused: of others,
    by name."""

    audit: int
    clone: int
    clone3: int
    socket: int
    refused: dict[str, int]


_NEW_CALLS: Final = {
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "mount_setattr": 442,
}  # fmt: skip
"""Numbers that all machines have in common."""

MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, 56, 435, 41, _NEW_CALLS | {
        "ptrace": 101, "syslog": 103, "personality": 135, "pivot_root": 155, "adjtimex": 159, "chroot": 161,
        "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
        "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
        "delete_module": 176, "quotactl": 179, "clock_settime": 227, "kexec_load": 246, "add_key": 248,
        "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304,
        "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
        "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    }),
    "aarch64": _Machine(0xC00000B7, 220, 435, 198, _NEW_CALLS | {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "quotactl": 60, "acct": 89, "personality": 92,
        "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112,
        "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161, "setdomainname": 162, "settimeofday": 170,
        "adjtimex": 171, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225,
        "perf_event_open": 241, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "bpf": 280,
        "userfaultfd": 282, "kexec_file_load": 294,
    }),
}  # fmt: skip
"""By os.uname().machine."""

_AF_UNIX: Final = 1
_NAMESPACES: Final = 0x7E020000
"""CLONE_NEW*; time namespaces are unshare's alone."""
_X32: Final = 0x40000000

# struct sock_filter, and where struct seccomp_data has what is looked at (little-endian, as these machines are)
_STEP: Final = struct.Struct("<HBBI")
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _AUDIT, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000


def program(machine: _Machine) -> bytes:
    """The filter: EPERM for what is refused, for new namespaces, sockets of other families than AF_UNIX and other
    instruction sets; ENOSYS for clone3, whose flags cannot be seen, so that the C library takes clone."""
    refuse = _STEP.pack(_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = _STEP.pack(_RETURN, 0, 0, _ALLOW)
    steps = [
        _STEP.pack(_LOAD, 0, 0, _AUDIT),
        _STEP.pack(_EQUAL, 1, 0, machine.audit),
        refuse,
        _STEP.pack(_LOAD, 0, 0, _NUMBER),
        _STEP.pack(_AT_LEAST, 0, 1, _X32),
        refuse,
    ]
    for number in sorted(machine.refused.values()):
        steps += [_STEP.pack(_EQUAL, 0, 1, number), refuse]
    steps += [_STEP.pack(_EQUAL, 0, 1, machine.clone3), _STEP.pack(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    load = _STEP.pack(_LOAD, 0, 0, _FIRST_ARGUMENT)
    steps += [_STEP.pack(_EQUAL, 0, 4, machine.clone), load, _STEP.pack(_ANY_BIT, 0, 1, _NAMESPACES), refuse, allow]
    steps += [_STEP.pack(_EQUAL, 0, 4, machine.socket), load, _STEP.pack(_EQUAL, 1, 0, _AF_UNIX), refuse, allow]
    return b"".join([*steps, allow])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_calls() -> bool:
    """Install the filter for this thread and what it starts; needs no_new_privs. Returns whether the machine is one
    whose numbers are known. Raises OSError."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    steps = program(machine)
    given = _Program(len(steps) // _STEP.size, steps)
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(given), 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
    return True
