"""Shared, slave, private and unbindable mounts: what is copied where, what goes with it, who hears.

The rules are those of fs/pnode.c in Linux 6.12.
"""

from __future__ import annotations

import errno

import pytest

from tests.simulated_mounts import IN_SUBTREE, at, brief, make_system, make_watch, refusal, run, told
from wqfs.abi import records as r
from wqfs.sim import views
from wqfs.sim.system import System

A_SHARED_WITH_B = ("mount -t tmpfs none /a", "mount --make-shared /a", "mount --bind /a /b")


def table(system: System) -> dict[str, str]:
    """Mountpoint -> optional fields, of what is topmost."""
    return {mount.path: " ".join(views.propagation_fields(mount)) for mount in system.mounts.by_id.values()}


# -- types


def test_mounts_are_private_at_first() -> None:
    assert table(make_system("mount -t tmpfs none /a")) == {"/": "", "/a": ""}


def test_shared_mount_has_a_group_of_its_own() -> None:
    system = make_system("mount -t tmpfs none /a", "mount --make-shared /a", "mount --make-shared /")
    assert table(system) == {"/": "shared:2", "/a": "shared:1"}


def test_mountinfo_has_the_optional_fields_before_the_dash() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "mount --make-shared /b")
    line = views.mountinfo(system.mounts).splitlines()[2]
    assert line == "23 21 0:21 / /b rw,relatime shared:2 master:1 - tmpfs none rw"


def test_group_ids_are_the_lowest_free() -> None:
    system = make_system("mount --make-shared /", "mount -t tmpfs none /a", "umount /a", "mount -t tmpfs none /b")
    assert table(system) == {"/": "shared:1", "/b": "shared:2"}


def test_bind_of_a_shared_mount_is_its_peer() -> None:
    assert table(make_system(*A_SHARED_WITH_B)) == {"/": "", "/a": "shared:1", "/b": "shared:1"}


def test_slave_that_leaves_a_group_has_a_peer_as_master() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /a")
    assert table(system) == {"/": "", "/a": "master:1", "/b": "shared:1"}


def test_slave_without_peers_is_private() -> None:
    system = make_system("mount -t tmpfs none /a", "mount --make-shared /a", "mount --make-slave /a")
    assert table(system)["/a"] == ""


def test_slave_prefers_a_master_with_the_same_root() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --bind /a/x /c", "mount --bind /a/x /d", "mount --make-slave /c")
    assert at(system, "/c").master is at(system, "/d")


def test_slaves_of_a_master_that_turns_private_go_to_a_peer_else_are_private() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --bind /b /c", "mount --make-slave /c")
    for path in ("/a", "/b"):
        run(system, f"mount --make-private {path}")
        assert table(system)["/c"] == ("master:1" if path == "/a" else "")


def test_recursive_types_reach_what_is_below_alone() -> None:
    system = make_system("mount -t tmpfs none /a", "mount -t tmpfs none /a/x", "mount --make-rshared /a")
    assert table(system) == {"/": "", "/a": "shared:1", "/a/x": "shared:2"}
    run(system, "mount --make-rprivate /")
    assert set(table(system).values()) == {""}


@pytest.mark.parametrize("line", ["mount --bind /a /b", "mount --bind /a/x /b", "mount --rbind /a /b"])
def test_unbindable_mount_is_not_bound(line: str) -> None:
    system = make_system("mount -t tmpfs none /a", "mount --make-unbindable /a")
    assert table(system)["/a"] == "unbindable"
    assert refusal(system, line).errno == errno.EINVAL


def test_rbind_leaves_unbindable_mounts_out_with_what_is_below() -> None:
    paths = ("/a", "/a/1", "/a/1/k", "/a/2")
    system = make_system(
        *[f"mount -t tmpfs none {path}" for path in paths], "mount --make-unbindable /a/1", "mount --rbind /a /b"
    )
    assert [path for path in table(system) if path.startswith("/b")] == ["/b", "/b/2"]


def test_propagation_of_what_is_no_mountpoint_is_refused() -> None:
    refused = refusal(make_system(), "mount --make-shared /a")
    assert (refused.errno, refused.word) == (errno.EINVAL, 3)


def test_propagation_with_a_new_mount_comes_after_it() -> None:
    assert table(make_system("mount --make-unbindable -t tmpfs none /a"))["/a"] == "unbindable"


# -- what appears


def test_mount_on_a_peer_appears_on_all_and_is_shared() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /b/x")
    assert table(system) == {"/": "", "/a": "shared:1", "/b": "shared:1", "/b/x": "shared:2", "/a/x": "shared:2"}


def test_mount_on_a_slave_stays_there() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "mount -t tmpfs none /b/x")
    assert "/a/x" not in table(system)


def test_mount_on_a_master_appears_on_slaves_as_a_slave() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "mount -t tmpfs none /a/x")
    assert table(system)["/b/x"] == "master:2"


def test_mount_goes_through_a_slave_that_is_shared_to_its_peers() -> None:
    system = make_system(
        *A_SHARED_WITH_B, "mount --make-slave /b", "mount --make-shared /b", "mount --bind /b /c",
        "mount -t tmpfs none /a/x",
    )  # fmt: skip
    assert {path: fields for path, fields in table(system).items() if path.endswith("/x")} == {
        "/a/x": "shared:3",
        "/b/x": "shared:4 master:3",
        "/c/x": "shared:4 master:3",
    }


def test_mount_appears_only_where_its_directory_is_shown() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --bind /a/x /c", "mount -t tmpfs none /a/y")
    assert "/b/y" in table(system) and "/c/y" not in table(system)
    run(system, "mount -t tmpfs none /a/x/y")
    assert "/c/y" in table(system)


