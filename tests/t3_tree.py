"""The tree that users see: names, modes, owners, and what is refused (DESIGN.md, What a user sees)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools import LIMIT, Mount, mounted

TREE = {
    "": 0o40755,
    "queue": 0o100600,
    "post": 0o100200,
    "watches": 0o40755,
    "sim": 0o40755,
    "sim/mountinfo": 0o100444,
    "sim/superblocks": 0o100444,
    "sim/keys": 0o100444,
    "sim/key-users": 0o100444,
    "sim/snapshot": 0o100444,
    "sim/records": 0o100200,
    "sim/calls": 0o100600,
    "errors": 0o100400,
    "metrics": 0o100444,
}
OF_A_WATCH = {
    "": 0o40700,
    "queue": 0o100600,
    "events": 0o100400,
    "log": 0o100400,
    "objects": 0o100600,
    "filter": 0o100600,
    "depth": 0o100600,
    "status": 0o100400,
}
STRANGER, OTHER = 65534, 65533
NAMES = [b"two words", b"\xff\xfe", b"-r", "ünïcode".encode(), b"new\nline", b"...", b"'\"$(x)\\", b"*"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.fixture(scope="module")
def public() -> Iterator[Mount]:
    """A mount with allow_other in a folder that every user can reach, as tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="wqfs-test-") as folder:
        os.chmod(folder, 0o755)
        with mounted(Path(folder), "allow_other") as mount:
            yield mount


def run(*command: str | bytes | Path) -> str:
    """A tool's standard output; it must end with 0 and complain of nothing."""
    done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def as_user(uid: int, *command: str | Path) -> list[str | Path]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *command]


def errno_as(uid: int, call: str, path: Path) -> int:
    """The errno of `os.CALL(path)` made by another user, 0 for none."""
    program = f"import os, sys\ntry: os.{call}\nexcept OSError as e: print(e.errno)\nelse: print(0)"
    if shutil.which("python3", path="/usr/bin") is None:
        pytest.skip("/usr/bin/python3 is missing: other users may not reach the one of the tests")
    done = subprocess.run(
        as_user(uid, "/usr/bin/python3", "-c", program, path), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def refused(call: Callable[..., object], *arguments: object) -> int:
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno or 0


def modes_below(top: Path) -> dict[str, int]:
    paths = [top, *top.rglob("*")]
    return {str(path.relative_to(top)).replace(".", "", path == top): path.lstat().st_mode for path in paths}


# -- modes and owners


def test_tree_without_options_has_designs_names_and_modes(shared: Mount) -> None:
    assert modes_below(shared.path) == TREE


def test_tree_without_options_belongs_to_who_mounted(shared: Mount, watch: Path) -> None:
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [shared.path, *shared.path.rglob("*")]}
    assert owners == {(os.geteuid(), os.getegid())}


def test_watch_has_designs_names_and_modes(watch: Path) -> None:
    assert modes_below(watch) == OF_A_WATCH


def test_tree_with_umask_lacks_its_bits(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("umask=0027")
    assert modes_below(mount.path) == {name: mode & ~0o27 for name, mode in TREE.items()}
    assert modes_below(mount.watch()) == {name: mode & ~0o27 for name, mode in OF_A_WATCH.items()}


def test_tree_with_uid_and_gid_belongs_to_them(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("uid=1234,gid=4321")
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [mount.path, *mount.path.rglob("*")]}
    assert owners == {(1234, 4321)}


@needs_root
def test_watch_with_uid_and_gid_belongs_to_who_made_it(mount_with: Callable[[str], Mount]) -> None:
    made = mount_with("uid=1234,gid=4321").watch()
    assert {path.stat().st_uid for path in [made, *made.iterdir()]} == {os.geteuid()}


def test_made_up_sizes_of_streams_have_blocks(watch: Path) -> None:
    for name in ("queue", "events"):
        found = (watch / name).stat()
        assert (found.st_size, found.st_blocks) == (4096, 8)


@needs_root
def test_watches_with_allow_other_is_for_everybody_and_sticky(public: Mount) -> None:
    assert (public.path / "watches").stat().st_mode == 0o41777


@needs_root
def test_watch_with_allow_other_belongs_to_who_made_it(public: Mount) -> None:
    made = public.path / "watches" / "theirs"
    run(*as_user(STRANGER, "mkdir", made))
    try:
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in [made, *made.iterdir()]}
        assert owners == {(STRANGER, STRANGER)}
        run(*as_user(STRANGER, "cat", made / "status"))
    finally:
        made.rmdir()


