"""The texts of sim/mountinfo, sim/superblocks and sim/snapshot."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqfs.sim import views
from wqfs.sim.command import ROOT, Actor
from wqfs.sim.language import quote
from wqfs.sim.system import System
from wqfs.watches import Watches


def make_system(*lines: str) -> System:
    system = System(Watches(), now_ns=0)
    for line in lines:
        system.run(line, ROOT, 1_000)
    return system


def mountinfo(*lines: str) -> list[str]:
    return views.mountinfo(make_system(*lines).mounts).splitlines()


# -- mountinfo


def test_mountinfo_of_the_root_has_a_parent_that_is_not_there() -> None:
    assert mountinfo() == ["21 1 259:0 / / rw,relatime - ext4 /dev/root rw"]


@pytest.mark.parametrize(
    ("options", "attributes", "fs"),
    [
        ("rw", "rw,relatime", "rw"),
        ("ro,size=1m", "ro,relatime", "ro,size=1m"),
        ("noexec,nodev,nosuid,noatime,nodiratime", "rw,nosuid,nodev,noexec,noatime,nodiratime", "rw"),
        ("strictatime,nosymfollow", "rw,nosymfollow", "rw"),
        ("noatime,relatime,sync,lazytime", "rw,noatime", "rw,sync,lazytime"),
        ("noexec,exec,sync,async,nofail,x-a=b", "rw,relatime", "rw"),
    ],
)
def test_mountinfo_options(options: str, attributes: str, fs: str) -> None:
    line = mountinfo(f"mount -t tmpfs -o {options} none /a")[1]
    assert line == f"22 21 0:21 / /a {attributes} - tmpfs none {fs}"


def test_mountinfo_of_a_bind_mount_has_its_root() -> None:
    line = mountinfo("mount /dev/sdb1 /a", "mount --bind -o ro /a/x/y /b")[2]
    assert line == "23 21 8:17 /x/y /b ro,relatime - ext4 /dev/sdb1 rw"


def test_mountinfo_of_a_stack_has_the_covered_mount_as_parent() -> None:
    lines = mountinfo("mount -t tmpfs one /a", "mount -t tmpfs two /a")
    assert [line.split()[:2] for line in lines] == [["21", "1"], ["22", "21"], ["23", "22"]]


def test_mountinfo_escapes_as_the_kernel_does() -> None:
    """Compared by hand with Linux 6.18: # is escaped in a source, not in a path."""
    line = mountinfo(r"""mount -t tmpfs "x#y z" '/a#b c\d'""")[1]
    assert line == r"22 21 0:21 / /a#b\040c\134d rw,relatime - tmpfs x\043y\040z rw"


def unescaped(field: str) -> str:
    for text, character in (
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\043", "#"),
        ("\\134", "\\"),
    ):
        field = field.replace(text, character)
    return field


NAME = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(NAME, min_size=1, max_size=4), NAME)
def test_mountinfo_reads_back_to_the_same_path_and_source(names: list[str], source: str) -> None:
    if any(name in (".", "..") for name in names):
        return
    path = "/" + "/".join(names)
    system = make_system(f"mount -t tmpfs --source={quote(source)} --target={quote(path)}")
    line = views.mountinfo(system.mounts).split("\n")[1]
    fields = line.split(" ")
    assert len(fields) == 10 and fields[6] == "-"
    assert (unescaped(fields[4]), unescaped(fields[8])) == (path, source)


needs_findmnt = pytest.mark.skipif(shutil.which("findmnt") is None, reason="findmnt (util-linux) is missing")


