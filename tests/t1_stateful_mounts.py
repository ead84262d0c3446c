"""Any sequence of commands: the mount tree stays a tree, and a consumer of its notifications keeps up.

After each command: every mount has its parent, the root reaches all, ids are never used twice, the
superblocks' lists and the peer groups agree with the tree, mountinfo parses back to it, and a command
that was refused has changed nothing. At any moment a consumer that has applied what its queue held
(tests/consumer.py) has the same tree.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.consumer import Consumer, parse_mountinfo, state_of
from wqfs.sim import Refused, Simulation
from wqfs.sim.language import quote
from wqfs.sim.mount_options import PROPAGATION, attribute_text
from wqfs.sim.mounts import OUTSIDE_ID, Mount
from wqfs.sim.peers import PeerGroup

NAMES = st.sampled_from(["a", "b", "c", "d e", "f\ng", "h\\i", "#j", "k\tl", "m\udcff", "ñ", "-", "\\040"])
SOURCES = st.sampled_from(["/dev/sda1", "/dev/sda2", "/dev/sdb1", "none", "host:/x y", "#s"])
INDEX = st.integers(0, 40)
OPTIONS = st.sampled_from(["ro", "rw", "nosuid", "noatime", "ro,nodev", "errors=remount-ro", "rw,size=1m"])


def assert_what_moved_is_marked(before: dict[str, Any], after: dict[str, Any], line: str) -> None:
    """Every object that is another now has a `changed` above the old snapshot's seq: who lost events
    re-reads those alone."""
    for kind, key in (("mounts", "id"), ("superblocks", "id"), ("devices", "name"), ("keys", "serial")):
        old = {each[key]: each for each in before[kind]}
        for each in after[kind]:
            was = old.get(each[key])
            if was is not None and was != each:
                assert each["changed"] > before["seq"], (line, was, each)


class Mounts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation()
        self.tree = self.simulation.system.mounts
        self.watch = self.simulation.watch("mount / id=1", depth=32)
        self.consumer = Consumer(self.read, lambda: self.simulation.text("mountinfo"))
        self.ids = set(self.tree.by_id)
        self.last_id = max(self.ids)

    def read(self) -> bytes:
        try:
            return self.watch.read(4096)
        except BlockingIOError:
            return b""

    def run(self, line: str) -> None:
        before = self.simulation.text("snapshot")
        try:
            self.simulation.run(line)
        except Refused:
            assert self.simulation.text("snapshot") == before, line
        else:
            assert_what_moved_is_marked(json.loads(before), json.loads(self.simulation.text("snapshot")), line)
        new = set(self.tree.by_id) - self.ids
        assert not new or min(new) > self.last_id, "an id was used again"
        self.ids |= new
        self.last_id = max(self.ids)

    def at(self, index: int) -> str:
        mounts = [*self.tree.by_id.values()]
        return mounts[index % len(mounts)].path

    def place(self, index: int, name: str) -> str:
        return quote(f"{self.at(index).rstrip('/')}/{name}")

    # -- commands

    @rule(index=INDEX, name=NAMES, source=SOURCES, options=OPTIONS)
    def mount(self, index: int, name: str, source: str, options: str) -> None:
        fstype = "ext4" if source.startswith("/dev/") else "tmpfs"
        self.run(f"mount -t {fstype} -o {options} {quote(source)} {self.place(index, name)}")

    @rule(index=INDEX)
    def mount_on_top(self, index: int) -> None:
        self.run(f"mount -t tmpfs none {quote(self.at(index))}")

    @rule(index=INDEX, to=INDEX, name=NAMES, how=st.sampled_from(["--bind", "--rbind"]))
    def bind(self, index: int, to: int, name: str, how: str) -> None:
        if len(self.tree.by_id) < 150:  # each rbind may double it
            self.run(f"mount {how} {quote(self.at(index))} {self.place(to, name)}")

    @rule(index=INDEX, to=INDEX, name=NAMES)
    def bind_of_a_directory(self, index: int, to: int, name: str) -> None:
        if len(self.tree.by_id) < 150:
            self.run(f"mount --bind {self.place(index, name)} {self.place(to, name)}")

    @rule(index=INDEX, to=INDEX, name=NAMES)
    def move(self, index: int, to: int, name: str) -> None:
        self.run(f"mount --move {quote(self.at(index))} {self.place(to, name)}")

    @rule(index=INDEX, how=st.sampled_from(["", "-l", "-R", "-A", "-A -l"]))
    def umount(self, index: int, how: str) -> None:
        self.run(f"umount {how} {quote(self.at(index))}")

    @rule(index=INDEX, word=st.sampled_from(PROPAGATION))
    def make(self, index: int, word: str) -> None:
        self.run(f"mount --make-{word} {quote(self.at(index))}")

    @rule(index=INDEX, options=OPTIONS, how=st.sampled_from(["remount", "remount,bind"]))
    def remount(self, index: int, options: str, how: str) -> None:
        self.run(f"mount -o {how},{options} {quote(self.at(index))}")

    @rule(index=INDEX, word=st.sampled_from(["ro", "rw", "nosuid"]))
    def mount_setattr_recursive(self, index: int, word: str) -> None:
        self.run(f"mount -o remount,bind,{word}=recursive {quote(self.at(index))}")

    @rule(index=INDEX, name=NAMES)
    def automount(self, index: int, name: str) -> None:
        self.run(f"automount -t nfs host:/x {self.place(index, name)}")

    @rule(index=INDEX, all_=st.booleans())
    def expire(self, index: int, all_: bool) -> None:
        self.run("expire" if all_ else f"expire {quote(self.at(index))}")

    @rule(index=INDEX, what=st.sampled_from(["error {} EIO", "readonly {}", "readwrite {}", "freeze {}", "thaw {}"]))
    def superblock(self, index: int, what: str) -> None:
        self.run("sb " + what.format(quote(self.at(index))))

    @rule(
        device=st.sampled_from(["/dev/sda", "/dev/sda1", "/dev/sdb"]), what=st.sampled_from(["remove", "add", "error"])
    )
    def device(self, device: str, what: str) -> None:
        self.run(f"device error {device} io" if what == "fail" else f"device {what} {device}")

    @rule(line=st.sampled_from(["mount", "umount /none", "mount -t ext4 none /x", "umount /", "mount --move / /x"]))
    def nonsense(self, line: str) -> None:
        self.run(line)

    # -- what holds

    @invariant()
    def the_tree_is_a_tree(self) -> None:
        seen: dict[int, Mount] = {}
        for mount in self.tree.root.subtree():
            assert mount.id not in seen, "reached twice"
            seen[mount.id] = mount
            for place, child in mount.children.items():
                assert child.parent is mount and child.mountpoint == place
                assert child.path == (mount.path.rstrip("/") + "".join(f"/{name}" for name in place) or "/")
        assert seen == self.tree.by_id
        assert list(self.tree.by_id) == sorted(seen)

    @invariant()
    def superblocks_know_their_mounts(self) -> None:
        by_sb: dict[int, set[int]] = {}
        for mount in self.tree.by_id.values():
            by_sb.setdefault(mount.sb.id, set()).add(mount.id)
        assert {sb.id: set(sb.mounts) for sb in self.simulation.system.superblocks.by_id.values()} == by_sb

    @invariant()
    def peers_and_masters_agree(self) -> None:
        groups: dict[int, PeerGroup] = {}
        for mount in self.tree.by_id.values():
            if mount.group is not None:
                assert groups.setdefault(mount.group.id, mount.group) is mount.group
                assert mount in mount.group.members and not mount.unbindable
            if mount.master is not None:
                assert mount.master.group is not None and mount in mount.master.slaves
            assert all(slave.master is mount for slave in mount.slaves)
        for group in groups.values():
            assert all(self.tree.by_id.get(member.id) is member for member in group.members)

    @invariant()
    def mountinfo_parses_back(self) -> None:
        lines = parse_mountinfo(self.simulation.text("mountinfo"))
        assert list(lines) == list(self.tree.by_id)
        for mount in self.tree.by_id.values():
            line = lines[mount.id]
            assert line.parent == (mount.parent.id if mount.parent else OUTSIDE_ID)
            assert (line.mountpoint, line.root) == (mount.path, "/" + "/".join(mount.root))
            assert line.options == tuple(attribute_text(mount.attr).split(","))
            assert (line.device, line.fstype, line.source) == (mount.sb.device_text, mount.sb.fstype, mount.sb.source)
            assert line.super_options == tuple(mount.sb.option_text.split(","))
            assert ("unbindable" in line.optional) == mount.unbindable

    @rule()
    def consumer_has_the_same_tree(self) -> None:
        self.consumer.consume()
        assert self.consumer.copy == state_of(parse_mountinfo(self.simulation.text("mountinfo")))

    def teardown(self) -> None:
        self.consumer_has_the_same_tree()


def test_any_commands_keep_the_tree_and_the_consumer_right() -> None:
    run_state_machine_as_test(Mounts, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_commands_keep_the_tree_and_the_consumer_right_at_length() -> None:
    run_state_machine_as_test(Mounts, settings=settings(max_examples=400, stateful_step_count=80, deadline=None))


def test_consumer_that_loses_reads_mountinfo_again_and_only_then() -> None:
    machine = Mounts()
    for at in range(30):
        machine.run(f"mount -t tmpfs none /x{at}")
    machine.consumer_has_the_same_tree()
    assert machine.consumer.reread == 0
    for at in range(30, 70):
        machine.run(f"mount -t tmpfs none /x{at}")
    machine.consumer_has_the_same_tree()
    assert machine.consumer.reread == 1
