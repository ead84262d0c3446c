"""Writes the tables of README and docs/reference that the code has: `python -m scripts.reference_tables`.

A page has `<!-- table: NAME -->` where a table of `TABLES` stands, and `<!-- end of table -->` behind it. What a
number or a name means is said here, and nowhere twice; a place, an option or an ioctl without its sentence is a
KeyError.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import Final

from scripts import record_tables
from scripts.markdown import table
from scripts.pages import ROOT, pages
from wqfs.abi import ioctls
from wqfs.abi import records as r
from wqfs.abi.errors import ERRNO_NAMES
from wqfs.abi.filters import FILTERS_MAX
from wqfs.fs import nodes
from wqfs.fs.channel_limits import MAX_WRITE
from wqfs.fs.handles.lines import MAX_TEXT
from wqfs.fs.names import NAME_MAX
from wqfs.fs.options import BOUNDS, Options
from wqfs.fs.refusals import KEPT
from wqfs.queue import DEPTH_MAX
from wqfs.sim.language import COMMANDS

_MARKED: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n\n).*?(<!-- end of table -->)", re.DOTALL)


# -- files

_FILES: Final = {
    nodes.ROOT_QUEUE: "each open is a fresh notification pipe of its own",
    nodes.POST: "write one command a line: it happens",
    nodes.ERRORS: "the last 100 refused commands and calls, each with the reason and the word at fault",
    nodes.METRICS: "counts, for Prometheus",
    nodes.WATCHES: "`mkdir NAME` makes a watch, `rmdir NAME` (or `rm -r`) hangs it up; 01777 with allow_other",
    nodes.WATCH: "belongs to who made it, as all in it",
    nodes.QUEUE: "the notification pipe: read, poll, ioctl; a descriptor for writing holds the write side",
    nodes.EVENTS: "the same events as JSON lines, from the open on; takes nothing from `queue`",
    nodes.LOG: "the events since the watch was made, as a plain file: `tail -f`, `less`, `grep`",
    nodes.OBJECTS: "what it watches: `mount / id=1`, `sb /data id=2`, `key 1234 id=3`, `devices id=4`, "
    "or `everything`; `-mount /` removes",
    nodes.FILTER: "a rule a line: `mount unmount,new_mount`, `key * id=3`, `sb error flags=0x1/0x1`; empty removes it",
    nodes.DEPTH: "records that fit; may be written once, as the ioctl",
    nodes.STATUS: "queued, bytes, posted, delivered, lost, filtered, readers, pollers",
    nodes.SIM: "the simulated system",
    nodes.CALLS: "calls about keys and mounts on behalf of programs, for who mounted: what `wqfs run` uses",
    nodes.MOUNTINFO: "as /proc/self/mountinfo; poll reports changes as there",
    nodes.SUPERBLOCKS: "id, device, type, state, options, source",
    nodes.KEYS: "as /proc/keys",
    nodes.KEY_USERS: "as /proc/key-users",
    nodes.SNAPSHOT: "everything as one JSON document, with the number of the last event in it",
    nodes.RECORDS: "raw binary records: exactly these bytes are delivered to every watch",
}


def _files() -> str:
    """Depth first, as the tree stands."""
    order = [nodes.ROOT_QUEUE, nodes.POST, nodes.ERRORS, nodes.METRICS, nodes.WATCHES, nodes.WATCH]
    order += [*nodes.CHILDREN[nodes.WATCH], nodes.SIM, *nodes.CHILDREN[nodes.SIM]]
    assert set(order) == {*nodes.FIXED.values(), *nodes.OF_A_WATCH.values()} - {nodes.ROOT}
    return table(
        ("file", "mode", "what"),
        (
            (f"`{place.path}{'/' * place.is_directory}`", f"{stat.S_IMODE(place.mode):04o}", _FILES[place])
            for place in order
        ),
    )


# -- ioctls

_WATCHING: Final = "EINVAL, EBUSY, EBADSLT, EDQUOT, ENOSPC"
_PRIVATE: Final = f"{_WATCHING}; EACCES with private_mounts"
_IOCTLS: Final = (
    ("IOC_WATCH_QUEUE_SET_SIZE", "the depth, 1..512, by value", None, "EINVAL, EBUSY"),
    (
        "IOC_WATCH_QUEUE_SET_FILTER",
        "pointer to a filter; null removes it",
        None,
        "EINVAL, EFAULT, EPERM, ENOMEM, EDQUOT",
    ),
    ("WQFS_IOC_WATCH_KEY", "`struct wqfs_watch_key`", ioctls.WATCH_KEY, f"{_WATCHING}, as keyctl(2)"),
    ("WQFS_IOC_WATCH_MOUNT", "`struct wqfs_watch_path`", ioctls.WATCH_PATH, _PRIVATE),
    ("WQFS_IOC_WATCH_SB", "`struct wqfs_watch_path`", ioctls.WATCH_PATH, _PRIVATE),
    ("WQFS_IOC_WATCH_DEVICES", "`struct wqfs_watch_devices`", ioctls.WATCH_DEVICES, _PRIVATE),
    ("WQFS_IOC_WATCH_KEY_AS", "`struct wqfs_watch_key_as`", ioctls.WATCH_KEY_AS, f"{_WATCHING}, EPERM, ESRCH"),
    ("WQFS_IOC_DELIVER", "`struct wqfs_deliver`", ioctls.DELIVER, "EINVAL"),
    ("WQFS_IOC_QUEUED", "filled in: `struct wqfs_queued`", ioctls.QUEUED, ""),
    ("WQFS_IOC_SETTLE", "0 or `WQFS_SETTLE_READERS`, by value", None, "EINVAL, EINTR, ENOMEM, EDQUOT, EPIPE"),
)


def _ioctls() -> str:
    known = {name for name in vars(ioctls) if name.startswith(("IOC_", "WQFS_IOC_"))}
    assert known == {name for name, *_ in _IOCTLS}
    rows = [
        (f"`{name}`", f"`{vars(ioctls)[name]:#010x}`", argument + (f", {shape.size} bytes" if shape else ""), errnos)
        for name, argument, shape, errnos in _IOCTLS
    ]
    one = ioctls.wqfs_ioc_set_filter(1)
    sized = ("`WQFS_IOC_SET_FILTER(n)`", f"`{one:#010x}` for n = 1", "the filter itself; n = 0 removes it", "EINVAL")
    return table(("name", "number", "argument", "errnos"), [*rows[:2], sized, *rows[2:]])


# -- options

_OPTIONS: Final = {
    "allow_other": "all users may use the mount; anyone but root needs `user_allow_other` in /etc/fuse.conf | ",
    "allow_root": "root may use it besides the user who mounted | ",
    "ro": "nothing can be posted or made | EROFS",
    "survive": "the daemon may die: a successor goes on, with all that was; `nosurvive` for none | ",
    "clone": "a successor ends the calls that were not answered (ECONNABORTED), as before Linux 6.9 | ",
    "strict": "a queue sees nothing until it watches something and keeps nothing until it is sized | ",
    "enobufs": "a record that does not fit the reader's buffer gives what released kernels give | ENOBUFS for EMSGSIZE",
    "private_mounts": "users other than the owner and root hear of keys that they may view, and of nothing else | "
    "EACCES",
    "uid": "owner of what belongs to nobody's watch; by default who mounts | ",
    "gid": "its group | ",
    "umask": "bits to clear in all modes, octal | ",
    "user": "whom the server becomes once it has mounted, with no privilege left; for root, with allow_other | ",
    "fsname": "the name that findmnt(8) shows, as SOURCE | ",
    "depth": "records that fit in a queue that nobody sized | a loss record",
    "events_depth": "events kept for each open `events` while nobody reads it | a line `lost`",
    "log_events": "events in a `log` before it is cut and starts anew | a line `cut`",
    "max_watches": "watches of a user, open root queues among them | EDQUOT",
    "max_objects": "objects of a watch | EDQUOT",
    "max_user_objects": "objects of all watches of a user; one whose path is long is several, by KiB | EDQUOT",
    "max_all_objects": "objects of all watches of all users, counted so | ENOSPC",
    "max_waiting": "calls that wait at once | ENOMEM",
    "max_line": "bytes of a command | EINVAL",
    "max_user_waiting": "calls of one user that wait at once | EDQUOT",
    "max_user_handles": "files and directories that one user has open at once | EDQUOT",
    "max_handles": "files and directories open at once | ENFILE",
    "max_queues": "watches of all users, open root queues among them | ENOSPC",
    "max_memory": "MiB of events and texts kept for those who have not read them "
    "| the largest `log` is cut, the longest `events` loses; a read of another text is ENOMEM",
    "max_user_memory": "MiB of one user's texts; by default three quarters of half of `max_memory` | ENOMEM",
    "max_mounts": "simulated mounts | ENOSPC",
    "max_keys": "simulated keys of all users | EDQUOT",
    "max_user_keys": "simulated keys of a user but root, three keyrings among them, as kernel.keys.maxkeys | EDQUOT",
    "max_user_key_bytes": "bytes of those keys, as kernel.keys.maxbytes | EDQUOT",
    "max_processes": "simulated processes, their threads among them | ENOMEM",
    "max_threads": "threads of a simulated process; by default three quarters of `max_processes` | ENOMEM",
    "max_devices": "simulated block devices, from the first time that they are named | ENOSPC",
}


def _options() -> str:
    rows = []
    for name, default in ((field, getattr(Options(), field)) for field in Options.__slots__ if field != "kernel"):
        what, _, beyond = _OPTIONS[name].partition(" | ")
        shown = "off" if default is False else "" if default is None else f"`{default}`"
        low, high = BOUNDS.get(name, ("", ""))
        rows.append((f"`{name}`", shown, f"{low:,}..{high:,}" if name in BOUNDS else "", what, beyond.strip()))
    return table(("option", "default", "range", "what", "beyond it"), rows)


# -- errnos of commands


_NUMBERS: Final = {name: number for number, name in ERRNO_NAMES.items()}
_NAMES: Final = r"E[A-Z0-9]+(?:, E[A-Z0-9]+)*"


def _command_errnos() -> str:
    """The `Errors:` of the commands' page, turned round: each errno, why, and by which commands."""
    found: dict[tuple[str, str], list[str]] = {}
    for command in COMMANDS:
        for part in re.split(rf"; (?={_NAMES}: )", command.errors):
            names, colon, why = part.partition(": ")
            if colon and re.fullmatch(_NAMES, names):
                for name in names.split(", "):
                    found.setdefault((name, why), []).append(f"`{' '.join(command.words)}`")
    return table(
        ("errno", "sentence", "why", "commands"),
        ((name, os.strerror(_NUMBERS[name]), why, ", ".join(found[name, why])) for name, why in sorted(found)),
    )