def findmnt(tab_file: Path, *options: str) -> str:
    command = ["findmnt", "--kernel", "--tab-file", str(tab_file), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@needs_findmnt
def test_mountinfo_is_read_by_findmnt(tmp_path: Path) -> None:
    system = make_system(
        "mount -o ro,nosuid /dev/sdb1 /a", "mount -t tmpfs 'my source' '/a/b c'", "mount --bind /a/x /d"
    )
    tab = tmp_path / "mountinfo"
    tab.write_text(views.mountinfo(system.mounts))
    columns = "ID,PARENT,MAJ:MIN,FSROOT,TARGET,SOURCE,FSTYPE,VFS-OPTIONS,FS-OPTIONS"
    read = json.loads(findmnt(tab, "--json", "--list", "--output", columns))["filesystems"]
    assert [[str(value) for value in row.values()] for row in read] == [
        ["21", "1", "259:0", "/", "/", "/dev/root", "ext4", "rw,relatime", "rw"],
        ["22", "21", "8:17", "/", "/a", "/dev/sdb1", "ext4", "ro,nosuid,relatime", "ro"],
        ["23", "22", "0:21", "/", "/a/b c", "my source", "tmpfs", "rw,relatime", "rw"],
        ["24", "21", "8:17", "/x", "/d", "/dev/sdb1[/x]", "ext4", "ro,nosuid,relatime", "ro"],
    ]


@needs_findmnt
def test_mountinfo_is_a_tree_to_findmnt(tmp_path: Path) -> None:
    system = make_system(
        *[f"mount -t tmpfs none {path}" for path in ("/a", "/a", "/a/b", "/c")], "mount --move /c /a/b/c"
    )
    tab = tmp_path / "mountinfo"
    tab.write_text(views.mountinfo(system.mounts))
    (root,) = json.loads(findmnt(tab, "--json", "--tree", "--output", "TARGET,ID"))["filesystems"]
    ids = []
    while True:
        ids.append(root["id"])
        if "children" not in root:
            break
        (root,) = root["children"]
    assert ids == [21, 22, 23, 24, 25]


# -- superblocks


def test_superblocks_have_a_line_each() -> None:
    system = make_system(
        "mount -o errors=remount-ro /dev/sdb1 /a",
        "mount -t nfs4 'server:/a b' /n",
        "sb error /a EIO",
        "sb network /n down",
    )
    assert views.superblocks(system.superblocks).splitlines() == [
        "1 259:0 ext4 ok rw /dev/root",
        "2 8:17 ext4 error ro,errors=remount-ro /dev/sdb1",
        r"3 0:21 nfs4 down rw server:/a\040b",
    ]


# -- snapshot


def test_snapshot_has_everything_and_the_number_of_the_last_event() -> None:
    system = make_system("mount -t tmpfs -o ro none /a", "sb edquot /a", "key add user colour red @u")
    document = json.loads(views.snapshot(system, None, 0))
    assert document["seq"] == system.watches.last_event
    assert document["mounts"][1] == {
        "id": 22,
        "parent": 21,
        "mountpoint": "/a",
        "root": "/",
        "options": ["ro", "relatime"],
        "propagation": [],
        "sb": 2,
        "fstype": "tmpfs",
        "source": "none",
        "device": "0:21",
        "changed": 1,
    }
    assert document["superblocks"][1] == {
        "id": 2,
        "device": "0:21",
        "fstype": "tmpfs",
        "source": "none",
        "state": "ok",
        "read_only": True,
        "fill_percent": 0,
        "last_error": 0,
        "options": [],
        "mounts": [22],
        "changed": 2,
    }
    keys = {key["description"]: key for key in document["keys"]}
    assert keys["colour"]["serial"] in keys["_uid.0"]["links"]
    assert keys["colour"]["state"] == "ok" and keys["colour"]["changed"] > 2


def test_snapshot_keeps_keys_from_who_may_not_view_them() -> None:
    system = make_system("key add user secret x @u")
    described = [key["description"] for key in json.loads(views.snapshot(system, Actor(1000, 1000), 0))["keys"]]
    assert "secret" not in described


def test_snapshot_says_which_keys_have_expired() -> None:
    system = make_system("key add user colour red @u", "key add user b c @u")
    (serial,) = [k.serial for k in system.keys.by_serial.values() if k.description == "colour"]
    system.run(f"key timeout {serial} 5", ROOT, 0)
    keys = {key["serial"]: key for key in json.loads(views.snapshot(system, None, 6_000_000_000))["keys"]}
    assert keys[serial]["state"] == "EKEYEXPIRED"


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=12))
def test_views_of_any_bytes_can_be_written_out(raw: bytes) -> None:
    name = raw.replace(b"\0", b"").replace(b"/", b"").decode("utf-8", "surrogateescape")
    system = make_system(f"mount -t tmpfs none {quote('/x' + name)}")
    for text in (views.mountinfo(system.mounts), views.snapshot(system, None, 0)):
        assert text.encode("utf-8", "surrogateescape")
    assert json.loads(views.snapshot(system, None, 0))["mounts"][1]["mountpoint"] == "/x" + name


def test_changed_stands_still_while_nothing_changes() -> None:
    system = make_system("mount -t tmpfs none /a")
    before = system.changed, system.mounts.changed
    views.snapshot(system, ROOT, 0)
    system.resolve(["mount", "/a"], ROOT, 0)
    assert (system.changed, system.mounts.changed) == before


@pytest.mark.parametrize(
    ("line", "moves"),
    [
        ("mount -t tmpfs none /b", True),
        ("umount /a", True),
        ("mount --move /a /b", True),
        ("mount -o remount,bind,ro /a", True),
        ("sb edquot /a", False),
        ("key add user a b @u", False),
    ],
)
def test_mounts_changed_moves_with_mountinfo_alone(line: str, moves: bool) -> None:
    system = make_system("mount -t tmpfs none /a")
    before = system.mounts.changed, system.changed
    system.run(line, ROOT, 0)
    assert (system.mounts.changed != before[0]) is moves
    assert system.changed != before[1]
