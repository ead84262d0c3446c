"""`wqfs run`: a program written for the kernel's notification pipes, unchanged, on a mount of wqfs."""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wqfs.run.numbers import Machine

from wqfs.cli.command import CommandFailed, Parser, parser
from wqfs.cli.finding import find_mount
from wqfs.fs.options import UsageError, parse_options

EXIT_FAILED: Final = 125
_PRIVATE: Final = "strict,enobufs"
_NUMBERS: Final = 1 << 29
"""Numbers of system calls are below."""


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "run",
        "Run PROGRAM on notification pipes, keys and keyrings of wqfs instead of the kernel's: pipe2 with\n"
        "O_NOTIFICATION_PIPE, its ioctls, add_key, request_key and keyctl of it and of all that it starts are\n"
        "answered from a mount, by default a private one that is strict and has the errnos of released kernels. No\n"
        "privilege is needed, and none is gained: set-user-ID programs run as who starts them (no_new_privs). In the\n"
        "program's environment WQFS_MOUNT names the mount, so that `wqfs post` and `wqfs tail` there find it.",
        "exit codes: the program's own, 128 and the signal's number where a shell would say so; 125 wqfs run failed;\n"
        "126 PROGRAM cannot be run; 127 it was not found. The run lasts until all that PROGRAM started has ended.",
        on_mount=False,
    )
    options.add_argument("--mount", metavar="DIR", help="a mount of one's own to use, instead of a private one")
    options.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="further options of the private mount, as of `wqfs mount`",
    )
    options.add_argument(
        "--mounts",
        choices=("kernel", "simulated"),
        default="kernel",
        help="simulated: mount(2), umount2, move_mount, open_tree, mount_setattr, fsopen, fspick, fsconfig and fsmount "
        "act on the mount's own tree (sim/mountinfo), not the machine's, and nobody is refused for want of privilege; "
        "what reads /proc/self/mountinfo still sees the machine's own. kernel (the default): they go to the kernel",
    )
    for name in ("watch_mount", "watch_sb"):
        options.add_argument(
            f"--{name.replace('_', '-')}-nr",
            metavar="N",
            type=_number,
            help=f"let the system call with number N be {name} of the kernel series of 2020, on the mount's own tree",
        )
    options.add_argument(
        "--keys",
        choices=("simulated", "kernel"),
        default="simulated",
        help="whose keys and keyrings the program has: those of the mount, or the kernel's own, of which only watching "
        "is answered, with events made from what the program does (default: simulated)",
    )
    options.add_argument("--trace", action="store_true", help="print each answered call, as strace(1) does")
    options.add_argument(
        "--wait-for-keys",
        action="store_true",
        help="let request_key(2) with callout information wait until the key is constructed (`wqfs post key "
        "instantiate ...`); by default nobody constructs keys, and it is ENOKEY",
    )
    options.add_argument(
        "program",
        metavar="PROGRAM",
        nargs=argparse.REMAINDER,
        help="the program, and its arguments; `--` may stand before",
    )
    return options


def _number(text: str) -> int:
    number = int(text, 0)
    if not 0 <= number < _NUMBERS:
        raise ValueError
    return number


_number.__name__ = "number of a system call"  # what argparse says was expected


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code, or ends this process by the signal that ended the program."""
    try:
        return _main(arguments)
    except CommandFailed as failed:
        raise CommandFailed(str(failed), EXIT_FAILED) from None


def _main(arguments: Sequence[str]) -> int:
    options = make_parser()
    options.usage_code = EXIT_FAILED
    given = options.parse_args(arguments)
    if given.program[:1] == ["--"]:
        del given.program[0]
    if not given.program:
        options.error("expected a PROGRAM to run")
    if given.mount and given.options:
        options.error("-o is for a private mount, not for --mount")
    if given.wait_for_keys and given.keys == "kernel":
        options.error("--wait-for-keys is for simulated keys: the kernel constructs its own")
    if importlib.util.find_spec("seccompy") is None:
        raise CommandFailed("the package seccompy is missing: pip install 'wqfs[run]'.")
    from wqfs.run import numbers

    machine = numbers.machine()
    if machine is None:
        raise CommandFailed(f"the system calls of {os.uname().machine} are not known here.")
    with _mount(given) as (mount, keep):
        code = _run(given, machine, mount, keep)
    if code < 0:
        _end_by(signal.Signals(-code))
    return code


def _run(given: argparse.Namespace, machine: Machine, mount: Path, keep: frozenset[int]) -> int:
    from wqfs.run import launch, trap
    from wqfs.run.supervisor import Settings

    more = {"watch_mount": given.watch_mount_nr, "watch_sb": given.watch_sb_nr}
    named = {name: number for name, number in more.items() if number is not None}
    try:
        machine = machine.with_calls(named)
    except ValueError as error:
        raise CommandFailed(f"--watch-mount-nr or --watch-sb-nr: {error}.") from None
    traps = trap.Traps(machine, tuple(named.values()), mounts=given.mounts == "simulated")
    settings = Settings(
        machine, trace=given.trace, wait_for_keys=given.wait_for_keys, kernel_keys=given.keys == "kernel"
    )
    return launch.run(launch.Run(given.program, mount, traps, settings), keep)


@contextmanager
def _mount(given: argparse.Namespace) -> Iterator[tuple[Path, frozenset[int]]]:
    """The mount to use, and the daemon that serves it if it is our child."""
    if given.mount:
        yield find_mount(given.mount).resolve(), frozenset()
        return
    try:
        parse_options(",".join(given.options))
    except UsageError as error:
        raise CommandFailed(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="wqfs-run-", ignore_cleanup_errors=True) as folder:
        with _daemon(folder, ",".join((_PRIVATE, *given.options))) as pid:
            yield Path(folder), frozenset((pid,))


@contextmanager
def _daemon(folder: str, options: str) -> Iterator[int]:
    """A mount served by a child process, which ends with this one."""
    ready, say_ready = os.pipe2(os.O_CLOEXEC)
    command = [sys.executable, "-m", "wqfs.cli", "mount", folder, "-f", "-o", options, "--ready-fd", str(say_ready)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[say_ready], start_new_session=True,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        os.close(say_ready)
        try:
            if not os.read(ready, 1):
                process.wait()
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise CommandFailed(f"no private mount: {said or 'the daemon ended'}")
            yield process.pid
        finally:
            os.close(ready)
            subprocess.run(["fusermount3", "-quz", "--", folder], check=False)
            process.terminate()
            process.wait()


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


def _end_by(number: signal.Signals) -> None:
    """End as the program did, so that a shell sees it; without a core dump of this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:  # of which nobody may choose what it does
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
