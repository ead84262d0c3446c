"""Block devices, the filesystems on them, and what superblocks are without an event: frozen, full."""

from __future__ import annotations

import errno
import json

import pytest

from tests.simulated_mounts import make_system, make_watch, refusal, run, told
from wqfs.abi import records as r
from wqfs.event import Log
from wqfs.sim import views
from wqfs.sim.command import ROOT
from wqfs.sim.devices import ERRNO_OF, is_within
from wqfs.sim.errors import Refused
from wqfs.sim.simulation import Simulation
from wqfs.sim.system import System


def events_of(system: System, *lines: str) -> list[tuple[str, int]]:
    """(event, errno of a superblock's error) that a watch on all devices and on /d's superblock hears."""
    watch = make_watch(system, sb_d=1)
    system.watches.add(watch, system.devices, 2, label="devices")
    for line in lines:
        run(system, line)
    found = []
    for record in told(watch):
        number = r.SB_ERROR_BODY.unpack_from(record.body)[1] if record.type == 3 and record.subtype == 1 else 0
        found.append((r.SUBTYPES[record.type](record.subtype).name.lower(), number))
    return found


def state_of(system: System, path: str = "/d") -> str:
    return system.find_sb(path)[0].state


def devices_of(system: System) -> dict[str, str]:
    document = json.loads(views.snapshot(system, None, 0))
    return {device["name"]: device["state"] for device in document["devices"]}


@pytest.mark.parametrize("subtype", r.BlockSubtype)
def test_device_error_reaches_the_superblock_with_linux_errno(subtype: r.BlockSubtype) -> None:
    system = make_system("mount /dev/sdb1 /d -t ext4")
    word = subtype.name.lower()
    assert events_of(system, f"device error /dev/sdb {word} sector=8") == [(word, 0), ("error", ERRNO_OF[subtype])]
    assert state_of(system) == "error"


def test_device_error_with_errors_remount_ro_turns_the_filesystem_read_only() -> None:
    system = make_system("mount /dev/sdb1 /d -t ext4 -o errors=remount-ro")
    assert events_of(system, "device error /dev/sdb1 io") == [("io", 0), ("error", errno.EIO), ("readonly", 0)]
    assert system.find_sb("/d")[0].read_only


def test_device_error_elsewhere_is_not_the_superblocks() -> None:
    system = make_system("mount /dev/sdb1 /d -t ext4")
    assert events_of(system, "device error /dev/sdb2 io", "device error /dev/sdc io") == [("io", 0), ("io", 0)]
    assert state_of(system) == "ok"


def test_device_removed_leaves_its_mount_and_takes_no_new_one() -> None:
    system = make_system("mount /dev/sdb1 /d -t vfat")
    assert events_of(system, "device remove /dev/sdb") == [("error", errno.EIO)]
    assert devices_of(system)["/dev/sdb"] == "removed"
    assert refusal(system, "mount /dev/sdb1 /e -t vfat").errno == errno.ENOENT
    assert refusal(system, "device error /dev/sdb1 io").errno == errno.ENXIO
    assert refusal(system, "device remove /dev/sdb").errno == errno.ENXIO
    assert refusal(system, "device add /dev/sdb").errno == errno.EBUSY
    run(system, "umount /d")
    run(system, "device add /dev/sdb")
    run(system, "mount /dev/sdb1 /d -t vfat")
    assert state_of(system) == "ok"


def test_device_add_of_one_that_is_there_is_refused() -> None:
    system = make_system("device add /dev/sdb")
    assert refusal(system, "device add /dev/sdb").errno == errno.EEXIST
    assert devices_of(system)["/dev/sdb"] == "ok"


@pytest.mark.parametrize("verb", ["add", "remove", "error"])
def test_device_that_is_none_is_refused(verb: str) -> None:
    refused = refusal(make_system(), f"device {verb} tmpfs io")
    assert refused.errno in (errno.ENOTBLK, errno.EINVAL)
    assert refusal(make_system(), f"device {verb} tmpfs{' io' if verb == 'error' else ''}").errno == errno.ENOTBLK


@pytest.mark.parametrize(
    ("name", "disk", "within"),
    [
        ("/dev/sdb", "/dev/sdb", True),
        ("/dev/sdb12", "/dev/sdb", True),
        ("/dev/sdbc", "/dev/sdb", False),
        ("/dev/sdb1", "/dev/sdb12", False),
        ("/dev/nvme0n1p2", "/dev/nvme0n1", True),
        ("/dev/nvme0n12", "/dev/nvme0n1", False),
        ("/dev/sdb12", "/dev/sdb1", False),
    ],
)
def test_partition_belongs_to_its_disk(name: str, disk: str, within: bool) -> None:
    assert is_within(name, disk) is within