# -- limits and figures

_FIXED_LIMITS: Final = (
    ("records in a queue", DEPTH_MAX, "a loss record"),
    ("rules of a filter", FILTERS_MAX, "EINVAL"),
    ("bytes of a record", r.RECORD_MAX, "its length has seven bits; a text is cut"),
    ("ID of a watch", r.WATCH_ID_MAX, "EINVAL"),
    ("bytes of a name in `watches/`", NAME_MAX, "ENAMETOOLONG"),
    ("bytes written to `filter` in one open", MAX_TEXT, "EINVAL"),
    ("lines of `errors`", KEPT, "the oldest goes"),
    ("bytes of one request: a larger read or write comes in pieces", MAX_WRITE, ""),
)


def _limits() -> str:
    rows = [(what, f"{limit:,}", "", beyond) for what, limit, beyond in _FIXED_LIMITS]
    for name, text in _OPTIONS.items():
        what, _, beyond = text.partition(" | ")
        if beyond and name in BOUNDS:
            default = getattr(Options(), name)
            rows.append((what, "" if default is None else f"{default:,}", f"`{name}`", beyond))
    return table(("what", "limit", "option", "beyond it"), rows)


_FIGURES: Final = (
    "read of one record, queue filled",
    "poll(0), empty queue",
    "write of one raw record",
    "raw record to blocked reader, median",
    "text command to blocked reader, median",
    "records to one reader, blocks of 512",
    "text commands, one a write",
    "event to 10,000 watches, per watch",
    "daemon's memory per idle watch, of 10,000",
    "daemon's memory per waiting reader, of 10,000",
    "context switches of an idle mount",
)


def _figures() -> str:
    """From bench/RESULTS.md, without the factors."""
    text = (ROOT / "bench/RESULTS.md").read_text(encoding="utf-8").partition("## All medians")[2]
    rows = {}
    for line in text.splitlines():
        if line.startswith("| "):
            what, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
            rows[what] = [re.sub(r" \(.*| *n/a", "", cell) for cell in cells[:4]]
    head = ("what", "wqfs", "a server in C", "pyfuse3 alone", "a pipe")
    return table(head, ((what, *rows[what]) for what in _FIGURES))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "files": _files,
    "record-types": record_tables.record_types,
    "record-bodies": record_tables.record_bodies,
    "record-flags": record_tables.record_flags,
    "device-errors": record_tables.device_errors,
    "ioctls": _ioctls,
    "options": _options,
    "command-errnos": _command_errnos,
    "limits": _limits,
    "figures": _figures,
}


def filled(text: str) -> str:
    """A page with its tables as they should be."""
    return _MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def main() -> None:
    for page in pages():
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        if (right := filled(text)) != text:
            path.write_text(right, encoding="utf-8")


if __name__ == "__main__":
    main()
