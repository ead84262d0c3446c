"""The command `wqfs`: which of its commands a command line means.

`wqfs [mount] ...` mounts; mount.fuse3(8) runs it as `wqfs SOURCE DIR -o ...` for `mount -t fuse.wqfs`.
Each further command is a module with `main(arguments) -> exit code`, imported when it is asked for:
mounting needs libraries that take longer to import than the others take to run.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from wqfs.cli.command import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, CommandFailed
from wqfs.fs.streams import open_missing_streams

COMMANDS = {
    "tail": "show events as they happen",
    "wait": "wait for a condition: mounted, readonly, a key's change ...",
    "post": "make things happen: commands as arguments or from standard input",
    "watch": "make, list, change and remove watches",
    "doctor": "check what mounting needs, and say what to do about what is missing",
    "run": "run a program written for the kernel's notification pipes, unchanged",
    "play": "run a scenario: commands at their times, and what must come of them",
    "record": "write what happens on a watch as a scenario",
    "settle": "wait until the readers of queues have drained them",
    "status": "what is mounted where, its watches and limits",
    "top": "a live table of queues",
    "handover": "mount here, serve there: for a server without any privilege",
    "umount": "unmount, also what is dead",
}

_HELP = """\
usage: wqfs [mount] [SOURCE] MOUNTPOINT [-f] [-d] [-o OPTIONS]
       wqfs COMMAND ...

commands
  mount     mount the filesystem; the word may be left out
{commands}
`wqfs COMMAND --help` says more about each. They find the mount by themselves if there is one, or if you are
in it; else by --mount DIR or WQFS_MOUNT.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, without the program's name (sys.argv's by default); returns the exit code."""
    open_missing_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    helper = _is_helper_call(words)
    if words[:1] == ["help"] and not helper and not os.path.isdir("help"):
        words = [*(word for word in words[1:2] if word in COMMANDS), "--help"]
    if words and words[0] in COMMANDS and not helper:
        return _guarded(words[0], words[1:])
    if words[:1] == ["--complete"]:  # asked by the shells' completion: cli/complete.py
        return _guarded("complete", words[1:])
    if words[:1] == ["mount"]:
        del words[0]
    elif words in (["--help"], ["-h"]):
        return _help()
    elif words and not helper and (meant := _misspelt(words[0])):
        print(
            f"wqfs: {words[0]} is no command and no folder; did you mean {meant}? See `wqfs --help`.", file=sys.stderr
        )
        return 1
    try:
        return _mount(words)
    except BrokenPipeError:  # of --version or --help: the daemon itself writes nothing there
        _leave_the_pipe()
        return EXIT_OK


def _mount(words: Sequence[str]) -> int:
    daemon = importlib.import_module("wqfs.fs.daemon")
    code = int(daemon.main(words, program="wqfs"))
    sys.stdout.flush()
    return code


def _help() -> int:
    lines = [f"  {name:<9} {summary}\n" for name, summary in COMMANDS.items()]
    try:
        print(_HELP.format(commands="".join(lines)), end="")
        _mount(["--help"])
    except BrokenPipeError:
        _leave_the_pipe()
    return EXIT_OK


def _leave_the_pipe() -> None:
    """Whoever read our output has gone: nothing may be flushed into the broken pipe at the end either."""
    os.dup2(os.open(os.devnull, os.O_RDWR), sys.stdout.fileno())


def _is_helper_call(words: Sequence[str]) -> bool:
    """Whether mount(8) made the call: its SOURCE may be called like a command."""
    return len(words) > 3 and words[1].startswith("/") and words[2] == "-o"


def _misspelt(word: str) -> str:
    """The command that a first word was meant to be, "" if it may be a source or a mountpoint."""
    if word in ("mount", *COMMANDS) or not word.isalpha() or os.path.exists(word):
        return ""
    return next(iter(difflib.get_close_matches(word, COMMANDS, 1, 0.7)), "")


def _guarded(command: str, arguments: Sequence[str]) -> int:
    """Run a command; no traceback for what any command meets: a failure that it has a sentence for,
    Ctrl-C, SIGTERM, and a reader that went away."""
    module = importlib.import_module(f"wqfs.cli.{command}")
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that watches and mounts are taken away
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    try:
        try:
            code = int(module.main(arguments))
        except SystemExit as ended:  # argparse's, after --help or a wrong word
            code = int(ended.code or 0)
        sys.stdout.flush()
    except CommandFailed as failed:
        print(f"wqfs {command}: {failed}", file=sys.stderr)
        return failed.code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _leave_the_pipe()
        return EXIT_OK
    except OSError as error:
        gone = error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV)
        print(f"wqfs {command}: {'the mount has ended: its server is gone' if gone else error}.", file=sys.stderr)
        return EXIT_ERROR
    return code
