"""A host for the tests with container engines: this machine as a Debian with systemd would be, for one script.

Each script runs as process 1 of mount and pid namespaces of its own, so that nothing is left mounted or running
however it ends. There the root is shared, as systemd has it; /run and /dev/shm are empty; wqfs is installed under
/usr/local; /dev/fuse is open to all; there is a user `ada` with subordinate ids; and podman keeps what it has in a
folder of the tests, and takes cgroups by itself and runc, for there is no systemd to ask.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import ROOT, wait_until

NEEDED = {
    "podman": "podman",
    "runc": "runc",
    "bwrap": "bubblewrap",
    "newuidmap": "uidmap",
    "debootstrap": "debootstrap",
    "busybox": "busybox",
}
BASE = "debian:bookworm-slim"
"""What the Containerfile begins with."""
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")

_PODMAN = """\
[containers]
netns = "host"
# Not above what a process here may have, without CAP_SYS_RESOURCE.
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "/run/containers"
"""
_PRELUDE = """\
set -eu
folder=$1 script=$2
# A copy of somebody else's mount would be found as the only one there is.
awk '/ - fuse\\.wqfs / { p[n++] = $5 } END { while (n) print p[--n] }' /proc/self/mountinfo | while read -r place; do
    umount -l "$(printf '%b' "$place")" || :
