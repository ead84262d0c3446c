"""What the descriptors of the mount API name: trees of open_tree(2) and fsmount(2), contexts of fsopen(2) and
fspick(2).

The rules, of fs/namespace.c and fs/fsopen.c in Linux 6.12:
- A tree is a place of a mount. That of fsmount, and of open_tree with OPEN_TREE_CLONE, is detached: it is in no
  mountinfo, nobody hears of it, nothing is copied to it, and nothing is mounted in it or cloned from it until
  move_mount attaches it. If its descriptor is closed before, it goes. What follows is the same descriptor of a
  mount in the tree.
- A context collects parameters, creates a superblock, has it mounted once, and may reconfigure it afterwards.
  After a failure it is of no more use.
"""

from __future__ import annotations

import errno
from enum import Enum, auto
from typing import TYPE_CHECKING

from wqfs.sim.errors import Refused
from wqfs.sim.mount_options import MountOptions
from wqfs.sim.mounts import Mount, MountTree
from wqfs.sim.superblocks import Superblock
from wqfs.watch import Place

if TYPE_CHECKING:
    from wqfs.sim.system import System

_SB_FLAGS = {
    "dirsync": ("dirsync", True), "lazytime": ("lazytime", True), "sync": ("sync", True), "mand": ("", True),
    "async": ("sync", False), "nolazytime": ("lazytime", False), "nomand": ("", False),
    "ro": ("ro", True), "rw": ("ro", False),
}  # fmt: skip
"""The words that are flags of any superblock (vfs_parse_sb_flag), and what each sets or clears."""


PARAMETERS_MAX = 4096
"""Bytes of all parameters of a context (legacy_parse_param)."""


class Parameters:
    """Options of a superblock as they are given, one by one; later ones count."""

    def __init__(self) -> None:
        self.source: str | None = None
        self.read_only: bool | None = None
        self._flags: dict[str, bool] = {}
        self._own: dict[str, str] = {}
        self._size = 0

    def add(self, key: str, value: str | None, *, is_text: bool = True) -> None:
        """A parameter; value: None for a flag. Raises EINVAL for a name or a source that makes no sense."""
        if not key:
            raise Refused(errno.EINVAL, "Unnamed parameter")
        self._size += len(key) + len(value or "") + 2
        if self._size > PARAMETERS_MAX:
            raise Refused(errno.EINVAL, "Cumulative options too large")
        if key in _SB_FLAGS:
            word, holds = _SB_FLAGS[key]
            if word == "ro":
                self.read_only = holds
            elif word:
                self._flags[word] = holds
        elif key == "source":
            if value is None or not is_text:
                raise Refused(errno.EINVAL, "Non-string source")
            if self.source is not None:
                raise Refused(errno.EINVAL, "Multiple sources")
            self.source = value
        else:
            self._own[key] = key if value is None else f"{key}={value}"

    def add_flags(self, read_only: bool, flags: dict[str, bool]) -> None:
        """What mount(2) says by its flags, which all are said."""
        self.read_only = read_only
        self._flags.update(flags)

    def add_data(self, text: str) -> None:
        """The last argument of mount(2) (generic_parse_monolithic)."""
        for word in text.split(","):
            if word and word[0] != "=":
                key, equals, value = word.partition("=")
                self.add(key, value if equals else None)

    def options(self) -> MountOptions:
        """All of them."""
        fs = tuple([word for word, holds in self._flags.items() if holds]) + tuple(self._own.values())
        unset = tuple([word for word, holds in self._flags.items() if not holds])
        return MountOptions(read_only=self.read_only, fs=fs, unset=unset)


class Phase(Enum):
    """Of a context (enum fs_context_phase)."""

    CREATE_PARAMS = auto()
    AWAITING_MOUNT = auto()
    RECONF_PARAMS = auto()
    FAILED = auto()


