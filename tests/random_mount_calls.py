"""System calls of mounts at random: `python -m tests.random_mount_calls FOLDER FIRST COUNT SKIPPED`

For each of COUNT seeds from FIRST on a script of calls below a fresh tmpfs at FOLDER; after each call its errno, and
the tree as tests/mount_calls.py shows it. On a kernel (root, in a mount namespace of its own) and under `wqfs run
--mounts simulated` it has to print the same. A kernel wants a directory where something is mounted, and none can be
made on what is read-only: such steps are written to the file SKIPPED on a kernel, and left out under `wqfs run`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import mount_calls as m

STEPS = 40
MOUNTS_MAX = 120
PATHS = "/a /b /c /a/x /b/x /c/x /a/x/y /b/x/y /a/y".split()
_FLAGS = (
    m.RDONLY, m.NOSUID, m.NODEV, m.NOEXEC, 256, m.NOATIME, m.NODIRATIME, m.RELATIME, m.STRICTATIME, 16, 128, 1 << 25,
)  # fmt: skip
_TYPES = (m.UNBINDABLE, m.PRIVATE, m.SLAVE, m.SHARED)
_ATTRIBUTES = (m.RDONLY, m.NOSUID, m.NODEV, m.NOEXEC, m.ATTR_NODIRATIME, m.ATTR_NOSYMFOLLOW)

Words = tuple[str | int | bytes | None, ...]


def call(name: str, *arguments: int | bytes | None) -> tuple[int, str]:
    """A system call: its value, and how it ended."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(m.libc.syscall(ctypes.c_long(m.NR[name][m.HERE]), *words))
    return result, errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"


class Script:
    """The calls of one seed. detached: descriptors of trees that are not attached yet, up to `most`."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._most = self._dice.randrange(4)
        self.detached: list[int] = []

    def places(self) -> tuple[bytes, bytes]:
        one, other = (m.at(self._dice.choice(PATHS)) for _ in range(2))
        return (m.folder.encode() if self._dice.random() < 0.08 else one), other

    def _some(self, bits: tuple[int, ...], most: int = 2) -> int:
        found = 0
        for _ in range(self._dice.randrange(most + 1)):
            found |= self._dice.choice(bits)
        return found

    def _attributes(self) -> bytes:
        set_, clear = self._some(_ATTRIBUTES), self._some(_ATTRIBUTES)
        if self._dice.random() < 0.3:
            clear |= m.ATTR_ATIME
            set_ |= self._dice.choice((0, m.ATTR_NOATIME, m.ATTR_STRICTATIME))
        return struct.pack("=QQQQ", set_, clear, self._dice.choice((0, 0, 0, *_TYPES)), 0)

    def step(self, one: bytes, other: bytes) -> Iterator[Words]:
        """One or several calls, each with how it ended."""
        dice = self._dice
        kind = dice.random()
        if kind < 0.2:
            yield self._call("mount", b"none", one, b"tmpfs", self._some(_FLAGS), dice.choice((None, b"mode=700")))
        elif kind < 0.3:
            yield self._call("mount", other, one, None, m.BIND | dice.choice((0, m.REC)) | self._some(_FLAGS, 1), None)
        elif kind < 0.36:
            yield self._call("mount", other, one, None, m.MOVE, None)
        elif kind < 0.5:
            flags = dice.choice((*_TYPES, m.SHARED, m.SHARED)) | dice.choice((0, m.REC))
            yield self._call("mount", None, one, None, flags | (dice.random() < 0.1), None)
        elif kind < 0.56:
            yield self._call("mount", None, one, None, m.REMOUNT | m.BIND | self._some(_FLAGS), None)
        elif kind < 0.62:
            yield self._call("mount", None, one, None, m.REMOUNT | self._some(_FLAGS), dice.choice((None, b"size=64k")))
        elif kind < 0.70:
            place = other if one == m.folder.encode() else one
            yield self._call("umount2", place, dice.choice((0, 0, m.DETACH, m.EXPIRE, m.FORCE, 8)))
        elif kind < 0.80:
            yield self._call("mount_setattr", m.AT_FDCWD, one, dice.choice((0, m.RECURSIVE)), self._attributes(), 32)
        elif kind < 0.90:
            yield from self._clone(one, other)
        elif kind < 0.96:
            yield from self._make(one)
        else:
            yield self._call("move_mount", m.AT_FDCWD, one, m.AT_FDCWD, other, dice.choice((0, 0x100)))

    def _call(self, name: str, *arguments: int | bytes | None) -> Words:
        return (name, *arguments, call(name, *arguments)[1])

    def _clone(self, one: bytes, other: bytes) -> Iterator[Words]:
        tree, ended = call("open_tree", m.AT_FDCWD, one, m.CLONE | m.CLOEXEC | self._dice.choice((0, m.RECURSIVE)))
        yield "open_tree", one, ended
        if tree < 0:
            return
        if self._dice.random() < 0.7:
            flags = m.EMPTY | self._dice.choice((0, m.RECURSIVE))
            yield "mount_setattr", call("mount_setattr", tree, b"", flags, self._attributes(), 32)[1]
        self.detached.append(tree)
        if len(self.detached) > self._most:
            tree = self.detached.pop(0)
            yield "move_mount", other, call("move_mount", tree, b"", m.AT_FDCWD, other, 4)[1]
            os.close(tree)

    def _make(self, one: bytes) -> Iterator[Words]:
        context, _ = call("fsopen", b"tmpfs", 1)
        if self._dice.random() < 0.3:
            yield "fsconfig", call("fsconfig", context, m.SET_FLAG, b"ro", None, 0)[1]
        yield "fsconfig", call("fsconfig", context, m.CREATE, None, None, 0)[1]
        tree, ended = call("fsmount", context, 1, self._dice.choice((0, *_ATTRIBUTES[:5], m.ATTR_NOATIME)))
        yield "fsmount", ended
        yield "move_mount", one, call("move_mount", tree, b"", m.AT_FDCWD, one, 4)[1]
        os.close(context)
        os.close(tree)


def shown(word: str | int | bytes | None) -> str:
    if not isinstance(word, bytes):
        return str(word)
    path = m.folder.encode()
    return word[len(path) :].decode() or "/" if word.startswith(path) else word.hex()


def main() -> None:
    m.folder = sys.argv[1]
    first, count, skipped = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    inside = "WQFS_MOUNT" in os.environ
    table = Path(os.environ["WQFS_MOUNT"], "sim/mountinfo") if inside else Path("/proc/self/mountinfo")
    known = set(skipped.read_text().split()) if inside else set()
    call("mount", None, b"/", None, m.PRIVATE | m.REC, None)
    for seed in range(first, first + count):
        call("mount", b"base", m.folder.encode(), b"tmpfs", 0, None)
        script = Script(seed)
        for number in range(STEPS):
            places, name = script.places(), f"{seed}.{number}"
            if not inside and not all(map(os.path.isdir, places)):
                known.add(name)
            if name in known:
                continue
            for words in script.step(*places):
                print(name, *map(shown, words))
            lines = m.shown(table.read_text(), m.folder)
            print(*lines, sep="\n")
            if len(lines) > MOUNTS_MAX:
                break
        for tree in script.detached:
            os.close(tree)
        while call("umount2", m.folder.encode(), m.DETACH)[0] == 0:
            pass
    if not inside:
        skipped.write_text("\n".join(known))


if __name__ == "__main__":
    main()
