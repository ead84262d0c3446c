"""The checks of `wqfs doctor`. `fail` means that wqfs cannot be mounted, `warn` that something else is missing."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wqfs.cli.deadline import TimedOut, within
from wqfs.cli.finding import wqfs_mounts
from wqfs.fs import mounting
from wqfs.fs.options import Options

_SYS_ADMIN = 21
_NO_PRIVILEGE = "start the container with --cap-add SYS_ADMIN; or mount outside: wqfs handover"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; state: ok, warn or fail; advice: what to do about it, or ""."""

    state: str
    finding: str
    advice: str = ""


def _python() -> Finding:
    command = [sys.executable, "-c", "import trio, pyfuse3; print(trio.__version__, pyfuse3.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Finding("fail", why, f"install them for {sys.executable}: pip install wqfs, or `make setup`")
    return Finding("ok", "trio and pyfuse3 " + " and ".join(done.stdout.split()))


def _device() -> Finding:
    try:
        mode = os.stat(mounting.FUSE_DEVICE)
        os.close(os.open(mounting.FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding(
            "fail", "missing", "modprobe fuse; in a container --device /dev/fuse, or mount outside: wqfs handover"
        )
    except PermissionError:
        return Finding(
            "fail", "may not be opened by you", "root: chmod 0666 /dev/fuse; in a container --device /dev/fuse"
        )
    except OSError as error:
        return Finding("fail", f"cannot be opened: {error.strerror}", "modprobe fuse")
    if mode.st_rdev != os.makedev(10, 229):
        return Finding("fail", "is not the FUSE device (character device 10, 229)", "mknod -m 666 /dev/fuse c 10 229")
    return Finding("ok", f"opens, mode {stat.S_IMODE(mode.st_mode):04o}")


def _fusermount() -> Finding:
    path = shutil.which("fusermount3") or shutil.which("fusermount3", path="/usr/local/bin:/usr/bin:/bin")
    if not path:
        return Finding("fail", "not found", "install the package fuse3")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    found = f"{path}, {said.strip() or 'version unknown'}"
    mode = os.stat(path)
    suid = mode.st_mode & stat.S_ISUID and not mode.st_uid and not os.statvfs(path).f_flag & os.ST_NOSUID
    if not suid and os.geteuid():
        return Finding("fail", f"{found}, not setuid root", f"root: chmod u+s {path}, on a filesystem without nosuid")
    return Finding("ok", found + (", setuid root" if suid else ", not setuid (you are root)"))


def _permission() -> Finding:
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    admin = 1 << _SYS_ADMIN
    if int(fields["CapEff"], 16) & admin:
        return Finding("ok", "CAP_SYS_ADMIN")
    if not int(fields["CapBnd"], 16) & admin:
        return Finding("fail", "CAP_SYS_ADMIN can never be had here", _NO_PRIVILEGE)
    if int(fields.get("NoNewPrivs", "0")):
        return Finding("fail", "no_new_privs is set: setuid programs have no effect", "unset NoNewPrivileges")
    if not os.geteuid():
        return Finding("fail", "root without CAP_SYS_ADMIN", _NO_PRIVILEGE)
    return Finding("ok", "by setuid fusermount3")


def _allow_other() -> Finding:
    if not os.getuid():
        return Finding("ok", "root may use allow_other")
    advice = "for -o allow_other root puts a line `user_allow_other` into /etc/fuse.conf"
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError as error:
        return Finding("warn", f"/etc/fuse.conf: {error.strerror}", advice)
    if any(line.strip() == "user_allow_other" for line in lines):
        return Finding("ok", "in /etc/fuse.conf")
    return Finding("warn", "not in /etc/fuse.conf: other users cannot use your mounts", advice)


def _mountinfo() -> Finding:
    try:
        return Finding("ok", f"{len(mounting.mount_table())} mounts")
    except OSError as error:
        return Finding("fail", str(error.strerror), "mount /proc: mount -t proc proc /proc")


def _leftovers() -> Finding:
    dead, stuck = [], []
    for place in (mount.mountpoint for mount in wqfs_mounts()):
        try:
            if isinstance(within(1.0, lambda place=place: bool(os.statvfs(place))), TimedOut):  # type: ignore[misc]
                stuck.append(place)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                dead.append(place)
    if not dead and not stuck:
        return Finding("ok", "no dead mounts")
    words = ([f"dead: {', '.join(dead)}"] if dead else []) + ([f"stuck: {', '.join(stuck)}"] if stuck else [])
    return Finding("warn", "; ".join(words), "; ".join(f"wqfs umount -l {place}" for place in dead + stuck))


def _surroundings() -> Finding:
    found = []
    if os.path.exists("/.dockerenv"):
        found.append("container (docker)")
    elif os.path.exists("/run/.containerenv"):
        found.append("container (podman)")
    elif kind := os.environ.get("container"):  # noqa: SIM112  # systemd's, lower case
        found.append(f"container ({kind})")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        found.append("user namespace: mounts are seen in it alone")
    return Finding("ok", ", ".join(found) or "no container, no user namespace")


def _resend() -> Finding:
    release = platform.release()
    numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in release.split(".")[:2]]
    if numbers >= [6, 9]:
        return Finding("ok", f"Linux {release}: calls that wait outlive a daemon that dies")
    return Finding(
        "warn",
        f"Linux {release}",
        "when a daemon dies, calls that wait end with ECONNABORTED, and its successor goes on with the rest; "
        "from Linux 6.9 on they outlive it",
    )


def _pipes() -> Finding:
    try:
        for fd in os.pipe2(os.O_EXCL | os.O_CLOEXEC):
            os.close(fd)
    except OSError as error:
        why = {errno.ENOPKG: "built without CONFIG_WATCH_QUEUE", errno.EINVAL: "older than Linux 5.8"}
        found = f"the kernel has none: {why.get(error.errno or 0, error.strerror)}"
        return Finding("warn", found, "nothing, wqfs needs none; only Queue.native() and --kernel do")
    return Finding("ok", "the kernel has them")


def _seccomp() -> Finding:
    answer = within(2.0, _listen)
    if answer == 0:
        return Finding("ok", "a listener can be made")
    if answer == errno.EBUSY:
        return Finding(
            "warn", "a listener is there already", "there is one for a tree of processes: start outside of it"
        )
    return Finding("warn", f"not to be had: {os.strerror(answer) if isinstance(answer, int) else 'no answer'}",
                   "needs Linux 5.0 or later, and a container that permits seccomp(2)")  # fmt: skip


def _listen() -> int:
    number = {"x86_64": 317, "aarch64": 277, "riscv64": 277}.get(platform.machine())
    if number is None:
        return errno.ENOSYS

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    allow = b"\x06\0\0\0\0\0\xff\x7f"  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    program = Program(1, allow)
    listener = libc.syscall(ctypes.c_long(number), ctypes.c_long(1), ctypes.c_long(1 << 3), ctypes.byref(program))
    return ctypes.get_errno() if listener < 0 else 0


def _keyctl() -> Finding:
    numbers = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
    libc = ctypes.CDLL(None, use_errno=True)
    number = numbers.get(platform.machine())
    if number is None:
        return Finding("warn", f"not known on {platform.machine()}")
    # KEYCTL_GET_KEYRING_ID of the session keyring, which is not made for it.
    if libc.syscall(ctypes.c_long(number), ctypes.c_long(0), ctypes.c_long(-3), ctypes.c_long(0)) >= 0:
        return Finding("ok", "answers")
    code = ctypes.get_errno()
    if code == errno.EPERM:
        return Finding("warn", "forbidden (EPERM, as in Docker)", "allow keyctl in the container's seccomp profile")
    if code == errno.ENOSYS:
        return Finding("warn", "hidden or not built (ENOSYS, as in LXC)", "LXC: features: keyctl=1")
    return Finding("ok", f"answers ({errno.errorcode.get(code, code)})")


def _timeouts() -> Finding:
    limit = mounting.request_time_limit()
    if limit is None:
        return Finding("ok", "no limit")
    return Finding(
        "warn",
        f"the kernel ends a mount whose requests are older than {limit} s: waiting reads end with EINTR before",
        "wait in poll(2); or, before mounting, set fs.fuse.max_request_timeout and default_request_timeout to 0",
    )


def _trial() -> Finding:
    with tempfile.TemporaryDirectory(prefix="wqfs-doctor-") as folder:
        place = os.path.realpath(folder)
        try:
            fd = mounting.mount(place, Options())
        except mounting.MountFailed as error:
            return Finding("fail", "does not work", str(error))
        try:
            complaint = mounting.try_unmount(place, lazy=True)
        finally:
            os.close(fd)
    return Finding("warn", f"worked, unmounting did not: {complaint}") if complaint else Finding("ok", "worked")


CHECKS: dict[str, Callable[[], Finding]] = {
    "python packages": _python,
    "/dev/fuse": _device,
    "fusermount3": _fusermount,
    "permission": _permission,
    "user_allow_other": _allow_other,
    "mount table": _mountinfo,
    "leftovers": _leftovers,
    "surroundings": _surroundings,
    "RESEND": _resend,
    "notification pipes": _pipes,
    "seccomp listener": _seccomp,
    "keyctl": _keyctl,
    "request timeouts": _timeouts,
    "trial mount": _trial,
}
