"""Exactly once, though the daemon may be killed at any moment.

The core is a function of what comes in, so what came in is noted (journal), after it was carried out and before
anybody is answered: a reply that the kernel has is one whose cause is noted, and a cause that is not noted has had
no effect outside of the process. A successor has the state of the last checkpoint, carries out again what was noted
after it, with the same times, and asks the kernel to send again all that it got no answer to (FUSE_NOTIFY_RESEND).
Those come with bit 63 of `unique` set, and are one of two:

- what is answered, as far as the journal knows: it gets that answer, the same records, again;
- what is not: it waited, and waits again, or it has not happened, and happens now.

Names are pyfuse3's: what one of them changed is noted when it is changed, and its reply when it leaves. A change
whose reply never left is left out when things are done again, for its request comes again.
"""

from __future__ import annotations

import errno
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from wqfs.abi import fuse
from wqfs.fs.answers import Answers
from wqfs.fs.caller import Take
from wqfs.fs.channel import Channel, Server
from wqfs.fs.entries import (
    COLLECT,
    DROP,
    END_WAITS,
    FETCHED,
    FH,
    HANG_UP,
    LET_GO,
    NAME,
    REPLY,
    REQUEST_AND_MORE,
    TAKE_OVER,
    Gone,
    Looks,
    with_more,
)  # fmt: skip
from wqfs.fs.filesystem import Filesystem, Note
from wqfs.fs.handles.base import Caller
from wqfs.fs.handles.fetching import Fetch
from wqfs.fs.journal import Journal
from wqfs.watches import Sink

_RESEND: Final = fuse.FUSE_UNIQUE_RESEND
_START = fuse.START.unpack_from
_OUTSIDE, _NOTED = 0, -1
_NAME_OPCODES: Final = {"mkdir": fuse.MKDIR, "rmdir": fuse.RMDIR, "open": fuse.OPEN, "truncate": fuse.SETATTR}
_NO_REPLY: Final = (fuse.FORGET, fuse.BATCH_FORGET, fuse.NOTIFY_REPLY)


class Clock:
    """The time of one mount: it stands still while something is carried out, so that this can be done again."""

    time_ns = staticmethod(time.time_ns)
    """The time that goes on."""

    def __init__(self) -> None:
        self.now_ns = 0
        """0 where nobody has asked yet."""

    def read(self) -> int:
        """Nanoseconds since the epoch, the same until `tick`."""
        now_ns = self.now_ns
        if not now_ns:
            now_ns = self.now_ns = self.time_ns()
        return now_ns

    def tick(self) -> None:
        """Something else is carried out now."""
        self.now_ns = 0


