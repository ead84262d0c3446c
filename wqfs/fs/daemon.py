"""The process behind a mount: the command line, the background, the exit code.

The order of CONVENTIONS.md: parse, pipe, fork, mount, serve; once the kernel has been greeted:
setsid, chdir /, close the standard streams, tell the parent, which ends with that. setsid before
the mount would hang a systemd automount, which lets only the mounter's process group through.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from wqfs import __version__
from wqfs.fs import handover, privileges, resuming, store
from wqfs.fs.logs import Flood, StandardError, Syslog
from wqfs.fs.mounting import MountFailed, mount, resolved, taken_over
from wqfs.fs.options import CommandLine, Options, UsageError, parse_command_line, parse_options
from wqfs.fs.privileges import Identity
from wqfs.fs.service import Service
from wqfs.fs.streams import EXIT_OK, EXIT_SYSTEM, EXIT_USAGE, complain, leave_terminal, open_missing_streams

log = logging.getLogger(__name__)

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_NEEDED: Final = ("pyfuse3", "trio")

HELP: Final = """\
usage: mount_wqfs.py [SOURCE] MOUNTPOINT [-f] [-d] [-o OPTIONS]

Mount wqfs, the Linux notification pipe as files, on the folder MOUNTPOINT. Returns once the mount
answers and goes on in the background. Unmount with `fusermount3 -u MOUNTPOINT`.

  -f            stay in the foreground; Ctrl-C unmounts
  -d            foreground, with a line for each request
  -o OPTIONS    comma-separated, may be repeated
  --ready-fd N  write a line on the descriptor N, and close it, once a read through the mount was answered
  --fuse-fd N   mount nothing: serve the mount whose descriptor of /dev/fuse is N, which somebody else
                mounts and unmounts (`wqfs handover`); MOUNTPOINT is only a name for messages
  --fuse-fd unix:PATH   the same with a descriptor from the socket of `wqfs handover --socket PATH`, whose
                options hold here too, before those of -o
  -h, -V        this help; the version

options
  strict          a queue sees nothing until it watches something and keeps nothing until it is
                  sized, as the kernel's (default: a new watch watches everything)
  enobufs         a record larger than the reader's buffer is ENOBUFS, as released kernels have it
                  (default: EMSGSIZE)
  nosurvive       when the daemon dies its users find the mount gone (default: survive, a successor goes
                  on with all that was)
  clone           a successor ends the calls that were not answered (ECONNABORTED) instead of having them sent
                  again: what happens before Linux 6.9
  depth=N         records that a queue holds that was not sized, 1..512 (default 256)
  events_depth=N  events that an open `events` holds while nobody reads (default 1024)
  log_events=N    events in `log` before it is cut to nothing (default 4096)
  max_watches=N   watches and open root queues of one user (default 1024), EDQUOT beyond
  max_objects=N   objects of one watch (default 1024), EDQUOT beyond
  max_user_objects=N   of all watches of one user (default 16384), a long path counts more, EDQUOT beyond
  max_all_objects=N    of all watches (default 65536), ENOSPC beyond
  max_waiting=N   readers that wait at once (default 16384), ENOMEM beyond
  max_line=N      bytes of one command line (default 4096), EINVAL beyond
  max_user_waiting=N   those of one user (default 12288), EDQUOT beyond
  max_handles=N   open files and directories (default 32768), ENFILE beyond
  max_user_handles=N   those of one user (default 24576), EDQUOT beyond
  max_queues=N    watches and open root queues of all users (default 16384), ENOSPC beyond
  max_memory=MIB  MiB of events and texts kept for readers (default 256): beyond it the largest `log` is
                  cut, the longest `events` loses, and a read of another text is ENOMEM
  max_user_memory=MIB  MiB of texts of one user (default: three quarters of half of max_memory), ENOMEM beyond
  max_mounts=N    simulated mounts (default 100000), ENOSPC beyond
  max_keys=N      simulated keys of all users (default 100000), EDQUOT beyond
  max_user_keys=N max_user_key_bytes=N   those of one user but root, as kernel.keys.maxkeys and maxbytes (defaults
                  200 and 20000), EDQUOT beyond
  max_processes=N simulated processes and threads (default 32768), ENOMEM beyond
  max_threads=N   threads of one simulated process (default: three quarters of max_processes), ENOMEM beyond
  max_devices=N   simulated block devices (default 16384), ENOSPC beyond
  allow_other     other users may use the mount; for anyone but root it needs user_allow_other in
                  /etc/fuse.conf; allow_root: root may
  private_mounts  users other than the owner and root hear of their keys alone, not of mounts, superblocks, devices
  user=NAME       once mounted, serve as this user, with no privilege left; for root, with allow_other
  uid=N gid=N     owner of the files (default: who mounts); umask=OCTAL takes bits from all modes
  ro              nothing can be made or posted
  fsname=NAME     shown as the source of the mount (default: SOURCE or wqfs)
  nosuid, nodev, noexec, noatime and the like go to the kernel; the words of mount(8) and fstab
  (defaults, nofail, _netdev, user, x-*, auto_unmount) are accepted

