"""One mount being served: the tasks, and the ways in which it ends.

It ends when the kernel says that the mount is gone; when SIGTERM, SIGINT or SIGHUP comes; and,
hung up but still serving who has files open, when the mount was detached lazily. In each case
waiting readers find end of file and pollers POLLHUP, as when a pipe's last writer closes.
"""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from typing import BinaryIO, Final

import pyfuse3
import trio

from wqfs.fs import mounting, store, supervision, taking_over, watchdog
from wqfs.fs.caller import CallerMemory, Take, fetch_nothing
from wqfs.fs.checkpoint import Checkpoints, TakeOver
from wqfs.fs.device import ENDING_S, Device
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.handles.base import Caller
from wqfs.fs.journal import Journal
from wqfs.fs.names import Names
from wqfs.fs.options import Options
from wqfs.fs.privileges import NOTHING_PRIVILEGED, Privileged
from wqfs.fs.process import return_memory
from wqfs.fs.recorder import Clock, Recorder
from wqfs.fs.store import Left, LeftInStore
from wqfs.fs.streams import EXIT_OK, EXIT_SYSTEM
from wqfs.fs.supervisor import HAND_OVER, Told

log = logging.getLogger(__name__)

_UNMOUNTING: Final = 0.05
"""Seconds between a mount's going from the table and the kernel's last word, where nobody has a file open."""
LARGE: Final = 10_000
"""Objects of a simulated system, and watches, in which looking for cycles takes so long, 0.1 s, that those who wait for
a successor are answered first."""
GRACE: Final = 1.0
"""Seconds that pollers have, after an order to stop, to see POLLHUP, and readers end of file."""


def serve(
    mountpoint: str,
    fuse_fd: int,
    options: Options,
    stop_signals: Collection[signal.Signals],
    on_started: Callable[[], object],
    on_ready: Callable[[], object] | None = None,
    *,
    owner: tuple[int, int] | None = None,
    ours: bool = True,
    device: str = "",
    told: Told | None = None,
    privileged: Privileged = NOTHING_PRIVILEGED,
    left: Left | None = None,
) -> bool:
    """Serve the mount until it ends, then see that it is unmounted; returns whether it is, or was left to the service
    manager.

    mountpoint: absolute, mounted, with fuse_fd as its descriptor of /dev/fuse; stop_signals: those
    that end it, blocked by the caller, unblocked here once somebody listens; on_started: called
    once the kernel and the filesystem have greeted each other; on_ready: see watchdog.watch_over.
    owner: who mounted, uid and gid; None for who this is. ours: whether it was mounted here; else it is not unmounted
    here, may not be seen from here, and is ready when it was greeted. device: its number, `major:minor`, if it is
    known. told: the supervisor, with options.survive.
    privileged: what was started while this process was root, if it no longer is. left: by the process before, to go
    on with; then its options count.
    """
    # What is made so far stays; what is made later has no cycles, so that looking for some can wait.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    recorder: Recorder | None = None
    if left is not None:
        recorder = left.recorder
        recorder.come_back(Journal())
    elif told is not None:
        recorder = Recorder(Journal(), Clock())
    session = _Session(mountpoint, fuse_fd, recorder, stop_signals, on_ready, told, privileged, ours=ours)
    session.number = device
    if recorder is not None:
        recorder.real_fetch = session.fetch
    if left is not None:
        session.left = left
        session.filesystem = left.recorder.filesystem
    else:
        fetch = session.fetch if recorder is None else recorder.fetch
        filesystem = session.filesystem = Filesystem(
            options,
            *(owner or (os.getuid(), os.getgid())),
            fetch if ours else fetch_nothing,
            *(() if recorder is None else (recorder.clock.read,)),
        )
        if recorder is not None:
            recorder.filesystem = filesystem
            filesystem.note = recorder
    try:
        _serve(session, on_started if ours else lambda: _greeted(on_started, on_ready, mountpoint))
    finally:
        _end(session)
    return session.unmounted


def _end(session: _Session) -> bool:
    """See that it is unmounted, and let go of it; returns whether it is."""
    if not session.unmounted:  # else whatever is mounted there is somebody else's by now
        session.unmounted = session.unmount(lazy=True)
    os.close(session.fuse_fd)
    return session.unmounted


