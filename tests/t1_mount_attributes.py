"""What mount options make of a mount's attributes, at the mount and at a remount, also recursively."""

from __future__ import annotations

import errno

import pytest

from tests.simulated_mounts import IN_SUBTREE, IS_NOW_RO, at, brief, make_system, make_watch, refusal, run
from wqfs.abi import records as r
from wqfs.sim.mount_options import attribute_text


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
