"""Every errno that the table of commands promises is one that the command gives, and it changes nothing."""

from __future__ import annotations

import errno
import re

import pytest

from wqfs.sim import COMMANDS, Refused, Simulation, completion
from wqfs.sim.command import Command
from wqfs.sim.keys import LINK_BYTES
from wqfs.sim.limits import SimLimits

A = "mount /dev/sdb1 /a -t ext4"
RING = "key newring ring @s"
KEY = "key add user one x @s"
OTHER = "as user 1000: "
"""A setup line, or the line itself, with this in front is given by user 1000."""
LONG = "/" + "x" * 300
DEEP = [RING, "key newring r0 @s", *(f"key newring r{n} r{n - 1}" for n in range(1, 8))]
WANTED = "key request2 user wanted please"
SERIAL_OF_WANTED = "WANTED"
"""In a line: the serial number of the key under construction."""
FILL = "fill up user 1000"
"""A setup line: the user's last byte of quota is used."""

SIX_DEVICES = [f"device error /dev/sd{letter} io" for letter in "bcdef"]
"""With /dev/root six."""
SIX_PROCESSES = [f"process new p{n}" for n in range(4)]
"""With the login processes of root and 1000 six."""

CASES: dict[str, list[tuple[list[str], str, str]]] = {
    "mount": [
        ([A], "mount /dev/sdb1 /a -t ext4", "EBUSY"),
        ([A], "mount /dev/sdb1 /b -t xfs", "EBUSY"),
        ([A, "sb freeze /a"], "mount -o remount,ro /a", "EBUSY"),
        ([], "mount /dev/sdb1 a", "EINVAL"),
        ([], f"mount /dev/sdb1 {LONG}", "ENAMETOOLONG"),
        ([], "mount none /a -t ext4", "ENOTBLK"),
        (["device remove /dev/sdb"], "mount /dev/sdb1 /a", "ENOENT"),
        ([A], "mount --move /a /a/b", "ELOOP"),
        ([f"mount none /{n} -t tmpfs" for n in range(19)], "mount none /x -t tmpfs", "ENOSPC"),
        (SIX_DEVICES, "mount /dev/sdx /x", "ENOSPC"),
    ],
    "umount": [
        ([A, "mount none /a/b -t tmpfs"], "umount /a", "EBUSY"),
        ([], "umount /", "EBUSY"),
        ([], "umount /a", "EINVAL"),
    ],
    "automount": [([A], "automount /dev/sdb1 /a", "EBUSY")],
    "expire": [
        (["automount h:/x /a -t nfs", "mount none /a/b -t tmpfs"], "expire /a", "EBUSY"),
        ([A], "expire /a", "EINVAL"),
    ],
    "sb error": [([], "sb error / EWHAT", "EINVAL")],
    "sb edquot": [([], "sb edquot / someone 1", "EINVAL")],
    "sb readonly": [([], "sb readonly none", "EINVAL")],
    "sb readwrite": [([], "sb readwrite none", "EINVAL")],
    "sb network": [([], "sb network / down", "EINVAL")],
    "sb freeze": [(["sb freeze /"], "sb freeze /", "EBUSY"), ([], "sb freeze none", "EINVAL")],
    "sb thaw": [([], "sb thaw /", "EINVAL")],
    "sb fill": [([], "sb fill / 101", "EINVAL")],
    "device error": [
        ([], "device error none io", "ENOTBLK"),
        (["device remove /dev/sdb"], "device error /dev/sdb1 io", "ENXIO"),
        ([], "device error /dev/sdb broken", "EINVAL"),
        (SIX_DEVICES, "device error /dev/sdx io", "ENOSPC"),
    ],
    "device remove": [
        ([], "device remove none", "ENOTBLK"),
        (["device remove /dev/sdb"], "device remove /dev/sdb", "ENXIO"),
        (SIX_DEVICES, "device remove /dev/sdx", "ENOSPC"),
    ],
    "device add": [
        ([], "device add none", "ENOTBLK"),
        ([A], "device add /dev/sdb1", "EEXIST"),
        ([A, "device remove /dev/sdb1"], "device add /dev/sdb1", "EBUSY"),
        (["device remove /dev/sdb"], "device add /dev/sdb1", "ENXIO"),
        (SIX_DEVICES, "device add /dev/sdx", "ENOSPC"),
    ],
    "clock advance": [([], "clock advance now", "EINVAL")],
    "key add": [
        ([], "key add user '' x @s", "EINVAL"),
        ([], "key add what one x @s", "ENODEV"),
        ([], "key add .dns one x @s", "EPERM"),
        ([KEY], "key add user two x one", "ENOTDIR"),
        ([RING, "key setperm ring 0x3b000000"], "key add user one x ring", "EACCES"),
        ([FILL], OTHER + "key add user more x @u", "EDQUOT"),
    ],
    "key newring": [
        ([], "key newring .name @s", "EPERM"),
        ([KEY], "key newring two one", "ENOTDIR"),
        ([RING, "key setperm ring 0x3b000000"], "key newring one ring", "EACCES"),
        ([FILL], OTHER + "key newring more @u", "EDQUOT"),
    ],
    "key update": [
        ([RING], "key update ring x", "EOPNOTSUPP"),
        ([KEY], "key update one ''", "EINVAL"),
        ([KEY, "key setperm one 0x3b000000"], "key update one y", "EACCES"),
        ([OTHER + KEY, FILL], OTHER + "key update one yy", "EDQUOT"),
    ],
    "key link": [
        ([RING, "key newring below ring"], "key link ring below", "EDEADLK"),
        (DEEP, "key link r0 ring", "ELOOP"),
        ([RING, KEY, "key restrict_keyring ring"], "key link one ring", "EPERM"),
        ([KEY, "key add user two x @s"], "key link two one", "ENOTDIR"),
        ([RING, KEY, "key setperm one 0x2f3f3f3f", "key setperm one 0x2f2f2f2f"], "key link one ring", "EACCES"),
        ([OTHER + KEY, OTHER + RING, FILL], OTHER + "key link one ring", "EDQUOT"),
    ],
    "key unlink": [
        ([RING, KEY], "key unlink one ring", "ENOENT"),
        ([KEY, "key add user two x @s"], "key unlink two one", "ENOTDIR"),
        ([RING, "key add user one x ring", "key setperm ring 0x3b000000"], "key unlink one ring", "EACCES"),
    ],
    "key move": [
        ([RING, KEY, "key add user one y ring"], "key move %user:one @s ring", "EEXIST"),
        ([RING, KEY], "key move one ring @s", "ENOENT"),
        ([RING, "key newring below ring"], "key move ring @s below", "EDEADLK"),
        ([KEY, "key add user two x @s"], "key move two @s one", "ENOTDIR"),
        ([RING, KEY, "key setperm ring 0x3b000000"], "key move one @s ring", "EACCES"),
        ([RING, KEY, "key restrict_keyring ring"], "key move one @s ring", "EPERM"),
        ([OTHER + KEY, OTHER + RING, FILL], OTHER + "key move one @s ring", "EDQUOT"),
    ],
    "key clear": [
        ([KEY], "key clear one", "ENOTDIR"),
        ([RING, "key setperm ring 0x3b000000"], "key clear ring", "EACCES"),
    ],
    "key revoke": [([KEY, "key setperm one 0x1b000000"], "key revoke one", "EACCES")],
    "key invalidate": [([KEY, "key setperm one 0x37000000"], "key invalidate one", "EACCES")],
    "key setperm": [
        ([KEY], "key setperm one 0x80000000", "EINVAL"),
        ([KEY, "key setperm one 0x1f000000"], "key setperm one 0x3f000000", "EACCES"),
    ],
    "key chown": [
        ([OTHER + KEY], OTHER + "key chown one 1001", "EACCES"),
        ([KEY, FILL], "key chown one 1000", "EDQUOT"),
    ],
    "key chgrp": [([OTHER + KEY], OTHER + "key chgrp one 0", "EACCES")],
    "key timeout": [
        ([KEY], "key timeout one soon", "EINVAL"),
        ([KEY, "key setperm one 0x1f000000"], "key timeout one 5", "EACCES"),
    ],
    "key restrict_keyring": [
        ([RING, "key restrict_keyring ring"], "key restrict_keyring ring", "EEXIST"),
        ([RING], "key restrict_keyring ring user some", "ENOENT"),
        ([KEY], "key restrict_keyring one", "ENOTDIR"),
        ([RING, "key setperm ring 0x1f000000"], "key restrict_keyring ring", "EACCES"),
    ],
    "key search": [
        ([RING], "key search ring user none @s", "ENOKEY"),
        ([RING, "key setperm ring 0x37000000"], "key search ring user one @s", "EACCES"),
        ([KEY, "key add user two x @s"], "key search @s user one two", "ENOTDIR"),
        ([RING, "key newring below ring"], "key search @s keyring ring below", "EDEADLK"),
        (DEEP, "key search @s keyring r0 ring", "ELOOP"),
        ([OTHER + KEY, OTHER + RING, FILL], OTHER + "key search @s user one ring", "EDQUOT"),
    ],
    "key request": [
        ([], "key request user none", "ENOKEY"),
        ([KEY, RING, "key setperm ring 0x3b000000"], "key request user one ring", "EACCES"),
        ([WANTED], "key request user wanted", "EINPROGRESS"),
        ([KEY, "key add user two x @s"], "key request user one two", "ENOTDIR"),
    ],
    "key request2": [
        ([], "key request2 logon wanted please", "EINVAL"),
        ([], "key request2 keyring wanted please", "EPERM"),
        ([WANTED], "key request2 user wanted please", "EINPROGRESS"),
        ([RING, "key setperm ring 0x3b000000"], "key request2 user wanted please ring", "EACCES"),
        ([KEY], "key request2 user wanted please one", "ENOTDIR"),
        ([FILL], OTHER + "key request2 user wanted please", "EDQUOT"),
    ],
    "key instantiate": [
        ([KEY], "key instantiate one x", "EPERM"),
        ([], "key instantiate 99 x", "ENOKEY"),
        ([WANTED], f"key instantiate {SERIAL_OF_WANTED} ''", "EINVAL"),
        ([OTHER + WANTED, FILL], OTHER + f"key instantiate {SERIAL_OF_WANTED} x", "EDQUOT"),
    ],
    "key negate": [
        ([KEY], "key negate one 5", "EPERM"),
        ([], "key negate 99 5", "ENOKEY"),
        ([WANTED], f"key negate {SERIAL_OF_WANTED} soon", "EINVAL"),
    ],
    "key reject": [
        ([KEY], "key reject one 5 expired", "EPERM"),
        ([], "key reject 99 5 expired", "ENOKEY"),
        ([WANTED], f"key reject {SERIAL_OF_WANTED} 5 someday", "EINVAL"),
    ],
    "key purge": [([], "key purge", "EINVAL")],
    "key reap": [([], "key reap now", "EINVAL")],
    "key get_persistent": [
        ([], OTHER + "key get_persistent @s 0", "EPERM"),
        ([RING, "key setperm ring 0x3b000000"], "key get_persistent ring", "EACCES"),
        ([KEY], "key get_persistent one", "ENOTDIR"),
    ],
    "process new": [
        (["process new sh"], "process new sh", "EEXIST"),
        ([], OTHER + "process new sh uid=0", "EPERM"),
        ([], "process new sh uid=root", "EINVAL"),
        (SIX_PROCESSES, "process new sh", "ENOMEM"),
    ],
    "process fork": [
        (["process new sh"], "process fork sh sh", "EEXIST"),
        ([], "process fork sh new", "ESRCH"),
        (["process new sh"], OTHER + "process fork sh new", "EPERM"),
        (["process new sh"], "process fork sh a/b", "EINVAL"),
        (SIX_PROCESSES, "process fork p0 sh", "ENOMEM"),
    ],
    "process exec": [([], "process exec sh", "ESRCH"), (["process new sh"], OTHER + "process exec sh", "EPERM")],
    "process exit": [([], "process exit sh", "ESRCH"), (["process new sh"], OTHER + "process exit sh", "EPERM")],
    "as": [
        ([], "as sh expire", "ESRCH"),
        (["process new sh"], OTHER + "as sh expire", "EPERM"),
        (["process new sh"], "as sh", "EINVAL"),
        (SIX_PROCESSES, "as p0/t key clear @s", "ENOMEM"),
    ],
    "key new_session": [
        ([], "key new_session .mine", "EPERM"),
        ([FILL], OTHER + "key new_session", "EDQUOT"),
    ],
}