exit codes: 0 mounted; 1 usage or permission; 2 system error; 32 mount failed
"""


def main(arguments: Sequence[str] | None = None, program: str = "mount_wqfs.py") -> int:
    """The mount command. arguments: without the program's name, sys.argv's by default. Returns
    the exit code; in the background form the parent's."""
    open_missing_streams()
    try:
        line = parse_command_line(sys.argv[1:] if arguments is None else arguments, program)
    except UsageError as error:
        return complain(program, str(error), EXIT_USAGE)
    if line.action == "help":
        print(HELP.replace("mount_wqfs.py", program), end="")
        return EXIT_OK
    if line.action == "version":
        print(f"wqfs {__version__}")
        return EXIT_OK
    return _run(line, program) if line.foreground else _in_background(line, program)


def _run(line: CommandLine, program: str, on_started: Callable[[], object] | None = None) -> int:
    """Mount and serve in this process until the mount ends."""
    _log_to(line, background=on_started is not None)
    if on_started is None:
        faulthandler.enable()  # a watchdog that strikes sends SIGABRT: where we hung goes to the log
    ours = line.fuse_fd is None and line.fuse_socket is None
    mountpoint = resolved(line.mountpoint) if ours else line.mountpoint
    options = line.options
    connection = None  # to who mounted, who unmounts when it is closed: at our end
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            sentence = f"{sys.executable} has no {name}: run `make setup`, then .venv/bin/python mount_wqfs.py."
            return complain(program, sentence, EXIT_SYSTEM)
    # Between the mount and the first look for signals nothing could unmount: they wait until then.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    owner = (os.getuid(), os.getgid())
    found = store.find()
    try:
        identity = _identity(options, ours=ours)
    except UsageError as error:
        return complain(program, str(error), EXIT_USAGE)
    if found is not None and not ours:
        found.close()
        found = None
    if found is not None and not resuming.can_go_on(found, mountpoint, as_another=identity is not None):
        found = None
    if found is not None and not options.survives(ours=True):
        log.warning("%s: nosurvive holds from the next mount on (stop, start)", mountpoint)
        options = replace(options, survive=True)  # only such a mount is left to a manager
    if line.options.survive and not ours:
        return complain(
            program, "Option survive is for a mount made here, not for one that was handed over.", EXIT_USAGE
        )
    if identity is not None:
        import wqfs.fs.session  # noqa: F401  # that user might not read it

    try:
        if line.fuse_socket is not None:
            connection, fuse_fd, told = handover.take(line.fuse_socket)
            options = parse_options(line.said, parse_options(told))
            fuse_fd = taken_over(fuse_fd)
        elif found is not None:
            fuse_fd = taken_over(found.fuse_fd)
        else:
            fuse_fd = mount(mountpoint, options) if line.fuse_fd is None else taken_over(line.fuse_fd)
    except UsageError as error:
        return complain(program, f"{line.fuse_socket} came with options that are not known here: {error}", EXIT_USAGE)
    except MountFailed as error:
        return complain(program, str(error), error.exit_code)
    except OSError as error:
        return complain(program, f"Mounting on {mountpoint} failed: {error.strerror}.", EXIT_SYSTEM)
    state_fd = None if found is None else found.state_fd
    service = Service(program, mountpoint, fuse_fd, options, owner, line.ready_fd, STOP_SIGNALS, ours, state_fd)
    try:
        return service.run(identity, on_started)
    finally:
        if connection is not None:
            connection.close()


def _identity(options: Options, *, ours: bool) -> Identity | None:
    """Whom to become once it is mounted; None to stay who this is. Raises UsageError."""
    if options.user is None:
        return None
    if os.geteuid():
        raise UsageError("Option user is for root: a mount that a user makes is served as that user already.")
    if ours and not options.allow_other:
        raise UsageError("Option user needs allow_other: without it only root could look into the mount.")
    return privileges.identity_of(options.user)


def _in_background(line: CommandLine, program: str) -> int:
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "rb") as status:
            if status.read(1):
                return EXIT_OK
        _, code = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(code) if os.WIFEXITED(code) else EXIT_SYSTEM
    os.close(reader)
    code = EXIT_SYSTEM
    try:
        code = _run(line, program, on_started=lambda: _detach(writer))
    finally:
        os._exit(code)  # never into the parent's part of the program


def _detach(writer: int) -> None:
    """Become a daemon, then tell the parent."""
    leave_terminal()
    os.write(writer, b"1")
    os.close(writer)


def _log_to(line: CommandLine, *, background: bool) -> None:
    """The foreground logs to standard error, the background to syslog where there is one."""
    handlers: list[logging.Handler] = []
    if not background:
        handlers.append(StandardError())
    elif os.path.exists("/dev/log"):
        with suppress(OSError):
            syslog = Syslog("/dev/log", Syslog.LOG_DAEMON)
            syslog.ident = f"wqfs[{os.getpid()}]: "
            handlers.append(syslog)
    for handler in handlers:
        handler.addFilter(Flood())
    logging.basicConfig(
        level=logging.DEBUG if line.debug else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=handlers or [logging.NullHandler()],
    )
    logging.getLogger("pyfuse3").setLevel(logging.INFO)