def _serve(session: _Session, on_started: Callable[[], object]) -> None:
    """Serve until the mount ends: in this process, or in those that were checkpoints of it and took over."""
    generation = 0
    while True:
        try:
            if generation:
                _succeed(session, generation)
            _live(session, on_started, generation)
            return
        except LeftInStore:
            session.unmounted = True  # it is the next process's to unmount
            log.info("%s: left to the service manager for the next start", session.mountpoint)
            return
        except TakeOver as take_over:
            generation = take_over.generation
        except Exception:
            if not generation:
                raise
            log.exception("%s: the successor dies of a fault of its own", session.mountpoint)
            os._exit(EXIT_SYSTEM)  # another one is tried, or takes over


def _live(session: _Session, on_started: Callable[[], object], generation: int) -> None:
    """Be the daemon until the mount ends; the successor from checkpoint `generation`, 0 for the first one. Raises
    TakeOver in the process that takes over from this one."""
    options, filesystem, recorder = session.filesystem.options, session.filesystem, session.recorder
    session.memory = CallerMemory(session.wake)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    device = session.device = Device(
        session.fuse_fd,
        near,
        max_waiting=options.max_waiting,
        max_user_waiting=options.max_user_waiting,
        max_user_handles=options.max_user_handles,
        clock=time.monotonic if session.limit else None,
        on_started=lambda: _started(session, on_started),
        recorder=recorder,
        checkpoints=session.checkpoints,
        end_names=pyfuse3.terminate,
    )
    filesystem.channel = device.channel
    # allow_root is allow_other to the kernel; libfuse turns the others away.
    session.names = Names(filesystem)
    pyfuse3.init(session.names, f"/dev/fd/{far.detach()}", {"allow_root"} if options.allow_root else set())
    resumed, session.left = session.left, None
    if resumed is not None:
        store.forget(wait=True)  # before anything is served: what it has is then of a moment that has passed
        session.names.keep_listings(resumed.listings, resumed.last_listing)
        session.on_clone = options.clone or not resumed.recorder.can_ask_again
    if generation or resumed is not None:
        assert recorder is not None
        device.greet_names()
        if session.on_clone:
            device.read_on_clone()
            taking_over.nothing_is_sent_again(recorder, session.unnoted_close)
        else:
            device.ask_again()
        recorder.wake_pollers()
        if filesystem.objects < LARGE:
            _forget_life_before()
        else:
            device.once_at_rest(_forget_life_before)
        device.want_checkpoint()
    if resumed is not None:
        on_started()
    is_dead = False
    try:
        device.run(lambda: _tasks(session))
    except TakeOver:
        is_dead = True
        raise
    except Exception:
        if recorder is None or not recorder.journal.generation:
            raise
        log.exception("%s: the daemon dies of a fault of its own", session.mountpoint)
        os._exit(EXIT_SYSTEM)  # nothing is taken away: a successor goes on
    finally:
        if not is_dead:
            session.checkpoints.end()
        near.close()
        pyfuse3.close(unmount=False)


def _forget_life_before() -> None:
    """It is full of cycles, and without this the next one would inherit it."""
    gc.collect()
    return_memory()


def _started(session: _Session, on_started: Callable[[], object]) -> None:
    """The kernel and the filesystem have greeted each other."""
    if session.recorder is not None:
        session.on_clone = session.filesystem.options.clone or not session.recorder.can_ask_again
        session.device.want_checkpoint(on_clone=session.on_clone)
    on_started()


def _succeed(session: _Session, generation: int) -> None:
    """In the process that was checkpoint `generation`: be the daemon."""
    assert session.recorder is not None
    if session.told is not None:
        session.told.is_daemon()
    store.forget()  # the one before may have died after it had left the mount there
    session.names.close_directories()
    done = taking_over.catch_up(session.recorder, generation)
    session.unnoted_close = done.unnoted_close
    log.warning(
        "%s: the daemon died; its successor goes on, after %d entries done again", session.mountpoint, done.entries
    )
    if done.refused:
        log.error(
            "%s: %d daemons in a row died over one request (%s): it is answered with EIO",
            session.mountpoint, taking_over.DEADLY, done.refused,
        )  # fmt: skip
    session.unmounted = session.unmounted or session.filesystem.has_hung_up
    session.on_ready = None
    session.put_off = 0


