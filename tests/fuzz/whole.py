"""The whole server, pyfuse3 and libfuse with it, between two ends of a socket pair: `python -m tests.fuzz.whole`.

    --seconds S (default 10), --seed N (default 1), --kill: and the daemon is killed all the while

A child serves one end of a SOCK_SEQPACKET pair as if it were /dev/fuse. What is sent are requests that a kernel could
send, for libfuse trusts the kernel's lengths; their numbers, names, flags and sizes are anything. Each must be answered
once, or wait; at the end all that waits is interrupted, and the child must still answer and then end by itself.

With --kill there is a successor each time, which asks for what was not answered, as it asks a kernel
(FUSE_NOTIFY_RESEND); an answer that comes twice, or never, is a fault as before. Just before each kill a record is put
into a queue that nobody else has; it must be there once after it, also where the answer to that is taken for one that
had not left.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import random
import select
import signal
import socket
import struct
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.fuzz import requests
from tests.fuzz.channel import DOCUMENTED, Broken
from tests.tools import record
from wqfs.abi import fuse, ioctls
from wqfs.abi.errors import ERRNO_NAMES
from wqfs.fs import nodes
from wqfs.fs.channel_limits import MAX_WRITE

_DESTROY: Final = 38
_READDIR, _READDIRPLUS = 28, 44
_NO_REPLY: Final = (fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT, fuse.NOTIFY_REPLY)
_NAMED: Final = {
    requests.LOOKUP: b"", 6: b"x\0", 8: bytes(16), requests.MKDIR: bytes(8), requests.UNLINK: b"", requests.RMDIR: b"",
    12: struct.pack("=Q", 4), 13: struct.pack("=Q", 33), 22: bytes(8), 24: b"", 35: bytes(16),
    45: struct.pack("=QII", 4, 0, 0),
}  # fmt: skip
"""Opcodes whose body is a structure and one name; of rename, symlink and link two."""
_PLAIN: Final = {
    requests.GETATTR: 16, requests.SETATTR: 88, 17: 0, 20: 16, 25: 24, requests.OPENDIR: 8, requests.RELEASEDIR: 24,
    30: 16, 34: 8, 43: 32, 46: 24,
}  # fmt: skip
"""Opcodes whose body is a structure, with its size: getattr .. statfs, fsync, flush, access, fallocate, lseek."""
_LATER: Final = {
    0: 0, 7: 8, 19: 8, 31: 48, 32: 48, 33: 48, 37: 16, 41: 8, 47: 56, 48: 40, 49: 8, 50: 8, 51: 16, 52: 24, 53: 0,
    77: 64, 4095: 8, 0x7FFFFFFF: 8, 0xFFFFFFFF: 8,
}  # fmt: skip
"""Opcodes of operations that are not there, of other kernels, and of none: locks, bmap, copy_file_range, statx."""
_READ: Final = struct.Struct("=QQIIQII")
_IOCTL: Final = struct.Struct("=QIIQII")
_RESEND: Final = fuse.FUSE_UNIQUE_RESEND
_STEPS_A_KILL: Final = 60
_SET_CHILD_SUBREAPER: Final = 36
_MAY_BE: Final = DOCUMENTED | {errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}
"""ENOSYS is how libfuse says of an operation that it is not there; of those that are the channel's it never comes."""


def _serve(fd: int, told_fd: int) -> None:
    """told_fd: the supervisor's pipe; -1 for no successors."""
    import logging

    from wqfs.fs.options import parse_options
    from wqfs.fs.session import serve
    from wqfs.fs.supervisor import Told

    logging.basicConfig(level=logging.ERROR)
    options = parse_options("max_waiting=40,events_depth=16,log_events=40,max_watches=8,max_handles=100")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    told = Told(told_fd) if told_fd >= 0 else None
    serve("fuzz", fd, options, [signal.SIGTERM], lambda: None, ours=False, told=told)


