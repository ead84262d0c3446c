"""Telling a service manager how the mount is: ready, alive, stopping (sd_notify(3), sd_watchdog_enabled(3)).

Ready and alive mean that the mount answers: a child process reads through it, for a process that uses its own
mount can hang in it, and then cannot even be killed. The child says each answer on a pipe; only then is the
manager told. When the mount no longer answers nothing is said, and the manager's watchdog strikes. Where no
manager asks, there is no child and nothing wakes up.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

# arguments: a file of the mount, seconds between looks, 0 for a single one; the user and group to become, if any
_CHECK: Final = """\
import os, signal, sys, time
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # the server may have died before it could end us
file, pause = sys.argv[1], float(sys.argv[2])
if sys.argv[3:]:
    uid, gid = map(int, sys.argv[3:])
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
while True:
    try:
        fd = os.open(file, os.O_RDONLY)
        os.read(fd, 1)
        os.close(fd)
        os.write(1, b".")
    except OSError:
        break
    if not pause:
        break
    time.sleep(pause)
"""


def notify(state: str, *fds: int) -> bool:
    """Tell the manager that NOTIFY_SOCKET names, if any: READY=1 and the like, with descriptors. Returns whether it
    was sent."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.connect(address)
        socket.send_fds(manager, [state.encode()], fds)
        return True
    return False


def watchdog_interval() -> float:
    """Seconds within which the manager wants to hear that we live; 0 when it does not."""
    try:
        if int(os.environ.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return 0.0
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    except ValueError:
        return 0.0


def answer_for_children() -> None:
    """A manager that asked this process for signs of life gets them from its children: `-o survive`."""
    if os.environ.get("WATCHDOG_PID") == str(os.getpid()):
        del os.environ["WATCHDOG_PID"]


def is_wanted(on_ready: Callable[[], object] | None) -> bool:
    """Whether anybody wants to hear anything."""
    return bool(os.environ.get("NOTIFY_SOCKET")) or on_ready is not None


def say_ready(mountpoint: str, on_ready: Callable[[], object] | None) -> None:
    """Tell manager and starter that the mount answers."""
    notify(f"READY=1\nSTATUS=mounted at {mountpoint}")
    if on_ready is not None:
        on_ready()


def write_line(fd: int) -> None:
    """The line of `--ready-fd`, which is then closed."""
    with suppress(OSError):
        os.write(fd, b"ready\n")
    with suppress(OSError):
        os.close(fd)


def start_check(mountpoint: str, become: tuple[int, int] | None = None) -> subprocess.Popen[bytes]:
    """The child that reads through the mount, and says each answer on its standard output. become: the user and group
    as whom it is to look."""
    # Three looks an interval: one that is late does not kill a service that is only busy.
    pause = watchdog_interval() / 3
    command = [sys.executable, "-I", "-S", "-c", _CHECK, os.path.join(mountpoint, "metrics"), str(pause)]
    return subprocess.Popen(
        [*command, *map(str, become or ())], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/"
    )