done
mount --make-rshared /
resolv=$(realpath /etc/resolv.conf)
cat "$resolv" > "$folder/resolv.conf" || :
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /dev/shm
case $resolv in /run/*) mkdir -p "${resolv%/*}"; cp "$folder/resolv.conf" "$resolv" ;; esac
mkdir -p /run/.host/etc /run/.host/work /run/ada /run/lock /run/user
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/.host/etc,workdir=/run/.host/work /etc
echo 'ada:x:4711:4711::/run/ada:/bin/sh' >> /etc/passwd
echo 'ada:x:4711:' >> /etc/group
echo 'ada:200000:65536' | tee /etc/subuid > /etc/subgid
mkdir -m 700 /run/user/4711
chown 4711:4711 /run/user/4711
mount --bind "$folder/home" /run/ada
mount --make-private /run/ada # else mounts in it would show in the folder too
mount --make-shared /run/ada
mknod -m 666 /run/.host/fuse c 10 229
mount --bind /run/.host/fuse /dev/fuse
if [ -d "$folder/installed" ]; then
    mount -t overlay overlay -o "lowerdir=$folder/installed/usr/local:/usr/local" /usr/local
fi
if [ -d "$folder/storage" ]; then podman rm -af >/dev/null; fi # what a script that failed has left
cd "$folder/work"
exec bash -e "$script"
"""


class Host:
    """The machine, made ready in `folder`. Root only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("work", "home", "home/tmp", "tmp"):
            (folder / name).mkdir()
        (folder / "prelude").write_text(_PRELUDE)
        (folder / "containers.conf").write_text(_PODMAN)
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        (folder / "home/containers.conf").write_text(_PODMAN)  # its storage is in the user's home by itself
        subprocess.run(["chown", "-R", "4711:4711", folder / "home"], check=True)

    def run(self, script: str, user: str = "root", limit: float = 60) -> str:
        """Run a bash script that must end with 0, as `root` or `ada`; returns all that it printed."""
        home = self.folder if user == "root" else Path("/run/ada")
        text = self.folder / "script"
        text.write_text(script)
        if user != "root":
            (self.folder / "home/script").write_text(script)
            text.write_text(
                f"cd {home}\nexec setpriv --reuid={user} --regid={user} --clear-groups bash -e {home}/script\n"
            )
        environment = {
            # So that what is left running is found by who started the tests.
            **{name: value for name, value in os.environ.items() if name.startswith("WQFS_CI")},
            "PATH": SBIN,
            "LANG": "C.UTF-8",
            "HOME": "/root" if user == "root" else str(home),
            "TMPDIR": str(home / "tmp"),
            "XDG_RUNTIME_DIR": "" if user == "root" else "/run/user/4711",
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(home / "storage.conf") if user == "root" else "",
        }
        command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen(
            [*command, "bash", str(self.folder / "prelude"), str(self.folder), str(text)],
            env={name: value for name, value in environment.items() if value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except BaseException as error:
            process.kill()  # and with it, by --kill-child, all that runs there
            said = process.communicate()[0]
            if isinstance(error, subprocess.TimeoutExpired):
                pytest.fail(f"not done within {limit:g} s:\n{said}")
            raise
        assert process.returncode == 0, f"ended with {process.returncode}:\n{output[-5000:]}"
        return output

    def install(self) -> None:
        """wqfs under /usr/local, as `make install` puts it."""
        command = ["make", "-C", str(ROOT), "install", "PREFIX=/usr/local", f"DESTDIR={self.folder}/installed"]
        left_out = ("PYTHON", "MAKE", "MFLAGS", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        _checked(command, environment)

    def make_base(self) -> None:
        """The image that the Containerfile begins with, and one called busybox."""
        root = self.folder / "busybox"
        (root / "bin").mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, root / "bin")
        libraries = subprocess.run(
            ["ldd", busybox], capture_output=True, text=True, check=False
        ).stdout  # none if static
        for word in libraries.split():
            if word.startswith("/"):
                (root / word[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, root / word[1:])
        for applet in _checked([busybox, "--list"]).split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        for name in ("run", "tmp", "proc", "sys", "dev"):
            (root / name).mkdir()
        _checked(["debootstrap", "--variant=minbase", "bookworm", self.folder / "debian", _mirror()])
        self.run(
            f"tar -C {self.folder}/busybox -c . | podman import -q - busybox\n"
            f"tar -C {self.folder}/debian -c . | podman import -q - {BASE}\n",
            limit=120,
        )
        shutil.rmtree(self.folder / "debian")

    def give_image(self, name: str) -> None:
        """An image of root's to `ada`, too."""
        saved = self.folder / "home/image.tar"
        self.run(f"podman save -q -o {saved} {name} && chown ada {saved}", limit=120)
        self.run("podman load -q -i image.tar && rm image.tar", "ada", limit=120)

    def build(self, command: str) -> str:
        """Run a `podman build` in the source tree, as this machine reaches its package indexes."""
        settings, bundle = _pip_settings()
        (self.folder / "pip.conf").write_text(settings)
        volumes = [f"{self.folder}/pip.conf:/etc/pip.conf:ro"]
        if bundle:
            volumes.append(f"{bundle}:{_BUNDLE}:ro")
        words = " ".join(f"--volume {volume}" for volume in volumes)
        assert command.startswith("podman build ")
        return self.run(f"cd {ROOT}\n{command.replace('podman build', f'podman build {words}')}", limit=500)


def _checked(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _mirror() -> str:
    """Where this machine has Debian's packages from; "" for debootstrap's own."""
    lines = _checked(["apt-get", "indextargets", "--format", "$(COMPONENT) $(REPO_URI)", "Created-By: Packages"])
    return next((line.split()[1] for line in lines.splitlines() if line.startswith("main ")), "")


_BUNDLE = "/etc/pip.crt"
_PIP_WAY = ("index-url", "proxy", "trusted-host", "timeout")


def _pip_settings() -> tuple[str, str]:
    """This machine's way to its package index: a pip.conf, and the file of certificates that it names as _BUNDLE."""
    found: dict[str, str] = {}
    for line in _checked([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'")
    bundle = os.path.realpath(found["cert"]) if "cert" in found else ""
    kept: dict[str, str] = {
        name: found[name] for name in ("index-url", "proxy", "trusted-host", "timeout") if name in found
    }
    if bundle:
        kept["cert"] = _BUNDLE
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in kept.items()), ""]), bundle


def missing() -> str:
    """What is not there to test with, "" for nothing."""
    if os.geteuid():
        return "root, to make mount and pid namespaces as a host has them"
    absent = [package for program, package in NEEDED.items() if not shutil.which(program, path=SBIN)]
    return f"the Debian packages {' '.join(absent)}" if absent else ""


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    """A Host whose storage and cgroups are gone at the end."""
    before = set(_cgroups())
    try:
        yield Host(folder)
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
        for path in sorted(set(_cgroups()) - before, reverse=True):  # the deepest first
            wait_until(lambda path=path: _removed(path), f"the last process of {path}")  # type: ignore[misc]


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def _cgroups() -> list[Path]:
    """Those that podman makes when no systemd does it."""
    return [
        path for top in CGROUPS.rglob("libpod_parent") for path in (top, *(p for p in top.rglob("*") if p.is_dir()))
    ]
