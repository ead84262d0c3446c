"""Fixtures for tests that mount: a daemon, gone at the end whatever happened."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.booted import Machine, booted, skip_where_nothing_boots
from tests.mounting import processes_of, unmount
from tests.posting import Sight
from tests.running import refusal_of_keyctl
from tests.tools import LIMIT, ROOT, Mount, is_mounted, mounted, wait_until

os.environ.pop("PYTHONUNBUFFERED", None)  # would hide what programs forget to flush
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts background jobs so, and what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["LESSHISTFILE"] = "-"  # the tests of less leave nothing in a home


@pytest.fixture
def mount_with(tmp_path: Path) -> Iterator[Callable[[str], Mount]]:
    """A function that mounts with options in a temporary folder and returns the Mount. At the end
    all are unmounted, and the daemons must have logged no error."""
    mounts: list[Mount] = []

    def mount(options: str = "") -> Mount:
        path = tmp_path / f"mnt{len(mounts)}"
        path.mkdir()
        mounts.append(Mount(path, options, tmp_path / f"log{len(mounts)}"))
        return mounts[-1]

    try:
        yield mount
    finally:
        for each in mounts:
            each.close()
    for each in mounts:
        each.assert_no_error()


@pytest.fixture
def mount(mount_with: Callable[[str], Mount]) -> Mount:
    """A wqfs mounted without options."""
    return mount_with("")


@pytest.fixture
def strict_mount(mount_with: Callable[[str], Mount]) -> Mount:
    """A wqfs that answers as the kernel does: `-o strict,enobufs`."""
    return mount_with("strict,enobufs")


@pytest.fixture
def kernel_keys() -> None:
    """Skips where the kernel's key calls are not allowed."""
    refused = refusal_of_keyctl()
    if refused:
        pytest.skip(f"the kernel's key calls are not allowed here: {errno.errorcode[refused]} (a container's filter)")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One wqfs without options for all tests of a file that asks for it."""
    with mounted(tmp_path_factory.mktemp("shared")) as mount:
        yield mount


@pytest.fixture
def watch(shared: Mount) -> Iterator[Path]:
    """A watch of everything on the shared mount; a test may rmdir it."""
    folder = shared.watch()
    yield folder
    if folder.exists():
        folder.rmdir()


@pytest.fixture
def sight(watch: Path) -> Iterator[Sight]:
    """The `events` of the watch, which watches everything."""
    sight = Sight(watch)
    yield sight
    os.close(sight.fd)


@pytest.fixture
def post(shared: Mount) -> Iterator[int]:
    """A descriptor of `post`."""
    fd = os.open(shared.path / "post", os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on in the background; whatever is there at the end goes."""
    path = tmp_path / "mnt"
    path.mkdir()
    try:
        yield path
    finally:
        while is_mounted(path) and unmount(path, "-z", "-q").returncode == 0:
            pass
        for pid in processes_of(path):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        wait_until(lambda: not processes_of(path), "the daemon's end")


@pytest.fixture
def reader() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """A function that starts `cat` on a file."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(["cat", path], stdout=subprocess.PIPE))
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait(LIMIT)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="session")
def installed_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make install PREFIX=/usr/local DESTDIR=`, as a packager does; it belongs over a root."""
    tree = tmp_path_factory.mktemp("destdir")
    left_out = ("PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV", "WQFS_MOUNT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        ["make", "install", "PREFIX=/usr/local", f"DESTDIR={tree}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return tree


@pytest.fixture(scope="session")
def bootable_tree(request: pytest.FixtureRequest) -> Path:
    """installed_tree, where a machine can be booted with it."""
    skip_where_nothing_boots()
    tree: Path = request.getfixturevalue("installed_tree")
    return tree


@pytest.fixture(scope="session")
def the_machine(tmp_path_factory: pytest.TempPathFactory, bootable_tree: Path) -> Iterator[Machine]:
    """A booted systemd with wqfs installed, for all tests that ask for it: see `machine`."""
    with booted(tmp_path_factory.mktemp("booted"), bootable_tree) as machine:
        yield machine


@pytest.fixture
def machine(the_machine: Machine) -> Iterator[Machine]:
    """A booted systemd with wqfs installed, where no unit of ours runs and nothing was added to any."""
    yield the_machine
    the_machine.clean_up()
