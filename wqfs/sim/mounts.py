"""The mount tree: who is mounted where, and who hears of what happens there.

The rules:
- A place is a mount and a path within it (the kernel's vfsmount and dentry). At most one mount is
  attached to a place; a second one on the same path is attached to the first one's root. So the
  topmost counts, and going up the parents undoes the stack.
- There are no directories: any absolute path is a place. Paths are taken as text, `..` included.
- Ids are never used again. Mounts stand in the order of their ids, as in mountinfo.
- What happens is heard from its place rootwards: by watches on directories that hold the place,
  deepest first, on each mount up to the root. IN_SUBTREE is clear only for a watch on the root of
  the mount where it happens (ABI.md, 1).

Nothing in here makes events: wqfs/sim/mounting.py does. What is copied where, and who goes with whom,
is in wqfs/sim/propagation.py.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from wqfs.abi.records import MountFlag
from wqfs.kept import text_bytes
from wqfs.sim.errors import Refused
from wqfs.sim.peers import PeerGroup, PeerGroups
from wqfs.sim.superblocks import Superblock
from wqfs.watch import Group, Place, Watchable

IN_SUBTREE: Final = int(MountFlag.IN_SUBTREE)
PATH_MAX = 4096
NAME_MAX = 255
ROOT_ID = 21
OUTSIDE_ID = 1
"""The parent id of the root mount: a mount that nobody can see (proc(5))."""


class Mount(Watchable):
    """id: as in records and mountinfo; parent: None for the root mount and for one that is not
    attached; mountpoint: the place within the parent; root: the directory of the filesystem that it
    shows; attr: MOUNT_ATTR_* bits; path: the mountpoint seen from the root; children: by their place;
    group, master, slaves, unbindable: see wqfs/sim/peers.py; automount: it was mounted by the kernel,
    and may expire; expiring: umount2(2) with MNT_EXPIRE saw it, and nobody used it since; attached: it is
    in the tree of the root mount; changed: the number of the event that changed it last, 0 before the first."""

    __slots__ = ("attached", "attr", "automount", "changed", "children", "expiring", "group", "id", "master",
                 "mountpoint", "parent", "path", "root", "sb", "slaves", "text", "unbindable")  # fmt: skip

    def __init__(self, id_: int, sb: Superblock, root: Place, attr: int) -> None:
        super().__init__()
        self.id = id_
        self.parent: Mount | None = None
        self.mountpoint: Place = ()
        self.sb = sb
        self.root = root
        self.attr = attr
        self.path = "/"
        self.children: dict[Place, Mount] = {}
        self.group: PeerGroup | None = None
        self.master: Mount | None = None
        self.slaves: list[Mount] = []
        self.unbindable = False
        self.automount = False
        self.text = 0  # characters that were counted of it
        self.expiring = False
        self.attached = False
        self.changed = 0

    @property
    def watch_object_id(self) -> int:
        return self.id

    def subtree(self) -> Iterator[Mount]:
        """This mount and all below, parents first, siblings in the order in which they were attached."""
        pending = [self]  # no recursion: mounts stack as high as anybody likes
        while pending:
            mount = pending.pop()
            yield mount
            pending.extend(reversed(mount.children.values()))


class MountTree:
    """All mounts. changed: counts changes of the tree and of attributes, for who polls mountinfo; max_mounts: how
    many, by default as fs.mount-max; max_text: bytes of their paths, sources and options together."""

    def __init__(self, sb: Superblock, *, max_mounts: int = 100_000, max_text: int = 64 << 20) -> None:
        self.max_mounts = max_mounts
        self._max_text = max_text
        self._text = 0
        self._last_id = ROOT_ID
        self.root = Mount(ROOT_ID, sb, (), 0)
        self.root.attached = True
        self.groups = PeerGroups()
        self.by_id: dict[int, Mount] = {ROOT_ID: self.root}
        sb.mounts[ROOT_ID] = self.root
        self.changed = 0

    # -- paths

    def lookup(self, path: str) -> tuple[Mount, Place]:
        """The topmost mount at `path` and the place within it. Raises EINVAL, ENAMETOOLONG."""
        return self.walk(_topmost(self.root), (), segments(path))

    @staticmethod
    def walk(mount: Mount, place: Place, names: Place) -> tuple[Mount, Place]:
        """Where these names lead from a place of a mount: the topmost mount there, and the place within it."""
        names = place + names
        begin = 0
        for end in range(len(place) + 1, len(names) + 1):
            child = mount.children.get(names[begin:end])
            if child is not None:
                mount = _topmost(child)
                begin = end
        return mount, names[begin:]

    def mounted_at(self, path: str) -> Mount:
        """The topmost mount whose mountpoint is `path`. Raises EINVAL if nothing is mounted there."""
        mount, place = self.lookup(path)
        if place:
            raise Refused(errno.EINVAL, f"expected a mount point, not {path!r}")
        return mount

    def find_source(self, source: str) -> Mount | None:
        """The newest mount from `source`."""
        for mount in reversed(self.by_id.values()):
            if mount.sb.source == source:
                return mount
        return None

    # -- changes

    def check_room(self, count: int, longest: int = 0) -> None:
        """Raises ENOSPC if `count` more mounts, of up to `longest` bytes of path, source and options each, are too
        many."""
        if len(self.by_id) + count > self.max_mounts:
            raise Refused(errno.ENOSPC, f"expected at most {self.max_mounts} mounts, the limit max_mounts")
        if self._text + max(count, 1) * longest > self._max_text:
            raise Refused(errno.ENOSPC, f"expected at most {self._max_text} bytes of paths and sources of mounts")

    def count_text(self, mount: Mount) -> None:
        """Count what a mount is called by now."""
        text = weight(mount.path) + text_of(mount.sb)
        self._text += text - mount.text
        mount.text = text

    def make(self, sb: Superblock, root: Place, attr: int) -> Mount:
        """A mount that is attached to nothing yet."""
        self._last_id += 1
        return Mount(self._last_id, sb, root, attr)

    def copy(
        self, old: Mount, place: Place = (), *, slaves: bool = False, shared: bool = False, recursive: bool = True
    ) -> Mount:
        """A copy of what `old` shows at `place` and below it, attached to nothing yet (copy_tree).

        slaves: each is a slave of its original, and `shared` or not; else each is what its original
        is. recursive: with the mounts below, but for unbindable ones and what is below those.
        """
        top = self._clone(old, old.root + place, slaves, shared)
        copies = {old: top}
        for original, at in shown(old, place) if recursive else ():
            assert original.parent is not None
            parent = copies[original.parent]
            new = copies[original] = self._clone(original, original.root, slaves, shared)
            new.parent, new.mountpoint = parent, at
            parent.children[at] = new
        return top

    def _clone(self, old: Mount, root: Place, slave: bool, shared: bool) -> Mount:
        new = self.make(old.sb, root, old.attr)
        if slave:
            self.groups.enslave(new, old, shared=shared)
        else:
            self.groups.join(new, old)
        return new

    def attach(self, mount: Mount, parent: Mount, place: Place) -> None:
        """Attach a mount that is new, with the new ones below it, to a place where none is."""
        assert place not in parent.children
        mount.parent, mount.mountpoint = parent, place
        parent.children[place] = mount
        for each in mount.subtree():
            each.path = path_text(each.parent, each.mountpoint)
            self.count_text(each)
            each.attached = True
            _insert(self.by_id, each)
            _insert(each.sb.mounts, each)
        self.changed += 1

    def detach(self, mount: Mount) -> None:
        """Take a mount from its parent and out of the tables. One in a detached tree is in none."""
        assert mount.parent is not None
        siblings = mount.parent.children
        if siblings.get(mount.mountpoint) is mount:  # else something has come into its place
            del siblings[mount.mountpoint]
        self._text -= mount.text
        mount.text = 0
        if mount.attached:
            del self.by_id[mount.id]
            del mount.sb.mounts[mount.id]
        mount.parent = None
        mount.attached = False
        self.changed += 1

    def move(self, mount: Mount, parent: Mount, place: Place) -> None:
        """Attach a mount elsewhere, with all below it. Not below itself."""
        assert mount.parent is not None and place not in parent.children
        del mount.parent.children[mount.mountpoint]
        parent.children[place] = mount
        mount.parent, mount.mountpoint = parent, place
        for each in mount.subtree():
            each.path = path_text(each.parent, each.mountpoint)
            self.count_text(each)
        self.changed += 1


def _insert(mounts: dict[int, Mount], mount: Mount) -> None:
    """Into a table that stands in the order of ids: one that was detached may be older than others."""
    is_newest = not mounts or mount.id > next(reversed(mounts))
    mounts[mount.id] = mount
    if not is_newest:
        ordered = sorted(mounts.items())
        mounts.clear()
        mounts.update(ordered)


def shown(top: Mount, place: Place) -> list[tuple[Mount, Place]]:
    """The mounts below `top` that a recursive bind mount of `place` brings, parents first, and where
    each is in the copy of its parent. Unbindable ones are left out, with all below them."""
    found: list[tuple[Mount, Place]] = []
    pending = _bindable(top, place)
    while pending:
        found.append(pending.pop())
        pending += _bindable(found[-1][0], ())
    return found


def _bindable(mount: Mount, place: Place) -> list[tuple[Mount, Place]]:
    return [
        (child, at[len(place) :])
        for at, child in reversed(mount.children.items())
        if at[: len(place)] == place and not child.unbindable
    ]


def _topmost(mount: Mount) -> Mount:
    while (above := mount.children.get(())) is not None:
        mount = above
    return mount


Heard = tuple[tuple[Group, int], ...]
"""Who hears of what happens at a place: groups with their flags, in the order in which they are told."""


def audience(mount: Mount, place: Place = (), above: dict[Mount, Heard] | None = None) -> Heard:
    """Who hears of what happens at `place` of `mount`, in this order, with the flags of each. A mount
    that was detached ends the way to the root. above: for who asks often while no mount moves, what is heard
    above mounts, as it was found."""
    here = tuple([(group, IN_SUBTREE if group[0].place else 0) for group in mount.groups_above(place)])
    return here + _heard_above(mount, {} if above is None else above)


def _heard_above(mount: Mount, above: dict[Mount, Heard]) -> Heard:
    way: list[Mount] = []
    at: Mount | None = mount
    while at is not None and at not in above:
        way.append(at)
        at = at.parent
    heard = above[at] if at is not None else ()
    for each in reversed(way):
        if each.parent is not None:
            groups = each.parent.groups_above(each.mountpoint)
            if groups:
                heard = (*[(group, IN_SUBTREE) for group in groups], *heard)
        above[each] = heard
    return heard


@lru_cache(maxsize=256)
def segments(path: str) -> Place:
    """An absolute path's names, `.` and `..` and doubled slashes taken out as text."""
    if path[:1] != "/":
        raise Refused(errno.EINVAL, f"expected an absolute path, not {path!r}")
    names = [name for name in path.split("/") if name and name != "."]
    if len(path) > NAME_MAX // 4:
        _check_lengths(path, names)
    if ".." in names:
        kept: list[str] = []
        for name in names:
            if name != "..":
                kept.append(name)
            elif kept:
                kept.pop()
        names = kept
    return tuple(names)


def _check_lengths(path: str, names: list[str]) -> None:
    if len(path.encode("utf-8", "surrogateescape")) >= PATH_MAX:
        raise Refused(errno.ENAMETOOLONG, f"expected a path of less than {PATH_MAX} bytes")
    for name in names:
        if len(name.encode("utf-8", "surrogateescape")) > NAME_MAX:
            raise Refused(errno.ENAMETOOLONG, f"expected names of at most {NAME_MAX} bytes in the path")


def weight(path: str) -> int:
    """Bytes that a mountpoint takes, about: its text, and each name of it by itself."""
    return text_bytes(path) + 64 * path.count("/")


def text_of(sb: Superblock) -> int:
    """Bytes that a superblock's source and options take."""
    return text_bytes(sb.source) + sum(map(text_bytes, sb.options))


def path_text(mount: Mount | None, place: Place) -> str:
    """A place as a path seen from the root."""
    above = mount.path if mount is not None else "/"
    if not place:
        return above
    return f"{'' if above == '/' else above}/{'/'.join(place)}"