# What every command on a key answers for one that is not there or no longer valid: by its usage.
_INVALID = {"ENOKEY": [], "EKEYREVOKED": ["key revoke ring"], "EKEYEXPIRED": ["key timeout ring 1", "clock advance 2"]}
_FILLED = {
    "TYPE": "user", "DESCRIPTION": "d", "PAYLOAD": "x", "NAME": "n", "MASK": "0", "UID": "0", "GID": "0",
    "SECONDS": "1", "FROM": "@s", "TO": "@u", "DESTINATION": "@u",
}  # fmt: skip


def of_an_invalid_key(command: Command, name: str) -> tuple[list[str], str]:
    """Setup and line of the command with a key that is not valid as its last key argument."""
    words = list(command.words)
    kinds = completion.kinds(command)
    last = max(at for at, kind in enumerate(kinds) if kind in ("KEY", "KEYRING"))
    for at, kind in enumerate(kinds):
        words.append("SERIAL" if at == last else "one" if kind == "KEY" else _FILLED.get(kind, "@s"))
    return [KEY, RING, *_INVALID[name]], " ".join(words)


def given(simulation: Simulation, line: str) -> None:
    if line == FILL:
        simulation.run("key add user first x @u", uid=1000, gid=1000)
        user = simulation.system.keys.users[1000]
        rest = user.maxbytes - user.bytes - len("rest") - 1 - LINK_BYTES
        line = f"{OTHER}key add user rest {'x' * rest} @u"
    uid = 1000 if line.startswith(OTHER) else 0
    simulation.run(line.removeprefix(OTHER), uid=uid, gid=uid)