def test_copy_slips_in_below_what_is_mounted_there() -> None:
    system = make_system(
        *A_SHARED_WITH_B, "mount --make-slave /b", "mount -t tmpfs mine /b/x", "mount -t tmpfs theirs /a/x"
    )
    mine = at(system, "/b/x")
    assert mine.sb.source == "mine"
    assert mine.parent is not None and mine.parent.sb.source == "theirs"
    assert mine.parent.parent is at(system, "/b")


def test_rbind_to_a_shared_place_brings_the_tree_to_each_peer() -> None:
    system = make_system(
        *A_SHARED_WITH_B, "mount -t tmpfs none /t", "mount -t tmpfs none /t/1", "mount --rbind /t /a/x"
    )
    assert [path for path in table(system) if "/x" in path] == ["/a/x", "/a/x/1", "/b/x", "/b/x/1"]


def test_events_of_copies_come_after_the_original_parents_first() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /t", "mount -t tmpfs none /t/1")
    watch = make_watch(system, mount_a=1, mount_b=2)
    run(system, "mount --rbind /t /a/x")
    paths = {mount.id: mount.path for mount in system.mounts.by_id.values()}
    heard = [(x.watch_id, *(paths[id_] for id_ in r.MOUNT_BODY.unpack(x.body))) for x in told(watch)]
    assert heard == [(1, "/a", "/a/x"), (1, "/a/x", "/a/x/1"), (2, "/b", "/b/x"), (2, "/b/x", "/b/x/1")]


def test_mounts_too_many_with_the_copies_are_refused() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /c")
    system.mounts.max_mounts = 5
    for line in ("mount -t tmpfs none /a/x", "mount --bind /c /a/x", "mount --move /c /a/x", "mount --rbind /c /a/x"):
        before = table(system)
        if line.startswith("mount --move"):
            run(system, line)
            assert len(table(system)) == 5
        else:
            assert refusal(system, line).errno == errno.ENOSPC
            assert table(system) == before


# -- move


def test_move_from_a_shared_mount_is_refused() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /a/x")
    assert refusal(system, "mount --move /a/x /c").errno == errno.EINVAL


def test_move_of_unbindable_mounts_to_a_shared_one_is_refused() -> None:
    system = make_system(
        *A_SHARED_WITH_B, "mount -t tmpfs none /c", "mount -t tmpfs none /c/x", "mount --make-unbindable /c/x"
    )
    assert refusal(system, "mount --move /c /a/x").errno == errno.EINVAL
    run(system, "mount --move /c /d")


def test_move_to_a_shared_mount_makes_shared_and_copies() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /c")
    watch = make_watch(system, mount_a=1, mount_b=2, mount_=3)
    run(system, "mount --move /c /a/x")
    assert table(system) == {"/": "", "/a": "shared:1", "/b": "shared:1", "/a/x": "shared:2", "/b/x": "shared:2"}
    assert brief(watch) == [
        (3, "move_from", 0),
        (1, "move_to", 0),
        (3, "move_to", IN_SUBTREE),
        (2, "new_mount", 0),
        (3, "new_mount", IN_SUBTREE),
    ]


def test_move_to_a_master_of_what_moves_copies_into_that_as_a_plain_slave() -> None:
    """The moved mount turns shared only after the copies were made (Linux 6.18 did the same)."""
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "mount --move /b /a/x")
    assert table(system) == {"/": "", "/a": "shared:1", "/a/x": "shared:2 master:1", "/a/x/x": "master:2"}


# -- what goes


def test_umount_takes_the_copies_of_peers_and_slaves() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "mount -t tmpfs none /a/x", "umount /a/x")
    assert list(table(system)) == ["/", "/a", "/b"]


def test_umount_on_a_slave_leaves_the_master_alone() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "mount -t tmpfs none /a/x", "umount /b/x")
    assert list(table(system)) == ["/", "/a", "/b", "/a/x"]


def test_umount_leaves_a_copy_with_a_mount_in_it() -> None:
    system = make_system(
        *A_SHARED_WITH_B, "mount -t tmpfs none /a/x", "mount --make-private /b/x", "mount -t tmpfs none /b/x/k",
        "umount /a/x",
    )  # fmt: skip
    assert list(table(system)) == ["/", "/a", "/b", "/b/x", "/b/x/k"]


def test_umount_leaves_what_is_upon_a_copy_in_its_place() -> None:
    system = make_system(
        *A_SHARED_WITH_B, "mount --make-slave /b", "mount -t tmpfs mine /b/x", "mount -t tmpfs theirs /a/x"
    )
    watch = make_watch(system, mount_b=1, mount_b_x=2)
    run(system, "umount /a/x")
    mine = at(system, "/b/x")
    assert mine.sb.source == "mine" and mine.parent is at(system, "/b")
    assert brief(watch) == [(1, "unmount", 0)]


def test_umount_lazily_of_a_shared_tree_ends_all_copies() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /a/x", "mount -t tmpfs none /a/x/k", "umount -l /b/x")
    assert list(table(system)) == ["/", "/a", "/b"]


def test_umount_recursively_goes_on_when_a_mount_went_with_its_peer() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --bind /a /a/x", "umount -R /a")
    assert "/a" not in table(system)


def test_umount_of_the_last_peer_frees_the_slaves() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount --make-slave /b", "umount /a")
    assert table(system) == {"/": "", "/b": ""}


def test_watch_on_a_copy_goes_with_it() -> None:
    system = make_system(*A_SHARED_WITH_B, "mount -t tmpfs none /a/x")
    copy = at(system, "/b/x").id
    watch = make_watch(system, mount_b_x=7)
    run(system, "umount /a/x")
    (record,) = told(watch)
    assert (record.type, r.REMOVAL_BODY.unpack(record.body)) == (r.WatchType.META, (copy,))
