"""`wqfs umount`: take a mount away, and say who keeps it busy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress

from wqfs.cli.command import EXIT_OK, CommandFailed, Parser, parser
from wqfs.cli.deadline import within
from wqfs.cli.finding import named_mount, wqfs_mounts
from wqfs.fs.mounting import Mounted, MountFailed, is_dead, mount_table, try_unmount

_SHOWN = 5


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "umount",
        'Unmount. A dead mount ("Transport endpoint is not connected") is cleared even while it is in use.',
        "exit codes: 0 unmounted; 1 error, usage, or it is busy",
    )
    options.add_argument("dir", metavar="DIR", nargs="?", help="the mount, as --mount")
    options.add_argument(
        "--lazy", "-l", action="store_true", help="detach it at once; who has files open keeps them, hung up"
    )
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    mount = _which(given.dir or given.mount)
    place = mount.mountpoint
    try:
        complaint = try_unmount(place, given.lazy)
        if complaint and not given.lazy and _is_dead(place):
            complaint = try_unmount(place, lazy=True)
    except MountFailed as error:
        raise CommandFailed(str(error)) from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{place}: fusermount3 did not end. Try `wqfs umount -l {place}`.") from None
    if not complaint:
        return EXIT_OK
    if "busy" in complaint.lower():
        raise CommandFailed(_busy(mount))
    raise CommandFailed(f"{place} cannot be unmounted: {complaint}. Who mounted it may, and root.")


def _which(named: str | None) -> Mounted:
    if named:
        return named_mount(named)
    there = wqfs_mounts()
    if not there:
        raise CommandFailed("no wqfs is mounted.")
    if len(there) > 1:
        raise CommandFailed(f"there are several mounts ({', '.join(m.mountpoint for m in there)}). Name one.")
    return there[0]


def _is_dead(place: str) -> bool:
    try:
        return within(1.0, lambda: is_dead(place)) is True
    except OSError:
        return False


def _busy(mount: Mounted) -> str:
    below = [m.mountpoint for m in mount_table() if m.mountpoint.startswith(mount.mountpoint + "/")]
    users = [f"{name} (pid {pid}) {what}" for pid, name, what in sorted(users_of(mount))]
    why = users[:_SHOWN] + ([f"and {len(users) - _SHOWN} more"] if len(users) > _SHOWN else [])
    why += [f"{place} is mounted below it" for place in below]
    said = "; ".join(why) or "no process that you may look into uses it, root sees all"
    return (
        f"{mount.mountpoint} is busy: {said}. End what uses it, or detach it at once with "
        f"`wqfs umount -l {mount.mountpoint}`: then who has files open finds their end."
    )


def users_of(mount: Mounted) -> Iterator[tuple[int, str, str]]:
    """(pid, name, what it has there) of other processes that use a mount, as far as /proc tells this user. The
    mount itself is not touched: descriptors are told by their mount's number."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()):
        with suppress(OSError, ValueError):
            what = _use(pid, mount)
            if what:
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    yield pid, comm.read().strip(), what


def _use(pid: int, mount: Mounted) -> str:
    for link, words in (("cwd", "is in it"), ("root", "has it as its root"), ("exe", "runs from it")):
        with suppress(OSError):
            at = os.readlink(f"/proc/{pid}/{link}")
            if at == mount.mountpoint or at.startswith(mount.mountpoint + "/"):
                return words
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        with suppress(OSError), open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as info:
            if f"mnt_id:\t{mount.number}\n" in info.readlines():
                return f"has {os.path.relpath(os.readlink(f'/proc/{pid}/fd/{fd}'), mount.mountpoint)} open"
    return ""
