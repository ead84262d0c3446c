"""The same command lines for mount(8) and umount(8) here and for the simulation, at random:
`unshare -m python -m tests.conformance.kernel_commands FOLDER FIRST COUNT`

Beside kernel_mounts, which makes system calls, this asks what the tools make of their words: options in
any order, short and long and several, `-o bind`, `remount` with and without a source, propagation by flag
and by option, several directories of umount; what is `=recursive`, which only a later mount(8) knows, is the
system call mount_setattr(2) here. For each of COUNT seeds from FIRST on a script runs below a
fresh tmpfs at FOLDER, its absolute paths put below it, and in a fresh simulated system as it stands. After
each line are compared: refused or not, and mountinfo with attributes, propagation, type and source. A line
for each script that differs; last `N scripts, M mismatches`; exit status 1 if M is not 0.

Where mounts lie upon each other, libmount takes the words of a remount from the last line of that path and
not from the topmost mount, and umount -R begins there and does not reach what is hidden: of seeds 0 to 799
seven differ so.

Needs root, and a mount namespace of its own: it makes everything in it private.
"""

from __future__ import annotations

import ctypes
import os
import random
import shlex
import struct
import subprocess
import sys

from tests.conformance.kernel_mounts import compare
from wqfs.sim import views
from wqfs.sim.command import ROOT
from wqfs.sim.mount_options import PROPAGATION
from wqfs.sim.system import System
from wqfs.watches import Watches

STEPS = 25
MOUNTS_MAX = 40
PATHS = "/a /b /c /a/x /b/x /a/x/y /c/x".split()
WORDS = """ro rw nosuid suid nodev dev noexec exec noatime atime relatime norelatime strictatime nostrictatime
    nodiratime diratime nosymfollow symfollow defaults""".split()
"""Without user and its kin: mount(8) keeps that word in a file of its own, and a remount finds it there."""
FORMS = """mount -t tmpfs none {0}
    mount -t tmpfs -o {words} none {0}
    mount none {0} -o {words} -t tmpfs
    mount none -ttmpfs {0} -r
    mount --types=tmpfs --options={words} --source none --target {0}
    mount -w -o {words} -o {words} -t tmpfs -- none {0}
    mount --bind {0} {1}
    mount -B {0} {1}
    mount -o bind {0} {1}
    mount {0} {1} -o bind,{words}
    mount -o {words} --bind {0} {1}
    mount -o rbind {0} {1}
    mount -R {0} {1}
    mount --rbind -o {words} {0} {1}
    mount -M {0} {1}
    mount --move {0} {1}
    mount -o move {0} {1}
    mount --make-{kind} {0}
    mount --make-{kind} {0}
    mount --make-{kind} none {0}
    mount -t none none {0} -o {kind}
    mount -o {kind} {0}
    mount -t tmpfs --make-{kind} none {0}
    mount -t tmpfs -o {kind},{words} none {0}
    mount --bind --make-{kind} {0} {1}
    mount -o remount,{words} {0}
    mount -o {words},remount {0}
    mount -o remount -o {words} {0}
    mount -o remount,{words} none {0}
    mount -o remount,bind,{words} {0}
    mount -o {words},bind,remount {0}
    mount -o remount,bind,{words} none {0}
    mount -o remount {0}
    mount -o remount,bind,{deep} {0}
    umount {0}
    umount -l {0}
    umount -R {0}
    umount {0} {1}
    umount -l {0} {1} /c""".split("\n")


MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
ATIME = 0x70
DEEP = {
    "ro": (1, 0), "rw": (0, 1), "nosuid": (2, 0), "suid": (0, 2), "nodev": (4, 0), "noexec": (8, 0), "exec": (0, 8),
    "relatime": (0, ATIME), "noatime": (0x10, ATIME), "strictatime": (0x20, ATIME), "nodiratime": (0x80, 0),
    "diratime": (0, 0x80), "nosymfollow": (0x200000, 0),
}  # fmt: skip
"""What mount_setattr(2) is to set and to clear for a word."""


def line_of(dice: random.Random) -> str:
    """A command line. Words that mount(8) puts into options are drawn for each place."""
    form = dice.choice(FORMS).strip()
    while "{words}" in form:
        form = form.replace("{words}", ",".join(dice.sample(WORDS, dice.randint(1, 3))), 1)
    form = form.replace("{deep}", f"{dice.choice([*DEEP])}=recursive")
    return form.replace("{kind}", dice.choice(PROPAGATION)).format(dice.choice(PATHS), dice.choice(PATHS))


def really(words: list[str]) -> bool:
    """Carry out a command line here. Whether it was done."""
    if not words[-2].endswith("=recursive"):
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0
    attributes = struct.pack("=4Q", *DEEP[words[-2].split(",")[-1].removesuffix("=recursive")], 0, 0)
    libc = ctypes.CDLL(None)
    call = libc.syscall(MOUNT_SETATTR, AT_FDCWD, words[-1].encode(), AT_RECURSIVE, attributes, len(attributes))
    return bool(call == 0)


def lines(mountinfo: str, folder: str) -> list[tuple[object, ...]]:
    """What each line at or below `folder` says, ids by the order in which they first stand there; but
    nothing of the first line itself, which is not the same here and there."""
    found = []
    for fields in map(str.split, mountinfo.splitlines()):
        if not folder or fields[4] == folder or fields[4].startswith(folder + "/"):
            found.append(fields)
    ids = {fields[0]: number for number, fields in enumerate(found)}
    groups: dict[str, int] = {}

    def field(text: str) -> str:
        name, colon, group = text.partition(":")
        return f"{name}:{groups.setdefault(group, len(groups))}" if colon else name

    said: list[tuple[object, ...]] = []
    for fields in found[1:]:
        dash = fields.index("-")
        own = fields[2] != found[0][2]  # not of the filesystem of the first line
        said.append((
            ids.get(fields[1], -1), fields[3], fields[4][len(folder) :], fields[5],
            [field(text) for text in fields[6:dash]], *fields[dash + 1 : dash + 3 if own else dash + 1],
            fields[dash + 3].split(",")[0],
        ))  # fmt: skip
    return said


def run(seed: int, folder: str) -> str:
    """Run one script; returns "" or what differs."""
    dice = random.Random(seed)
    system = System(Watches(strict=True), now_ns=0)
    for number in range(STEPS):
        line = line_of(dice)
        words = shlex.split(line)
        for path in PATHS:
            try:
                os.makedirs(folder + path, exist_ok=True)  # the simulated system has no directories
            except OSError:  # read-only there
                if path in words:
                    return ""
        done = really([folder + word if word[0] == "/" else word for word in words])
        refused = False
        try:
            system.run(line, ROOT, 0)
        except OSError:
            refused = True
        if refused == done:
            return f"seed {seed} step {number} {line}: {'done' if done else 'refused'} by the real one"
        with open("/proc/self/mountinfo") as file:
            wanted = lines(file.read(), folder)
        got = lines(views.mountinfo(system.mounts), "")
        if wanted != got:
            return f"seed {seed} step {number} {line}: {wanted}, not {got}"
        if len(got) > MOUNTS_MAX:
            break
    return ""


if __name__ == "__main__":
    sys.exit(compare(run))
