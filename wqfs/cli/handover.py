"""`wqfs handover`: mount here, serve there. For a server without any privilege, such as in a container."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wqfs.cli import handing
from wqfs.cli.command import CommandFailed, Parser, parser
from wqfs.fs import mounting
from wqfs.fs.options import Options, UsageError, parse_options

FD = 3


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "handover",
        f"Mount at DIR, and run COMMAND with the descriptor of /dev/fuse as its descriptor {FD}: it is to serve the\n"
        f"mount, as `wqfs --fuse-fd {FD} -f NAME` does, and needs neither /dev/fuse nor any privilege. When COMMAND\n"
        "ends the mount is taken away. What uses DIR before it is served waits: COMMAND must not.\n\n"
        f"    wqfs handover /run/wqfs -- podman run --preserve-fds=1 IMAGE wqfs --fuse-fd {FD} -f wqfs\n\n"
        "With --socket the descriptor goes over a Unix socket to the first who connects, as `wqfs --fuse-fd unix:PATH\n"
        "-f NAME` does; DIR is mounted at that moment, with the owner and the options of here. The socket is gone\n"
        "then; the mount is, when the server ends. COMMAND may be left out.",
        "exit codes: 0 COMMAND ended with 0, or without one the server ended; 1 error or usage; 130 Ctrl-C or SIGTERM\n"
        "without COMMAND; else COMMAND's own, 128 and the signal's number if one ended it",
        on_mount=False,
    )
    options.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="as of `wqfs mount`: allow_other, ro ...; without --socket the server must be told them again",
    )
    options.add_argument(
        "--socket",
        metavar="PATH",
        help="make a socket there, mode 0600: root and the user who runs this may connect, others once the mode is "
        "changed; who connects serves the mount, and hears what is written to it",
    )
    options.add_argument("dir", metavar="DIR", help="the folder to mount on")
    options.add_argument("command", metavar="COMMAND", nargs="*", help="after `--`: the program, and its arguments")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = make_parser()
    given = options.parse_args(arguments)
    if not given.command and given.socket is None:
        options.error("name the COMMAND that serves the mount after `--`, or a --socket")
    text = ",".join(given.options)
    place = os.path.realpath(given.dir)
    try:
        wanted = parse_options(text)
        if given.socket is not None:
            owned = f"uid={os.getuid()},gid={os.getgid()},{text}"
            return handing.by_socket(given.socket, place, wanted, owned, given.command)
        return _by_number(place, wanted, given.command)
    except (UsageError, mounting.MountFailed) as error:
        raise CommandFailed(str(error)) from None


def _by_number(place: str, options: Options, command: Sequence[str]) -> int:
    fuse_fd = mounting.mount(place, options)
    try:
        return _run(command, fuse_fd)
    finally:
        os.close(fuse_fd)
        mounting.unmount(place, lazy=True)


def _run(command: Sequence[str], fuse_fd: int) -> int:
    if fuse_fd != FD:
        os.dup2(fuse_fd, FD)
    os.set_inheritable(FD, True)
    try:
        process = handing.start(command)
    finally:
        # Held by the server alone, so that its death ends the mount instead of leaving it without answers.
        if fuse_fd != FD:
            os.close(FD)
    os.set_inheritable(fuse_fd, False)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fuse_fd)
    os.close(null)
    return handing.end_of(process)
