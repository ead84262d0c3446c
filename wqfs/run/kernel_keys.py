"""add_key, request_key and keyctl with the kernel's own keys: only watching is answered.

A watch is kept here: the key's number, the queue, the ID. Any other call goes on in the kernel. If it is about a
watched key, its events are made from what it changed (kernel_effects) and put into the queues that watch; nothing
else of the program is answered meanwhile, so that whoever asks a queue afterwards finds them. While nobody
watches, nothing is looked at but who joins which session keyring.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from wqfs.abi import records as r
from wqfs.run import kernel_plans
from wqfs.run.call import PAGE, Call, signed
from wqfs.run.kernel_effects import About, Effect, Known, Told
from wqfs.run.kernel_sessions import Sessions
from wqfs.run.kernel_state import SESSION, VIEW, Kernel, Look
from wqfs.run.pipes import GO_ON
from wqfs.run.progress import Progress
from wqfs.run.simulated import System

_JOIN_SESSION, _SESSION_TO_PARENT, _WATCH_KEY = 1, 18, 32
_LOOK_S: Final = 0.0002
_LOOK_FOR_GONE_S: Final = 0.1

After = Callable[[], None]
"""What is to be done once the call goes on in the kernel."""


@dataclass
class _Queue:
    """A queue that watches. fd: its read end, our own; watches: the IDs by the key's number."""

    fd: int
    watches: dict[int, int] = field(default_factory=dict)


