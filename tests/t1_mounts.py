"""Mounts and superblocks: what commands do to the tree, what is refused, and who hears of it."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqfs.abi import records as r
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.errors import Refused
from wqfs.sim.mount_options import PROPAGATION, attribute_text
from wqfs.sim.mounts import Mount, audience
from wqfs.sim.superblocks import Superblock
from wqfs.sim.system import System
from wqfs.watch import Watch, Watches


def make_system(*lines: str) -> System:
    system = System(Watches(strict=True), now_ns=0)
    for line in lines:
        run(system, line)
    return system


def run(system: System, line: str) -> None:
    system.run(line, ROOT, 1_000)


def refusal(system: System, line: str) -> Refused:
    """Why the line is refused; and that it changed nothing."""
    before = list(system.mounts.by_id.values()), list(system.superblocks.by_id), system.watches.last_event
    with pytest.raises(Refused) as caught:
        run(system, line)
    assert before == (
        list(system.mounts.by_id.values()),
        list(system.superblocks.by_id),
        system.watches.last_event,
    )
    return caught.value


def at(system: System, path: str) -> Mount:
    return system.mounts.mounted_at(path)


def make_watch(system: System, **objects: int) -> Watch:
    """A watch of mounts, by `path=id` with _ for /; `sb` before it for the superblock there."""
    watch = system.watches.make("", 0, 0, 0)
    watch.queue.set_size(512)
    for name, id_ in objects.items():
        kind, _, path = name.partition("_")
        words = [kind, "/" + path.replace("_", "/")]
        target, place, label = system.resolve(words, ROOT, 0)
        system.watches.add(watch, target, id_, label=label, place=place)
    return watch


def told(watch: Watch) -> list[r.Record]:
    """The records queued since the last time."""
    raw = b""
    while more := watch.queue.read(4096):
        raw += more
    return list(r.decode(raw))


def brief(watch: Watch) -> list[tuple[int, str, int]]:
    """The same as (watch ID, event, flags)."""
    return [
        (x.watch_id, r.SUBTYPES[x.type](x.subtype).name.lower(), x.info & r.WATCH_INFO_TYPE_INFO) for x in told(watch)
    ]


IN_SUBTREE, IS_NOW_RO = int(r.MountFlag.IN_SUBTREE), int(r.MountFlag.IS_NOW_RO)


# -- the tree


def test_root_at_the_start() -> None:
    root = make_system().mounts.root
    assert (root.id, root.path, root.sb.fstype, root.sb.source) == (21, "/", "ext4", "/dev/root")


def test_ids_after_umount_are_not_used_again() -> None:
    system = make_system("mount -t tmpfs none /a")
    first = at(system, "/a").id
    run(system, "umount /a")
    run(system, "mount -t tmpfs none /a")
    assert at(system, "/a").id > first


def test_lookup_goes_to_the_topmost_mount() -> None:
    system = make_system("mount -t tmpfs one /a", "mount -t tmpfs two /a")
    mount, place = system.mounts.lookup("/a/b/c")
    assert (mount.sb.source, place) == ("two", ("b", "c"))
    assert mount.parent is not None and mount.parent.sb.source == "one"


def test_lookup_below_a_covered_directory_does_not_find_what_is_hidden() -> None:
    system = make_system("mount -t tmpfs hidden /a/b", "mount -t tmpfs cover /a")
    assert system.mounts.lookup("/a/b")[0].sb.source == "cover"


def test_lookup_above_the_root_mount_when_that_is_covered() -> None:
    system = make_system("mount -t tmpfs new /", "mount -t tmpfs x /a")
    assert at(system, "/").sb.source == "new"
    assert at(system, "/a").parent is at(system, "/")


@pytest.mark.parametrize("path", ["//a//b/", "/a/./b", "/x/../a/b", "/../a/b/c/.."])
def test_path_is_normalised_as_text(path: str) -> None:
    system = make_system("mount -t tmpfs none /a/b")
    assert at(system, path).path == "/a/b"


@pytest.mark.parametrize(
    ("line", "word"),
    [("mount -t tmpfs none a", 5), ("umount a", 2), ("mount --bind a /b", 3), ("mount --move /b a", 4)],
)
def test_path_relative_is_refused(line: str, word: int) -> None:
    system = make_system("mount -t tmpfs none /b")
    refused = refusal(system, line)
    assert (refused.errno, refused.word) == (errno.EINVAL, word)


@pytest.mark.parametrize("path", ["/" + "é" * 128, "/a" * 2048])
def test_path_too_long_is_refused(path: str) -> None:
    assert refusal(make_system(), f"mount -t tmpfs none {path}").errno == errno.ENAMETOOLONG


def test_subtree_of_a_high_stack_needs_no_recursion() -> None:
    system = make_system(*["mount -t tmpfs none /a"] * 3000)
    run(system, "umount -l /a")
    assert len(system.mounts.by_id) == 3000
    run(system, "umount -R /a")
    assert len(system.mounts.by_id) == 2999


def test_mounts_too_many_are_refused() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/b")
    system.mounts.max_mounts = 3
    assert refusal(system, "mount -t tmpfs none /c").errno == errno.ENOSPC
    assert refusal(system, "mount --rbind /a /c").errno == errno.ENOSPC


# -- umount


def test_umount_with_a_mount_below_is_busy() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/b")
    refused = refusal(system, "umount /a")
    assert (refused.errno, refused.word) == (errno.EBUSY, 2)


def test_umount_lazily_takes_all_below() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/b", "umount -l /a")
    assert list(system.mounts.by_id) == [21]


def test_umount_recursively_begins_with_the_newest_below() -> None:
    system = make_system(*[f"mount -t tmpfs none {path}" for path in ("/a", "/a/1", "/a/2", "/a/1/k")])
    ids = list(system.mounts.by_id)
    watch = make_watch(system, mount_=0)
    run(system, "umount -R /a")
    assert [r.MOUNT_BODY.unpack(x.body)[1] for x in told(watch)] == [ids[3], ids[4], ids[2], ids[1]]


@pytest.mark.parametrize("option", ["", "-l", "-R"])
def test_umount_of_the_root_mount_is_busy(option: str) -> None:
    assert refusal(make_system(), f"umount {option} /").errno == errno.EBUSY


def test_umount_of_a_plain_directory_is_refused() -> None:
    system = make_system("mount -t tmpfs none /a")
    assert refusal(system, "umount /a/b").errno == errno.EINVAL


def test_umount_by_source_takes_the_newest() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount /dev/sdb1 /b", "umount /dev/sdb1")
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/a"]


def test_umount_by_source_that_is_covered_is_refused() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount -t tmpfs none /a")
    assert refusal(system, "umount /dev/sdb1").errno == errno.EINVAL


def test_umount_uncovers_what_was_mounted_below_it() -> None:
    system = make_system("mount -t tmpfs one /a", "mount -t tmpfs two /a", "umount /a")
    assert at(system, "/a").sb.source == "one"


@pytest.mark.parametrize("name", ["/a", "/dev/sdb1"])
def test_umount_of_all_targets_takes_every_mount_of_the_filesystem(name: str) -> None:
    system = make_system(
        "mount /dev/sdb1 /a",
        "mount -t tmpfs none /t",
        "mount /dev/sdb1 /t/b",
        "mount --bind /a/x /a/y",
        f"umount -A {name}",
    )
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/t"]


def test_umount_of_all_targets_with_another_mount_below_is_busy() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount /dev/sdb1 /b", "mount -t tmpfs none /a/x")
    assert refusal(system, "umount -A /b").errno == errno.EBUSY
    run(system, "umount -AR /b")
    assert [m.path for m in system.mounts.by_id.values()] == ["/"]


def test_umount_of_all_targets_of_the_root_is_busy() -> None:
    assert refusal(make_system("mount --bind / /a"), "umount -A /a").errno == errno.EBUSY


def test_umount_of_several_goes_on_after_one_that_is_refused() -> None:
    system = make_system(*[f"mount -t tmpfs none {path}" for path in ("/a", "/b", "/c")])
    run(system, "umount /a /b")
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/c"]
    with pytest.raises(Refused) as caught:
        run(system, "umount -l /a /c")
    assert (caught.value.errno, caught.value.word) == (errno.EINVAL, 3)
    assert [m.path for m in system.mounts.by_id.values()] == ["/"]


# -- automounts

IS_SUBMOUNT = int(r.MountFlag.IS_SUBMOUNT)


def test_automount_is_a_submount_and_expires() -> None:
    system = make_system("mount -t tmpfs none /n")
    watch = make_watch(system, mount_n=1)
    run(system, "automount -t nfs -o ro server:/x /n/x")
    automount = at(system, "/n/x")
    inner = make_watch(system, mount_n_x=2)
    run(system, "expire /n/x")
    assert brief(watch) == [(1, "new_mount", IS_SUBMOUNT | IS_NOW_RO), (1, "expiry", IN_SUBTREE), (1, "unmount", 0)]
    expiry, removal = told(inner)
    assert (expiry.subtype, r.MOUNT_BODY.unpack(expiry.body)) == (r.MountSubtype.EXPIRY, (automount.id, 0))
    assert r.REMOVAL_BODY.unpack(removal.body) == (automount.id,)


def test_automounts_expire_from_below() -> None:
    system = make_system(
        *[f"automount -t tmpfs none {path}" for path in ("/n", "/n/x", "/m")], "mount -t tmpfs none /k"
    )
    run(system, "expire")
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/n", "/k"]
    run(system, "expire")
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/k"]


def test_automount_on_a_shared_mount_has_copies_that_go_with_it() -> None:
    system = make_system("mount -t tmpfs none /a", "mount --make-shared /a", "mount --bind /a /b")
    watch = make_watch(system, mount_b=1)
    run(system, "automount -t tmpfs none /a/x")
    run(system, "expire")
    assert brief(watch) == [(1, "new_mount", IS_SUBMOUNT), (1, "unmount", 0)]


def test_umount_takes_automounts_along() -> None:
    system = make_system(
        "mount -t tmpfs none /n", *[f"automount -t tmpfs none {p}" for p in ("/n/x", "/n/x/y", "/n/z")]
    )
    watch = make_watch(system, mount_n=1, mount_=2)
    run(system, "umount /n")
    assert [m.path for m in system.mounts.by_id.values()] == ["/"]
    assert [event for id_, event, _ in brief(watch) if id_ == 2] == ["unmount"] * 4


def test_umount_with_a_mount_upon_an_automount_is_busy() -> None:
    system = make_system("mount -t tmpfs none /n", "automount -t tmpfs none /n/x", "mount -t tmpfs none /n/x/y")
    assert refusal(system, "umount /n").errno == errno.EBUSY
    assert refusal(system, "expire /n/x").errno == errno.EBUSY


def test_automount_that_was_moved_does_not_expire() -> None:
    system = make_system("automount -t tmpfs none /n", "mount --move /n /m")
    assert refusal(system, "expire /m").errno == errno.EINVAL


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("expire /", 2),
        ("expire /x", 2),
        ("expire /n /n", 3),
        ("automount /x", 2),
        ("automount --bind /n /x", 2),
        ("automount --make-shared -t tmpfs none /x", 2),
    ],
)
def test_automount_command_that_is_refused(line: str, word: int) -> None:
    refused = refusal(make_system("automount -t tmpfs none /n"), line)
    assert (refused.errno, refused.word) == (errno.EINVAL, word)


# -- bind and move


def test_bind_of_a_directory_shows_it_as_root() -> None:
    system = make_system("mount -t tmpfs none /a", "mount --bind /a/x/y /b", "mount --bind /b/z /c")
    assert at(system, "/c").root == ("x", "y", "z")
    assert at(system, "/c").sb is at(system, "/a").sb


def test_bind_brings_no_mounts_from_below() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/x", "mount --bind /a /b")
    assert not at(system, "/b").children


def test_rbind_brings_the_mounts_below_its_directory_alone() -> None:
    paths = ("/a", "/a/x/1", "/a/x/1/k", "/a/y")
    system = make_system(*[f"mount -t tmpfs none {path}" for path in paths], "mount --rbind /a/x /b")
    assert [m.path for m in system.mounts.by_id.values()][5:] == ["/b", "/b/1", "/b/1/k"]


def test_rbind_into_itself_copies_the_tree_of_before() -> None:
    system = make_system("mount -t tmpfs none /a", "mount --rbind / /a/b")
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/a", "/a/b", "/a/b/a"]


def test_bind_keeps_the_attributes() -> None:
    system = make_system("mount -t tmpfs -o nosuid,noatime none /a", "mount --bind /a /b")
    assert at(system, "/b").attr == at(system, "/a").attr


def test_bind_with_options_keeps_only_those() -> None:
    """As mount(8) 2.38 and Linux 6.18 did it: a bind mount of a read-only one with -o nosuid is rw."""
    system = make_system("mount -t tmpfs -o ro,noatime none /a", "mount --bind -o nosuid /a /b")
    nosuid = make_system("mount -t tmpfs -o nosuid,noatime none /c")
    assert at(system, "/b").attr == at(nosuid, "/c").attr


def test_move_takes_all_below_along() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/b", "mount --move /a /c/d")
    assert [m.path for m in system.mounts.by_id.values()] == ["/", "/c/d", "/c/d/b"]
    assert at(system, "/c/d/b").parent is at(system, "/c/d")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mount --move / /b", errno.EINVAL),
        ("mount --move /a/x /b", errno.EINVAL),
        ("mount --move /a /a/x", errno.ELOOP),
        ("mount --move /a /a", errno.ELOOP),
    ],
)
def test_move_that_the_kernel_refuses(line: str, expected: int) -> None:
    assert refusal(make_system("mount -t tmpfs none /a"), line).errno == expected


# -- superblocks


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


# -- attributes


def test_remount_bind_changes_this_mount_alone() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount /dev/sdb1 /b", "mount -o remount,bind,ro /a")
    assert at(system, "/a").attr & 1 and not at(system, "/b").attr & 1
    assert not at(system, "/a").sb.read_only


def test_remount_turns_the_superblock_then_the_mount() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount /dev/sdb1 /b")
    watch = make_watch(system, mount_a=1, mount_b=2, sb_a=3)
    run(system, "mount -o remount,ro,noatime /a")
    assert brief(watch) == [(3, "readonly", int(r.SbFlag.IS_NOW_RO)), (1, "setattr", IS_NOW_RO)]
    assert at(system, "/b").sb.read_only and not at(system, "/b").attr & 1


@pytest.mark.parametrize("name", ["/dev/sdb1", "host:/x"])
def test_remount_by_source_takes_the_newest(name: str) -> None:
    system = make_system(
        "mount /dev/sdb1 /a", "mount host:/x /c", f"mount {name} /b", f"mount -o remount,noexec {name}"
    )
    assert attribute_text(at(system, "/b").attr) == "rw,noexec,relatime"
    assert refusal(system, "mount -o remount,ro /dev/sdc1").errno == errno.EINVAL


def test_type_may_be_a_list() -> None:
    assert at(make_system("mount -t xfs,ext4 /dev/sdb1 /a"), "/a").sb.fstype == "xfs"


def test_remount_keeps_what_it_does_not_name() -> None:
    system = make_system("mount -t tmpfs -o nosuid,noatime,size=1m none /a", "mount -o remount,size=2m,mode=755 /a")
    mount = at(system, "/a")
    assert mount.attr == at(make_system("mount -t tmpfs -o nosuid,noatime none /a"), "/a").attr
    assert mount.sb.option_text == "rw,size=2m,mode=755"


@pytest.mark.parametrize("options", ["remount,ro", "remount,bind,ro"])
def test_remount_of_a_plain_directory_is_refused(options: str) -> None:
    refused = refusal(make_system(), f"mount -o {options} /a")
    assert (refused.errno, refused.word) == (errno.EINVAL, 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("noatime,norelatime", "rw,noatime"),
        ("noatime,strictatime", "rw"),
        ("strictatime,nostrictatime", "rw,relatime"),
        ("nodiratime,strictatime,atime", "rw,nodiratime"),
        ("user", "rw,nosuid,nodev,noexec,relatime"),
        ("user,exec,suid", "rw,nodev,relatime"),
        ("ro,users", "ro,nosuid,nodev,noexec,relatime"),
        ("group", "rw,nosuid,nodev,relatime"),
    ],
)
def test_options_are_flags_of_which_the_kernel_makes_attributes(options: str, text: str) -> None:
    assert attribute_text(at(make_system(f"mount -t tmpfs -o {options} none /a"), "/a").attr) == text


@pytest.mark.parametrize(
    ("before", "options", "text"),
    [
        ("nosuid,noatime", "remount,bind,nodev /a", "rw,nosuid,nodev,noatime"),
        ("nosuid,noatime", "remount,bind,nodev none /a", "rw,nodev,noatime"),  # told the source: forgotten
        ("nosuid,noatime", "remount,bind,nodev,relatime none /a", "rw,nodev,relatime"),
        ("nosuid,noatime", "remount,bind,relatime /a", "rw,nosuid,noatime"),
        ("strictatime", "remount,bind,norelatime /a", "rw"),
        ("strictatime", "remount,bind,nodiratime /a", "rw,nodiratime,relatime"),
    ],
)
def test_remount_keeps_what_mountinfo_says(before: str, options: str, text: str) -> None:
    system = make_system(f"mount -t tmpfs -o {before} none /a", f"mount -o {options}")
    assert attribute_text(at(system, "/a").attr) == text


def test_remount_of_a_read_only_mount_turns_the_superblock() -> None:
    """mount(8) has one flag for both, and takes it from mountinfo when nothing is said."""
    system = make_system("mount -t tmpfs none /a", "mount -o remount,bind,ro /a")
    watch = make_watch(system, mount_a=1, sb_a=2)
    run(system, "mount -o remount,nosuid /a")
    assert brief(watch) == [(2, "readonly", int(r.SbFlag.IS_NOW_RO)), (1, "setattr", IS_NOW_RO)]
    run(system, "mount -o remount,nosuid none /a")
    assert not at(system, "/a").sb.read_only


def test_remount_bind_takes_read_only_from_the_superblock() -> None:
    system = make_system("mount /dev/sdb1 /a", "mount /dev/sdb1 /b", "mount -o remount,ro /b")
    watch = make_watch(system, mount_a=1)
    run(system, "mount -o remount,bind,nosuid /a")
    assert brief(watch) == [(1, "readonly", IS_NOW_RO), (1, "setattr", IS_NOW_RO)]


def test_bind_with_strictatime_alone_changes_nothing() -> None:
    system = make_system("mount -t tmpfs none /a", "mount --bind -o strictatime /a /b")
    assert attribute_text(at(system, "/b").attr) == "rw,relatime"


def test_propagation_by_option_needs_a_source() -> None:
    system = make_system("mount -t tmpfs none /a")
    assert refusal(system, "mount -o shared /a").errno == errno.EINVAL
    for line in ("mount --make-shared /a", "mount -o slave none /a", "mount -t none --make-unbindable none /a"):
        run(system, line)
    assert at(system, "/a").unbindable and len(system.mounts.by_id) == 2


TREE = ("mount -t tmpfs none /a", "mount -t tmpfs -o ro none /a/x", "mount -t tmpfs none /a/x/k")


def test_remount_bind_recursively_changes_all_below_at_once() -> None:
    system = make_system(*TREE, "mount -t tmpfs none /b")
    watch = make_watch(system, mount_a=1, mount_a_x=2)
    run(system, "mount -o remount,bind,ro=recursive,nosuid /a")
    assert [attribute_text(m.attr) for m in system.mounts.by_id.values()] == [
        "rw,relatime", "ro,nosuid,relatime", "ro,relatime", "ro,relatime", "rw,relatime"
    ]  # fmt: skip
    below = IN_SUBTREE | IS_NOW_RO
    assert brief(watch) == [
        (1, "readonly", IS_NOW_RO),
        (1, "setattr", IS_NOW_RO),
        (2, "setattr", IS_NOW_RO),
        (1, "setattr", below),
        (2, "readonly", below),
        (1, "readonly", below),
        (2, "setattr", below),
        (1, "setattr", below),
    ]


def test_remount_recursively_leaves_the_superblock_alone() -> None:
    system = make_system(*TREE, "mount -o remount,noexec=recursive,ro=recursive /a")
    assert not at(system, "/a").sb.read_only
    assert attribute_text(at(system, "/a/x/k").attr) == "ro,noexec,relatime"


def test_recursive_words_alone_are_mount_setattr_and_not_mount() -> None:
    """Of which one sets an atime in place of another, and the other reads words back from mountinfo."""
    system = make_system("mount -t tmpfs -o noatime none /a", "mount -t tmpfs -o strictatime,nodiratime none /b")
    run(system, "mount -o remount,bind,relatime=recursive /a")
    run(system, "mount -o remount,bind,nosuid=recursive /b")
    assert attribute_text(at(system, "/a").attr) == "rw,relatime"
    assert attribute_text(at(system, "/b").attr) == "rw,nosuid,nodiratime"


def test_remount_with_other_words_recursive_turns_the_superblock_if_that_is_said() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -o remount,ro,noexec=recursive /a")
    assert at(system, "/a").sb.read_only and attribute_text(at(system, "/a").attr) == "ro,noexec,relatime"


def test_rbind_with_recursive_options_changes_the_copies_and_keeps_the_rest() -> None:
    system = make_system("mount -t tmpfs -o nodev none /a", "mount -t tmpfs -o nosuid none /a/x")
    run(system, "mount --rbind -o ro=recursive /a /b")
    assert [attribute_text(at(system, path).attr) for path in ("/a/x", "/b", "/b/x")] == [
        "rw,nosuid,relatime", "ro,nodev,relatime", "ro,nosuid,relatime"
    ]  # fmt: skip


# -- who hears


def test_audience_is_deepest_first_and_newest_first_within_a_directory() -> None:
    system = make_system()
    old = make_watch(system, mount_d=1, mount_=2, mount_d_a=3, mount_other=4)
    new = make_watch(system, mount_d=5)
    groups = audience(system.mounts.root, ("d", "a"))
    heard = [(entry.watch, entry.id, flags) for group, flags in groups for entry in group]
    assert heard == [(old, 3, IN_SUBTREE), (new, 5, IN_SUBTREE), (old, 1, IN_SUBTREE), (old, 2, 0)]


def test_audience_of_a_name_that_only_begins_alike_is_nobody() -> None:
    system = make_system()
    make_watch(system, mount_d=1)
    assert audience(system.mounts.root, ("data",)) == ()


def test_setattr_is_not_heard_by_directories_of_the_mount() -> None:
    system = make_system("mount -t tmpfs none /a")
    watch = make_watch(system, mount_a_x=1, mount_a=2, mount_=3)
    run(system, "mount -o remount,bind,nosuid /a")
    assert brief(watch) == [(2, "setattr", 0), (3, "setattr", IN_SUBTREE)]


def test_watch_on_a_mount_moves_with_it() -> None:
    system = make_system("mount -t tmpfs none /a")
    watch = make_watch(system, mount_a=1)
    run(system, "mount --move /a /b")
    run(system, "mount -t tmpfs none /b/x")
    assert brief(watch) == [(1, "new_mount", 0)]


def test_everything_watched_hears_of_all_as_the_root_does() -> None:
    system = System(Watches(), now_ns=0)
    watch = system.watches.make("", 0, 0, 0)
    for line in ("mount -t tmpfs none /a", "mount -t tmpfs none /a/b", "umount -l /a"):
        run(system, line)
    assert brief(watch) == [
        (0, "new_mount", 0),
        (0, "new_mount", IN_SUBTREE),
        (0, "unmount", 0),
        (0, "unmount", IN_SUBTREE),
    ]


def test_state_comes_before_the_event() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/b")
    watch = make_watch(system, mount_=1)
    seen: list[list[int]] = []
    watch.queue.on_change = lambda _: seen.append(list(system.mounts.by_id))
    run(system, "umount -l /a")
    run(system, "mount --rbind / /c")
    assert seen == [[21], [21, 24]]


def test_changed_is_the_number_of_the_event() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /b")
    assert [m.changed for m in system.mounts.by_id.values()] == [0, 1, 2]
    run(system, "mount -o remount,size=1m /a")
    assert (at(system, "/a").changed, at(system, "/a").sb.changed) == (3, 3)


# -- any sequence of commands

PATHS = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/d", "/d/a"])
LINES = st.one_of(
    st.builds("mount -t tmpfs none {}".format, PATHS),
    st.builds("mount /dev/sdb1 {}".format, PATHS),
    st.builds("mount {} {} {}".format, st.sampled_from(["--bind", "--rbind", "--move"]), PATHS, PATHS),
    st.builds("umount {} {}".format, st.sampled_from(["", "-l", "-R"]), PATHS),
    st.builds("mount -o remount,{} {}".format, st.sampled_from(["ro", "rw", "bind,ro", "bind,rw"]), PATHS),
    st.builds("automount -t tmpfs none {}".format, PATHS),
    st.just("expire"),
    st.builds("mount --make-{} {}".format, st.sampled_from(PROPAGATION), PATHS),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=40))
def test_tree_stays_a_tree(lines: list[str]) -> None:
    system = make_system()
    for line in lines:
        if len(system.mounts.by_id) < 200:  # rbind doubles
            try:
                run(system, line)
            except Refused:
                pass
    tree = system.mounts
    assert list(tree.by_id) == sorted(tree.by_id)
    assert {each.id for each in tree.root.subtree()} == set(tree.by_id)
    for mount in tree.by_id.values():
        assert tree.by_id[mount.id] is mount and mount.sb.mounts[mount.id] is mount
        if mount.parent is not None:
            assert mount.parent.children[mount.mountpoint] is mount
            above = mount.parent.path.rstrip("/")
            assert mount.path == ("/".join([above, *mount.mountpoint]) or "/")
        if mount.group is not None:
            assert mount in mount.group.members and not mount.unbindable
        if mount.master is not None:
            assert mount.master.group is not None and mount.master.slaves.count(mount) == 1
        assert all(slave.master is mount and tree.by_id[slave.id] is slave for slave in mount.slaves)
    groups = {mount.group for mount in tree.by_id.values() if mount.group is not None}
    assert len({group.id for group in groups}) == len(groups)
    assert all(set(group.members) <= set(tree.by_id.values()) for group in groups)
    used: dict[int, Superblock] = {m.sb.id: m.sb for m in tree.by_id.values()}
    assert used == system.superblocks.by_id
