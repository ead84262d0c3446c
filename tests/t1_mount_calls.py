"""The system calls of mounts in memory: detached trees, contexts, and who hears of them."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EINVAL, ENOTDIR

import pytest

from tests.tools import refused
from wqfs.abi import records as r
from wqfs.sim import calls, views
from wqfs.sim.command import ROOT
from wqfs.sim.context_calls import CMD_CREATE, CMD_RECONFIGURE, SET_FLAG, SET_STRING
from wqfs.sim.mount_calls import (
    AT_RECURSIVE,
    MNT_DETACH,
    MNT_EXPIRE,
    MS_BIND,
    MS_RDONLY,
    OPEN_TREE_CLONE,
)
from wqfs.sim.system import System
from wqfs.watches import Watches

SHARED = 1 << 20


class Machine:
    """A simulated system with a watch of everything."""

    def __init__(self) -> None:
        self.system = System(Watches(strict=False), now_ns=0)
        self._watch = self.system.watches.make("all", 0, 0, 0)
        self._watch.queue.set_size(512)

    def call(self, name: str, *arguments: int | bytes | None) -> int:
        answer = calls.call(self.system, ROOT, name, arguments, 0)
        assert isinstance(answer, int)
        return answer

    def path(self, *place: int | bytes) -> bytes:
        answer = calls.call(self.system, ROOT, "path_of", place, 0)
        assert isinstance(answer, bytes)
        return answer

    def mount(self, path: bytes, flags: int = 0) -> None:
        self.call("mount", 0, b"none", 0, path, b"tmpfs", flags, None)

    def events(self) -> list[str]:
        """The events since the last time, by name."""
        raw = b""
        while more := self._watch.queue.read(4096):
            raw += more
        kinds = {2: r.MountSubtype, 3: r.SbSubtype, 0: r.MetaSubtype}
        return [kinds[each.type](each.subtype).name.lower() for each in r.decode(raw)]

    def table(self) -> list[str]:
        """Mountpoints and attributes, without the root mount."""
        lines = views.mountinfo(self.system.mounts).splitlines()
        return [" ".join(line.split()[4:6]) for line in lines[1:]]

    def superblocks(self) -> int:
        return len(self.system.superblocks.by_id)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_detached_tree_is_seen_and_heard_of_by_nobody(machine: Machine) -> None:
    machine.mount(b"/a")
    machine.mount(b"/a/in")
    machine.events()
    tree = machine.call("open_tree", 0, b"/a", OPEN_TREE_CLONE | AT_RECURSIVE)
    machine.call("mount_setattr", tree, b"", 1, 1, 0, 0)
    assert machine.events() == []
    assert machine.table() == ["/a rw,relatime", "/a/in rw,relatime"]
    machine.call("move_mount", tree, b"", 0, b"/b", 0)
    assert machine.events() == ["new_mount", "new_mount"]
    assert machine.table()[2:] == ["/b ro,relatime", "/b/in ro,relatime"]
    assert machine.path(tree, b"in") == b"/b/in"


def test_detached_tree_gets_no_copies_and_is_a_peer_when_attached(machine: Machine) -> None:
    machine.mount(b"/a")
    machine.call("mount", 0, None, 0, b"/a", None, SHARED, None)
    tree = machine.call("open_tree", 0, b"/a", OPEN_TREE_CLONE)
    machine.mount(b"/a/before")
    machine.call("move_mount", tree, b"", 0, b"/b", 0)
    machine.mount(b"/a/after")
    assert [line.split()[0] for line in machine.table()] == ["/a", "/b", "/a/before", "/a/after", "/b/after"]


def test_superblock_stays_as_long_as_a_descriptor_holds_it(machine: Machine) -> None:
    machine.mount(b"/a")
    tree = machine.call("open_tree", 0, b"/a", OPEN_TREE_CLONE)
    picked = machine.call("fspick", 0, b"/a")
    number = machine.call("superblock_of", 0, b"/a")
    machine.call("umount2", 0, b"/a", 0)
    assert machine.call("superblock_of", tree, b"") == number
    machine.call("close_mount_fd", tree)
    assert machine.superblocks() == 2
    machine.call("close_mount_fd", picked)
    assert machine.superblocks() == 1
    with refused(ENOTDIR):
        machine.call("superblock_of", tree, b"")


def test_descriptor_of_a_mount_that_went_names_nothing(machine: Machine) -> None:
    machine.mount(b"/a")
    plain = machine.call("open_tree", 0, b"/a", 0)
    machine.call("umount2", 0, b"/a", MNT_DETACH)
    for name, *more in (("mount_setattr", 0, 1, 0, 0), ("move_mount", 0, b"/b", 0), ("open_tree", OPEN_TREE_CLONE)):
        with refused(EINVAL):
            machine.call(name, plain, b"", *more)
    machine.call("close_mount_fd", plain)


def test_nothing_is_mounted_in_what_is_detached(machine: Machine) -> None:
    machine.mount(b"/a")
    tree = machine.call("open_tree", 0, b"/a", OPEN_TREE_CLONE)
    before = machine.superblocks()
    with refused(EINVAL):
        machine.call("mount", 0, b"none", tree, b"in", b"tmpfs", 0, None)
    with refused(EINVAL):
        machine.call("mount", 0, b"/a", tree, b"in", None, MS_BIND, None)
    with refused(EINVAL):
        machine.call("open_tree", tree, b"", OPEN_TREE_CLONE)
    with refused(EINVAL):
        machine.path(tree, b"")
    assert machine.superblocks() == before


def test_mark_of_expiry_is_taken_by_any_use(machine: Machine) -> None:
    machine.mount(b"/a")
    with refused(EAGAIN):
        machine.call("umount2", 0, b"/a", MNT_EXPIRE)
    machine.path(0, b"/a/file")
    with refused(EAGAIN):
        machine.call("umount2", 0, b"/a", MNT_EXPIRE)
    machine.events()
    machine.call("umount2", 0, b"/a", MNT_EXPIRE)
    assert machine.events() == ["unmount"]


def test_unmounting_the_root_turns_it_read_only(machine: Machine) -> None:
    machine.call("umount2", 0, b"/", 0)
    assert machine.events() == ["readonly"]
    assert views.mountinfo(machine.system.mounts).endswith(" ro\n")
    with refused(EBUSY):
        machine.call("umount2", 0, b"/", MNT_DETACH)


def test_context_after_a_failure_is_of_no_use(machine: Machine) -> None:
    machine.system.run("mount -t ext4 /dev/sda1 /disk", ROOT, 0)
    context = machine.call("fsopen", b"xfs")
    machine.call("fsconfig", context, SET_STRING, b"source", b"/dev/sda1")
    with refused(EBUSY):
        machine.call("fsconfig", context, CMD_CREATE, None, None)
    for command, key in ((SET_FLAG, b"ro"), (CMD_CREATE, None), (CMD_RECONFIGURE, None)):
        with refused(EBUSY):
            machine.call("fsconfig", context, command, key, None)
    with refused(EINVAL):
        machine.call("fsmount", context, 0)


def test_remount_of_a_frozen_filesystem_is_refused(machine: Machine) -> None:
    machine.mount(b"/a")
    machine.system.run("sb freeze /a", ROOT, 0)
    with refused(EBUSY):
        machine.call("mount", 0, None, 0, b"/a", None, 32 | MS_RDONLY, None)
    picked = machine.call("fspick", 0, b"/a")
    with refused(EBUSY):
        machine.call("fsconfig", picked, CMD_RECONFIGURE, None, None)


def test_call_of_no_name_or_with_other_arguments_is_a_fault_of_the_asker(machine: Machine) -> None:
    with pytest.raises(ValueError, match="there is no call"):
        machine.call("pivot_root", 0, b"/")
    with pytest.raises(ValueError, match="expected the arguments"):
        machine.call("umount2", 0, 0, b"/")
