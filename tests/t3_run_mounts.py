"""Mounts under `wqfs run --mounts simulated`: the same as on this kernel, and nothing of it on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount_calls import shown
from tests.running import RUN, run, said
from tests.tools import LIMIT, ROOT, Mount

SIMULATED = ("--mounts", "simulated")
Namespace = Callable[..., str]


@pytest.fixture
def in_a_namespace() -> Namespace:
    """A function that runs a command in a mount namespace of its own, and returns what it says."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare(1) is missing")
    done = subprocess.run([unshare, "-m", "true"], capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        pytest.skip(f"no mount namespace without root: {done.stderr.strip()}")
    environment = {name: value for name, value in os.environ.items() if name != "WQFS_MOUNT"}

    def inside(*words: str | Path) -> str:
        command = [unshare, "-m", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return inside


@pytest.fixture(autouse=True)
def machine_is_left_alone(tmp_path: Path) -> Iterator[None]:
    """Nothing is mounted where the programs mounted. Others may mount elsewhere at the same time."""
    yield
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    assert not [line for line in table.splitlines() if line.split(" ")[4].startswith((f"{tmp_path}/", "/srv/place"))]


def test_mount_table_of_the_machine_stays_as_it_is(in_a_namespace: Namespace, tmp_path: Path) -> None:
    """The program sees it too: what reads /proc/self/mountinfo sees the machine's own."""
    here = f"mount --make-rprivate / && cat /proc/self/mountinfo && {' '.join(map(str, RUN))} --mounts simulated -- "
    inner = f"mount -t tmpfs none {tmp_path} && grep -v ' - fuse.wqfs wqfs' /proc/self/mountinfo"
    table = in_a_namespace("sh", "-euc", f'{here} sh -euc "{inner}"').splitlines()
    table = [line for line in table if " - fuse.wqfs " not in line]
    assert len(table) > 1
    assert table[: len(table) // 2] == table[len(table) // 2 :]


def test_system_calls_give_what_the_kernel_gives(in_a_namespace: Namespace, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.mount_calls", str(tmp_path))
    wanted = in_a_namespace(*command).splitlines()
    got = said(*command, options=SIMULATED).splitlines()
    assert got == wanted
    assert sum(line[0].isdigit() for line in wanted) > 150


SCRIPTS = ("1000", "40")
"""Fixed: a rare script may meet what Linux 6.17 changed (tests/conformance/kernel_mounts.py)."""


def test_system_calls_at_random_give_what_the_kernel_gives(in_a_namespace: Namespace, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    command = (sys.executable, "-m", "tests.random_mount_calls", str(folder), *SCRIPTS, str(tmp_path / "skipped"))
    wanted = in_a_namespace(*command).splitlines()
    assert said(*command, options=SIMULATED).splitlines() == wanted
    assert sum(" ok" in line for line in wanted) > 500


# -- mount(8) and umount(8)

COMMANDS = """\
mount -t tmpfs -o nosuid,noatime,size=1024k one {}/a
mount -t tmpfs two {}/b
mount --bind {}/a {}/c
mount -o remount,bind,ro none {}/c
mount --make-shared {}/b
mount --rbind {}/b {}/d
mkdir -p {}/b/x
mount -t tmpfs -o ro three {}/b/x
mount --make-rslave {}/d
mount -o bind,noexec {}/b {}/e
mount -o remount,ro {}/b
umount {}/c
mount --move {}/a {}/c
mount --make-unbindable {}/c
umount {}/nothing
mount --bind {}/c {}/a
umount {}/b
umount -l {}/b
mount -t ext4 -o ro,errors=remount-ro {}/nodevice {}/a
mount --make-private {}/d --make-shared
"""


def needs_root() -> None:
    if os.geteuid():
        pytest.skip("mount(8) insists on being run by root")


def test_mount_and_umount_commands_give_what_the_kernel_gives(in_a_namespace: Namespace, tmp_path: Path) -> None:
    """Errors too, line by line; what mount(8) tells of the reason it takes from the machine."""
    needs_root()
    base = tmp_path / "base"
    base.mkdir()
    script = tmp_path / "script"
    lines = COMMANDS.replace("{}", str(base)).splitlines()
    script.write_text(
        f"mount --make-rprivate / && mount -t tmpfs base {base}\n"
        f"cd {base} && mkdir a b c d e nothing; cd /\n"
        + "".join(f'{line} 2>/dev/null; echo "$? {line}"\ncat "$1"\n' for line in lines)
        + f"umount -l {base}\n"
    )
    mountinfo = "/proc/self/mountinfo"
    wanted = in_a_namespace("sh", "-uc", f". {script}", "sh", mountinfo)
    got = said("sh", "-uc", f'set -- "$WQFS_MOUNT/sim/mountinfo"; . {script}', options=SIMULATED)
    assert steps(got, base) == steps(wanted, base)
    assert [line.split()[0] for line in steps(got, base) if f"{base}" in line].count("32") == 4


def steps(said: str, folder: Path) -> list[str]:
    """The exit codes, and the tree after each command."""
    made: list[str] = []
    table: list[str] = []
    for line in said.splitlines():
        if line.count(" ") >= 6 and " - " in line:
            table.append(line)
        else:
            made += [*shown("\n".join(table), str(folder)), line]
            table.clear()
    return made + shown("\n".join(table), str(folder))


def test_conformance_of_mounts_by_mount_commands_inside() -> None:
    """Who is told what, 17 scripts, by mount(8), watch_mount and a queue of pipe2."""
    needs_root()
    command = [
        sys.executable,
        "-m",
        "tests.conformance.replay_mounts",
        "--face",
        "run",
        "tests/conformance/mounts.json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert (done.returncode, done.stdout) == (0, "17 cases, 0 mismatches\n"), done.stderr


# -- the new mount API, in C

WATCHES = ("--watch-mount-nr", "501", "--watch-sb-nr", "0x1f6")
NOTIFIED = """\
twice 1, ID 1, flags 1, queue 1, path 1, not watched 1
again 1
message: e Multiple sources
no message 1
made
attached
id 1 type 2 subtype 0 flags 2 aux
child 0
writable
id 3 type 2 subtype 3 flags 0
id 1 type 2 subtype 3 flags 1
id 3 type 2 subtype 4 flags 0
id 1 type 2 subtype 4 flags 1
cloned
id 3 type 2 subtype 0 flags 0 aux
id 1 type 2 subtype 0 flags 1 aux
reconfigured
id 4 type 3 subtype 0 flags 1
from a shared one 1
gone
id 3 type 0 subtype 0 flags 0
id 1 type 2 subtype 1 flags 0 aux
id 4 type 0 subtype 0 flags 0
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "mounts"
    subprocess.run(["cc", "-Wall", "-Werror", "-O2", "-o", made, ROOT / "tests/mounts.c"], check=True)
    return made


def test_program_in_c_mounts_and_hears_of_it(program: Path) -> None:
    assert said(program, "/srv/place", "501", "502", options=(*SIMULATED, *WATCHES)) == NOTIFIED


def test_program_of_a_user_without_privilege_mounts_too(program: Path) -> None:
    """The simulated machine's root acts; of the real one nothing is asked."""
    words: list[str | Path] = [program, "/srv/place", "501", "502"]
    options: tuple[str, ...] = ()
    if not os.geteuid():
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv(1) is missing")
        program.parent.chmod(0o755)
        program.parent.parent.chmod(0o755)
        program.parent.parent.parent.chmod(0o755)
        options = ("-o", "allow_other")  # or the queue would be root's alone
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words]
    assert said(*words, options=(*SIMULATED, *WATCHES, *options)) == NOTIFIED


def inside(code: str, *options: str) -> str:
    """What a program in Python says that has the calls of tests/mount_calls.py, without their own lines."""
    program = f"import os, tests.mount_calls as m\nfrom tests.mount_calls import *\n{code}"
    lines = said(sys.executable, "-c", program, options=options or SIMULATED).splitlines(keepends=True)
    return "".join(line for line in lines if not line[0].isdigit())


def test_detached_mount_goes_with_the_last_copy_of_its_descriptor() -> None:
    code = """
superblocks = lambda: open(os.environ["WQFS_MOUNT"] + "/sim/superblocks").read().count("tmpfs")
fs = call("fsopen", b"tmpfs", 0)
call("fsconfig", fs, CREATE, None, None, 0)
tree = call("fsmount", fs, 0, 0)
os.close(fs)
copy = os.dup(tree)
os.close(tree)
call("umount2", b"/nothing", 0)
print("-", superblocks())
os.close(copy)
call("umount2", b"/nothing", 0)
print("-", superblocks())
"""
    assert inside(code) == "- 1\n- 0\n"


def test_program_that_is_killed_leaves_no_detached_mount(strict_mount: Mount) -> None:
    code = """
from tests.mount_calls import *
fs = call("fsopen", b"tmpfs", 0)
call("fsconfig", fs, CREATE, None, None, 0)
call("fsmount", fs, 0, 0)
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""
    done = run(sys.executable, "-c", code, options=(*SIMULATED, "--mount", str(strict_mount.path)))
    assert (done.returncode, done.stdout) == (-9, "1 fsopen ok\n2 fsconfig ok\n3 fsmount ok\n"), done.stderr
    assert "tmpfs" not in (strict_mount.path / "sim/superblocks").read_text()


def test_descriptor_is_refused_where_the_program_has_too_many() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
for name, *arguments in (("open_tree", AT_FDCWD, b"/", CLONE), ("fsopen", b"tmpfs", 0), ("fspick", AT_FDCWD, b"/", 0)):
    libc.syscall(ctypes.c_long(NR[name][HERE]), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    print("-", errno.errorcode[ctypes.get_errno()])
"""
    assert inside(code) == "- EMFILE\n" * 3


def test_place_is_completed_from_the_callers_root_and_directory(tmp_path: Path) -> None:
    needs_root()
    code = f"""
os.makedirs("{tmp_path}/new/in")
os.chroot("{tmp_path}/new")
os.chdir("/in")
call("mount", b"one", b"here", b"tmpfs", 0, None)
call("mount", b"two", b"/../there", b"tmpfs", 0, None)
"""
    code = "table = os.open(os.environ['WQFS_MOUNT'] + '/sim/mountinfo', os.O_RDONLY)\n" + code
    code += "for line in os.read(table, 65536).decode().splitlines()[1:]: print('-', line.split()[4])\n"
    assert inside(code) == f"- {tmp_path}/new/in/here\n- {tmp_path}/new/there\n"


def test_calls_of_mounts_go_to_the_kernel_by_default(in_a_namespace: Namespace, tmp_path: Path) -> None:
    script = (
        f"mount --make-rprivate / && mount -t tmpfs real {tmp_path} && grep -c ' - tmpfs real ' /proc/self/mountinfo"
    )
    assert in_a_namespace(sys.executable, "-m", "wqfs.cli", "run", "--", "sh", "-c", script) == "1\n"


def test_watch_mount_is_not_there_without_its_number() -> None:
    code = "libc.syscall(501, -100, b'/', 0, 0, 0); print('-', errno.errorcode[ctypes.get_errno()])"
    assert inside(code) == "- ENOSYS\n"


@pytest.mark.parametrize("options", [("--watch-mount-nr", "16"), ("--watch-mount-nr", "9", "--watch-sb-nr", "9")])
def test_number_of_another_call_is_refused(options: tuple[str, ...]) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are of x86-64")
    done = run("true", options=options)
    assert done.returncode == 125
    assert "is the number of" in done.stderr


def test_trace_shows_paths_and_what_was_refused() -> None:
    needs_root()
    done = run("mount", "-t", "tmpfs", "none", '/no"where', options=("--trace", *SIMULATED))
    assert '"none", "/no\\"where", "tmpfs", 0x0, NULL) = 0\n' in done.stderr
