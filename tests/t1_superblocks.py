"""Superblocks: which mounts share one, what `mount` refuses of it, and the events of `sb` and `device`."""

from __future__ import annotations

import errno

import pytest

from tests.simulated_mounts import at, brief, make_system, make_watch, refusal, run, told
from wqfs.abi import records as r
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.system import System
from wqfs.watches import Watches


def test_superblock_of_a_device_is_shared() -> None:
    system = make_system("mount -t ext4 /dev/sdb1 /a", "mount /dev/sdb1 /b")
    assert at(system, "/a").sb is at(system, "/b").sb
    assert at(system, "/a").sb.device == (8, 17)


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("mount -t ext4 /dev/loop3 /a", (7, 3)),
        ("mount -t ext4 /dev/vda2 /a", (254, 2)),
        ("mount -t ext4 /dev/sdc /a", (8, 32)),
        ("mount -t tmpfs /dev/sdc /a", (0, 21)),  # a type that has no device, whatever its source is called
        ("mount -t fuse.sshfs /dev/sdc /a", (0, 21)),
    ],
)
def test_superblock_has_the_number_of_its_device(line: str, device: tuple[int, int]) -> None:
    assert at(make_system(line), "/a").sb.device == device


def test_superblocks_without_device_are_one_each() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /b")
    assert at(system, "/a").sb is not at(system, "/b").sb
    assert at(system, "/a").sb.device != at(system, "/b").sb.device


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mount -t xfs /dev/sdb1 /b", errno.EBUSY),
        ("mount -r /dev/sdb1 /b", errno.EBUSY),
        ("mount /dev/sdb1 /a", errno.EBUSY),
        ("mount -t ext4 none /b", errno.ENOTBLK),
        ("mount none /b", errno.EINVAL),
        ("mount /b", errno.EINVAL),
        ("mount", errno.EINVAL),
        ("mount -t tmpfs a b /c", errno.EINVAL),
        ("mount --bind --move /a /b", errno.EINVAL),
        ("mount -Z /dev/sdb1 /b", errno.EINVAL),
        ("mount /dev/sdb1 /b -t", errno.EINVAL),
    ],
)
def test_mount_that_is_refused(line: str, expected: int) -> None:
    assert refusal(make_system("mount /dev/sdb1 /a"), line).errno == expected


@pytest.mark.parametrize(
    "line",
    [
        "mount -t tmpfs -o ro,size=1m none /a",
        "mount none /a -o ro -o size=1m -ttmpfs",
        "mount -rt tmpfs --options=size=1m -- none /a",
        "mount -m -vn -t tmpfs -o X-mount.mkdir,size=1m,nofail,ro none /a",
        "mount --types tmpfs --source none --target /a -o defaults,size=1m,x-foo,ro",
    ],
)
def test_mount_options_in_any_order(line: str) -> None:
    mount = at(make_system(line), "/a")
    assert (mount.sb.fstype, mount.sb.source, mount.sb.option_text) == ("tmpfs", "none", "ro,size=1m")


def test_superblock_goes_with_its_last_mount() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount /dev/sdb1 /b", "umount /a")
    assert len(system.superblocks.by_id) == 2
    run(system, "umount /b")
    assert len(system.superblocks.by_id) == 1


def test_superblock_that_goes_removes_its_watches_after_the_mounts() -> None:
    system = make_system("mount -t tmpfs none /a")
    mount, sb = at(system, "/a"), at(system, "/a").sb
    watch = make_watch(system, mount_a=1, sb_a=2, mount_=3)
    run(system, "umount /a")
    records = told(watch)
    assert [x.watch_id for x in records] == [3, 1, 2]
    assert [r.REMOVAL_BODY.unpack(x.body)[0] for x in records[1:]] == [mount.id, sb.id]
    assert not watch.entries[1:]


@pytest.mark.parametrize("name", ["/a", "/a/x", "/dev/sdb1", "2"])
def test_superblock_is_found_by_path_source_and_id(name: str) -> None:
    system = make_system("mount /dev/sdb1 /a")
    assert system.find_sb(name)[0].id == 2


@pytest.mark.parametrize("name", ["nothing", "7", "9" * 30, "/"])
def test_superblock_that_is_not_there(name: str) -> None:
    system = make_system()
    if name == "/":
        assert system.find_sb(name)[0].id == 1
    else:
        refused = refusal(system, f"sb edquot {name}")
        assert (refused.errno, refused.word) == (errno.EINVAL, 3)


def error_of(line: str, *before: str) -> tuple[int, int, bytes]:
    system = make_system(*before)
    watch = make_watch(system, sb_=0)
    run(system, line)
    (record, *_) = told(watch)
    sb, number, cookie = r.SB_ERROR_BODY.unpack_from(record.body)
    assert sb == 1 and record.length == 24 + len(record.body[16:])
    return number, cookie, record.body[16:]


