"""The same mount operations in this kernel and in the simulation, at random:
`unshare -m python -m tests.conformance.kernel_mounts FOLDER FIRST COUNT`

For each of COUNT seeds from FIRST on, a script of system calls runs below a fresh tmpfs at FOLDER, and
its command lines in a fresh simulated system. After each the errno and mountinfo are compared: order
of lines, parents, roots, mountpoints and optional fields; ids by the order in which they first stand
there. A line for each script that differs; last `N scripts, M mismatches`; exit status 1 if M is not 0.

The simulation follows Linux 6.12. 6.17 rewrote what an unmount takes from peers: of seeds 897300 to
898799 four differ on 6.18, three in a lazy unmount, one in the order of two copies.

Needs root, and a mount namespace of its own: it makes everything in it private.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import sys
from collections.abc import Callable

from wqfs.sim import views
from wqfs.sim.command import ROOT
from wqfs.sim.mount_options import PROPAGATION
from wqfs.sim.system import System
from wqfs.watches import Watches

MS_BIND, MS_MOVE, MS_REC = 4096, 8192, 16384
TYPES = {"unbindable": 1 << 17, "private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}
MNT_DETACH = 2
STEPS = 60
MOUNTS_MAX = 150
"""A script ends with so many mounts: recursive binds double them."""
PATHS = "/a /b /c /a/x /b/x /c/x /a/x/y /a/x/y/z /b/x/y /c/x/y /a/y /b/y".split()

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]

Call = Callable[[Callable[[str], bytes]], int]
"""A system call, given what makes a path of the simulation one below the folder."""


def _mount(source: bytes, target: bytes, flags: int, fstype: bytes | None = None) -> int:
    return ctypes.get_errno() if _libc.mount(source, target, fstype, flags, None) else 0


def _umount(target: bytes, flags: int) -> int:
    return ctypes.get_errno() if _libc.umount2(target, flags) else 0


def step(dice: random.Random) -> tuple[str, Call]:
    """A command line, and the system call that does the same."""
    one, other = dice.choice(PATHS), dice.choice(PATHS)
    kind = dice.random()
    if kind < 0.25:
        return f"mount -t tmpfs none {one}", lambda at: _mount(b"none", at(one), 0, b"tmpfs")
    if kind < 0.42:
        return f"mount --bind {one} {other}", lambda at: _mount(at(one), at(other), MS_BIND)
    if kind < 0.52:
        return f"mount --rbind {one} {other}", lambda at: _mount(at(one), at(other), MS_BIND | MS_REC)
    if kind < 0.60:
        return f"mount --move {one} {other}", lambda at: _mount(at(one), at(other), MS_MOVE)
    if kind < 0.82:
        where = one if dice.random() < 0.9 else "/"
        word = dice.choice((*PROPAGATION, "shared", "rshared"))
        flags = TYPES[word] if word in TYPES else TYPES[word[1:]] | MS_REC
        return f"mount --make-{word} {where}", lambda at: _mount(b"none", at(where), flags)
    if kind < 0.91:
        return f"umount {one}", lambda at: _umount(at(one), 0)
    return f"umount -l {one}", lambda at: _umount(at(one), MNT_DETACH)


def shape(mountinfo: str, folder: str) -> list[tuple[int, int, str, str, list[str]]]:
    """(parent's line, device, root, mountpoint, optional fields) of each line at or below `folder`."""
    lines = []
    for fields in map(str.split, mountinfo.splitlines()):
        if folder and fields[4] != folder and not fields[4].startswith(folder + "/"):
            continue
        lines.append((fields[0], fields[1], fields[2], fields[3], fields[4][len(folder) :] or "/",
                      fields[6 : fields.index("-")]))  # fmt: skip
    ids = {line[0]: number for number, line in enumerate(lines)}
    groups: dict[str, int] = {}
    devices: dict[str, int] = {}

    def field(text: str) -> str:
        name, colon, group = text.partition(":")
        return f"{name}:{groups.setdefault(group, len(groups))}" if colon else name

    return [
        (ids.get(parent, -1), devices.setdefault(device, len(devices)), root, mountpoint, [*map(field, optional)])
        for _, parent, device, root, mountpoint, optional in lines
    ]


def run(seed: int, folder: str) -> str:
    """Run one script; returns "" or what differs."""
    dice = random.Random(seed)
    system = System(Watches(strict=True), now_ns=0)

    def place(path: str) -> bytes:
        below = folder + path.rstrip("/")
        os.makedirs(below, exist_ok=True)  # the simulated system has no directories
        return below.encode()

    for number in range(STEPS):
        line, call = step(dice)
        wanted = call(place)
        try:
            system.run(line, ROOT, 0)
            got = 0
        except OSError as error:
            got = error.errno or errno.EIO
        if wanted != got:
            return (
                f"seed {seed} step {number} {line}: {errno.errorcode.get(wanted, 0)}, not {errno.errorcode.get(got, 0)}"
            )
        with open("/proc/self/mountinfo") as file:
            there = shape(file.read(), folder)
        here = shape(views.mountinfo(system.mounts), "")
        if there != here:
            return f"seed {seed} step {number} {line}: {there}, not {here}"
        if len(here) > MOUNTS_MAX:
            break
    return ""


def compare(run: Callable[[int, str], str]) -> int:
    """Run the scripts of the seeds that the command line names, each in a tmpfs of its own at the folder that it names.
    run: of one, by seed and folder; returns "" or what differs. Returns the exit code."""
    folder, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    mismatches = 0
    _mount(b"none", b"/", TYPES["private"] | MS_REC)
    for seed in range(first, first + count):
        if _mount(b"none", folder.encode(), 0, b"tmpfs"):
            raise OSError(ctypes.get_errno(), "mount")
        differing = run(seed, folder)
        if differing:
            print(differing)
            mismatches += 1
        _umount(folder.encode(), MNT_DETACH)
    print(f"{count} scripts, {mismatches} mismatches")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(compare(run))
