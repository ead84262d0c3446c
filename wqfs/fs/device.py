"""The loop that moves messages between /dev/fuse, the channel and pyfuse3. All waiting is here.

It runs where trio would wait (trio.abc.Instrument.before_io_wait): a request for bytes is read, answered and waited
for without entering trio, which would cost more than the answer. trio's epoll is one of the descriptors that the loop
waits for; when that has something, when a task can go on or trio's own deadline has come, the loop returns, and trio's
wait ends at once. So all state lives in one thread, and there is no other.

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
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from wqfs.abi import fuse
from wqfs.fs import mounting
from wqfs.fs.channel import Channel, Server
from wqfs.fs.channel_limits import BUFFER_SIZE
from wqfs.fs.checkpoint import Checkpoints, TakeOver
from wqfs.fs.process import open_descriptors
from wqfs.fs.recorder import Recorder
from wqfs.fs.succession import Succession

log = logging.getLogger(__name__)

BURST: Final = 256
"""Requests served before trio gets a turn."""
_GONE: Final = (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
"""What /dev/fuse answers when the mount is gone: unmounted, or its connection aborted."""
_VAIN: Final = 4
"""After so many reads in vain in a row the loop waits before it reads, _PATIENCE times."""
_PATIENCE: Final = 32
ENDING_S: Final = 5
"""Seconds that trio's run of a dead daemon may take to end in the process that takes over, before that dies too."""


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
        end_names: Callable[[], object] | None = None,
    ) -> None:
        """recorder, checkpoints: where a successor may take over; a recorder that has a channel brings it along.
        end_names: lets pyfuse3's worker end by itself, without a look at its socket, when this process takes over."""
        self._fd = fuse_fd
        self._recorder = recorder
        self._checkpoints = checkpoints
        self._end_names = end_names
        self._clone_due = False
        self._leave: Callable[[], None] | None = None
        """To be called as soon as nothing is between a request and its answer: see `leave`."""
        self._greeting = 0
        """The request that only this pyfuse3 wanted to see: its reply is for nobody."""
        self._names = names
        self._message = memoryview(bytearray(BUFFER_SIZE)) if recorder is None else recorder.journal.room
        self._vain = 0
        self._patience = 0
        self._poll = select.poll()
        self._succession: Succession | None = None
        if recorder is not None and checkpoints is not None:
            self._succession = Succession(recorder, checkpoints, self._poll)
        self._backlog: deque[bytes] = deque()
        self._watched: dict[int, Callable[[], object]] = {}
        self._epoll_fd = -1
        """trio's, while it runs."""
        self._running = False
        self.answered = 0
        """Replies of pyfuse3 that were taken."""
        self._task_ready = False
        self._wake_trio: Callable[[], object]
        self._scope: trio.CancelScope
        self._failed: BaseException | None = None
        """What ended the loop: trio lets nothing through that is raised where it waits."""
        self._gone = trio.Event()
        self._use(fuse_fd)
        self._again = False
        """Whether requests may come that came before."""
        if recorder is not None:
            recorder.forward, recorder.drain = self._forward, self._drain_names
        if recorder is not None and hasattr(recorder, "channel"):
            self.channel = recorder.channel
            self.channel.use_clock(clock)
        else:
            self.channel = Channel(
                self._send if recorder is None else recorder.answer,
                self._forward if recorder is None else recorder.pass_on,
                max_waiting=max_waiting,
                max_user_waiting=max_user_waiting,
                max_user_handles=max_user_handles,
                clock=clock,
                on_started=on_started,
                show=None if recorder is None else recorder.show,
            )
            if recorder is not None:
                recorder.attach(self.channel)
        self._debugging = log.isEnabledFor(logging.DEBUG)

    # -- the channel's outlets

    def _use(self, fd: int) -> None:
        """Read requests there and answer them there."""
        self._fd = fd
        # FileIO, for its readinto is the cheapest read there is, and says None, not an exception, to no request.
        self._kernel = io.FileIO(fd, "rb", closefd=False)
        self._write = partial(os.write, fd)
        if self._recorder is not None:
            self._recorder.send, self._recorder.unsent = self._write, self._unsent

    def _send(self, message: bytes) -> None:
        try:
            self._write(message)
        except OSError as error:
            self._unsent(message, error)

    def _unsent(self, message: bytes, error: OSError) -> None:
        if error.errno not in _GONE and error.errno != errno.ENOENT:  # the caller was killed meanwhile
            log.error("the kernel refused a reply of %d bytes: %s", len(message), error)

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
        """Serve while the trio function `tasks` runs; raises what it raises, and what the loop raises.

        When the mount is gone, `wait_gone` returns in those tasks; they decide when to end.
        """
        self._poll.register(self._names, select.POLLIN)
        self._poll.register(self._fd, select.POLLIN)
        self._running = True
        trio.run(self._main, tasks, open_descriptors(), instruments=(_Waiting(self),))
        signal.alarm(0)
        if self._failed is not None:
            raise self._failed

    async def _main(self, tasks: Callable[[], Awaitable[object]], before: set[int]) -> None:
        """before: the descriptors of the process before trio had some."""
        epoll_fd = _epoll_among(open_descriptors() - before)
        self._poll.register(epoll_fd, select.POLLIN)
        token = trio.lowlevel.current_trio_token()
        self._wake_trio = lambda: token.run_sync_soon(_nothing, idempotent=True)
        with trio.CancelScope() as self._scope:
            self._epoll_fd = epoll_fd
            if self._succession is not None:
                self._succession.begin(epoll_fd)
            await tasks()

    async def wait_gone(self) -> None:
        """Wait until the kernel says that the mount is gone."""
        await self._gone.wait()

    def watch(self, fd: int, changed: Callable[[], object]) -> None:
        """Call `changed` whenever `fd` has POLLPRI or POLLERR: for /proc/self/mountinfo, which says a change only to
        who asks first, so that an epoll instance within another one would swallow it."""
        self._watched[fd] = changed
        self._poll.register(fd, select.POLLPRI)

    def unwatch(self, fd: int) -> None:
        """No longer."""
        del self._watched[fd]
        self._poll.unregister(fd)

    def wait(self, seconds: float) -> None:
        """Where trio is about to wait: serve for that long, or until trio has something to do."""
        if self._epoll_fd < 0 or self._failed is not None:
            return
        try:
            self._serve_for(seconds)
        except BaseException as error:
            self._failed = error
            if isinstance(error, TakeOver):
                signal.alarm(ENDING_S)
                if self._end_names is not None:
                    self._end_names()  # before it is cancelled: only a worker that ends by itself frees its buffer
            self._scope.cancel()
            self._wake_trio()

    def task_is_ready(self) -> None:
        """A task of trio's can go on: what the loop did has woken it, if that is who runs."""
        self._task_ready = True

    def _serve_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        recorder, succession = self._recorder, self._succession
        self._task_ready = False
        if recorder is not None:
            recorder.names_wait()
            recorder.outside()
        if succession is not None and succession.comes_first and not seconds:
            return  # tasks of trio's go on first, and then there is a checkpoint before anything is served
        while True:
            if self._leave is not None:
                self._leave_if_quiet(all_wait=seconds > 0)
            may_rest = False
            if succession is not None:
                if self._clone_due:
                    self._clone_for(succession)
                if succession.is_due:
                    succession.see_to(all_wait=seconds > 0)
                may_rest = seconds > 0 and succession.waits_for_rest
            trio_is_ready = False
            ready = self._poll.poll(self._milliseconds_until(deadline, may_rest=may_rest) if seconds else 0)
            if succession is not None:
                if ready:
                    succession.serves()
                elif may_rest and time.monotonic() < deadline:
                    succession.is_at_rest()
            for fd, events in ready:
                if fd == self._fd:
                    self._serve_kernel()
                elif fd == self._epoll_fd:
                    trio_is_ready = True
                elif fd in self._watched:
                    self._watched[fd]()
                elif succession is None or not succession.sees_end(fd):
                    self._serve_names(events)
                if recorder is not None:
                    recorder.outside()
            if succession is not None:
                succession.has_served()
            if not seconds or trio_is_ready or self._task_ready or time.monotonic() >= deadline:
                if recorder is not None:
                    recorder.names_go_on()
                if seconds:
                    # Else it would wait for all of its time: also where what was ready is no more when it looks itself.
                    self._wake_trio()
                return

    def _milliseconds_until(self, deadline: float, *, may_rest: bool) -> float:
        now = time.monotonic()
        if self._succession is not None:
            deadline = self._succession.next_at(now, deadline, at_rest=may_rest)
        return max(0.0, deadline - now) * 1000

    def _serve_kernel(self) -> None:
        """Requests until there is none, or others have waited long enough."""
        read_into, message = self._kernel.readinto, self._message
        receive: Server = (
            self.channel.receive if self._recorder is None or not self._again else self._recorder.receive_again
        )
        if self._debugging:
            receive = self._telling(receive)
        journal = None if self._recorder is None else self._recorder.journal
        if journal is not None and journal.is_full:
            return  # a name has changed something and is not answered yet: first a checkpoint
        try:
            for served in range(BURST):
                size = read_into(message)
                if size is None:
                    if self._again and self._recorder is not None:
                        self._again = False  # all that comes again was there at once
                        self._recorder.answers.forget()
                    if served <= 1:
                        self._vain += 1
                        if self._vain >= _VAIN:
                            self._vain = 0
                            self._patience = _PATIENCE
                    else:
                        self._vain = 0
                    return
                receive(message, size)
                if journal is not None and journal.is_due:
                    return
                if self._patience:
                    self._patience -= 1
                    return
        except OSError as error:
            if error.errno in _GONE:
                self._lose_mount()
            elif error.errno not in (errno.EINTR, errno.ENOENT):  # ENOENT: interrupted while read
                raise

    def _telling(self, receive: Server) -> Server:
        """The same with a line for each request: `-d`."""

        def receive_and_tell(message: memoryview, size: int) -> None:
            _, opcode, unique = fuse.START.unpack_from(message)
            uid, _, pid = fuse.CALLER.unpack_from(message)
            log.debug("request %d: opcode %d, %d bytes, uid=%d pid=%d", unique, opcode, size, uid, pid)
            receive(message, size)

        return receive_and_tell

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
        self.answered += 1
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
        self._again = True

    def read_on_clone(self) -> None:
        """On a kernel that cannot send requests again: read on a descriptor that nobody else has, so that what was not
        answered ends with this process. Only where no request is left without its answer. Raises OSError."""
        assert self._checkpoints is not None
        clone_fd = mounting.clone(self._fd)
        self._checkpoints.clone_fd = clone_fd
        if self._running and self._leave is None:
            self._poll.unregister(self._fd)
            self._poll.register(clone_fd, select.POLLIN)
        self._use(clone_fd)

    def _clone_for(self, succession: Succession) -> None:
        self._clone_due = False
        try:
            self.read_on_clone()
        except OSError as error:  # later is too late: requests may wait for their answers on this one
            succession.never(error)

    def leave(self, leave: Callable[[], None]) -> None:
        """Read nothing more, and call `leave` once all that was read is answered, but for who waits. It raises
        LeftInStore, or returns to let all go on."""
        if self._leave is None and not self._gone.is_set():
            self._poll.unregister(self._fd)
            self._leave = leave

    def _leave_if_quiet(self, *, all_wait: bool) -> None:
        assert self._recorder is not None
        if all_wait and self._recorder.is_quiet and not self._greeting:
            leave, self._leave = self._leave, None
            if leave is not None:
                leave()
            self._poll.register(self._fd, select.POLLIN)  # it has refused

    @property
    def is_leaving(self) -> bool:
        """Whether `leave` was called, and its outcome is not known."""
        return self._leave is not None

    def want_checkpoint(self, *, on_clone: bool = False) -> None:
        """Let a checkpoint be taken before anything else is served; on_clone: and `read_on_clone` before."""
        assert self._succession is not None
        self._succession.want()
        self._clone_due = on_clone

    def once_at_rest(self, task: Callable[[], object]) -> None:
        """Call that once nothing has been asked for a while."""
        assert self._succession is not None
        self._succession.once_at_rest = task

    def end_checkpoints(self) -> None:
        """Let nobody take over from now on: the mount ends."""
        if self._succession is not None:
            self._succession.end()


class _Waiting(trio.abc.Instrument):
    """Lets a device serve where trio would wait."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def before_io_wait(self, timeout: float) -> None:
        self._device.wait(timeout)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self._device.task_is_ready()


def _epoll_among(descriptors: set[int]) -> int:
    """The one of them that is an epoll instance. Raises RuntimeError where that is not one: trio waits otherwise."""
    found = [fd for fd in descriptors if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]"]
    if len(found) != 1:
        raise RuntimeError(f"expected trio to wait with one epoll instance, not {len(found)}")
    return found[0]


def _nothing() -> None:
    pass
