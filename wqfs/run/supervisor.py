"""The loop: a call stops, somebody answers it, and the program goes on.

One call at a time, in the order of their coming. What is refused for a reason of ours, a fault, is answered EIO and
said; the program is never left waiting. A call that waits for a key to be constructed is asked about again whenever
a key was instantiated, and given up as EINTR when a signal is there that the program handles.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wqfs.client import Queue
from wqfs.run import trace
from wqfs.run.call import Answered, Call
from wqfs.run.contexts import Contexts
from wqfs.run.kernel_keys import After, KernelKeys
from wqfs.run.kernel_state import Kernel
from wqfs.run.keys import Keys
from wqfs.run.listener import Calls, Gone, Stopped
from wqfs.run.mount_files import MountFiles
from wqfs.run.mounts import Mounts
from wqfs.run.numbers import SIGSYS_ARCH, Machine
from wqfs.run.path_watches import PathWatches
from wqfs.run.pipes import GO_ON, Pipes
from wqfs.run.places import Places
from wqfs.run.simulated import System
from wqfs.run.tasks import Task, Tasks, look

_LOOK_FOR_SIGNALS: Final = 0.05
"""Seconds between looks for a signal at a call that waits; there is nothing that would tell of one."""

_ABOUT_KEYS: Final = ("add_key", "request_key", "keyctl")

Answerer = Callable[[Call], int | After | None]


@dataclass(frozen=True, slots=True)
class Settings:
    """machine: this one; trace: print each answered call; wait_for_keys: see wqfs.run.keys.Keys; kernel_keys: keys
    are the kernel's own."""

    machine: Machine
    trace: bool = False
    wait_for_keys: bool = False
    kernel_keys: bool = False


def say(sentence: str) -> None:
    """To standard error, whole."""
    with suppress(OSError):
        os.write(2, f"wqfs run: {sentence}\n".encode(errors="surrogateescape"))