class Conversation:
    """The kernel's end. hears: what daemons tell their supervisor; -1 where there are no successors."""

    def __init__(self, end: socket.socket, seed: int, daemon: int, hears: int = -1) -> None:
        self._end = end
        self.daemon = daemon
        self._hears = hears
        self.kills = 0
        self._unanswered: dict[int, bytes] = {}
        self._queue = 0
        """A queue of the root's, which no request at random names; and what has to be in it after a kill."""
        self._dropped: tuple[int, bytes] | None = None
        """An answer that is taken for one that had not left, and its request: the same has to come again."""
        self._dice = random.Random(seed)
        self._handles: dict[int, object] = {}
        self._directories: list[int] = [0]
        self._requests = requests.Requests(self._dice, self._handles)  # type: ignore[arg-type]
        self._unique = 1_000_001
        self.asked: dict[int, int] = {}
        self.sent = 0
        self.answers: dict[str, int] = {}

    def call(self, opcode: int, body: bytes, node: int = 1) -> bytes:
        """A request that does not wait, and its answer."""
        self._unique += 2
        unique = self._unique
        self._send(fuse.IN_HEADER.pack(40 + len(body), opcode, unique, node, 0, 0, 1, 0, 0) + body, opcode, unique)
        while True:
            reply = self._receive(10.0)
            if reply is None:
                raise Broken(f"opcode {opcode} was not answered within 10 s")
            if unique not in self.asked:
                return reply

    def _send(self, message: bytes, opcode: int, unique: int) -> None:
        if opcode not in _NO_REPLY:
            self.asked[unique] = opcode
            self._unanswered[unique] = message
        self._end.send(message)
        self.sent += 1

    def step(self) -> None:
        """One request at random, and what has been answered by then."""
        if self._dice.random() < 0.5:
            request = self._requests.next()
            while (
                request.broken
                or request.opcode not in (*requests.SERVED, fuse.OPEN)
                or (request.opcode == fuse.READ and request.size > MAX_WRITE)  # what was negotiated
            ):
                request = self._requests.next()
            message = request.message
            self._send(message, request.opcode, request.unique)
        else:
            self._unique += 2
            opcode, body = self._name_request()
            node = self._requests.node(requests.LOOKUP)
            message = fuse.IN_HEADER.pack(40 + len(body), opcode, self._unique, node, 0, 0, 1, 0, 0) + body
            self._send(message, opcode, self._unique)
        if self._hears >= 0 and self._dice.randrange(_STEPS_A_KILL) == 0:
            self._kill()
        while self._receive(0.0) is not None:
            pass
        if not self.sent % 6:  # not more answers than the socket holds: a kernel takes them all
            self.call(requests.GETATTR, bytes(16))

    def open_queue(self) -> None:
        """The queue to look into: requests at random name the first handles, and the nodes of the first watches."""
        for number in range(12):
            if number:
                self.call(fuse.RELEASE, struct.pack("=QIIQ", self._queue, 0, 0, 0))
            reply = self.call(fuse.OPEN, struct.pack("=II", os.O_RDONLY, 0), nodes.ROOT_QUEUE.number)
            self._queue = struct.unpack_from("=Q", reply, 16)[0]
            del self._handles[self._queue]
        self.call(fuse.IOCTL, self._to_deliver(b""))  # from then on it hears of nothing else

    def _to_deliver(self, record_: bytes) -> bytes:
        body = _IOCTL.pack(self._queue, 0, ioctls.WQFS_IOC_DELIVER, 0, ioctls.DELIVER.size, 0)
        return body + ioctls.DELIVER.pack(len(record_), record_)

    def _kill(self) -> None:
        """Once the daemon has read all: what it has not read is nobody's yet, with a kernel as here."""
        self._unique += 2
        number, unique = record(self.kills), self._unique
        body = self._to_deliver(number)
        self._send(fuse.IN_HEADER.pack(40 + len(body), fuse.IOCTL, unique, 1, 0, 0, 1, 0, 0) + body, fuse.IOCTL, unique)
        end = time.monotonic() + 10.0
        unread = bytearray(4)
        while fcntl.ioctl(self._end, termios.TIOCOUTQ, unread) or any(unread):
            if time.monotonic() > end:
                raise Broken("the server does not read")
        time.sleep(self._dice.choice((0, 0, 0.001, 0.003)))
        os.kill(self.daemon, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.daemon, 0)
        self.kills += 1
        before = self.daemon
        said = b""
        while self.daemon == before or not said.endswith(b"\n"):
            if not select.select([self._hears], [], [], 10.0)[0]:
                raise Broken(f"nobody has taken over after {self.kills} kills")
            said += os.read(self._hears, 4096)
            for line in said.splitlines():
                if line.startswith(b"pid "):
                    self.daemon = int(line[4:])
        replies: list[bytes] = []
        while not replies or fuse.OUT_HEADER.unpack_from(replies[-1])[1:] != (fuse.NOTIFY_RESEND, 0):
            if not select.select([self._end], [], [], 10.0)[0]:
                raise Broken("a successor did not ask for what was not answered")
            replies.append(self._end.recv(1 << 18))
        del replies[-1]
        if replies and fuse.OUT_HEADER.unpack_from(replies[-1])[2] == unique and self._dice.random() < 0.5:
            self._dropped = unique, replies.pop()
        for reply in replies:
            self._answered(reply)
        for asked, message in list(self._unanswered.items()):
            again = self._unanswered[asked] = message[:8] + struct.pack("=Q", asked | _RESEND) + message[16:]
            self._end.send(again)
        found = self.call(fuse.READ, _READ.pack(self._queue, 0, 4096, fuse.FUSE_READ_LOCKOWNER, 0, os.O_NONBLOCK, 0))
        if found[fuse.OUT_HEADER.size :] != number:
            raise Broken(f"expected record {self.kills - 1} after the kill, and once, not {found!r}")
        if self._dropped is not None:
            raise Broken("what had not left was not said again")

    def _name_request(self) -> tuple[int, bytes]:
        dice = self._dice
        kind = dice.random()
        name = dice.choice(requests.NAMES[:-1]).encode("utf-8", "surrogateescape") + b"\0"
        if kind < 0.45:
            opcode = dice.choice(tuple(_NAMED))
            return opcode, _NAMED[opcode] + name + (name if opcode in (12, 45) else b"")
        if kind < 0.6:
            opcode = dice.choice((_READDIR, _READDIRPLUS))
            return opcode, struct.pack(
                "=QQIIQII", dice.choice(self._directories), dice.choice((0, 1, 5, 1 << 40)),
                dice.choice((0, 1, 512, 4096, 131072)), 0, 0, 0, 0,
            )  # fmt: skip
        if kind < 0.66:
            opcode = dice.choice(tuple(_LATER))
            return opcode, dice.randbytes(_LATER[opcode])
        opcode = dice.choice(tuple(_PLAIN))
        body = bytearray(_PLAIN[opcode])
        if opcode == requests.SETATTR:
            struct.pack_into("=IIQQ", body, 0, dice.getrandbits(10), 0, dice.choice((0, 1, 9)), dice.choice((0, 0, 1)))
        elif opcode == requests.RELEASEDIR:
            struct.pack_into("=Q", body, 0, dice.choice(self._directories[1:] or [999_999]))
        return opcode, bytes(body)

    def _receive(self, seconds: float) -> bytes | None:
        if not select.select([self._end], [], [], seconds)[0]:
            return None
        return self._answered(self._end.recv(1 << 18))

    def _answered(self, reply: bytes) -> bytes:
        if not reply:
            raise Broken("the server is gone")
        size, error, unique = fuse.OUT_HEADER.unpack_from(reply)
        if size != len(reply):
            raise Broken(f"a reply of {len(reply)} bytes says {size}")
        if not unique:
            return reply
        unique &= ~_RESEND
        if self._dropped is not None and unique == self._dropped[0]:
            again = reply[:8] + struct.pack("=Q", unique) + reply[16:]
            if again != self._dropped[1]:
                raise Broken(f"said again was {again!r}, not {self._dropped[1]!r}")
            self._dropped = None
        self._unanswered.pop(unique, None)
        opcode = self.asked.pop(unique, None)
        if opcode is None:
            raise Broken(f"an answer to {unique}, which was answered or never asked")
        name = ERRNO_NAMES.get(-error, str(error)) if error else "ok"
        self.answers[name] = self.answers.get(name, 0) + 1
        if error and -error not in (DOCUMENTED if opcode in requests.SERVED else _MAY_BE):
            raise Broken(f"opcode {opcode} answered {name}")
        if error == -errno.EIO:
            raise Broken(f"opcode {opcode} answered EIO")
        if not error and opcode == fuse.OPEN:
            self._handles[struct.unpack_from("=Q", reply, 16)[0]] = None
        elif not error and opcode == requests.OPENDIR:
            self._directories.append(struct.unpack_from("=Q", reply, 16)[0])
        return reply

    def end(self) -> None:
        """Interrupt all that waits: it is answered with EINTR."""
        while self._receive(1.0) is not None:
            pass
        for unique in list(self.asked):
            if self.asked[unique] not in (fuse.READ, fuse.IOCTL):
                raise Broken(f"opcode {self.asked[unique]} was not answered")
            body = self._unanswered[unique][8:16]  # as it was asked last
            self._send(
                fuse.IN_HEADER.pack(48, fuse.INTERRUPT, unique + 1, 1, 0, 0, 1, 0, 0) + body, fuse.INTERRUPT, unique + 1
            )
        while self.asked:
            if self._receive(10.0) is None:
                raise Broken(f"{len(self.asked)} calls were not ended by an interrupt")


