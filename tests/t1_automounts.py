"""Automounts: what expires and what does not, and what becomes of them at an umount."""

from __future__ import annotations

import errno

import pytest

from tests.simulated_mounts import IN_SUBTREE, IS_NOW_RO, at, brief, make_system, make_watch, refusal, run, told
from wqfs.abi import records as r

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