class Recorder(Note):
    """Between the device and the channel of one mount.

    send: to the kernel; forward: to pyfuse3; drain: takes all replies that pyfuse3 has written, each through
    `replied`. They are the device's, and change when a successor takes over.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self.journal = journal
        self.clock = clock
        self.send: Callable[[bytes], object]
        self.unsent: Callable[[bytes, OSError], object]
        """What becomes of an answer that `send` raised for."""
        self.forward: Callable[[bytes], object]
        self.drain: Callable[[], object]
        self.real_fetch: Fetch
        """Reads callers' memory: see `fetch`."""
        self.channel: Channel
        self.filesystem: Filesystem
        self.init_message = b""
        """The kernel's greeting: it comes once, and a successor's pyfuse3 wants one too."""
        self.poll_handles: dict[int, int] = {}
        """fh -> the kernel's `kh`, of files that were ever polled."""
        self._held: list[bytes] = []
        self._looks: Looks = []
        self._let_go: Gone = []
        """Of whose events was let go, and is not noted yet."""
        self._fetched = 0
        self.fetching: dict[int, Take] = {}
        """What is being read of callers' memory, and who takes it: by the number of the look."""
        self.answers = Answers()
        self._asked: dict[int, bytes] = {}
        """Requests that pyfuse3 has not answered yet, in their order: unique -> head."""
        self._names_work = False
        self._changed_by = 0
        """The request whose change is noted, and whose reply is not yet."""
        self._size = _OUTSIDE
        """Of that request, until it is noted; then _NOTED, as for one that need not be. _OUTSIDE of all requests, what
        is said waits for who notes why."""
        self._unnoted: dict[int, tuple[Server, int]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Between two requests, while nothing is asked of pyfuse3. Without what `come_back` makes anew; who waits for a
        look into memory asks again."""
        made_anew = ("journal", "send", "unsent", "forward", "drain", "real_fetch", "fetching", "_asked", "_let_go",
                     "_names_work", "_unnoted")  # fmt: skip
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}

    @property
    def is_quiet(self) -> bool:
        """Whether pyfuse3 has answered all that it was asked."""
        return not self._asked and not self._changed_by

    def come_back(self, journal: Journal) -> None:
        """After the attributes were written down and read back, in another process."""
        self.journal = journal
        self._asked, self.fetching, self._let_go = {}, {}, []
        self._names_work = False
        self._unnoted = self.channel.servers
        self.stand_between()
        self.filesystem.come_back(self)

    def attach(self, channel: Channel) -> None:
        """Note what this channel carries out; its outlets are `answer`, `pass_on` and `show`."""
        self.channel = channel
        self._unnoted = channel.servers
        self.stand_between()

    def stand_between(self) -> None:
        """What the channel carries out from now on is noted, and what it says leaves by here."""
        around = {
            fuse.READ: self._around_read,
            fuse.WRITE: self._around,
            fuse.POLL: self._around_poll,
            fuse.IOCTL: self._around,
            fuse.INTERRUPT: self._around_interrupt,
            fuse.RELEASE: self._around_release,
        }
        self.channel.servers = {
            opcode: (around[opcode](serve), least) for opcode, (serve, least) in self._unnoted.items()
        }
        self.channel.speak_to(self.answer, self.show)

    def stand_aside(self, say: Callable[[bytes], object]) -> None:
        """Until `stand_between`: nothing is noted, and what the channel says goes to `say`."""
        self.channel.servers = self._unnoted
        self.channel.speak_to(say, say)

    # -- outlets of the channel

    def answer(self, message: bytes) -> None:
        """The channel's `send`: nothing leaves before it is noted why."""
        size = self._size
        if size > 0:  # as `_note` and `_put`, in place: two calls less for each answer
            self._size = _NOTED
            if self._looks or self._let_go:
                self._note_with_more(size)
            else:
                self.journal.note(self.clock.now_ns, size)
        elif not size:
            self._held.append(message)
            return
        try:
            self.send(message)
        except OSError as error:
            self.unsent(message, error)

    def show(self, message: bytes) -> None:
        """The channel's `show`: nothing to note, but what a look at a log has let go of."""
        if self._let_go:
            self._note_let_go()
        if not self._size:
            self._held.append(message)
            return
        self._size = _NOTED
        try:  # as `_put`
            self.send(message)
        except OSError as error:
            self.unsent(message, error)

    def pass_on(self, message: bytes) -> None:
        """The channel's `forward`."""
        _, opcode, unique = fuse.START.unpack_from(message)
        if opcode not in _NO_REPLY:
            self._asked[unique] = message[: fuse.IN_HEADER.size]
        if opcode == fuse.INIT:
            self.init_message = message
        self.forward(message)

    def _flush(self) -> None:
        held = self._held
        if held:
            self._held = []
            for message in held:
                self._put(message)

    def _put(self, message: bytes) -> None:
        try:
            self.send(message)
        except OSError as error:
            self.unsent(message, error)

    @property
    def can_ask_again(self) -> bool:
        """Whether the kernel can send again what it got no answer to."""
        return bool(fuse.INIT_IN_FLAGS2.unpack_from(self.init_message)[0] & fuse.FUSE_HAS_RESEND)

    # -- what comes in

    @property
    def may_fork(self) -> bool:
        """Whether no name is between its change and its reply."""
        return not self._changed_by

    def names_go_on(self) -> None:
        """pyfuse3 is let go on, with the oldest request that it has. Should the daemon die, that is why, perhaps."""
        if self._asked:
            self._names_work = True
            self.journal.at_work = next(iter(self._asked.values()))

    def names_wait(self) -> None:
        """It waits again."""
        if self._names_work:
            self._names_work = False
            self.journal.at_work = b""

    def receive_again(self, message: memoryview, size: int) -> None:
        """As Channel.receive, as long as requests can come that came before."""
        _, _, unique = _START(message)
        answer = self.answers.take(unique) if unique >= _RESEND else None
        if answer is None:
            self.channel.receive(message, size)
        else:
            self._put(answer)

    # Around what carries out a request. Not all has to be done again: most of what is asked often changes nothing.
    # It may be noted before the last that is done and said for it, if that is before the first that is said: the same
    # will be done and said when it is carried out again.

    def _note(self, size: int) -> None:
        """Note the request that is carried out."""
        self._size = _NOTED
        if self._looks or self._let_go:
            self._note_with_more(size)
        else:
            self.journal.note(self.clock.now_ns, size)

    def _note_with_more(self, size: int) -> None:
        """The same, with what it needs to be carried out again."""
        payload = with_more(self._looks, self._let_go, self.journal.room[:size])
        self._looks, self._let_go = [], []
        self.journal.append(REQUEST_AND_MORE, self.clock.now_ns, payload)

    def _around(self, serve: Server) -> Server:
        clock, time_ns = self.clock, self.clock.time_ns

        def noted(message: memoryview, size: int) -> None:
            clock.now_ns = time_ns()
            self._size = size
            serve(message, size)
            if self._size > 0:  # it waits
                self._note(size)

        return noted

    def _around_read(self, serve: Server) -> Server:
        clock = self.clock

        def read(message: memoryview, size: int) -> None:
            clock.now_ns = 0  # nobody will ask
            self._size = size
            serve(message, size)
            if self._size > 0:  # it waits
                self._note(size)

        return read

    def _around_poll(self, serve: Server) -> Server:
        noted = self._around(serve)
        clock, poll_in, poll_handles = self.clock, fuse.POLL_IN.unpack_from, self.poll_handles
        handles = self.channel.handles

        def poll(message: memoryview, size: int) -> None:
            _, fh, kh, flags = poll_in(message)
            poll_handles[fh] = kh
            handle = handles.get(fh)
            if flags & fuse.FUSE_POLL_SCHEDULE_NOTIFY or (handle is not None and handle.poll_changes):
                noted(message, size)
            else:
                clock.now_ns = 0
                self._size = _NOTED
                serve(message, size)

        return poll

    def _around_interrupt(self, serve: Server) -> Server:
        def interrupt(message: memoryview, size: int) -> None:
            self.clock.now_ns = self.clock.time_ns()
            self._size = size
            serve(message, size)  # noted if it ended a wait
            self._size = _NOTED

        return interrupt

    def _around_release(self, serve: Server) -> Server:
        noted = self._around(serve)

        def release(message: memoryview, size: int) -> None:
            self.poll_handles.pop(fuse.RELEASE_IN.unpack_from(message)[1], None)
            noted(message, size)

        return release

    def outside(self) -> None:
        """All requests that were there are carried out: what is done now is done for another reason."""
        self._size = _OUTSIDE
        self.clock.tick()
        if self._let_go:
            self._note_let_go()
        if self._held:  # of a request that was none, and not carried out
            self._flush()

    def fetch(self, address: int, caller: Caller, take: Take) -> None:
        """`real_fetch`, with what it raised noted beside the request that asked, and what it gave when it came."""
        self._fetched += 1
        number = self._fetched
        try:
            self.real_fetch(address, caller, lambda answer: self._arrived(number, answer))
        except OSError as error:
            self._looks.append((error.errno or errno.EIO, error.strerror or ""))
            raise
        self._looks.append(None)
        self.fetching[number] = take

    def let_go(self, check: int, gone: list[Sink]) -> None:
        """Of events was let go, to be noted with the reason for it; if that is noted already, for itself."""
        self._let_go.append((check if self._size != _NOTED else 0, gone))

    def _note_let_go(self) -> None:
        gone, self._let_go = self._let_go, []
        self.journal.append(LET_GO, 0, pickle.dumps(gone))

    def _append(self, kind: int, payload: bytes) -> None:
        """Note something that is no request."""
        if self._let_go:
            self._note_let_go()
        self.journal.append(kind, self.clock.read(), payload)

    def _arrived(self, number: int, answer: bytes | OSError) -> None:
        noted = (answer.errno, answer.strerror) if isinstance(answer, OSError) else answer
        self._append(FETCHED, pickle.dumps((number, noted)))
        self.fetching.pop(number)(answer)

    # -- what else happens

    def name_changed(self, change: tuple[Any, ...]) -> None:
        """A name made a change: ("mkdir", name, uid, gid), ("rmdir", name), ("open", node, flags, caller),
        ("truncate", node, fh). Called after it was carried out."""
        # Replies of names before this one may still be in the socket; then the oldest request is this one.
        self.drain()
        opcode = _NAME_OPCODES[change[0]]
        unique = next((asked for asked, head in self._asked.items() if _START(head)[1] == opcode), 0)
        self._changed_by = unique
        self._append(NAME, pickle.dumps((unique, change)))
        self._flush()

    def replied(self, reply: bytes) -> None:
        """A reply of pyfuse3 leaves for the kernel."""
        unique = fuse.OUT_HEADER.unpack_from(reply)[2]
        self._asked.pop(unique, None)
        reply = self.channel.answered(reply)
        if self._let_go:  # somebody asked for the size of a log
            self._note_let_go()
        if unique == self._changed_by:
            self._changed_by = 0
            self.journal.append(REPLY, self.clock.read(), reply)
        self._put(reply)
        if self.channel.ready:
            self.channel.wake()
            self._flush()

    def collected(self, due: bool) -> None:
        """The keys' time was looked at; due: and something was to be done."""
        if due:
            self._append(COLLECT, b"")
            # Who is woken by that is answered for that, also where somebody has only looked at the keys.
            size, self._size = self._size, _NOTED
            self.channel.wake()
            self._size = size

    def end_waits(self, uniques: Iterable[int], number: int) -> None:
        """End waiting reads with the errno `number`."""
        ended = list(uniques)
        for unique in ended:
            self.channel.end_wait(unique, number)
        self._append(END_WAITS, pickle.dumps((ended, number)))
        self._flush()

    def hung_up(self) -> None:
        """The filesystem has hung up."""
        self._append(HANG_UP, b"")
        self._flush()

    def flush(self) -> None:
        """Let what the channel has said leave, where nothing has to be noted for it."""
        self._flush()

    # -- a successor

    def drop(self, fh: int) -> None:
        """Let go of an open file without what closing it would do, over which daemons die."""
        self.channel.drop(fh)
        self._append(DROP, FH.pack(fh))

    def takes_over(self, unnoted: bytes) -> None:
        """This process is the daemon now, and so is noted, for it may die too. unnoted: what has to be done then that
        nobody has noted."""
        self._held, self._looks = [], []
        self._asked.clear()
        self._changed_by = 0
        self.channel.forget_asked()
        self._names_work = False
        self.journal.append(TAKE_OVER, self.clock.read(), unnoted)
        self.journal.empty_room()
        self.journal.at_work = b""

    def wake_pollers(self) -> None:
        """Tell every file that was ever polled to look again: a notification may have been lost."""
        for fh, kh in self.poll_handles.items():
            if fh in self.channel.handles:
                self._put(fuse.NOTIFY_POLL_OUT.pack(fuse.NOTIFY_POLL_OUT.size, fuse.NOTIFY_POLL, 0, kh))