@needs_root
@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("listdir(sys.argv[1])", errno.EACCES),
        ("open(sys.argv[1] + '/queue', os.O_RDONLY)", errno.EACCES),
        ("stat(sys.argv[1] + '/status')", errno.EACCES),
        ("rmdir(sys.argv[1])", errno.EPERM),  # the sticky bit
    ],
)
def test_watch_of_another_user_cannot_be_entered(public: Mount, call: str, number: int) -> None:
    made = public.path / "watches" / "theirs"
    run(*as_user(STRANGER, "mkdir", made))
    try:
        assert errno_as(OTHER, call, made) == number
    finally:
        run(*as_user(STRANGER, "rmdir", made))


@needs_root
@pytest.mark.parametrize("name", ["post", "sim/records", "errors", "queue"])
def test_control_files_with_allow_other_stay_the_mounters(public: Mount, name: str) -> None:
    call = "open(sys.argv[1], os.O_WRONLY if sys.argv[1][-1] in 'ts' else os.O_RDONLY)"
    assert errno_as(STRANGER, call, public.path / name) == errno.EACCES


@needs_root
def test_tree_without_allow_other_is_closed_to_other_users() -> None:
    with tempfile.TemporaryDirectory(prefix="wqfs-test-") as folder:
        os.chmod(folder, 0o755)
        with mounted(Path(folder)) as mount:
            for call in ("stat(sys.argv[1])", "listdir(sys.argv[1])", "mkdir(sys.argv[1] + '/watches/x')"):
                assert errno_as(STRANGER, call, mount.path) == errno.EACCES


# -- what is refused


@pytest.mark.parametrize("place", ["new", "sim/new", "watches/w/new"])
def test_mkdir_elsewhere_is_eperm(shared: Mount, watch: Path, place: str) -> None:
    assert refused(os.mkdir, shared.path / place) == errno.EPERM


@pytest.mark.parametrize("place", ["new", "sim/new", "watches/new", "watches/w/new"])
def test_create_is_eperm(shared: Mount, watch: Path, place: str) -> None:
    assert refused(os.open, shared.path / place, os.O_CREAT | os.O_WRONLY) == errno.EPERM


@pytest.mark.parametrize("place", ["new", "watches/new", "watches/w/new"])
def test_mkfifo_is_eperm(shared: Mount, watch: Path, place: str) -> None:
    assert refused(os.mkfifo, shared.path / place) == errno.EPERM


@pytest.mark.parametrize(
    ("old", "new"),
    [("watches/w", "watches/v"), ("post", "gone"), ("watches/w/log", "watches/w/l"), ("sim", "s")],
)
def test_rename_is_eperm(shared: Mount, watch: Path, old: str, new: str) -> None:
    assert refused(os.rename, shared.path / old, shared.path / new) == errno.EPERM


@pytest.mark.parametrize("new", ["new", "watches/new", "watches/w/new"])
def test_link_is_eperm(shared: Mount, watch: Path, new: str) -> None:
    assert refused(os.link, watch / "log", shared.path / new) == errno.EPERM


@pytest.mark.parametrize("new", ["new", "watches/new", "watches/w/new"])
def test_symlink_is_eperm(shared: Mount, watch: Path, new: str) -> None:
    assert refused(os.symlink, "/", shared.path / new) == errno.EPERM


@pytest.mark.parametrize("place", ["", "post", "watches/w", "watches/w/queue"])
def test_chmod_is_eperm(shared: Mount, watch: Path, place: str) -> None:
    assert refused(os.chmod, shared.path / place, 0o777) == errno.EPERM


@needs_root
@pytest.mark.parametrize("place", ["", "post", "watches/w", "watches/w/queue"])
def test_chown_is_eperm(shared: Mount, watch: Path, place: str) -> None:
    assert refused(os.chown, shared.path / place, 1, 1) == errno.EPERM