@pytest.mark.parametrize("name", ["EIO", "eio", "5"])
def test_sb_error_by_name_and_number(name: str) -> None:
    assert error_of(f"sb error / {name}") == (errno.EIO, 0, b"")


def test_sb_error_with_cookie_and_text() -> None:
    line = "sb error / EFSCORRUPTED cookie=0x10 bad  'magic  number'"
    assert error_of(line) == (errno.EUCLEAN, 16, b"bad magic  number")


@pytest.mark.parametrize(
    ("text", "kept"), [("x" * 300, "x" * 103), ("é" * 100, "é" * 51), ("a" + "é" * 100, "a" + "é" * 51)]
)
def test_sb_error_text_fills_a_record_of_127_bytes_and_is_cut_between_characters(text: str, kept: str) -> None:
    assert 8 + 16 + 103 == r.RECORD_MAX == 127
    assert error_of(f"sb error / EIO {text}")[2].decode() == kept


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("sb error", 3),
        ("sb error /", 4),
        ("sb error / EWHAT", 4),
        ("sb error / 0", 4),
        ("sb error / 4096", 4),
        ("sb error / EIO cookie=4294967296", 5),
        ("sb edquot / someone 1", 4),
        ("sb edquot / user", 5),
        ("sb edquot / user -1", 5),
        ("sb edquot / user 1 2", 6),
        ("sb readonly", 3),
        ("sb readonly / now", 4),
        ("sb network / sideways", 4),
        ("sb network / down", 3),
        ("device error /dev/sda", 4),
        ("device error /dev/sda eio", 4),
        ("device error /dev/sda io 7", 5),
        ("device error /dev/sda io sector=7 8", 6),
    ],
)
def test_sb_command_wrong_names_the_word(line: str, word: int) -> None:
    refused = refusal(make_system(), line)
    assert (refused.errno, refused.word) == (errno.EINVAL, word)


def test_sb_error_with_remount_ro_turns_read_only_once() -> None:
    system = make_system("mount -o errors=remount-ro /dev/sdb1 /a")
    watch = make_watch(system, sb_a=5)
    run(system, "sb error /a EIO")
    run(system, "sb error /a EIO")
    assert brief(watch) == [(5, "error", 0), (5, "readonly", int(r.SbFlag.IS_NOW_RO)), (5, "error", 0)]
    assert at(system, "/a").sb.state == "error"


def test_sb_readonly_and_back_tells_only_of_changes() -> None:
    system = make_system()
    watch = make_watch(system, sb_=5)
    for command in ("readonly", "readonly", "readwrite", "readwrite"):
        run(system, f"sb {command} /")
    assert brief(watch) == [(5, "readonly", int(r.SbFlag.IS_NOW_RO)), (5, "readonly", 0)]


def test_sb_network_down_is_a_state() -> None:
    system = make_system("mount -t nfs server:/x /n")
    watch = make_watch(system, sb_n=5)
    run(system, "sb network /n down")
    run(system, "sb network /n down")
    assert (brief(watch), at(system, "/n").sb.state) == ([(5, "network", 0)], "down")


def names_of(line: str, actor: Actor) -> dict[str, object]:
    """The names in the event that the line makes."""
    system = System(Watches(), now_ns=0)
    seen: list[dict[str, object]] = []
    event = system.watches.event

    def keep(now_ns: int, record: bytes, names: dict[str, str | int | bool]) -> object:
        seen.append(dict(names))
        return event(now_ns, record, names)

    system.watches.event = keep  # type: ignore[assignment,method-assign]
    system.run(line, actor, 0)
    return seen[-1]


def test_sb_edquot_is_of_the_actor_by_default() -> None:
    assert names_of("sb edquot /", Actor(1000, 100))["user"] == 1000
    assert names_of("sb edquot / project 7", ROOT)["project"] == 7


def test_mount_event_has_the_names() -> None:
    assert names_of("mount -t tmpfs none /a", ROOT) == {
        "mountpoint": "/a",
        "source": "none",
        "fstype": "tmpfs",
        "parent": "/",
    }


def test_device_error_is_told_to_who_watches_devices() -> None:
    system = make_system()
    watch = system.watches.make("", 0, 0, 0)
    watch.queue.set_size(32)
    target, place, label = system.resolve(["devices"], ROOT, 0)
    system.watches.add(watch, target, 4, label=label, place=place)
    run(system, "device error /dev/sdb2 critical_medium sector=1234")
    (record,) = told(watch)
    assert (record.type, record.subtype, r.BLOCK_BODY.unpack(record.body)) == (4, 6, (8 << 8 | 18, 1234))
