"""A mount of an ordinary user's, by the set-uid fusermount3: root is one of the others there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.booted import Machine
from wqfs.abi import ioctls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FOLDER = "/srv/theirs"
SET_FILTER = f"""
import ctypes, errno, os
fd = os.open("{FOLDER}/watches/w/queue", os.O_RDONLY)
filter = ctypes.create_string_buffer(bytes([1, 0, 0, 0, 0, 0, 0, 0, 1]) + bytes(43))
done = ctypes.CDLL(None, use_errno=True).ioctl(fd, ctypes.c_ulong({ioctls.IOC_WATCH_QUEUE_SET_FILTER}), filter)
print(errno.errorcode[ctypes.get_errno()] if done else "set")
"""


@pytest.fixture
def theirs(machine: Machine) -> Iterator[Machine]:
    """A folder of the user daemon's, and what is mounted there gone at the end."""
    machine.shell(f"mkdir -p {FOLDER} && chown daemon {FOLDER}")
    yield machine
    machine.ask("fusermount3", "-quz", FOLDER)


def test_root_may_not_look_into_a_users_mount(theirs: Machine) -> None:
    theirs.run("wqfs", FOLDER, user="daemon")
    theirs.run("mkdir", f"{FOLDER}/watches/w", user="daemon")
    for user in ("root", "bin"):
        for command in (("ls", FOLDER), ("cat", f"{FOLDER}/metrics"), ("mkdir", f"{FOLDER}/watches/mine")):
            done = theirs.ask(*command, user=user)
            assert done.returncode and "Permission denied" in done.stderr, (user, command, done)
    assert theirs.run("python3", "-c", SET_FILTER, user="daemon") == "set\n"
    theirs.run("wqfs", "umount", FOLDER, user="daemon")
    assert theirs.mounts(FOLDER) == []


def test_with_allow_root_root_may_and_nobody_else(theirs: Machine) -> None:
    done = theirs.ask("wqfs", FOLDER, "-o", "allow_root", user="daemon")
    assert done.returncode == 1 and "user_allow_other" in done.stderr and theirs.mounts(FOLDER) == []
    theirs.shell("echo user_allow_other >> /etc/fuse.conf")
    theirs.run("wqfs", FOLDER, "-o", "allow_root", user="daemon")
    theirs.run("mkdir", f"{FOLDER}/watches/w", user="daemon")
    assert theirs.run("ls", f"{FOLDER}/watches") == "w\n"
    theirs.run("mkdir", f"{FOLDER}/watches/of-root")
    theirs.run("tee", f"{FOLDER}/post", text="mount /dev/sdb1 /mnt -t ext4\n")
    for command in (("ls", FOLDER), ("cat", f"{FOLDER}/metrics"), ("mkdir", f"{FOLDER}/watches/mine")):
        done = theirs.ask(*command, user="bin")
        assert done.returncode and "Permission denied" in done.stderr, (command, done)
    assert '"new_mount"' in theirs.run("cat", f"{FOLDER}/watches/w/log", user="daemon")
    assert theirs.run("python3", "-c", SET_FILTER) == "EPERM\n", "the server may not look into root's memory"
    assert theirs.run("python3", "-c", SET_FILTER, user="daemon") == "set\n"
