"""wqfs.sim.Simulation: the simulated system in Python, by the same grammar as `post`."""

from __future__ import annotations

import doctest
import errno
import json

import pytest

from wqfs.abi import records as r
from wqfs.queue import SizeRefused
from wqfs.sim import Refused, Simulation, simulation


def test_example_of_the_module_gives_what_it_says() -> None:
    assert doctest.testmod(simulation).failed == 0
    assert doctest.testmod(simulation).attempted >= 6


def test_watch_without_objects_hears_everything_unless_strict() -> None:
    for strict, heard in ((False, 1), (True, 0)):
        here = Simulation(strict=strict)
        watch = here.watch()
        here.run("sb error / EIO")
        assert len(watch.events()) == heard


def test_filter_and_ids_are_those_of_the_files() -> None:
    here = Simulation()
    watch = here.watch("mount / id=7", "sb / id=8", filter="mount unmount\nsb error id=8\n")
    for line in ("mount none /a -t tmpfs", "umount /a", "sb error / EIO"):
        here.run(line)
    assert [(record.type, record.watch_id) for record in r.decode(watch.read())] == [(2, 7), (3, 8)]


def test_read_of_nothing_and_into_too_little() -> None:
    here = Simulation()
    watch = here.watch()
    with pytest.raises(BlockingIOError):
        watch.read()
    here.run("sb error / EIO")
    with pytest.raises(OSError) as refused:
        watch.read(10)
    assert refused.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("wrong", ["mount", "mount a", "nothing", "sb none id=1"])
def test_watch_of_an_object_that_is_none_is_refused_and_gone(wrong: str) -> None:
    here = Simulation()
    with pytest.raises(Refused) as refused:
        here.watch(wrong)
    assert refused.value.errno == errno.EINVAL
    assert not here.system.watches.by_number


def test_filter_and_depth_that_make_no_sense_are_refused() -> None:
    here = Simulation()
    with pytest.raises(Refused) as refused:
        here.watch(filter="mount gone\n")
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(SizeRefused) as size_refused:
        here.watch(depth=513)
    assert size_refused.value.errno == errno.EINVAL
    assert not here.system.watches.by_number


def test_advance_lets_keys_expire() -> None:
    here = Simulation()
    here.run("key add user ticket x @s")
    here.run("key timeout ticket 10")
    here.advance(10.5)
    with pytest.raises(Refused) as refused:
        here.run("key update ticket y")
    assert refused.value.errno == errno.EKEYEXPIRED


def test_same_lines_give_the_same_bytes() -> None:
    def bytes_of() -> bytes:
        here = Simulation()
        watch = here.watch()
        for line in ("mount none /a -t tmpfs", "key add user a b @s", "device error /dev/sda io", "umount /a"):
            here.run(line)
        return watch.read() + here.text("snapshot").encode()

    assert bytes_of() == bytes_of()


def test_users_have_keyrings_of_their_own() -> None:
    here = Simulation()
    here.run("key add user a b @s", uid=1000, gid=1000)
    with pytest.raises(Refused) as refused:
        here.run("key update a c")
    assert refused.value.errno == errno.ENOKEY
    here.run("key update a c", uid=1000, gid=1000)


def test_closed_watch_hears_nothing() -> None:
    here = Simulation()
    watch = here.watch()
    watch.close()
    here.run("sb error / EIO")
    assert watch.events() == []


def test_objects_that_change_carry_a_number_above_the_old_snapshots() -> None:
    """Who lost events re-reads what has a higher `changed` alone: so all that is another must have one."""
    here = Simulation()
    before = json.loads(here.text("snapshot"))
    for line in (
        "key newring ring @s",
        "key add user one x ring",
        "key add user two x ring",
        "key timeout two 10",
        "key invalidate %user:one",
        "clock advance 400",
        "mount -t tmpfs none /a",
        "mount --make-shared /a",
        "mount --bind /a /b",
        "mount --make-slave /b",
        "mount --make-private /a",
        "sb fill /a 50",
        "key add user three x ring",
        "key clear ring",
        "key revoke ring",
        "device add /dev/sdc",
        "device error /dev/sdc io",
        "device remove /dev/sdc",
    ):
        here.run(line)
        after = json.loads(here.text("snapshot"))
        for kind, name in (("mounts", "id"), ("superblocks", "id"), ("devices", "name"), ("keys", "serial")):
            old = {each[name]: each for each in before[kind]}
            for each in after[kind]:
                was = old.get(each[name])
                if was is not None and was != each and {**was, "state": ""} != {**each, "state": ""}:
                    assert each["changed"] > before["seq"], (line, was, each)
        before = after