def fuzz(seed: int, seconds: float, *, kill: bool = False) -> Conversation:
    """One conversation with one server, and its successors. Raises Broken."""
    hears, tells = os.pipe() if kill else (-1, -1)
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            ours.close()
            theirs.setblocking(False)
            _serve(theirs.detach(), tells)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    status = None
    conversation = Conversation(ours, seed, pid, hears)
    try:
        flags, flags2 = 0xFFFFFF & ~(1 << 30), 0
        if kill:
            flags, flags2 = flags | 1 << 30, fuse.FUSE_HAS_RESEND
        conversation.call(fuse.INIT, struct.pack("=IIIII", 7, 38, 1 << 17, flags, flags2) + bytes(44))
        conversation.open_queue()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            conversation.step()
        conversation.end()
        os.kill(conversation.daemon, signal.SIGTERM)
        _, status = os.waitpid(conversation.daemon, 0)
        if status:
            raise Broken(f"seed {seed}: the server ended with {os.waitstatus_to_exitcode(status)}")
        return conversation
    finally:
        ours.close()
        if status is None:
            _kill_all()


def _kill_all() -> None:
    """The daemon, and the checkpoints of it and of those before."""
    with suppress(ChildProcessError):
        while True:
            for child in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
                os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.whole", description="Requests for the whole server.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    try:
        done = fuzz(given.seed, given.seconds, kill=given.kill)
    except Broken as broken:
        print(broken)
        return 1
    print(f"{done.sent:,} requests from seed {given.seed}" + (f", {done.kills:,} kills" if given.kill else ""))
    print("answers: " + ", ".join(f"{name} {times:,}" for name, times in sorted(done.answers.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
