"""The loop that moves messages between /dev/fuse, the channel and pyfuse3. All waiting is here.

The loop is the host and trio its guest (trio.lowlevel.start_guest_run): a request for bytes is
read, answered and waited for without entering trio, which would cost more than the answer. What
trio has to do (pyfuse3, signals, timers) runs between requests, in this same thread; only trio's
waiting is done in a thread of its own. So all state still lives in one thread.

On one processor a client that asks again has its next request in place by the time the answer is
written, so after an answer the loop reads at once; where that has been in vain lately it waits
first, and the answer's reader runs a system call sooner.

Neither side may block the other: what pyfuse3's socket does not take at once waits in a queue.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import outcome
import trio

from wqfs.abi import fuse
from wqfs.fs.channel import Channel
from wqfs.fs.channel_limits import MAX_WRITE
from wqfs.fs.checkpoint import Checkpoints, open_descriptors
from wqfs.fs.recorder import Recorder

log = logging.getLogger(__name__)

BURST: Final = 256
"""Requests served before trio gets a turn."""
BUFFER_SIZE: Final = MAX_WRITE + 4096
"""As large as libfuse's: a WRITE's data and a page for headers."""
_GONE: Final = (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
"""What /dev/fuse answers when the mount is gone: unmounted, or its connection aborted."""
_VAIN: Final = 4
"""After so many reads in vain in a row the loop waits before it reads, _PATIENCE times."""
_PATIENCE: Final = 32


class Device:
    """/dev/fuse of one mount on one side, pyfuse3's socket on the other.

    fuse_fd: of /dev/fuse, mounted, non-blocking; names: our end of the SOCK_SEQPACKET pair. Both
    stay the caller's to close.
    """

    def __init__(
        self,
        fuse_fd: int,
        names: socket.socket,
        *,
        max_waiting: int = 16384,
        max_user_waiting: int | None = None,
        max_user_handles: int = 24576,
        clock: Callable[[], float] | None = None,
        on_started: Callable[[], object] | None = None,
        recorder: Recorder | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """recorder, checkpoints: where a successor may take over; a recorder that has a channel brings it along."""
        self._fd = fuse_fd
        self._recorder = recorder
        self._checkpoints = checkpoints
        self._checkpoint_due = False
        self._greeting = 0
        """The request that only this pyfuse3 wanted to see: its reply is for nobody."""
        self._names = names
        # FileIO, for its readinto is the cheapest read there is, and says None, not an exception, to no request.
        self._kernel = io.FileIO(fuse_fd, "rb", closefd=False)
        self._message = memoryview(bytearray(BUFFER_SIZE))
        self._vain = 0
        self._patience = 0
        self._poll = select.poll()
        self._backlog: deque[bytes] = deque()
        self._soon: deque[Callable[[], object]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._of_trio: set[int] = set()
        """Descriptors that trio opened for this run."""
        self._result: outcome.Outcome[Any] | None = None
        self._gone = trio.Event()
        self._send = self._make_send()
        if recorder is not None:
            recorder.send, recorder.forward, recorder.drain = self._send, self._forward, self._drain_names
        if recorder is not None and hasattr(recorder, "channel"):
            self.channel = recorder.channel
        else:
            self.channel = Channel(
                self._send if recorder is None else recorder.hold,
                self._forward if recorder is None else recorder.pass_on,
                max_waiting=max_waiting,
                max_user_waiting=max_user_waiting,
                max_user_handles=max_user_handles,
                clock=clock,
                on_started=on_started,
            )
        if recorder is not None:
            recorder.channel = self.channel
        self._serve = self.channel.receive if recorder is None else recorder.receive
        debugging = log.isEnabledFor(logging.DEBUG)
        self._receive = self._receive_and_tell if debugging else self._serve

    # -- the channel's outlets

    def _make_send(self) -> Callable[[bytes], None]:
        fd, write = self._fd, os.write

        def send(message: bytes) -> None:
            try:
                write(fd, message)
            except OSError as error:
                if error.errno not in _GONE and error.errno != errno.ENOENT:  # the caller was killed meanwhile
                    log.error("the kernel refused a reply of %d bytes: %s", len(message), error)

        return send

    def _forward(self, message: bytes) -> None:
        if not self._backlog:
            try:
                self._names.send(message)
                return
            except BlockingIOError:
                self._poll.modify(self._names, select.POLLIN | select.POLLOUT)
        self._backlog.append(message)

    # -- the loop

    def run(self, tasks: Callable[[], Awaitable[object]]) -> None:
        """Serve while the trio function `tasks` runs; raises what it raises.

        When the mount is gone, `wait_gone` returns in those tasks; they decide when to end.
        """
        self._poll.register(self._wake_fd, select.POLLIN)
        self._poll.register(self._names, select.POLLIN)
        self._poll.register(self._fd, select.POLLIN)
        before = open_descriptors() if self._recorder is not None else set()
        trio.lowlevel.start_guest_run(
            tasks,
            run_sync_soon_threadsafe=self._run_soon_from_a_thread,
            run_sync_soon_not_threadsafe=self._soon.append,
            done_callback=self._finish,
        )
        if self._recorder is not None:
            self._of_trio = open_descriptors() - before
        try:
            while self._result is None:
                self._turn()
            self._result.unwrap()
        finally:
            os.close(self._wake_fd)

    async def wait_gone(self) -> None:
        """Wait until the kernel says that the mount is gone."""
        await self._gone.wait()

    def _run_soon_from_a_thread(self, function: Callable[[], object]) -> None:
        self._soon.append(function)
        os.eventfd_write(self._wake_fd, 1)

    def _finish(self, result: outcome.Outcome[Any]) -> None:
        self._result = result

    def _turn(self) -> None:
        """Everything that waits to run, then a wait, then everything that is ready."""
        soon = self._soon
        if self._recorder is not None:
            self._recorder.clock.tick()
        for _ in range(len(soon)):
            soon.popleft()()
        if self._result is not None:
            return
        recorder = self._recorder
        if recorder is not None and recorder.may_fork and (self._checkpoint_due or recorder.journal.is_full):
            self._take_checkpoint()
        for fd, events in self._poll.poll(0 if soon else None):
            if fd == self._fd:
                self._serve_kernel()
            elif fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
            elif self._checkpoints is not None and fd == self._checkpoints.waiting_fd:
                self._checkpoint_due = True  # it was killed
            else:
                self._serve_names(events)

    def _serve_kernel(self) -> None:
        """Requests until there is none, or others have waited long enough."""
        receive, read_into, message = self._receive, self._kernel.readinto, self._message
        if self._recorder is not None and self._recorder.journal.is_full:
            return  # a name has changed something and is not answered yet: first a checkpoint
        try:
            for served in range(BURST):
                size = read_into(message)
                if size is None:
                    if served <= 1:
                        self._vain += 1
                        if self._vain >= _VAIN:
                            self._vain = 0
                            self._patience = _PATIENCE
                    else:
                        self._vain = 0
                    return
                receive(message, size)
                if self._recorder is not None and self._recorder.journal.is_full:
                    return
                if self._patience:
                    self._patience -= 1
                    return
        except OSError as error:
            if error.errno in _GONE:
                self._lose_mount()
            elif error.errno not in (errno.EINTR, errno.ENOENT):  # ENOENT: interrupted while read
                raise

    def _receive_and_tell(self, message: memoryview, size: int) -> None:
        """The channel's receive with a line for each request: `-d`."""
        _, opcode, unique = fuse.START.unpack_from(message)
        uid, _, pid = fuse.CALLER.unpack_from(message)
        log.debug("request %d: opcode %d, %d bytes, uid=%d pid=%d", unique, opcode, size, uid, pid)
        self._serve(message, size)

    def _lose_mount(self) -> None:
        self._poll.unregister(self._fd)
        self._gone.set()

    def _serve_names(self, events: int) -> None:
        """Replies from pyfuse3, and requests that its socket did not take before."""
        try:
            while self._backlog and events & select.POLLOUT:
                self._names.send(self._backlog[0])
                self._backlog.popleft()
            if events & select.POLLOUT:
                self._poll.modify(self._names, select.POLLIN)
        except BlockingIOError:
            pass
        self._drain_names()

    def _drain_names(self) -> None:
        """All replies that pyfuse3 has written."""
        try:
            for _ in range(BURST):
                reply = self._names.recv(BUFFER_SIZE)
                if not reply:  # pyfuse3 has ended; so do the tasks
                    self._poll.unregister(self._names)
                    return
                self._answered(reply)
        except BlockingIOError:
            pass

    def _answered(self, reply: bytes) -> None:
        if self._recorder is None:
            self._send(self.channel.answered(reply))
            if self.channel.ready:  # a name operation can make events: a look at sim/keys ends keys
                self.channel.wake()
        elif self._greeting and fuse.OUT_HEADER.unpack_from(reply)[2] == self._greeting:
            self._greeting = 0
        else:
            self._recorder.replied(reply)

    # -- taking over, and being taken over from

    def greet_names(self) -> None:
        """Let a new pyfuse3 see the kernel's greeting, which comes only once."""
        assert self._recorder is not None
        self._greeting = fuse.START.unpack_from(self._recorder.init_message)[2]
        self._forward(self._recorder.init_message)

    def ask_again(self) -> None:
        """Let the kernel send again all that was not answered. Before anything is read."""
        assert self._recorder is not None
        self._send(fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size, fuse.NOTIFY_RESEND, 0))
        self._recorder.wake_pollers()

    def abandon(self) -> None:
        """In the process that takes over: let go of what this one had; else each death would leave five descriptors.
        Keep this object: with it what waits for a turn of this trio's stays, which would close them a second time."""
        for fd in self._of_trio:
            with suppress(OSError):
                os.close(fd)
        self._of_trio.clear()
        self._message = memoryview(b"")

    def want_checkpoint(self) -> None:
        """Let a checkpoint be taken before anything else is served."""
        self._checkpoint_due = True

    def _take_checkpoint(self) -> None:
        checkpoints = self._checkpoints
        assert checkpoints is not None
        if checkpoints.waiting_fd >= 0:
            self._poll.unregister(checkpoints.waiting_fd)
        self._checkpoint_due = not checkpoints.take()
        if checkpoints.waiting_fd >= 0:
            self._poll.register(checkpoints.waiting_fd, select.POLLIN)
