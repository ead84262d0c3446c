"""The options of mount(8), `-o`: which are the mount's, which the superblock's, which say what to do.

Attributes of a mount have the kernel's names and values (linux/mount.h, MOUNT_ATTR_*). mount(8) does not
speak of attributes but of flags, one a bit: `noatime` and `strictatime` can both be set, and path_mount()
(fs/namespace.c of Linux 6.12) decides what becomes of it. So do we, that the same words give the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
MOUNT_ATTR_IDMAP = 0x00100000

# Flags of mount(2) are written as the attributes of that name; relatime, whose attribute is 0, has a bit of its own.
_RELATIME = 0x00000040
_ATIME_FLAGS = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME
_NOT_OF_A_BIND = MOUNT_ATTR_STRICTATIME
"""Beside bind alone mount(8) makes no second call for it (libmount's MS_ flags that are settable for a bind)."""

# option -> (flags that it clears, flags that it sets)
_FLAGS: dict[str, tuple[int, int]] = {
    "ro": (0, MOUNT_ATTR_RDONLY),
    "rw": (MOUNT_ATTR_RDONLY, 0),
    "nosuid": (0, MOUNT_ATTR_NOSUID),
    "suid": (MOUNT_ATTR_NOSUID, 0),
    "nodev": (0, MOUNT_ATTR_NODEV),
    "dev": (MOUNT_ATTR_NODEV, 0),
    "noexec": (0, MOUNT_ATTR_NOEXEC),
    "exec": (MOUNT_ATTR_NOEXEC, 0),
    "relatime": (0, _RELATIME),
    "norelatime": (_RELATIME, 0),
    "noatime": (0, MOUNT_ATTR_NOATIME),
    "atime": (MOUNT_ATTR_NOATIME, 0),
    "strictatime": (0, MOUNT_ATTR_STRICTATIME),
    "nostrictatime": (MOUNT_ATTR_STRICTATIME, 0),
    "nodiratime": (0, MOUNT_ATTR_NODIRATIME),
    "diratime": (MOUNT_ATTR_NODIRATIME, 0),
    "nosymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "symfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    # Who may mount is fstab's; what such a mount may not do is mount(8)'s.
    **dict.fromkeys(("user", "users"), (0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)),
    **dict.fromkeys(("owner", "group"), (0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)),
}
# Words for mount(8) itself or for fstab: nothing of them reaches the kernel.
_IGNORED = frozenset(
    {
        "defaults", "auto", "noauto", "nouser", "nousers", "noowner", "nogroup",
        "nofail", "_netdev", "silent", "loud", "mand", "nomand",
    }
)  # fmt: skip
_OPERATIONS = frozenset({"bind", "rbind", "move", "remount"})
PROPAGATION = ("shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable", "runbindable")
WORDS = tuple(sorted({*_FLAGS, *_OPERATIONS, *PROPAGATION, "errors=remount-ro", "errors=continue"}))
"""What people may complete after -o; any other word is an option of the filesystem's own."""
# Options of a superblock that undo one another.
_OPPOSITE = {"async": "sync", "nolazytime": "lazytime"}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What an option string says.

    set, clear: flags; deep_set, deep_clear: attributes with `=recursive`, for all mounts below too;
    read_only: of a superblock, None when nothing is said; fs: options of the filesystem; unset: those
    that are taken away; operations: bind, rbind, move, remount; propagation: in the order given.
    """

    set: int = 0
    clear: int = 0
    deep_set: int = 0
    deep_clear: int = 0
    read_only: bool | None = None
    fs: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    operations: frozenset[str] = frozenset()
    propagation: tuple[str, ...] = ()

    def attributes(self) -> int:
        """The attributes of a new mount."""
        return self.attributes_below(_attributes(self.set))

    def attributes_after(self, before: int, *, read_only: bool = False, forget: bool = False) -> int:
        """The attributes after a remount of a mount that had `before`.

        mount(8) reads from mountinfo what is not named, and `ro` too if the superblock is `read_only`;
        if it is told the source it does not (`forget`), and what is not named goes.
        """
        if self.is_deep and not (self.set or self.clear):
            return self.attributes_below(before)  # mount_setattr(2) alone
        flags = 0 if forget else _flags(before) | (MOUNT_ATTR_RDONLY if read_only else 0)
        return self.attributes_below(_attributes(flags & ~self.clear | self.set, before))

    @property
    def has_bindable(self) -> bool:
        """Whether mount(8) makes a second call for the attributes of a new bind mount."""
        return bool(self.set & ~_NOT_OF_A_BIND)

    def attributes_bound(self, before: int) -> int:
        """The attributes that the second call gives a new bind mount of one that had `before`."""
        return _attributes(self.set, before)

    def attributes_below(self, before: int) -> int:
        """The attributes of a mount that had `before` after mount_setattr(2) with what is `=recursive`."""
        return before & ~self.deep_clear | self.deep_set

    @property
    def is_deep(self) -> bool:
        return bool(self.deep_set | self.deep_clear)

    def fs_options(self, before: tuple[str, ...]) -> tuple[str, ...]:
        """The filesystem's options after a remount: `name=value` replaces what `name` had."""
        names = {option.partition("=")[0] for option in self.fs}.union(self.unset)
        return (*(option for option in before if option.partition("=")[0] not in names), *self.fs)


def _flags(attr: int) -> int:
    """The flags that mount(8) takes from the words of mountinfo; strictatime has none there."""
    atime = attr & MOUNT_ATTR__ATIME
    return attr & ~MOUNT_ATTR__ATIME | (_RELATIME if atime == MOUNT_ATTR_RELATIME else atime & MOUNT_ATTR_NOATIME)


def _attributes(flags: int, before: int | None = None) -> int:
    """What path_mount() makes of flags. before: the attributes until now, for a mount that is there: it
    keeps those of access times if none of them is named."""
    others = flags & ~_ATIME_FLAGS
    if before is not None and not flags & _ATIME_FLAGS:
        return others | before & _ATIME_FLAGS
    if flags & MOUNT_ATTR_STRICTATIME:
        atime = MOUNT_ATTR_STRICTATIME
    else:
        atime = flags & MOUNT_ATTR_NOATIME or MOUNT_ATTR_RELATIME
    return others | flags & MOUNT_ATTR_NODIRATIME | atime


@lru_cache(maxsize=1024)
def parse(text: str) -> MountOptions:
    """`ro,nosuid,size=1m`; later words win. `ro=recursive` is for the mounts below too, and not for the
    superblock. What is not known is the filesystem's own option."""
    set_ = clear = deep_set = deep_clear = 0
    read_only = None
    fs: dict[str, str] = {}
    unset: list[str] = []
    operations = set()
    propagation = []
    for word in text.split(","):
        name = word.removesuffix("=recursive")
        flags = _FLAGS.get(name)
        if flags is not None and name != word:
            deep_clear, deep_set = _deeper(deep_clear, deep_set, flags)
        elif flags is not None:
            clear |= flags[0]
            set_ = set_ & ~flags[0] | flags[1]
            if word in ("ro", "rw"):
                read_only = word == "ro"
        elif word in _OPERATIONS:
            operations.add(word)
        elif word in PROPAGATION:
            propagation.append(word)
        elif word in _OPPOSITE:
            fs.pop(_OPPOSITE[word], None)
            unset.append(_OPPOSITE[word])
        elif word and word not in _IGNORED and not word.startswith(("x-", "X-", "comment=")):
            fs[word.partition("=")[0]] = word
    return MountOptions(
        set_, clear, deep_set, deep_clear, read_only, tuple(fs.values()), tuple(unset), frozenset(operations),
        tuple(propagation),
    )  # fmt: skip


def _deeper(clear: int, set_: int, flags: tuple[int, int]) -> tuple[int, int]:
    """Attributes for mount_setattr(2), where those of access times are one value of four."""
    gone, new = flags
    if (gone | new) & MOUNT_ATTR__ATIME:
        gone, new = MOUNT_ATTR__ATIME, new & ~_RELATIME
    return clear | gone, set_ & ~gone | new


@lru_cache(maxsize=256)
def attribute_text(attr: int) -> str:
    """The attributes as mountinfo's sixth field has them, in the kernel's order (fs/proc_namespace.c)."""
    return (
        ("ro" if attr & MOUNT_ATTR_RDONLY else "rw")
        + (",nosuid" if attr & MOUNT_ATTR_NOSUID else "")
        + (",nodev" if attr & MOUNT_ATTR_NODEV else "")
        + (",noexec" if attr & MOUNT_ATTR_NOEXEC else "")
        + (",noatime" if attr & MOUNT_ATTR__ATIME == MOUNT_ATTR_NOATIME else "")
        + (",nodiratime" if attr & MOUNT_ATTR_NODIRATIME else "")
        + (",relatime" if attr & MOUNT_ATTR__ATIME == MOUNT_ATTR_RELATIME else "")
        + (",nosymfollow" if attr & MOUNT_ATTR_NOSYMFOLLOW else "")
        + (",idmapped" if attr & MOUNT_ATTR_IDMAP else "")
    )