def refusal(setup: list[str], line: str) -> int:
    """The errno that `line` is refused with; and that it changed nothing."""
    simulation = Simulation(bounds=SimLimits(mounts=20, processes=6, devices=6))
    simulation.run("", uid=1000, gid=1000)  # who logs in gets keyrings
    for each in setup:
        if each.startswith(("key revoke ring", "key timeout ring")):
            serial = next(k.serial for k in simulation.system.keys.by_serial.values() if k.description == "ring")
            each = each.replace("ring", str(serial))
        given(simulation, each)
    serials = [k.serial for k in simulation.system.keys.by_serial.values() if k.description == "ring"]
    line = line.replace("SERIAL", str(serials[0] if len(setup) > 2 and serials else 99))
    for key in simulation.system.keys.by_serial.values():
        if key.description == "wanted":
            line = line.replace(SERIAL_OF_WANTED, str(key.serial))
    before = simulation.text("snapshot")
    with pytest.raises(Refused) as refused:
        given(simulation, line)
    assert simulation.text("snapshot") == before
    return refused.value.errno or 0


def promised(command: Command) -> set[str]:
    return set(re.findall(r"\bE[A-Z0-9]{2,}\b", command.errors))


PROMISES = [(command, name) for command in COMMANDS for name in sorted(promised(command))]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_command_says_what_it_refuses(command: Command) -> None:
    assert command.errors


@pytest.mark.parametrize(
    ("command", "name"), PROMISES, ids=lambda each: each if isinstance(each, str) else "_".join(each.words)
)
def test_errno_of_the_table_is_one_that_the_command_gives(command: Command, name: str) -> None:
    words = " ".join(command.words)
    cases = [(setup, line) for setup, line, wanted in CASES[words] if wanted == name]
    if not cases and name in _INVALID and words.startswith("key "):
        cases = [of_an_invalid_key(command, name)]
    assert cases, f"no case for {name} of {words}"
    for setup, line in cases:
        assert refusal(setup, line) == getattr(errno, name), line
