"""Mounts: what commands do to the tree, what is refused, and who hears of it."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulated_mounts import IN_SUBTREE, at, brief, make_system, make_watch, refusal, run, told
from wqfs.abi import records as r
from wqfs.sim.errors import Refused
from wqfs.sim.mount_options import PROPAGATION
from wqfs.sim.mounts import audience
from wqfs.sim.superblocks import Superblock
from wqfs.sim.system import System
from wqfs.watches import Watches

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
