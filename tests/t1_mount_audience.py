"""Who hears of a mount event: each subtype of MOUNT_NOTIFY, and watches at the root, at a mount in
between, at a plain directory, next door (ABI.md, 1)."""

from __future__ import annotations

import pytest

from wqfs.abi import records as r
from wqfs.sim import Simulation

SETUP = (
    "mount -t tmpfs none /mid",
    "mount -t tmpfs none /next",
    "mount -t ext4 /dev/sdb1 /mid/dir/old",
    "automount -t nfs host:/x /mid/dir/auto",
)
AT, BELOW = False, True
# What is done; the subtype; then what the watches hear of it: at the root, at /mid (the mount in
# between), at /mid/dir (a plain directory of it), at /next. AT: without IN_SUBTREE, BELOW: with.
CASES = [
    ("mount -t tmpfs none /mid/dir/new", r.MountSubtype.NEW_MOUNT, BELOW, AT, BELOW),
    ("umount /mid/dir/old", r.MountSubtype.UNMOUNT, BELOW, AT, BELOW),
    ("expire /mid/dir/auto", r.MountSubtype.EXPIRY, BELOW, BELOW, BELOW),
    ("mount -o remount,bind,ro /mid/dir/old", r.MountSubtype.READONLY, BELOW, BELOW, BELOW),
    ("mount -o remount,bind,nosuid /mid/dir/old", r.MountSubtype.SETATTR, BELOW, BELOW, BELOW),
    ("mount --move /mid/dir/old /mid/dir/there", r.MountSubtype.MOVE_FROM, BELOW, AT, BELOW),
    ("mount --move /mid/dir/old /mid/dir/there", r.MountSubtype.MOVE_TO, BELOW, AT, BELOW),
]


def heard(line: str, subtype: r.MountSubtype, *watched: str) -> dict[str, bool]:
    """Which of the watches hear of it, each with whether IN_SUBTREE is set."""
    here = Simulation(strict=True)
    for each in SETUP:
        here.run(each)
    watches = {path: here.watch(f"mount {path} id=1") for path in watched}
    here.run(line)
    found = {}
    for path, watch in watches.items():
        for event in watch.events():
            if (event["type"], event["event"]) == ("mount", subtype.name.lower()):
                assert path not in found, "told twice"
                found[path] = "IN_SUBTREE" in event["flags"]
    return found


@pytest.mark.parametrize(("line", "subtype", "root", "between", "directory"), CASES)
def test_event_is_heard_rootwards_and_not_next_door(
    line: str, subtype: r.MountSubtype, root: bool, between: bool, directory: bool
) -> None:
    wanted = {"/": root, "/mid": between, "/mid/dir": directory}
    assert heard(line, subtype, "/", "/mid", "/mid/dir", "/next", "/mid/other") == wanted


def test_a_move_between_directories_is_told_to_each_once() -> None:
    line = "mount --move /mid/dir/old /mid/other/there"
    watched = ("/mid", "/mid/dir", "/mid/other", "/mid/other/there/deeper", "/next")
    assert heard(line, r.MountSubtype.MOVE_FROM, *watched) == {"/mid": AT, "/mid/dir": BELOW}
    assert heard(line, r.MountSubtype.MOVE_TO, *watched) == {"/mid": AT, "/mid/other": BELOW}


def test_every_subtype_has_its_case() -> None:
    assert {subtype for _, subtype, *_ in CASES} == set(r.MountSubtype)


@pytest.mark.parametrize(
    ("line", "subtype"),
    [
        ("expire /mid/dir/auto", r.MountSubtype.EXPIRY),
        ("mount -o remount,bind,ro /mid/dir/old", r.MountSubtype.READONLY),
        ("mount -o remount,bind,nosuid /mid/dir/old", r.MountSubtype.SETATTR),
    ],
)
def test_event_at_a_watched_mount_itself_is_not_in_its_subtree(line: str, subtype: r.MountSubtype) -> None:
    path = line.split()[-1]
    assert heard(line, subtype, path) == {path: AT}


def test_watch_goes_with_its_mount_and_its_superblock() -> None:
    here = Simulation(strict=True)
    for each in SETUP:
        here.run(each)
    mount = here.watch("mount /mid/dir/old id=3", "sb /mid/dir/old id=4")
    inside = here.watch("mount /mid/dir/old/some/directory id=5")
    bystander = here.watch("mount /next id=6")
    here.run("umount /mid/dir/old")
    removed = [r.REMOVAL_BODY.unpack(record.body)[0] for record in r.decode(mount.read())]
    assert removed == [24, 4]  # the ids of the mount and of the superblock
    assert [event["event"] for event in inside.events()] == ["removal"]
    assert bystander.events() == []