@pytest.mark.parametrize("place", ["post", "queue", "sim/mountinfo"])
def test_unlink_outside_a_watch_is_eperm(shared: Mount, place: str) -> None:
    assert refused(os.unlink, shared.path / place) == errno.EPERM


@pytest.mark.parametrize("place", ["sim", "watches"])
def test_rmdir_of_a_fixed_folder_is_eperm(shared: Mount, place: str) -> None:
    assert refused(os.rmdir, shared.path / place) == errno.EPERM


def test_truncate_to_a_length_is_einval(watch: Path) -> None:
    assert refused(os.truncate, watch / "filter", 5) == errno.EINVAL


@pytest.mark.parametrize("place", ["post", "queue", "sim/records", "watches/w/queue", "watches/w/objects"])
def test_truncate_to_nothing_does_nothing(shared: Mount, watch: Path, place: str) -> None:
    os.truncate(shared.path / place, 0)
    run("bash", "-c", '> "$1"', "bash", shared.path / place)


def test_lookup_of_what_is_not_there_is_enoent(shared: Mount, watch: Path) -> None:
    for place in ("nothing", "sim/nothing", "watches/nothing", "watches/w/nothing"):
        assert refused(os.stat, shared.path / place) == errno.ENOENT


# -- watches come and go


def test_mkdir_twice_is_eexist(watch: Path) -> None:
    assert refused(watch.mkdir) == errno.EEXIST


def test_rmdir_of_what_is_not_there_is_enoent(shared: Mount) -> None:
    assert refused((shared.path / "watches" / "nothing").rmdir) == errno.ENOENT


def test_rm_r_ends_a_watch(shared: Mount) -> None:
    folder = shared.watch("v")
    run("rm", "-r", folder)
    assert not folder.exists()
    assert refused(folder.rmdir) == errno.ENOENT


def test_unlink_in_a_watch_does_nothing(watch: Path) -> None:
    for name in OF_A_WATCH:
        if name:
            os.unlink(watch / name)
    assert modes_below(watch) == OF_A_WATCH
    assert (watch / "status").read_text().startswith("queued 0\n")


def test_mkdir_after_rmdir_makes_a_fresh_watch(shared: Mount) -> None:
    folder = shared.watch("again")
    shared.post("sb error / EIO")
    first = (folder / "queue").stat().st_ino
    folder.rmdir()
    folder.mkdir()
    try:
        assert shared.status(folder)["posted"] == 0
        assert (folder / "log").read_bytes() == b""
        assert (folder / "queue").stat().st_ino != first
    finally:
        folder.rmdir()


