"""`wqfs handover`: mount here, serve there. For a server without any privilege, such as in a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from wqfs.cli.command import CommandFailed, Parser, parser
from wqfs.fs import mounting
from wqfs.fs.options import UsageError, parse_options

FD = 3


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "handover",
        f"Mount at DIR, and run COMMAND with the descriptor of /dev/fuse as its descriptor {FD}: it is to serve the\n"
        f"mount, as `wqfs --fuse-fd {FD} NAME` does, and needs neither /dev/fuse nor any privilege. When COMMAND ends\n"
        "the mount is taken away.\n\n"
        f"    wqfs handover /run/wqfs -- podman run --preserve-fds=1 IMAGE wqfs --fuse-fd {FD} wqfs",
        "exit codes: 0 COMMAND ended with 0; 1 error or usage; else COMMAND's own, 128 and the signal's number if\n"
        "one ended it",
        on_mount=False,
    )
    options.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="as of `wqfs mount`: allow_other, ro ...",
    )
    options.add_argument("dir", metavar="DIR", help="the folder to mount on")
    options.add_argument("command", metavar="COMMAND", nargs="+", help="after `--`: the program, and its arguments")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        options = parse_options(",".join(given.options))
        place = os.path.realpath(given.dir)
        fuse_fd = mounting.mount(place, options)
    except UsageError as error:
        raise CommandFailed(str(error)) from None
    except mounting.MountFailed as error:
        raise CommandFailed(str(error)) from None
    try:
        return _run(given.command, fuse_fd)
    finally:
        os.close(fuse_fd)
        mounting.unmount(place, lazy=True)


def _run(command: Sequence[str], fuse_fd: int) -> int:
    if fuse_fd != FD:
        os.dup2(fuse_fd, FD)
    os.set_inheritable(FD, True)
    try:
        process = subprocess.Popen(command, pass_fds=[FD])
    except OSError as error:
        raise CommandFailed(f"cannot run {command[0]}: {error.strerror}.") from None
    finally:
        # Held by the server alone, so that its death ends the mount instead of leaving it without answers.
        if fuse_fd != FD:
            os.close(FD)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    os.set_inheritable(fuse_fd, False)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fuse_fd)
    os.close(null)
    code = process.wait()
    if code < 0:
        print(f"wqfs handover: {command[0]} was ended by {signal.Signals(-code).name}", file=sys.stderr)
    return code if code >= 0 else 128 - code
