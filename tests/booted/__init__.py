"""A machine of its own to test units on: a real systemd as process 1, in new mount, pid, cgroup, uts, ipc and network
namespaces, over an overlay of this machine's root. What is done on it is gone with it.

    with booted(folder, tree) as machine:       # tree: of `make install DESTDIR=tree`
        machine.run("systemctl", "start", "wqfs.service")

It needs root and a writable cgroup2; where that is not to be had, the test is skipped, with what was refused.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import LIMIT, wait_until

_ROOT_SCRIPT = Path(__file__).with_name("root.sh")
_REFUSED = 77  # of root.sh
_BOOT_LIMIT = 60.0  # seconds; it takes half a one
# Whatever ends the tests ends unshare, and with that process 1 and all below it.
_NEW_NAMESPACES = (
    "setpriv --pdeathsig KILL -- unshare --fork --kill-child=KILL --mount --propagation private "
    "--pid --cgroup --uts --ipc --net"
).split()
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """A running one. process: the one whose end ends all of it; pid: process 1, as the tests number it."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self.process = process
        self.pid = pid

    def command(self, *words: str | Path, user: str = "root") -> list[str]:
        """A command line that runs `words` inside, as `user`, with nothing but PATH in the environment."""
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return ["nsenter", "-t", str(self.pid), "-a", "env", "-i", _PATH, "LC_ALL=C.UTF-8", *become, *map(str, words)]

    def ask(
        self, *words: str | Path, user: str = "root", text: str | None = None, limit: float = LIMIT
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, `text` on its standard input, for at most `limit` seconds."""
        return subprocess.run(
            self.command(*words, user=user), input=text, stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True, text=True, timeout=limit, check=False, start_new_session=True,
        )  # fmt: skip

    def run(self, *words: str | Path, user: str = "root", text: str | None = None, limit: float = LIMIT) -> str:
        """The same for one that must end with 0; returns its standard output."""
        done = self.ask(*words, user=user, text=text, limit=limit)
        assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, script: str, user: str = "root", limit: float = LIMIT) -> str:
        """Run a script by sh -eu, as `run`."""
        return self.run("sh", "-euc", script, user=user, limit=limit)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).strip()

    def main_pid(self, unit: str) -> str:
        """The main process of a running unit, as it is numbered inside. (0 would mean a whole group to kill.)"""
        pid = self.show(unit, "MainPID")
        assert int(pid) > 1, f"{unit} does not run: {self.journal(unit)}"
        return pid

    def drop_in(self, unit: str, *lines: str) -> None:
        """Add lines below [Service], as `systemctl edit` does."""
        folder = f"/etc/systemd/system/{unit}.d"
        self.run("mkdir", "-p", folder)
        self.run("tee", f"{folder}/zz-test.conf", text="\n".join(["[Service]", *lines, ""]))
        self.run("systemctl", "daemon-reload")

    def clean_up(self) -> None:
        """Stop the units of wqfs, and take away what was added to them."""
        self.shell("""
            systemctl stop wqfs.service 'wqfs@*' '*.automount'
            grep -o ' [^ ]* [^ ]* - fuse.wqfs ' /proc/self/mountinfo && exit 1
            systemctl disable -q wqfs.service wqfs@.service
            systemctl reset-failed
            rm -rf /etc/systemd/system/wqfs*.d /etc/tmpfiles.d/wqfs.conf
            sed -i '/^user_allow_other/d' /etc/fuse.conf
            : >/etc/fstab
            systemctl daemon-reload
            journalctl --rotate --vacuum-time=1s -q 2>&1
        """)

    def journal(self, unit: str) -> str:
        """What the journal has of a unit."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def mounts(self, folder: str) -> list[str]:
        """The types of what is mounted at `folder`, as process 1 sees it."""
        table = Path(f"/proc/{self.pid}/mountinfo").read_text()
        fields = [line.split() for line in table.splitlines()]
        return [each[each.index("-") + 1] for each in fields if each[4] == folder]


@contextmanager
def booted(folder: Path, tree: Path, prepare: str = "") -> Iterator[Machine]:
    """A booted machine; every process and mount of it is gone at the end.

    folder: an empty one, for what the boot needs. tree: goes over the root. prepare: a shell script that is run in
    the new root before systemd is, with relative paths. Skips the test where this cannot be."""
    skip_where_nothing_boots()
    for name in ("work", "console"):
        (folder / name).mkdir() if name == "work" else (folder / name).touch()
    if prepare:
        (folder / "prepare").write_text(prepare)
    with _cgroup() as cgroup, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(os.path.relpath(folder / "notify"))  # a socket's path is short
        with open(folder / "said", "wb") as said:
            process = subprocess.Popen(
                [*_NEW_NAMESPACES, "sh", str(_ROOT_SCRIPT), str(folder), str(tree)],
                preexec_fn=lambda: _join(cgroup), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip
        try:
            _wait_for_boot(process, notify, folder)
            yield Machine(process, int((folder / "pid").read_text()))
        finally:
            process.kill()
            process.wait()


def skip_where_nothing_boots() -> None:
    """Skip the test where what a boot needs can be seen to be missing, without trying it."""
    if os.geteuid() != 0:
        pytest.skip("booting a systemd needs root")
    for tool, package in {"systemctl": "systemd", "unshare": "util-linux", "nsenter": "util-linux"}.items():
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing (Debian package {package})")


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup of its own in the unified hierarchy, empty and removed at the end."""
    table = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [fields[4] for fields in table if fields[fields.index("-") + 1] == "cgroup2"]
    if not places:
        pytest.skip("booting a systemd needs a cgroup2 hierarchy, and none is mounted")
    try:
        path = Path(tempfile.mkdtemp(prefix="wqfs-booted-", dir=places[-1]))
    except OSError as error:
        pytest.skip(f"booting a systemd needs a cgroup of its own, and {places[-1]} refuses one: {error.strerror}")
    try:
        yield path
    finally:
        with (path / "cgroup.events").open() as events:
            wait_until(lambda: events.seek(0) == 0 and "populated 0" in events.read(), f"the end of all in {path}")
        for parent, _, _ in os.walk(path, topdown=False):
            os.rmdir(parent)


def _join(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text("0")


def _wait_for_boot(process: subprocess.Popen[bytes], notify: socket.socket, folder: Path) -> None:
    """Until systemd says READY=1: all that belongs to the boot is started."""
    ended = os.pidfd_open(process.pid)
    try:
        while True:
            ready, _, _ = select.select([notify.fileno(), ended], [], [], _BOOT_LIMIT)
            if notify.fileno() in ready:
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    notify.close()  # else process 1 waits for a reader once it has said ten things more
                    return
            elif ended in ready:
                process.wait()
                said = (folder / "said").read_text().strip()
                if process.returncode == _REFUSED or said.startswith("unshare:"):
                    pytest.skip(f"a systemd cannot be booted here: {said}")
                pytest.fail(f"process 1 ended with {process.returncode}: {said}")
            else:
                pytest.fail(f"not booted after {_BOOT_LIMIT:g} s: {(folder / 'console').read_text()[-2000:]}")
    finally:
        os.close(ended)