class Supervisor:
    """Answers the calls of one program and all its children.

    calls: where they stop; mount: of wqfs. To be made when the program is the only child. Raises OSError when the
    mount cannot be used.
    """

    def __init__(self, calls: Calls, mount: Path, settings: Settings) -> None:
        self._calls = calls
        self._settings = settings
        self._system = System(mount)
        self.poll = select.epoll()
        self.poll.register(calls.fileno(), select.EPOLLIN)
        self._tasks = Tasks(self._system, self.poll)
        keys: Keys | KernelKeys
        self._kernel_keys: KernelKeys | None = None
        if settings.kernel_keys:
            keys = self._kernel_keys = KernelKeys(self._system, Kernel(settings.machine), self.poll)
        else:
            keys = Keys(self._system, self._tasks, waits=settings.wait_for_keys)
        pipes = Pipes(self._system)
        self._mount_files = MountFiles(self._system, self.poll)
        places = Places(self._mount_files)
        mounts = Mounts(self._system, self._mount_files, places)
        contexts = Contexts(self._system, self._mount_files, places)
        watches = PathWatches(self._system, places)
        self._answerers: dict[str, Answerer] = {
            "pipe2": pipes.pipe2,
            "ioctl": pipes.ioctl,
            "fcntl": pipes.fcntl,
            "write": pipes.write,
            "add_key": keys.add_key,
            "request_key": keys.request_key,
            "keyctl": keys.keyctl,
            "mount": mounts.mount,
            "umount2": mounts.umount2,
            "move_mount": mounts.move_mount,
            "open_tree": mounts.open_tree,
            "mount_setattr": mounts.mount_setattr,
            "fsopen": contexts.fsopen,
            "fspick": contexts.fspick,
            "fsconfig": contexts.fsconfig,
            "fsmount": contexts.fsmount,
            "watch_mount": watches.watch_mount,
            "watch_sb": watches.watch_sb,
        }
        self._waiting: dict[int, Call] = {}
        self._constructed: Queue | None = None

    def serve(self, others: Callable[[int], bool]) -> None:
        """Answer until the last process of the program has ended. others: told of each descriptor of `poll` that is
        ready and not of ours; it returns whether to end."""
        while True:
            ready = self.poll.poll(self._timeout())
            # What the program closed or ended before it made a call has gone when the call is answered.
            for fd, events in sorted(ready, key=lambda ready: ready[0] == self._calls.fileno()):
                if fd == self._calls.fileno():
                    if events & select.EPOLLIN:
                        self._next()
                    elif events & select.EPOLLHUP:
                        return
                elif self._constructed is not None and fd == self._constructed.fileno():
                    self._ask_again()
                elif self._kernel_keys is not None and self._kernel_keys.ended(fd):
                    pass
                elif not self._tasks.ended(fd) and not self._mount_files.ended(fd) and others(fd):
                    return
            if self._waiting:
                self._end_interrupted()
            if self._kernel_keys is not None:
                self._kernel_keys.look_if_due()

    def _timeout(self) -> float:
        """Seconds to wait at most, -1 for ever."""
        if self._waiting:
            return _LOOK_FOR_SIGNALS
        return -1 if self._kernel_keys is None else self._kernel_keys.timeout

    def close(self) -> None:
        """The run is over: its processes end in the simulated system too."""
        with suppress(OSError):
            self._tasks.close()
        with suppress(OSError):
            self._mount_files.close()

    # -- one call

    def _next(self) -> None:
        stopped = self._calls.receive()
        if stopped is None:
            return
        try:
            self._serve(stopped)
        except Gone:
            pass

    def _serve(self, stopped: Stopped) -> None:
        if stopped.arch != self._settings.machine.audit_arch:
            self._end_foreign(stopped)
            return
        name = self._settings.machine.names.get(stopped.number, f"call {stopped.number}")
        try:
            task = look(stopped.tid)
        except OSError:
            return  # killed meanwhile
        if self._calls.is_waiting(stopped):
            self._answer(Call(self._calls, stopped, name, task))

    def _answer(self, call: Call) -> None:
        answerer = self._answerers.get(call.name)
        try:
            value = GO_ON if answerer is None else answerer(call)
        except OSError as error:
            if error.errno == errno.EINPROGRESS and call.name in _ABOUT_KEYS:
                self._wait(call)  # a key under construction: the kernel waits too (wait_for_key_construction)
            else:
                self._refuse(call, error)
        except Gone:
            raise
        except Exception:
            say(f"a fault of wqfs's own in {call.name}, answered EIO:\n{traceback.format_exc()}")
            self._refuse(call, OSError(errno.EIO, "a fault of wqfs's own"))
        else:
            self._waiting.pop(call.stopped.id, None)
            if value is GO_ON:
                self._calls.go_on(call.stopped)
            elif callable(value):
                self._calls.go_on(call.stopped)
                self._do_after(call, value)
            else:
                self._tell(call, str(value))
                if not isinstance(value, Answered):
                    self._calls.answer(call.stopped, value)

    def _do_after(self, call: Call, what: After) -> None:
        try:
            what()
        except Exception:
            say(f"a fault of wqfs's own after {call.name}, whose events are lost:\n{traceback.format_exc()}")

    def _refuse(self, call: Call, error: OSError) -> None:
        self._waiting.pop(call.stopped.id, None)
        if not 0 < (error.errno or 0) < 4096:
            error = OSError(errno.EIO, str(error))
        self._tell(call, trace.failed(error))
        self._calls.answer(call.stopped, error=error.errno or errno.EIO)

    def _tell(self, call: Call, outcome: str) -> None:
        if self._settings.trace:
            with suppress(OSError):
                os.write(2, (trace.line(call, outcome) + "\n").encode(errors="surrogateescape"))

    def _end_foreign(self, stopped: Stopped) -> None:
        """A call by other numbers than this machine's own: they would be taken for others."""
        what = SIGSYS_ARCH.get(stopped.arch, f"architecture {stopped.arch:#x}")
        with suppress(OSError):
            program = os.readlink(f"/proc/{stopped.tid}/exe")
            say(f"{program} (pid {stopped.tid}) is a program for {what}, which cannot be supervised; it is ended")
            os.kill(look(stopped.tid).pid, signal.SIGKILL)

    # -- calls that wait for a key

    def _wait(self, call: Call) -> None:
        if self._constructed is None:
            self._constructed = self._system.constructions()
            self.poll.register(self._constructed.fileno(), select.EPOLLIN)
        self._waiting[call.stopped.id] = call

    def _ask_again(self) -> None:
        assert self._constructed is not None
        with suppress(BlockingIOError):
            self._constructed.read_nowait()
        for call in list(self._waiting.values()):
            try:
                self._answer(call)
            except Gone:
                del self._waiting[call.stopped.id]

    def _end_interrupted(self) -> None:
        for call in list(self._waiting.values()):
            try:
                if not self._calls.is_waiting(call.stopped):
                    raise Gone
                if _signal_is_there(call.task):
                    self._refuse(call, OSError(errno.EINTR, os.strerror(errno.EINTR)))
            except Gone:
                self._waiting.pop(call.stopped.id, None)


def _signal_is_there(task: Task) -> bool:
    """Whether a signal waits for the thread that it has a handler for. One to the process is its first thread's,
    unless that blocks it (complete_signal)."""
    with suppress(OSError):
        mine = _signals(task.tid)
        for_process = mine["ShdPnd"]
        if task.thread:
            for_process &= _signals(task.pid)["SigBlk"]
        return bool((mine["SigPnd"] | for_process) & mine["SigCgt"] & ~mine["SigBlk"])
    return False


def _signals(tid: int) -> dict[str, int]:
    """The sets of signals in /proc/TID/status. Raises OSError."""
    with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as file:
        lines = (line.split(":") for line in file)
        return {name: int(value, 16) for name, value in lines if name in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt")}