class _Session:
    """What the tasks of one mount share."""

    def __init__(
        self,
        mountpoint: str,
        fuse_fd: int,
        recorder: Recorder | None,
        stop_signals: Collection[signal.Signals],
        on_ready: Callable[[], object] | None,
        told: Told | None,
        privileged: Privileged,
        *,
        ours: bool,
    ) -> None:
        self.mountpoint = mountpoint
        self.fuse_fd = fuse_fd
        self.recorder = recorder
        self.checkpoints = Checkpoints(None if recorder is None else recorder.journal, told)
        self.filesystem: Filesystem
        self.device: Device
        self.memory: CallerMemory
        self.names: Names
        self.limit = mounting.request_time_limit()
        self.stop_signals = stop_signals
        self.on_ready = on_ready
        self.told = told
        self.privileged = privileged
        self.ours = ours
        self.left: Left | None = None
        """What this daemon goes on with, until it has begun."""
        self.put_off = 0
        """The order to stop that waits until it is known whether the mount is left to the manager; 0 for none."""
        self.refused = 0
        """How often the mount could not be left to the manager."""
        self.unnoted_close = b""
        """What the daemon before had read and not noted: see taking_over."""
        self.on_clone = False
        """Whether requests end with the daemon that has read them: see Device.read_on_clone."""
        self.number = ""
        """The mount's device, `major:minor`, once it was seen."""
        self.unmounted = not ours
        """Whether the mount is known to be gone from where it was."""

    def fetch(self, address: int, caller: Caller, take: Take) -> None:
        """As CallerMemory.fetch, of this daemon's life."""
        self.memory.fetch(address, caller, take)

    def wake(self) -> None:
        """After something outside of all requests: fill who waits."""
        self.filesystem.channel.wake()
        self.filesystem.note.flush()

    def unmount(self, lazy: bool) -> bool:
        """As mounting.unmount."""
        return mounting.unmount(self.mountpoint, lazy, self.privileged.try_unmount, self.number)


def _greeted(on_started: Callable[[], object], on_ready: Callable[[], object] | None, mountpoint: str) -> None:
    supervision.say_ready(mountpoint, on_ready)
    on_started()


async def _tasks(session: _Session) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_names)
        nursery.start_soon(_stop_on_signal, session, nursery.cancel_scope)
        if session.ours:
            nursery.start_soon(_hang_up_when_detached, session)
        nursery.start_soon(session.memory.run)
        nursery.start_soon(_collect_when_due, session.filesystem)
        if session.ours and supervision.is_wanted(session.on_ready):
            device = session.device
            nursery.start_soon(
                watchdog.watch_over,
                session.mountpoint,
                lambda: device.answered,
                session.on_ready,
                session.privileged.check,
            )
        if session.limit is not None:
            nursery.start_soon(_end_long_waits, session, session.limit)
        await session.device.wait_gone()
        session.unmounted = True
        log.info("%s: unmounted", session.mountpoint)
        supervision.notify("STOPPING=1")
        session.device.end_checkpoints()  # a thread waits for the process that looks, soon
        nursery.cancel_scope.cancel()


async def _names() -> None:
    # One worker is enough, for no name waits for anything; and it never has more than one reply in
    # the socket, whose other end is read by this same thread.
    await pyfuse3.main(min_tasks=1, max_tasks=1)


async def _stop_on_signal(session: _Session, scope: trio.CancelScope) -> None:
    number = await _stop_signal(session)
    log.info("%s: stopping on %s", session.mountpoint, signal.Signals(number).name)
    supervision.notify("STOPPING=1\nSTATUS=stopping")
    session.filesystem.hang_up()  # first, so that readers find their end though this dies in the middle of it
    session.device.end_checkpoints()
    # In a thread: unmounting asks the filesystem, which this one must go on serving.
    for lazy in (False, True) if session.ours and not session.unmounted else ():
        if await trio.to_thread.run_sync(session.unmount, lazy):
            session.unmounted = True
            break
    await trio.sleep(GRACE)  # ends at once when nobody has a file open: see serve()
    scope.cancel()


async def _stop_signal(session: _Session) -> int:
    """The first of the signals that end the mount. An order to leave it to the service manager comes before."""
    with trio.open_signal_receiver(*session.stop_signals, HAND_OVER) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*session.stop_signals, HAND_OVER})
        try:
            async for number in signals:
                if number == HAND_OVER:
                    _leave_when_quiet(session)
                elif session.device.is_leaving:
                    session.put_off = number
                else:
                    return number
        finally:
            # A group's daemon hears of one order twice, the second time from its supervisor; and whoever stops the
            # group after unmounting must not kill who is about to end.
            signal.pthread_sigmask(signal.SIG_BLOCK, {*session.stop_signals, HAND_OVER})
    raise AssertionError("signals do not end")


