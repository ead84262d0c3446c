"""`wqfs settle`: a barrier. Waits until the readers of queues have drained them."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from wqfs.abi.ioctls import WQFS_IOC_SETTLE, WQFS_SETTLE_READERS
from wqfs.cli.command import EXIT_OK, EXIT_TIMED_OUT, CommandFailed, Parser, parser, seconds
from wqfs.cli.finding import find_mount


class _TimedOut(Exception):
    pass


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "settle",
        "Wait until all that was queued has been read, on the queue of each WATCH, by default of all that\n"
        "somebody has open for reading. What was read may still be at work in its reader.",
        "exit codes: 0 settled; 1 error or usage; 2 timed out; 130 Ctrl-C",
    )
    options.add_argument("watch", metavar="WATCH", nargs="*", help="the name of a watch, with readers or not yet")
    options.add_argument("--timeout", "-t", metavar="SECONDS", type=seconds, help="wait no longer than this")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    return _settle(find_mount(given.mount) / "watches", given.watch, given.timeout)


def _settle(watches: Path, named: Sequence[str], timeout: float | None) -> int:
    def ring(number: int, frame: object) -> None:
        raise _TimedOut

    before = signal.signal(signal.SIGALRM, ring)
    deadline = None if timeout is None else time.monotonic() + timeout
    at = ""
    try:
        for at in named or sorted(os.listdir(watches)):
            if deadline is not None:
                signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-3))
            _settle_one(watches / at, 0 if named else WQFS_SETTLE_READERS, must_be_there=bool(named))
        return EXIT_OK
    except _TimedOut:
        print(f"wqfs settle: {at} still has records queued after {timeout:g} s", file=sys.stderr)
        return EXIT_TIMED_OUT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _settle_one(watch: Path, flags: int, *, must_be_there: bool) -> None:
    try:
        # For writing alone: a reader of its own would be one more to wait for.
        queue = os.open(watch / "queue", os.O_WRONLY)
    except FileNotFoundError:
        if must_be_there:
            raise CommandFailed(f"there is no watch {watch.name!r}: see {watch.parent}.") from None
        return
    except PermissionError:
        if must_be_there:
            raise CommandFailed(f"the watch {watch.name!r} belongs to somebody else.") from None
        return
    try:
        fcntl.ioctl(queue, WQFS_IOC_SETTLE, flags)
    except (BrokenPipeError, ConnectionAbortedError):
        raise CommandFailed("the mount ended before its queues were read.") from None
    except OSError as error:
        raise CommandFailed(f"{watch.name}: {error.strerror}.") from None
    finally:
        os.close(queue)