class KernelKeys:
    """Answers for the calls about keys: each takes a Call and returns its value, GO_ON, or what is to be done after
    it goes on; raises Gone, and OSError with the errno.

    poll: gets the queues, for `ended`. To be made when the program is the supervisor's only child.
    """

    def __init__(self, system: System, kernel: Kernel, poll: select.epoll) -> None:
        self._system = system
        self._kernel = kernel
        self._poll = poll
        self._sessions = Sessions(kernel)
        self._queues: dict[int, _Queue] = {}  # by System.number
        self._known = Known()
        self._looked = 0.0
        self._held: list[int] = []

    def add_key(self, call: Call) -> After | None:
        return self._follow(call)

    def request_key(self, call: Call) -> After | None:
        return self._follow(call)

    def keyctl(self, call: Call) -> int | After | None:
        operation = signed(call.arguments[0])
        if operation == _WATCH_KEY:
            return self._watch(call)
        if operation == _JOIN_SESSION:
            return self._join(call)
        if operation == _SESSION_TO_PARENT:
            self._lose_parent(call)
            return GO_ON
        return self._follow(call)

    # -- watching

    def _watch(self, call: Call) -> int:
        name, fd, watch_id = (signed(each) for each in call.arguments[1:4])
        if not -1 <= watch_id <= r.WATCH_ID_MAX:
            raise OSError(errno.EINVAL, f"expected a watch ID of -1..255, not {watch_id}")
        key = self._viewed(call, name)
        try:
            with call.borrowed(fd) as mine:
                if fcntl.fcntl(mine, fcntl.F_GETFL) & os.O_PATH:
                    raise OSError(errno.EBADF, "a path alone")
                self._change(self._system.number(mine), mine, key, watch_id)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise OSError(errno.EINVAL, f"descriptor {fd} is no notification pipe") from None
            raise
        return 0

    def _viewed(self, call: Call, name: int) -> int:
        """The number of a key that the caller may watch."""
        look = Look(self._kernel)
        key = self._sessions.resolve(call.task, name, look)
        if key is None:
            raise OSError(
                errno.EOPNOTSUPP, f"which keyring {name} is for this thread cannot be known: watch its number"
            )
        state, row = look.state(key), look.row(key)
        if state.error:
            raise OSError(state.error, f"key {key} cannot be viewed: {os.strerror(state.error)}")
        if row is not None and "N" in row.flags:
            raise OSError(errno.ENOKEY, f"key {key} is negative")
        session = self._sessions.resolve(call.task, SESSION, look)
        possessed = session is not None and look.is_below(session, key)
        if call.task.uid != os.geteuid() and not state.rights(call.task, possessed=possessed) & VIEW:
            raise OSError(errno.EACCES, f"user {call.task.uid} may not view key {key}")
        return key

    def _change(self, number: int, mine: int, key: int, watch_id: int) -> None:
        """Add or with -1 remove a watch of the queue `mine`, which `number` tells from others."""
        queue = self._queues.get(number)
        if watch_id < 0:
            if queue is None or key not in queue.watches:
                raise OSError(errno.EBADSLT, f"key {key} is not watched by this queue")
            self._remove(number, queue, key)
            return
        if queue is not None and key in queue.watches:
            raise OSError(errno.EBUSY, f"key {key} is watched by this queue already")
        if queue is None:
            # A read end of our own: it keeps no write side, and the caller's descriptor may be one.
            fd = os.open(f"/proc/self/fd/{mine}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._system.deliver(fd, b"")
            queue = self._queues[number] = _Queue(fd)
            self._poll.register(fd, 0)  # a hang-up is told in any case
        queue.watches[key] = watch_id

    def _remove(self, number: int, queue: _Queue, key: int) -> None:
        watch_id = queue.watches.pop(key)
        with suppress(OSError):
            self._system.deliver(queue.fd, r.removal(key, watch_id))
        if not queue.watches:
            self._forget(number)

    def _forget(self, number: int) -> None:
        queue = self._queues.pop(number)
        self._poll.unregister(queue.fd)
        os.close(queue.fd)

    def ended(self, fd: int) -> bool:
        """A descriptor of `poll` is ready: whether it was a queue's, which has hung up: its watches go."""
        for number, queue in self._queues.items():
            if queue.fd == fd:
                self._forget(number)
                return True
        return False

    @property
    def timeout(self) -> float:
        """Seconds after which `look_if_due` is to be called, -1 for never."""
        return _LOOK_FOR_GONE_S if self._queues else -1

    def look_if_due(self) -> None:
        """Tell of watched keys that are gone, if nobody looked for a while. To be called after each call."""
        self._let_go()  # that of a call which was taken away
        if self._queues and time.monotonic() - self._looked > _LOOK_FOR_GONE_S:
            self._look_for_gone(Look(self._kernel))

    def _look_for_gone(self, look: Look) -> None:
        self._looked = time.monotonic()
        for number, queue in list(self._queues.items()):
            for key in list(queue.watches):
                if look.state(key).error == errno.ENOKEY:
                    self._known.forget(key)
                    self._remove(number, queue, key)

    # -- events

    def _is_watched(self, key: int) -> bool:
        return any(key in queue.watches for queue in self._queues.values())

    def _follow(self, call: Call) -> After | None:
        if not self._queues:
            return GO_ON
        before = Look(self._kernel)
        self._look_for_gone(before)  # a kernel's collector has mostly been there by the next call

        def resolve(name: int) -> int | None:
            return self._sessions.resolve(call.task, name, before)

        effects = kernel_plans.effects(About(call, self._is_watched, resolve, before, self._known))
        if not effects:
            return GO_ON
        progress = call.progress()
        self._hold()

        def after() -> None:
            self._tell(self._made(effects, progress))
            self._let_go()

        return after

    def _hold(self) -> None:
        """Hold the write side of all queues: who closes it right after a call still gets the events of that."""
        for queue in self._queues.values():
            with suppress(OSError):
                self._held.append(os.open(f"/proc/self/fd/{queue.fd}", os.O_WRONLY | os.O_CLOEXEC))

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def _made(self, effects: list[Effect], progress: Progress) -> Iterable[Told]:
        """The events of a call, in their order."""
        told: dict[int, Told] = {}
        while True:
            over, given_up = progress.is_over(), progress.is_given_up()
            after = Look(self._kernel)  # after it was seen that the call is over
            for at, effect in enumerate(effects):
                if at not in told and (event := effect.seen(after)) is not None:
                    told[at] = event
            if len(told) == len(effects) or over or given_up:
                break
            time.sleep(_LOOK_S)  # nothing tells when the kernel is done
        if over:
            for at, effect in enumerate(effects):
                if at not in told and effect.unseen is not None and not effect.unless(after):
                    told[at] = effect.unseen
        return [told[at] for at in sorted(told)]

    def _tell(self, events: Iterable[Told]) -> None:
        for event in events:
            self._known.tell(event)
            for queue in self._queues.values():
                if event.key in queue.watches:
                    body = r.KEY_BODY.pack(event.key, event.aux)
                    record = r.encode(r.WatchType.KEY_NOTIFY, event.subtype, body, watch_id=queue.watches[event.key])
                    with suppress(OSError):
                        self._system.deliver(queue.fd, record)

    # -- sessions

    def _join(self, call: Call) -> After | None:
        address = call.arguments[1]
        try:
            name = os.fsdecode(call.read_text(address, PAGE)) if address else None
        except OSError:
            return GO_ON  # the kernel refuses it too
        joining = self._sessions.joining(call.task, name, Look(self._kernel))
        progress = call.progress()

        def after() -> None:
            while True:
                over = progress.is_over() or progress.is_given_up()
                if joining.is_seen(Look(self._kernel)):
                    return
                if over:
                    joining.is_over_unseen()
                    return
                time.sleep(_LOOK_S)

        return after

    def _lose_parent(self, call: Call) -> None:
        """A child gives its parent its session keyring, if the kernel lets it: from then on nobody knows."""
        with suppress(OSError):
            self._sessions.lose(call.task.parent)
