"""What is built and installed, used as a user, mount(8) and systemd would use it."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) of a type not in fstab needs root")

# PIP_* settings and certificates stay: a machine may need them to reach its package index.
LEFT_OUT = ("PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV", "WQFS_MOUNT")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(LEFT_OUT)}


def run_unchecked(
    *command: str | Path, cwd: Path = ROOT, env: dict[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] = ENVIRONMENT) -> str:
    """Run a command that must end with 0; returns its standard output."""
    done = run_unchecked(*command, cwd=cwd, env=env)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def mounted(folder: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(folder) and " - fuse.wqfs " in line for line in lines)


def files_under(folder: Path) -> list[str]:
    """Every name under the folder, sorted; folders end with a slash."""
    found = []
    for parent, folders, files in os.walk(folder):
        found += [f"{os.path.relpath(os.path.join(parent, f), folder)}/" for f in folders]
        found += [os.path.relpath(os.path.join(parent, f), folder) for f in files]
    return sorted(found)


def assert_lives(folder: Path) -> None:
    """Something is mounted, and an event can be posted and seen."""
    assert mounted(folder)
    (folder / "watches" / "w").mkdir()
    (folder / "post").write_text("mount /dev/sdb1 /mnt/data -t ext4\n")
    assert '"new_mount"' in (folder / "watches" / "w" / "log").read_text()


def unmount(folder: Path) -> None:
    run("fusermount3", "-u", folder)
    assert not mounted(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A mountpoint, which is unmounted whatever happens."""
    folder = tmp_path / "mnt"
    folder.mkdir()
    try:
        yield folder
    finally:
        while mounted(folder):
            subprocess.run(["fusermount3", "-uz", folder], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", out, ROOT)
    (wheel,) = out.glob("wqfs-*.whl")
    return wheel


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make install PREFIX=` into a folder of its own, which had one file before."""
    prefix = tmp_path_factory.mktemp("installed") / "prefix"
    prefix.mkdir()
    (prefix / "mine").touch()
    run("make", "install", f"PREFIX={prefix}")
    return prefix


@pytest.fixture
def destdir(installed_tree: Path) -> Path:
    return installed_tree


def test_wheel_holds_typing_header_units_and_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = f"wqfs-{VERSION}.data/data/share"
    pages = {f"{data}/man/man{p.suffix[1:]}/{p.name}" for p in (ROOT / "docs" / "man").iterdir()}
    units = {f"{data}/wqfs/systemd/{p.name}" for p in (ROOT / "systemd").iterdir()}
    assert pages
    assert units
    assert {"wqfs/py.typed", "wqfs/abi/wqfs.h"} | pages | units <= names


def test_wheel_in_clean_environment_mounts(wheel: Path, tmp_path: Path, folder: Path) -> None:
    wheels = tmp_path / "wheels"
    run(
        sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "--require-hashes",
        "-w", wheels, "-r", "requirements-run.lock",
    )  # fmt: skip
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    # From these wheels alone: the dependencies that ours names must be enough.
    run(python, "-m", "pip", "-q", "install", "--no-index", "--find-links", wheels, wheel, cwd=tmp_path)
    command = tmp_path / "venv" / "bin" / "wqfs"
    assert VERSION in run(command, "--version", cwd=tmp_path)
    run(command, folder, cwd=tmp_path)
    assert_lives(folder)
    unmount(folder)


def test_installed_command_without_environment_mounts(prefix: Path, folder: Path) -> None:
    run("/usr/bin/env", "-i", "/bin/sh", "-c", f"{prefix}/bin/wqfs src {folder} -o rw,nofail", env={})
    assert_lives(folder)
    unmount(folder)


def test_installed_mount_wqfs_without_environment_mounts(prefix: Path, folder: Path) -> None:
    run("/usr/bin/env", "-i", "/bin/sh", "-c", f"{prefix}/bin/mount_wqfs {folder}", env={})
    assert_lives(folder)
    unmount(folder)


@needs_root
def test_mount8_with_command_as_source_mounts(prefix: Path, folder: Path) -> None:
    run("mount", "-t", "fuse", f"{prefix}/bin/wqfs#src", folder)
    assert_lives(folder)
    run("umount", folder)
    assert not mounted(folder)


@needs_root
def test_mount8_with_fstab_type_mounts(destdir: Path, folder: Path) -> None:
    # In a mount namespace of its own where the new tree lies over /usr/local; sh's default path has that.
    script = f"""
        set -eu
        mount -t overlay overlay -o lowerdir={destdir}/usr/local:/usr/local /usr/local
        mount -t fuse.wqfs src {folder} -o nofail
        mkdir {folder}/watches/w
        echo 'mount /dev/sdb1 /mnt/data -t ext4' > {folder}/post
        cat {folder}/watches/w/log
        findmnt -n -o FSTYPE,SOURCE {folder}
        umount {folder}
    """
    output = run("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script)
    assert '"new_mount"' in output
    assert re.search(r"^fuse\.wqfs +src$", output, re.MULTILINE)


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs/man").iterdir()))
def test_man_finds_the_installed_page(destdir: Path, page: str) -> None:
    if shutil.which("man") is None:
        pytest.skip("man is missing (Debian package man-db)")
    name, section = page.rsplit(".", 1)
    folder = destdir / "usr/local/share/man"
    assert run("man", "-M", str(folder), "-w", section, name) == f"{folder}/man{section}/{page}\n"


def test_destdir_is_named_nowhere(destdir: Path) -> None:
    named = [
        str(path)
        for path in destdir.rglob("*")
        if path.is_file() and not path.is_symlink() and str(destdir).encode() in path.read_bytes()
    ]
    assert named == []


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("wqfs@.service", "wqfs@mnt-wqfs.service"),
        ("wqfs.service", ""),
        ("wqfs-left@.service", "wqfs-left@wqfs@mnt-wqfs.service"),
    ],
)
def test_systemd_accepts_the_installed_unit(prefix: Path, name: str, instance: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing (Debian package systemd)")
    unit = prefix / "lib" / "systemd" / "system" / name
    text = unit.read_text()
    assert f"ExecStart={prefix}/{'libexec/wqfs-unit left' if 'left' in name else 'bin/wqfs'} " in text
    assert not re.search(r"@[A-Z]+@", text)
    # It ends with 0 for a directive that it does not know: what counts is that it says nothing.
    done = run_unchecked("systemd-analyze", "verify", "--man=no", str(unit.with_name(instance or name)))
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_user_drop_in_and_snippets_are_accepted(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing (Debian package systemd)")
    unit = tmp_path / "wqfs.service"
    shutil.copy(prefix / "lib/systemd/system/wqfs.service", unit)
    (tmp_path / "wqfs.service.d").mkdir()
    shutil.copy(prefix / "share/doc/wqfs/wqfs-user.conf", tmp_path / "wqfs.service.d/user.conf")
    done = run_unchecked("systemd-analyze", "verify", "--man=no", str(unit))
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "run").mkdir()
    done = run_unchecked("systemd-sysusers", f"--root={root}", str(prefix / "lib/sysusers.d/wqfs.conf"))
    assert done.returncode == 0, done.stderr
    assert (root / "etc/passwd").read_text().startswith("wqfs:")
    done = run_unchecked("systemd-tmpfiles", "--create", f"--root={root}", str(ROOT / "systemd/wqfs.tmpfiles.conf"))
    assert done.returncode == 0, done.stderr
    assert (root / "run/wqfs").is_dir()


def test_install_again_replaces_and_uninstall_leaves_nothing(prefix: Path) -> None:
    before = files_under(prefix)
    assert {
        "bin/wqfs",
        "bin/mount_wqfs",
        "include/wqfs.h",
        "share/man/man8/wqfs.8",
        "share/man/man1/wqfs-play.1",
    } <= set(before)
    assert {"share/doc/wqfs/LICENSE", "lib/wqfs/MANIFEST"} <= set(before)
    run("make", "install", f"PREFIX={prefix}")
    assert [n for n in files_under(prefix) if "__pycache__" not in n] == [n for n in before if "__pycache__" not in n]
    (prefix / "bin" / "theirs").touch()
    run("make", "uninstall", f"PREFIX={prefix}")
    assert files_under(prefix) == ["bin/", "bin/theirs", "mine"]
    run("make", "uninstall", f"PREFIX={prefix}")  # nothing to do is no error


def test_install_over_a_foreign_command_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "wqfs").write_text("theirs")
    done = run_unchecked("make", "install", f"PREFIX={tmp_path}")
    assert done.returncode != 0
    assert f"{tmp_path}/bin/wqfs is there already" in done.stderr
    assert files_under(tmp_path) == ["bin/", "bin/wqfs"]
    assert (tmp_path / "bin" / "wqfs").read_text() == "theirs"


@pytest.mark.parametrize("when", ["mounted", "told"])
def test_run_in_a_terminal_ends_with_0_after_ctrl_c(folder: Path, when: str) -> None:
    """when: as soon as the mount table has it, or once it has said what to try next."""
    # script(1) gives make a terminal, so that Ctrl-C reaches what it would reach there.
    make = subprocess.Popen(
        ["script", "-qec", f"make run MOUNTPOINT={folder}", "/dev/null"],
        cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert make.stdin is not None
    assert make.stdout is not None
    try:
        deadline = time.monotonic() + 60
        while not mounted(folder):  # nothing to wait on: another process mounts
            assert time.monotonic() < deadline
            assert make.poll() is None
            time.sleep(0.05)
        output = ""
        while when == "told" and "hangs it up" not in output:
            line = make.stdout.readline()
            assert line, output
            output += line
        make.stdin.write("\x03")
        make.stdin.flush()
        output += make.stdout.read()
        assert make.wait(30) == 0, output
        assert when != "told" or "second terminal" in output
        assert "Interrupt" not in output
        assert not mounted(folder)
    finally:
        make.kill()
        make.wait()
        make.stdin.close()
        make.stdout.close()