def test_mkdir_beyond_max_watches_is_edquot(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("max_watches=2")
    first = mount.watch("a")
    mount.watch("b")
    assert refused(mount.watch, "c") == errno.EDQUOT
    first.rmdir()
    mount.watch("c")


@pytest.mark.parametrize("name", NAMES)
def test_watch_with_an_odd_name_is_made_listed_used_and_removed(shared: Mount, name: bytes) -> None:
    watches = os.fsencode(shared.path / "watches")
    folder = watches + b"/" + name
    os.mkdir(folder)
    try:
        assert name in os.listdir(watches)
        assert run("cat", folder + b"/depth") == "0\n"
    finally:
        os.rmdir(folder)
    assert name not in os.listdir(watches)


def test_watch_with_a_name_of_255_bytes_is_made(shared: Mount) -> None:
    folder = shared.watch("x" * 255)
    try:
        assert folder.name in os.listdir(shared.path / "watches")
    finally:
        folder.rmdir()


@pytest.mark.parametrize("length", [256, 1024, 1025])
def test_watch_with_a_longer_name_is_enametoolong(shared: Mount, length: int) -> None:
    assert refused(shared.watch, "x" * length) == errno.ENAMETOOLONG


@pytest.mark.parametrize("name", ["queue", "status", "log", "objects"])
def test_fstat_after_rmdir_works(shared: Mount, name: str) -> None:
    folder = shared.watch("v")
    fd = os.open(folder / name, os.O_RDONLY)
    try:
        before = os.fstat(fd)
        folder.rmdir()
        after = os.fstat(fd)
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    finally:
        os.close(fd)


def test_text_of_a_removed_watch_is_read_through_its_descriptor(shared: Mount) -> None:
    folder = shared.watch("v")
    with open(folder / "status", encoding="ascii") as status:
        folder.rmdir()
        assert status.read().startswith("queued 0\n")


# -- tools


def test_ls_lists_300_watches(shared: Mount) -> None:
    names = [f"many-{number:03}" for number in range(300)]
    for name in names:
        shared.watch(name)
    try:
        listed = run("ls", "-lU", shared.path / "watches").splitlines()[1:]
        assert sorted(line.split()[-1] for line in listed) == names
        assert (shared.path / "watches").stat().st_nlink == 302
    finally:
        for name in names:
            (shared.path / "watches" / name).rmdir()


def test_find_finds_the_whole_tree(shared: Mount, watch: Path) -> None:
    names = set(run("find", shared.path, "-mindepth", "1", "-printf", "%P\\n").splitlines())
    assert names == {*TREE, *(f"watches/w/{name}".rstrip("/") for name in OF_A_WATCH)} - {""}


def test_find_by_type_and_mode_finds_what_is_write_only(shared: Mount) -> None:
    found = run("find", shared.path, "-type", "f", "-perm", "0200", "-printf", "%P\\n").split()
    assert sorted(found) == ["post", "sim/records"]


def test_cp_r_copies_the_text_files(shared: Mount, tmp_path: Path) -> None:
    names = ["mountinfo", "superblocks", "keys", "key-users", "snapshot"]
    run("cp", "-r", *(shared.path / "sim" / name for name in names), tmp_path)
    for name in names:
        copied = (tmp_path / name).read_bytes()
        assert copied
        assert copied == (shared.path / "sim" / name).read_bytes()


@needs_root
def test_cp_r_of_sim_copies_all_of_it(shared: Mount, tmp_path: Path) -> None:
    run("cp", "-r", shared.path / "sim", tmp_path)
    assert sorted(os.listdir(tmp_path / "sim")) == sorted(os.listdir(shared.path / "sim"))
    assert (tmp_path / "sim" / "records").stat().st_size == 0


def test_stat_of_a_text_says_its_true_size(shared: Mount, watch: Path) -> None:
    for path in (
        *(shared.path / "sim").iterdir(),
        *(watch / name for name in ("status", "objects", "filter")),
    ):
        if path.name not in ("records", "calls"):
            assert path.stat().st_size == len(path.read_bytes()), path.name


def test_statfs_counts_watches_as_files(shared: Mount) -> None:
    before = os.statvfs(shared.path)
    folder = shared.watch("counted")
    after = os.statvfs(shared.path)
    folder.rmdir()
    assert (before.f_namemax, before.f_files) == (255, 1024)
    assert after.f_favail == before.f_favail - 1


def test_df_shows_the_mount(shared: Mount) -> None:
    _, line = run("df", "--output=source,fstype,target", shared.path).splitlines()
    assert line.split() == ["wqfs", "fuse.wqfs", str(shared.path)]


def test_stat_f_says_fuse(shared: Mount) -> None:
    assert run("stat", "-f", "-c", "%T", shared.path) in ("fuse\n", "fuseblk\n")


def test_du_walks_the_tree(shared: Mount, watch: Path) -> None:
    assert run("du", "-s", shared.path)


def test_directory_times_are_of_the_mount_or_the_watch(shared: Mount, watch: Path) -> None:
    assert stat.S_ISDIR(watch.stat().st_mode)
    assert shared.path.stat().st_mtime <= watch.stat().st_mtime


def test_readdir_from_python_while_watches_come_and_go(shared: Mount) -> None:
    for name in ("a", "b", "c"):
        shared.watch(name)
    try:
        with os.scandir(shared.path / "watches") as entries:
            first = next(entries).name
            (shared.path / "watches" / "b").rmdir()
            rest = [entry.name for entry in entries]
        assert {"a", "c"} <= {first, *rest}
    finally:
        for name in ("a", "c"):
            (shared.path / "watches" / name).rmdir()


def test_other_process_sees_the_same_tree(shared: Mount, watch: Path) -> None:
    program = "import os, sys; print(sorted(os.listdir(sys.argv[1])))"
    assert run(sys.executable, "-c", program, watch) == f"{sorted(name for name in OF_A_WATCH if name)}\n"