class Context:
    """A context. fstype: of fsopen; sb: the superblock once there is one, which it holds."""

    def __init__(self, fstype: str, sb: Superblock | None = None) -> None:
        self.fstype = fstype
        self.phase = Phase.CREATE_PARAMS if sb is None else Phase.RECONF_PARAMS
        self.parameters = Parameters()
        self.sb: Superblock | None = None
        if sb is not None:
            self.hold(sb)

    def hold(self, sb: Superblock) -> None:
        """It is the context's from now on."""
        self.sb = sb
        sb.unseen += 1

    def may_be_reconfigured(self) -> None:
        """Its superblock is mounted, or was reconfigured: parameters begin anew (vfs_clean_context)."""
        self.parameters = Parameters()
        self.phase = Phase.RECONF_PARAMS


class Tree:
    """A place of a mount. owned: whether it goes with its descriptor."""

    def __init__(self, mount: Mount, place: Place = (), *, owned: bool = False) -> None:
        self.mount = mount
        self.place = place
        self.owned = owned


class Descriptors:
    """All of them, by numbers that are never used again. detached: the topmost mounts of detached trees."""

    def __init__(self, limit: int = 32_768) -> None:
        """limit: descriptors; one more is ENFILE."""
        self._limit = limit
        self._by_number: dict[int, Tree | Context] = {}
        self._last = 0
        self.detached: set[Mount] = set()
        self._detached_mounts = 0

    def add(self, what: Tree | Context) -> int:
        """A number for it. Raises ENFILE for one too many."""
        if len(self._by_number) >= self._limit:
            raise Refused(errno.ENFILE, f"{self._limit} descriptors of mounts are open, the limit")
        self._last += 1
        self._by_number[self._last] = what
        return self._last

    def add_detached(self, top: Mount, tree: MountTree) -> int:
        """A number for a tree that was just made. Raises ENFILE, and ENOSPC for too many mounts with those that are
        in `tree`."""
        mounts = [*top.subtree()]
        try:
            tree.check_room(self._detached_mounts + len(mounts))
            number = self.add(Tree(top, owned=True))
        except Refused:
            for each in mounts:
                tree.groups.make_private(each)
            raise
        self._detached_mounts += len(mounts)
        self.detached.add(top)
        for each in mounts:
            each.sb.unseen += 1
        return number

    def tree(self, number: int) -> Tree:
        """Raises ENOTDIR for a context."""
        found = self._by_number.get(number)
        if not isinstance(found, Tree):
            raise Refused(errno.ENOTDIR, f"descriptor {number} names no mount")
        return found

    def context(self, number: int) -> Context:
        """Raises EINVAL for what is none."""
        found = self._by_number.get(number)
        if not isinstance(found, Context):
            raise Refused(errno.EINVAL, "expected a descriptor of fsopen(2) or fspick(2)")
        return found

    def is_detached(self, mount: Mount) -> bool:
        """Whether a mount is in a detached tree, and not gone."""
        while mount.parent is not None:
            mount = mount.parent
        return mount in self.detached

    def attached(self, top: Mount) -> None:
        """A detached tree is in the tree now."""
        self.detached.discard(top)
        for each in top.subtree():
            each.sb.unseen -= 1
            self._detached_mounts -= 1

    def close(self, system: System, number: int, now_ns: int) -> None:
        """The last copy of a descriptor is closed: what it alone held goes."""
        what = self._by_number.pop(number, None)
        freed: list[Superblock] = []
        if isinstance(what, Context) and what.sb is not None:
            freed.append(what.sb)
        elif isinstance(what, Tree) and what.owned and what.mount in self.detached:
            self.detached.discard(what.mount)
            for each in [*what.mount.subtree()]:
                system.mounts.groups.make_private(each)
                freed.append(each.sb)
                self._detached_mounts -= 1
        for sb in freed:
            sb.unseen -= 1
            if not sb.is_used and sb.id in system.superblocks.by_id:
                system.superblocks.forget(sb)
                system.gone(sb, now_ns)
