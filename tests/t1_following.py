"""A state followed event by event (wqfs.cli.following) against the snapshots of the simulated system."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wqfs.cli.conditions import condition
from wqfs.cli.following import Followed, Snapshot
from wqfs.sim import Simulation

BEFORE = [
    "mount /dev/sdb1 /a -t ext4",
    "mount a /a/in -t tmpfs",
    "mount b /b -t tmpfs -o ro",
    "key newring ring @u",
    "key add user one x %:ring",
    "key add user two x %:ring",
]
LINES = [
    "mount c /c -t tmpfs -o ro",
    "mount --bind /a /d",
    "mount --rbind /a /e",
    "mount c2 /c -t tmpfs",
    "umount /b",
    "umount -l /a",
    "mount --move /a /moved",
    "mount --move /a /b",
    "mount -o remount,bind,ro /a",
    "mount -o remount,bind,ro=recursive /a",
    "mount -o remount,rw /b",
    "mount -o remount,ro /a",
    "sb readonly /a",
    "sb error /a EIO",
    "automount server:/x /x -t nfs4",
    "key add user three x %:ring",
    "key update one y",
    "key unlink one %:ring",
    "key clear %:ring",
    "key revoke two",
    "key invalidate two",
    "key link one @u",
    "key move one %:ring @u",
]


def snapshot(simulation: Simulation) -> Snapshot:
    found: Snapshot = json.loads(simulation.text("snapshot"))
    return found


def seen(state: Followed) -> dict[str, Any]:
    """What conditions look at."""
    return {
        "mounts": {
            id_: (mount["parent"], mount["mountpoint"], state.is_read_only(mount))
            for id_, mount in state.mounts.items()
        },
        "keys": {serial: (key["description"], key["state"], key.get("links")) for serial, key in state.keys.items()},
        "errors": {id_: sb["last_error"] for id_, sb in state.superblocks.items() if sb["mounts"]},
    }


@pytest.mark.parametrize("line", LINES)
def test_followed_state_is_the_state(line: str) -> None:
    simulation = Simulation()
    for each in BEFORE:
        simulation.run(each)
    watch = simulation.watch()
    state = Followed(snapshot(simulation))
    simulation.run(line)
    later = snapshot(simulation)
    for event in watch.events():
        state.apply(event, later)
    for gone in set(state.superblocks) - {sb["id"] for sb in later["superblocks"]}:
        state.superblocks.pop(gone)  # one without mounts does no harm
    assert seen(state) == seen(Followed(later))


MOMENTS = [
    # condition, name, lines of which the second undoes the first
    ("mounted", "/m", ["mount x /m -t tmpfs", "umount /m"]),
    ("mounted", "/moved/in", ["mount --move /a /moved", "umount -l /moved"]),
    ("unmounted", "/a", ["umount -l /a", "mount /dev/sdb1 /a -t ext4"]),
    ("unmounted", "/a/in", ["mount --move /a /z", "mount --move /z /a"]),
    ("readonly", "/a", ["mount -o remount,bind,ro /a", "mount -o remount,bind,rw /a"]),
    ("readonly", "/a", ["sb readonly /a", "sb readwrite /a"]),
    ("readonly", "/a/in", ["mount -o remount,bind,ro=recursive /a", "umount -l /a"]),
    ("readonly", "/r", ["mount x /r -t tmpfs -o ro", "umount /r"]),
    ("readonly", "/r", ["sb readonly /a", "mount --bind /a /r", "umount /r", "sb readwrite /a"]),
    ("writable", "/b", ["mount -o remount,rw /b", "mount -o remount,ro /b"]),
    ("writable", "/b", ["mount x /b -t tmpfs", "umount /b"]),
    ("error", "/a", ["sb error /a EIO", "umount -l /a"]),
    ("error", "/new", ["mount /dev/sdc1 /new -t ext4", "sb error /new EIO", "umount /new"]),
    ("error", "/dev/sdc1", ["mount /dev/sdc1 /new -t ext4", "sb error /new EIO", "umount /new"]),
    ("key-present", "new", ["key add user new x %:ring", "key revoke new"]),
    ("key-present", "%user:new", ["key add user new x %:ring", "key unlink new %:ring"]),
    ("key-present", "%:kr", ["key newring kr %:ring", "key invalidate %:kr"]),
    ("key-changed", "one", ["key update one y"]),
    ("key-changed", "one", ["key update one y", "key unlink one %:ring"]),
    ("key-changed", "one", ["key unlink one %:ring"]),
    ("key-gone", "one", ["key revoke one", "key add user one z %:ring"]),
    ("key-gone", "one", ["key unlink one %:ring", "key add user one z %:ring"]),
    ("key-gone", "one", ["key clear %:ring", "key add user one z %:ring"]),
]


def holds(word: str, name: str, lines: list[str]) -> bool:
    simulation = Simulation()
    for each in BEFORE:
        simulation.run(each)
    watch = simulation.watch()
    state = Followed(snapshot(simulation))
    wanted = condition(word, name, None)
    assert wanted.holds(state, None) is None
    for line in lines:
        simulation.run(line)
    later = snapshot(simulation)
    found = False
    for event in watch.events():
        state.apply(event, later)
        found |= wanted.holds(state, event) is not None
    return found


@pytest.mark.parametrize(("word", "name", "lines"), MOMENTS, ids=[f"{m[0]} {m[1]} {m[2][0]}" for m in MOMENTS])
def test_moment_is_seen(word: str, name: str, lines: list[str]) -> None:
    assert holds(word, name, lines)


@pytest.mark.parametrize(
    ("word", "name", "lines"),
    [
        ("mounted", "/m", ["mount x /mm -t tmpfs", "umount /mm"]),
        ("unmounted", "/a", ["mount x /a -t tmpfs", "umount /a"]),
        ("readonly", "/a", ["sb readonly /b", "mount -o remount,bind,ro /a/in"]),
        ("writable", "/b", ["mount -o remount,bind,ro /b"]),
        ("error", "/a", ["sb error /a/in EIO"]),
        ("key-present", "new", ["key add user newer x %:ring"]),
        ("key-changed", "one", ["key update two y", "key link one @u"]),
        ("key-gone", "one", ["key update one y", "key link one @u", "key unlink one %:ring"]),
    ],
)
def test_other_things_do_not_count(word: str, name: str, lines: list[str]) -> None:
    assert not holds(word, name, lines)


def test_raw_records_change_no_state() -> None:
    state = Followed(snapshot(Simulation()))
    before = seen(state)
    raw = {"seq": 9, "type": "mount", "event": "new_mount", "flags": [], "triggered_on": 21, "auxiliary_mount": 99}
    state.apply(raw, {"mounts": [], "superblocks": [], "keys": []})
    assert seen(state) == before and state.seq == 9
