"""Who serves a mount: this process or, with `-o survive`, a daemon under a supervisor; as whom; and how it ends."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from wqfs.fs import privileges, resuming, supervision
from wqfs.fs.keeper import Keeper
from wqfs.fs.mounting import device_at, unmount
from wqfs.fs.options import Options
from wqfs.fs.privileges import Identity, Privileged
from wqfs.fs.process import call_process
from wqfs.fs.streams import EXIT_OK, EXIT_SYSTEM, complain, leave_terminal
from wqfs.fs.supervisor import Told, supervise

log = logging.getLogger(__name__)


@dataclass
class Service:
    """A mount to be served: made here, if `ours`, or handed over.

    program: who complains; owner: who mounted, uid and gid; ready_fd: of `--ready-fd`, None for none; stop_signals:
    those that end it, blocked by the caller.
    """

    program: str
    mountpoint: str
    fuse_fd: int
    options: Options
    owner: tuple[int, int]
    ready_fd: int | None
    stop_signals: Collection[signal.Signals]
    ours: bool
    state_fd: int | None = None
    """What the process before left of the mount, with which this one goes on."""
    _privileged: Privileged = field(default_factory=Privileged, init=False)
    _device: str = field(default="", init=False)
    """The mount's number, `major:minor`: only it is unmounted, whatever else is there by then."""

    def run(self, identity: Identity | None, on_started: Callable[[], object] | None) -> int:
        """Serve as `identity`, None for who this is, until the mount ends; returns the exit code.

        on_started: called when the mount answers; with it the
        daemon leaves the terminal, without it the log says so.
        """
        keeper: Keeper | None = None
        self._device = device_at(self.mountpoint)
        try:
            if identity is not None:
                keeper = self._become(identity)
        except OSError as error:
            return self._end(error)
        started = on_started or (lambda: _foreground_started(self.mountpoint))
        try:
            if not self.options.survives(ours=self.ours):
                return self._serve(started, self._say_line())
            supervision.answer_for_children()
            return supervise(
                self.mountpoint,
                self.fuse_fd,
                lambda told: self._be_daemon(told, background=on_started is not None),
                self.stop_signals,
                started,
                self._say_line() or (lambda: None),
                self._privileged.try_unmount,
                self._device,
                [] if self.state_fd is None else [self.state_fd],
            )
        finally:
            if keeper is not None:
                keeper.close()

    def _become(self, identity: Identity) -> Keeper | None:
        """Be that user for good; what needs root is started before. Raises OSError."""
        keeper = None
        if self.ours:
            keeper = Keeper(self.mountpoint, self._device)
            check = None
            if supervision.is_wanted(self._say_line()):
                check = supervision.start_check(self.mountpoint, (identity.uid, identity.gid))
            self._privileged = Privileged(keeper.try_unmount, check)
        privileges.drop(identity)
        return keeper

    def _be_daemon(self, told: Told, *, background: bool) -> int:
        """Under a supervisor."""
        call_process("wqfs")

        def started() -> None:
            if background:
                leave_terminal()
            told.has_started()

        on_ready = None
        if self.ready_fd is not None:
            os.close(self.ready_fd)  # the supervisor's: closed there, it must be closed everywhere
            on_ready = told.is_ready
        return self._serve(started, on_ready, told)

    def _say_line(self) -> Callable[[], object] | None:
        """What says the line of `--ready-fd`, if anybody wants it."""
        fd = self.ready_fd
        return None if fd is None else lambda: supervision.write_line(fd)

    def _serve(
        self, on_started: Callable[[], object], on_ready: Callable[[], object] | None, told: Told | None = None
    ) -> int:
        try:
            # The supervisor does without all that this brings.
            from wqfs.fs.session import serve

            left = None
            if self.state_fd is not None:
                left = resuming.take_up(self.state_fd, self.mountpoint, self.options)
            gone = serve(
                self.mountpoint,
                self.fuse_fd,
                self.options,
                self.stop_signals,
                on_started,
                on_ready,
                owner=self.owner,
                ours=self.ours,
                device=self._device,
                told=told,
                privileged=self._privileged,
                left=left,
            )
        except Exception as error:
            return self._end(error)
        return EXIT_OK if gone else EXIT_SYSTEM

    def _end(self, error: Exception) -> int:
        """On a fault; returns the exit code."""
        if self.ours:
            unmount(self.mountpoint, lazy=True, by=self._privileged.try_unmount, device=self._device)
        if _is_out_of_files(error):
            sentence = "too many open files: let wqfs have 64 descriptors (ulimit -n 64)."
            return complain(self.program, f"{self.mountpoint}: {sentence}", EXIT_SYSTEM)
        log.error("%s: the daemon ends on a fault of its own", self.mountpoint, exc_info=error)
        return complain(
            self.program, f"{self.mountpoint}: ended by a fault of wqfs's own; the log has it.", EXIT_SYSTEM
        )


def _is_out_of_files(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):  # trio's
        return any(isinstance(each, Exception) and _is_out_of_files(each) for each in error.exceptions)
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def _foreground_started(mountpoint: str) -> None:
    log.info("%s: mounted", mountpoint)