def test_freeze_is_state_without_an_event_and_keeps_remount_out() -> None:
    system = make_system("mount /dev/sdb1 /d -t ext4")
    before = system.watches.last_event
    run(system, "sb freeze /d")
    assert state_of(system) == "frozen"
    assert system.find_sb("/d")[0].changed == before + 1
    assert refusal(system, "sb freeze /d").errno == errno.EBUSY
    assert refusal(system, "mount -o remount,ro /d").errno == errno.EBUSY
    run(system, "sb thaw /d")
    assert refusal(system, "sb thaw /d").errno == errno.EINVAL
    assert state_of(system) == "ok"
    assert system.watches.last_event == before
    run(system, "mount -o remount,ro /d")


def test_full_is_state_without_an_event() -> None:
    system = make_system("mount /dev/sdb1 /d -t ext4", "sb fill /d 99")
    before = system.watches.last_event
    assert state_of(system) == "ok"
    run(system, "sb fill /d 100")
    assert state_of(system) == "full"
    assert json.loads(views.snapshot(system, None, 0))["superblocks"][1]["fill_percent"] == 100
    assert refusal(system, "sb fill /d 101").errno == errno.EINVAL
    assert system.watches.last_event == before


def test_states_stand_together_in_their_order() -> None:
    system = make_system("mount host:/x /d -t nfs", "sb network /d down", "sb freeze /d", "sb fill /d 100")
    run(system, "sb error /d EIO")
    assert state_of(system) == "error,full,frozen,down"
    assert " nfs error,full,frozen,down rw host:/x\n" in views.superblocks(system.superblocks)


@pytest.mark.parametrize("kind", ["user", "group", "project"])
def test_edquot_says_whose_quota_it_was(kind: str) -> None:
    system = make_system("mount /dev/sdb1 /d -t ext4")
    named = system.watches.make("w", 0, 0, 0)
    target, place, label = system.resolve(["sb", "/d"], ROOT, 0)
    system.watches.add(named, target, 0, label=label, place=place)
    (log,) = named.sinks
    assert isinstance(log, Log)
    assert events_of(system, f"sb edquot /d {kind} 1000") == [("edquot", 0)]
    assert json.loads(log.text())[kind] == 1000


def test_clock_goes_forward_and_keys_expire_with_it() -> None:
    system = make_system("key add user ticket x @s", "key timeout ticket 10")
    system.run("clock advance 9.5", ROOT, 1_000)
    system.run("key update ticket y", ROOT, 1_000 + system.ahead_ns)
    system.run("key timeout ticket 10", ROOT, 1_000 + system.ahead_ns)
    system.run("clock advance 11", ROOT, 1_000 + system.ahead_ns)
    with pytest.raises(OSError) as refused:
        system.run("key update ticket z", ROOT, 1_000 + system.ahead_ns)
    assert refused.value.errno == errno.EKEYEXPIRED
    system.run("clock advance 300", ROOT, 1_000 + system.ahead_ns)
    with pytest.raises(OSError) as refused:
        system.run("key update ticket z", ROOT, 1_000 + system.ahead_ns)
    assert refused.value.errno == errno.ENOKEY


@pytest.mark.parametrize("word", ["-1", "x", "1e9", "", "1.", "99999999999", "1 2"])
def test_clock_advance_by_no_number_is_refused(word: str) -> None:
    refused = refusal(make_system(), f"clock advance {word}")
    assert refused.errno == errno.EINVAL


def test_device_add_partition_of_removed_disk() -> None:
    """A partition comes and goes with its disk, and is shown so."""
    simulation = Simulation()
    simulation.run("mount /dev/sdb1 /data")
    simulation.run("device remove /dev/sdb")
    simulation.run("umount /data")

    def states() -> dict[str, str]:
        devices = json.loads(simulation.text("snapshot"))["devices"]
        return {device["name"]: device["state"] for device in devices}

    assert (states()["/dev/sdb"], states()["/dev/sdb1"]) == ("removed", "removed")
    with pytest.raises(Refused) as refused:
        simulation.run("device add /dev/sdb1")
    assert refused.value.errno == errno.ENXIO
    simulation.run("device add /dev/sdb")
    assert (states()["/dev/sdb"], states()["/dev/sdb1"]) == ("ok", "ok")
