"""The processes of a run: who starts, watches and ends whom.

    front        the command itself: waits, passes signals on, ends as the program did
      supervisor answers the calls; the program's ancestor, as ptrace(2) and Yama want it
        program  installs the filter, hands the listener over, execs

All are in the terminal's foreground group, so that Ctrl-C and Ctrl-Z reach the program as they would without us;
front and supervisor block them and leave them to it. Front and supervisor are subreapers: whoever of the program
loses its parent stays a descendant, and the run lasts until the last one has ended. If the supervisor dies, the
front says so and ends what is left of the program; if the front dies, the supervisor does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seccompy.notify import Listener

from wqfs.run import descendants, trap
from wqfs.run.kernel_state import SESSION, Kernel
from wqfs.run.listener import Calls
from wqfs.run.program import NotStarted, become, listener_from
from wqfs.run.supervisor import Settings, Supervisor, say

EXIT_FAILED: Final = 125
"""`wqfs run` itself failed. 126 and 127, a program that cannot be run and one that is not there, are as env(1)'s."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PASSED_ON: Final = frozenset(
    (
        signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
        signal.SIGWINCH, signal.SIGCONT,
    )
)  # fmt: skip
_ENDING: Final = frozenset((signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT))
_BLOCKED: Final = _PASSED_ON | {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD}
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Run:
    """What to run. program: its words; mount: of wqfs; traps: what stops; settings: of the supervisor."""

    program: Sequence[str]
    mount: Path
    traps: trap.Traps
    settings: Settings


def run(what: Run, keep: frozenset[int] = frozenset()) -> int:
    """Run the program until the last of its processes has ended.

    keep: children of this process that are none of the program's. Returns the exit code, or minus the number of the
    signal that ended the program; EXIT_FAILED where it was not run or not to its end, which is then said.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told, telling = os.pipe2(os.O_CLOEXEC)
    alive, living = os.pipe2(os.O_CLOEXEC)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        supervisor = os.fork()
        if not supervisor:
            os.close(told)
            os.close(living)
            _be_supervisor(what, mask, telling, alive)
        os.close(telling)
        os.close(alive)
        try:
            return _Front(supervisor, told, keep).wait()
        finally:
            os.close(told)
            os.close(living)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# -- the front


class _Front:
    """told: where the supervisor says the program's pid, and how it ended: a line each."""

    def __init__(self, supervisor: int, told: int, keep: frozenset[int]) -> None:
        self._supervisor = supervisor
        self._told = told
        self._keep = keep | {supervisor}
        self._words: list[bytes] = []
        self._asked = False

    def wait(self) -> int:
        self._words = os.read(self._told, 64).split()  # at once, or the end where there is no program
        os.set_blocking(self._told, False)
        while True:
            info = signal.sigwaitinfo(_BLOCKED)
            number = signal.Signals(info.si_signo)
            if number == signal.SIGCHLD:
                code = self._ended()
                if code is not None:
                    return code
            elif number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self._status() is not None:
                self._end_rest(number)
            elif info.si_code <= 0 and self._words:
                # From kill(2): what the terminal sends the program has got itself.
                with suppress(ProcessLookupError):
                    os.kill(int(self._words[0]), number)

    def _status(self) -> int | None:
        """How the program ended, as os.waitstatus_to_exitcode() has it; None while it runs."""
        with suppress(BlockingIOError):
            self._words += os.read(self._told, 64).split()
        return int(self._words[1]) if len(self._words) > 1 else None

    def _ended(self) -> int | None:
        """The exit code when the supervisor has ended, None before."""
        ended, how = os.waitpid(self._supervisor, os.WNOHANG)
        if not ended:
            return None
        status = self._status()
        code = os.waitstatus_to_exitcode(how)
        if code < 0 or (code == 0 and status is None):
            say(f"the supervisor was ended ({_how(code)}), and so is the program, which nobody answers now")
            descendants.end(os.getpid(), self._keep)
            return EXIT_FAILED
        if code:
            return code  # it said why
        return status

    def _end_rest(self, number: signal.Signals) -> None:
        """The program has ended, processes that it started have not, and somebody wants an end."""
        if number in _ENDING:
            descendants.tell(self._supervisor, signal.SIGKILL if self._asked else number)
            self._asked = True


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# -- the supervisor


def _be_supervisor(what: Run, mask: Set[int], telling: int, alive: int) -> None:
    code = EXIT_FAILED
    try:
        _supervise(what, mask, telling, alive)
        code = 0
    except NotStarted as failed:
        say(str(failed))
    except OSError as error:
        say(f"cannot supervise: {error.strerror}{f' ({error.filename})' if error.filename else ''}")
    except BaseException as fault:
        say(f"the supervisor ends on a fault of wqfs's own: {fault!r}")
        descendants.end(os.getpid())
    finally:
        os._exit(code)  # never into the front's part of the program


def _supervise(what: Run, mask: Set[int], telling: int, alive: int) -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if what.settings.kernel_keys:
        _begin_session(Kernel(what.settings.machine))
    made = trap.program(what.traps)  # before the fork: it imports nothing afterwards
    near, far = socket.socketpair()
    program = os.fork()
    if not program:
        near.close()
        become(what.program, what.mount, made, mask, far)
    far.close()
    os.write(telling, f"{program}\n".encode())
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGALRM})
    with listener_from(near) as fd:
        calls = Calls(Listener(fd))
    supervisor = Supervisor(calls, what.mount, what.settings)
    supervisor.poll.register(alive)
    supervisor.poll.register(woken.fileno())

    def others(fd: int) -> bool:
        if fd == alive:
            descendants.end(os.getpid())
            return True
        with suppress(BlockingIOError):
            woken.recv(4096)
        return _reap(program, telling)

    try:
        if not _reap(program, telling):
            supervisor.serve(others)
            _reap(program, telling, wait=True)
    finally:
        supervisor.close()


def _begin_session(kernel: Kernel) -> None:
    """Where the user's session keyring stands in for one of one's own, the kernel makes one for each process that
    first adds to it. Here the whole run gets one, which the supervisor shares. Raises NotStarted."""
    try:
        kernel.keyring_id(SESSION, create=True)
    except OSError as error:
        raise NotStarted(
            f"the kernel's own keys cannot be used here: {error.strerror}. A container's filter may forbid key calls, "
            "or a kernel have none; `--keys simulated` needs none"
        ) from None


def _reap(program: int, telling: int, *, wait: bool = False) -> bool:
    """Take the status of those that ended, and tell the program's; returns whether nobody is left. wait: for those
    that are about to: a process lets go of the listener before it can be waited for."""
    while True:
        try:
            ended, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
        except ChildProcessError:
            return True
        if not ended:
            return False
        if ended == program:
            os.write(telling, f"{os.waitstatus_to_exitcode(status)}\n".encode())
