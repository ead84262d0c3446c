"""Options of the mount command: what `-o` may say, and the command line in the shape of mount(8).

CONVENTIONS: `[SOURCE] MOUNTPOINT`, `-o` anywhere and repeated; words that mount(8) and fstab use
for themselves are ignored; an unknown option is refused by name.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from wqfs.queue import DEPTH_MAX


class UsageError(Exception):
    """A command line that makes no sense: a sentence for the user."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a mount is made with. Each field with its option's name; see docs/man/wqfs.8.

    survive: whether a successor goes on when the daemon dies, None where that can be; see `survives`.
    clone: that ends the requests that were not answered, as before Linux 6.9.
    private_mounts: other users than the owner and root hear of keys alone. uid, gid: owner of the tree, None for who
    mounts; umask: cleared from all modes. user: whom the server becomes once it has mounted, None for nobody else.
    depth: the depth that a queue takes at its first event when nobody sized it, records, 1..512. Limits: events_depth
    and log_events in events, max_watches a user's watches, max_objects a watch's objects, max_user_objects those
    of all watches of a user, max_all_objects those of all, max_waiting readers that wait, max_user_waiting those of
    one user, max_line bytes of a command, max_handles open files and directories, max_user_handles those of one user,
    max_queues watches of all users, max_memory MiB of events and texts that are kept for readers, max_user_memory MiB
    of the texts of one user, None for three quarters of theirs; of the simulated system max_mounts, max_keys,
    max_user_keys and max_user_key_bytes those of one user but root, max_processes with their threads, max_threads of
    one of them, None for three quarters, max_devices.
    """

    allow_other: bool = False
    allow_root: bool = False
    ro: bool = False
    strict: bool = False
    enobufs: bool = False
    survive: bool | None = None
    clone: bool = False
    private_mounts: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    user: str | None = None
    fsname: str = "wqfs"
    depth: int = 256
    events_depth: int = 1024
    log_events: int = 4096
    max_watches: int = 1024
    max_objects: int = 1024
    max_user_objects: int = 16384
    max_all_objects: int = 65536
    max_waiting: int = 16384
    max_line: int = 4096
    max_user_waiting: int = 12288
    max_handles: int = 32768
    max_user_handles: int = 24576
    max_queues: int = 16384
    max_memory: int = 256
    max_user_memory: int | None = None
    max_mounts: int = 100_000
    max_keys: int = 100_000
    max_user_keys: int = 200
    max_user_key_bytes: int = 20_000
    max_processes: int = 32768
    max_threads: int | None = None
    max_devices: int = 16384
    kernel: tuple[str, ...] = ()
    """Words for the kernel and fusermount3, such as `nosuid` or `noatime`."""

    def survives(self, *, ours: bool) -> bool:
        """Whether a successor goes on when the daemon dies. ours: of a mount that is made here."""
        return ours if self.survive is None else self.survive


_FLAGS: Final = ("allow_other", "allow_root", "ro", "strict", "enobufs", "survive", "clone", "private_mounts")
_OFF: Final = ("nosurvive",)
BOUNDS: Final = {
    "uid": (0, 2**32 - 2),
    "gid": (0, 2**32 - 2),
    "depth": (1, DEPTH_MAX),
    "events_depth": (1, 1 << 20),
    "log_events": (1, 1 << 20),
    "max_watches": (1, 1 << 20),
    "max_objects": (1, 1 << 20),
    "max_user_objects": (1, 1 << 24),
    "max_all_objects": (1, 1 << 24),
    "max_waiting": (1, 1 << 20),
    "max_line": (64, 64 * 1024),
    "max_user_waiting": (1, 1 << 20),
    "max_handles": (1, 1 << 24),
    "max_user_handles": (1, 1 << 24),
    "max_queues": (1, 1 << 20),
    "max_memory": (1, 1 << 20),
    "max_user_memory": (1, 1 << 20),
    "max_mounts": (1, 1 << 20),
    "max_keys": (16, 1 << 24),
    "max_user_keys": (4, 1 << 24),
    "max_user_key_bytes": (100, 0x7FFFFFFF),
    "max_processes": (2, 1 << 22),
    "max_threads": (1, 1 << 22),
    "max_devices": (1, 1 << 20),
}
_KERNEL: Final = frozenset(
    "suid nosuid dev nodev exec noexec atime noatime diratime nodiratime relatime norelatime strictatime "
    "nostrictatime lazytime nolazytime sync async dirsync".split()
)
_IGNORED: Final = frozenset(
    "rw defaults auto noauto user nouser users nousers owner group nofail _netdev default_permissions "
    "auto_unmount noauto_unmount silent loud mand nomand iversion noiversion".split()
)
_SOCKET: Final = "unix:"
"""Before the path of the socket of `wqfs handover`."""
_IGNORED_PREFIXES: Final = ("x-", "X-", "comment=", "context=", "subtype=", "helper=", "uhelper=")


def option_words() -> list[tuple[str, str]]:
    """The words that may stand after `-o`, for completion: with `=` where a value follows, and what values."""
    flags = [(name, "") for name in (*_FLAGS, *_OFF)]
    values = [(f"{name}=", f"{low}..{high}") for name, (low, high) in BOUNDS.items()]
    texts = [("umask=", "octal"), ("fsname=", ""), ("user=", "")]
    return sorted([*flags, *values, *texts, *((word, "") for word in sorted(_KERNEL))])


def parse_options(text: str, options: Options = Options()) -> Options:
    """`options` with what `-o text` says. Raises UsageError, naming the word."""
    for word in re.split(r"(?<!\\),", text):
        if word:
            options = _parse_word(word.replace("\\,", ","), options)
    return options


def _parse_word(word: str, options: Options) -> Options:
    name, equals, value = word.partition("=")
    if name == "remount":
        raise UsageError("A mounted wqfs cannot be remounted: unmount it and mount it again.")
    if name in _FLAGS and not equals:
        return _with(options, name, True)
    if word in _OFF:
        return _with(options, word.removeprefix("no"), False)
    if word in _KERNEL:
        return replace(options, kernel=(*options.kernel, word))
    if word in _IGNORED or word.startswith(_IGNORED_PREFIXES):
        return replace(options, ro=False) if word == "rw" else options
    if name in ("fsname", "user") and value:
        return replace(options, fsname=value) if name == "fsname" else replace(options, user=value)
    if name == "umask" and equals:
        if not re.fullmatch(r"[0-7]{1,4}", value):
            raise UsageError(f"Option umask takes an octal number such as 022, not {value!r}.")
        return replace(options, umask=int(value, 8) & 0o777)
    if name in BOUNDS and equals:
        low, high = BOUNDS[name]
        if not re.fullmatch("[0-9]{1,10}", value) or not low <= int(value) <= high:
            raise UsageError(f"Option {name} takes a number of {low}..{high}, not {value!r}.")
        return _with(options, name, int(value))
    raise UsageError(_unknown(name, equals))


def _with(options: Options, name: str, value: int) -> Options:
    changes: dict[str, Any] = {name: value}
    return replace(options, **changes)


def _unknown(name: str, equals: str) -> str:
    known = [*(field.name for field in fields(Options) if field.name != "kernel"), *_OFF]
    if name in (*_FLAGS, *_OFF):
        return f"Option {name} takes no value."
    if name in known:
        return f"Option {name} needs a value: {name}=..."
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else " See `--help` for the options there are."
    return f"Unknown option {name!r}.{hint}"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """mountpoint as given; action: `mount`, `help` or `version`; ready_fd: told when the mount answers; fuse_fd: a
    descriptor of /dev/fuse that somebody else mounted, fuse_socket: the socket where it is to be had; said: all that
    came after -o."""

    mountpoint: str
    options: Options
    foreground: bool
    debug: bool
    action: str = "mount"
    ready_fd: int | None = None
    fuse_fd: int | None = None
    fuse_socket: str | None = None
    said: str = ""


def parse_command_line(arguments: Sequence[str], program: str = "mount_wqfs.py") -> CommandLine:
    """The arguments after the program's name. Raises UsageError.

    By hand, for the shape is mount(8)'s and not argparse's: `-o` may stand anywhere and repeat,
    `-s -n -v -t TYPE -N NS` are mount's own and ignored.
    """
    positional: list[str] = []
    said: list[str] = []
    options = Options()
    foreground = debug = False
    descriptors: dict[str, int] = {}
    fuse_socket: str | None = None
    words = iter(arguments)
    for word in words:
        if word == "--":
            positional += words
        elif word in ("-h", "--help"):
            return CommandLine("", options, False, False, "help")
        elif word in ("-V", "--version"):
            return CommandLine("", options, False, False, "version")
        elif word == "-o" or word.startswith("--options"):
            text = word.partition("=")[2] if "=" in word else next(words, None)
            if text is None:
                raise UsageError("-o needs a list of options after it.")
            said.append(text)
            options = parse_options(text, options)
        elif word.startswith("-o"):
            said.append(word[2:])
            options = parse_options(word[2:], options)
        elif word.partition("=")[0] in ("--ready-fd", "--fuse-fd"):
            name, equals, number = word.partition("=")
            number = number if equals else next(words, "")
            if name == "--fuse-fd" and number.startswith(_SOCKET) and number != _SOCKET:
                fuse_socket = number.removeprefix(_SOCKET)
            else:
                descriptors[name] = _descriptor(name, number)
        elif word in ("-t", "-N"):
            next(words, None)
        elif re.fullmatch(r"-[fdsnv]+", word):
            foreground |= "f" in word or "d" in word
            debug |= "d" in word
        elif word in ("--foreground", "--debug"):
            foreground = True
            debug |= word == "--debug"
        elif word.startswith("-") and word != "-":
            raise UsageError(f"Unknown option {word!r}. See `{program} --help`.")
        else:
            positional.append(word)
    if not positional:
        raise UsageError(f"Name the folder to mount on: {program} MOUNTPOINT. See `{program} --help`.")
    if len(positional) > 2:
        raise UsageError(f"Expected [SOURCE] MOUNTPOINT, not {len(positional)} names: {' '.join(positional)}")
    if len(positional) == 2 and options.fsname == Options().fsname:
        options = replace(options, fsname=positional[0])
    ready_fd, fuse_fd = descriptors.get("--ready-fd"), descriptors.get("--fuse-fd")
    return CommandLine(
        positional[-1],
        options,
        foreground,
        debug,
        ready_fd=ready_fd,
        fuse_fd=fuse_fd,
        fuse_socket=fuse_socket,
        said=",".join(said),
    )


def _descriptor(option: str, text: str) -> int:
    """The number of a descriptor that is open."""
    if text.isdecimal() and len(text) < 10:
        try:
            os.fstat(int(text))
            return int(text)
        except OSError:
            pass
    other = f", or {_SOCKET}PATH" if option == "--fuse-fd" else ""
    raise UsageError(f"{option} takes the number of an open descriptor{other}, not {text!r}.")