def _leave_when_quiet(session: _Session) -> None:
    """Leave the mount to the service manager. Orders to stop wait for the outcome."""

    def leave() -> None:
        complaint = _leave(session)
        if not complaint:
            signal.alarm(ENDING_S)  # all that is left is to end
            raise LeftInStore
        log.warning("%s: not handed over, and served on: %s", session.mountpoint, complaint)
        session.refused += 1  # so that the sentence differs from that of the time before
        supervision.notify(f"STATUS=not handed over ({session.refused}): {complaint}")
        if session.told is not None:
            session.told.stays()
        if session.put_off:
            signal.raise_signal(session.put_off)

    if session.recorder is not None:
        session.device.leave(leave)
    else:
        leave()


def _leave(session: _Session) -> str:
    """Returns "" when the manager has it, else why not."""
    if session.recorder is None:
        return "its options have nosurvive"
    if session.on_clone and session.checkpoints.clone_fd < 0:
        return "its requests wait on a descriptor that stays open, for no clone of it could be had"
    there = mounting.mounted_at(session.mountpoint)
    if session.unmounted or session.filesystem.has_hung_up or there is None or there.type != "fuse.wqfs":
        return "its mount ends"
    left = Left(session.recorder, *session.names.kept_listings())
    try:
        complaint = store.leave(session.mountpoint, there.device, left, session.fuse_fd)
    except Exception as error:  # of what cannot be written down, which is a fault of ours
        log.exception("%s: its state cannot be written down", session.mountpoint)
        complaint = repr(error)
    if not complaint:
        session.checkpoints.go_without()  # whoever waits to take over counts no more
        if session.told is not None:
            session.told.has_ended(EXIT_OK)  # should this one die of anything now, nothing is to be unmounted
    return complaint


async def _hang_up_when_detached(session: _Session) -> None:
    """After `umount -l` the kernel keeps the connection for who has files open: tell them."""
    if session.filesystem.has_hung_up:
        return
    if not session.number:  # else a daemon before has seen it
        mounted = mounting.mounted_at(session.mountpoint)
        if mounted is None or mounted.type != "fuse.wqfs":
            return  # seen from another root than the mount's
        session.number = mounted.device
    with open("/proc/self/mountinfo", "rb") as table:
        await _until_detached(session.device, table, session.number)
    with trio.move_on_after(_UNMOUNTING):
        await session.device.wait_gone()
        return  # an ordinary unmounting, whose end comes a moment after
    session.unmounted = True
    log.info("%s: detached; readers get end of file", session.mountpoint)
    session.filesystem.hang_up()


async def _until_detached(device: Device, table: BinaryIO, number: str) -> None:
    """Wait until the filesystem with that device number is nowhere in mountinfo, open as `table`."""
    changed = trio.Event()

    def change() -> None:
        changed.set()

    device.watch(table.fileno(), change)
    try:
        while any(there.device == number for there in mounting.read_mount_table(table)):
            await changed.wait()
            changed = trio.Event()
    finally:
        device.unwatch(table.fileno())


async def _collect_when_due(filesystem: Filesystem) -> None:
    """End the keys whose time is over when it is, not when somebody looks."""
    while True:
        rescheduled = trio.Event()
        filesystem.on_schedule = rescheduled.set
        due_ns = filesystem.collect()
        delay = math.inf if due_ns is None else max(0.0, (due_ns - filesystem.now_ns()) / 1e9)
        with trio.move_on_after(delay):
            await rescheduled.wait()


async def _end_long_waits(session: _Session, limit: int) -> None:
    """Answer a waiting read with EINTR before the kernel takes its age for a dead server."""
    allowed = limit - min(5.0, limit / 3)
    log.warning(
        "%s: the kernel ends FUSE requests older than %d s (fs.fuse.max_request_timeout or "
        "default_request_timeout), so a read that waits %d s ends with EINTR; set both to 0 before "
        "mounting to let readers wait",
        session.mountpoint, limit, int(allowed),
    )  # fmt: skip
    channel = session.device.channel
    while True:
        oldest = channel.oldest_wait()
        now = time.monotonic()
        if oldest is not None and now - oldest >= allowed:
            if session.recorder is not None:
                session.recorder.end_waits(channel.waits_since(now - allowed), errno.EINTR)
            else:
                channel.end_waits_since(now - allowed)
        elif oldest is None:
            await trio.sleep(min(1.0, allowed / 4))
        else:
            await trio.sleep(min(1.0, oldest + allowed - now))
