"""The options of mount(8), `-o`: which are the mount's, which the superblock's, which say what to do.

Attributes of a mount have the kernel's names and values (linux/mount.h, MOUNT_ATTR_*).
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

# option -> (bits that it clears, bits that it sets)
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (0, MOUNT_ATTR_RDONLY),
    "rw": (MOUNT_ATTR_RDONLY, 0),
    "nosuid": (0, MOUNT_ATTR_NOSUID),
    "suid": (MOUNT_ATTR_NOSUID, 0),
    "nodev": (0, MOUNT_ATTR_NODEV),
    "dev": (MOUNT_ATTR_NODEV, 0),
    "noexec": (0, MOUNT_ATTR_NOEXEC),
    "exec": (MOUNT_ATTR_NOEXEC, 0),
    "relatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "noatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME),
    "strictatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_STRICTATIME),
    "atime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "norelatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "nostrictatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_RELATIME),
    "nodiratime": (0, MOUNT_ATTR_NODIRATIME),
    "diratime": (MOUNT_ATTR_NODIRATIME, 0),
    "nosymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "symfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
}
# Words for mount(8) itself or for fstab: nothing of them reaches the kernel.
_IGNORED = frozenset(
    {
        "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "noowner", "group", "nogroup",
        "nofail", "_netdev", "silent", "loud", "mand", "nomand",
    }
)  # fmt: skip
_OPERATIONS = frozenset({"bind", "rbind", "move", "remount"})
PROPAGATION = ("shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable", "runbindable")
WORDS = tuple(sorted({*_ATTRIBUTES, *_OPERATIONS, *PROPAGATION, "errors=remount-ro", "errors=continue"}))
"""What people may complete after -o; any other word is an option of the filesystem's own."""
# Options of a superblock that undo one another.
_OPPOSITE = {"async": "sync", "nolazytime": "lazytime"}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What an option string says.

    set, clear: attributes; deep_set, deep_clear: those with `=recursive`, for all mounts below too;
    read_only: the superblock's wish, None when nothing is said; fs: options
    of the filesystem; unset: those that are taken away; operations: bind, rbind, move, remount;
    propagation: in the order given.
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

    def attributes(self, before: int = MOUNT_ATTR_RELATIME) -> int:
        """The attributes of a mount that had `before`."""
        return before & ~self.clear | self.set

    def attributes_below(self, before: int) -> int:
        """The attributes of a mount that had `before` and is mounted below the one that is changed."""
        return before & ~self.deep_clear | self.deep_set

    @property
    def is_deep(self) -> bool:
        return bool(self.deep_set | self.deep_clear)

    def fs_options(self, before: tuple[str, ...]) -> tuple[str, ...]:
        """The filesystem's options after a remount: `name=value` replaces what `name` had."""
        names = {option.partition("=")[0] for option in self.fs}.union(self.unset)
        return (*(option for option in before if option.partition("=")[0] not in names), *self.fs)


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
        attribute = _ATTRIBUTES.get(name)
        if attribute is not None:
            clear |= attribute[0]
            set_ = set_ & ~attribute[0] | attribute[1]
            if name != word:
                deep_clear |= attribute[0]
                deep_set = deep_set & ~attribute[0] | attribute[1]
            elif word in ("ro", "rw"):
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
