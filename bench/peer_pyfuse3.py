"""A notification queue served by pyfuse3 alone: the peer for what the channel is worth.

The same files as `peer_lowlevel.c`: `queue` (read, poll), `records`, `post`. pyfuse3 has no ioctl
and no interrupt, and drops the flags of reads: O_NONBLOCK counts only if it was there at the open.
Run: python -m bench.peer_pyfuse3 DIR
"""

import errno
import os
import select
import signal
import stat
import struct
import sys
from collections import deque

import pyfuse3
import trio

HEADER = struct.Struct("=II")
KEY_RECORD = struct.Struct("=IIII")
LOSS = HEADER.pack(1 << 24, HEADER.size)
KEY_UPDATED = 1 | 1 << 24
INFO_LENGTH = 0x7F
RING = 4096
LINE = 4096

QUEUE, RECORDS, POST = (pyfuse3.InodeT(pyfuse3.ROOT_INODE + n) for n in (1, 2, 3))
MODES = {
    pyfuse3.ROOT_INODE: stat.S_IFDIR | 0o755,
    QUEUE: stat.S_IFREG | 0o600,
    RECORDS: stat.S_IFREG | 0o200,
    POST: stat.S_IFREG | 0o200,
}
NAMES = {b"queue": QUEUE, b"records": RECORDS, b"post": POST}
POLLIN = select.POLLIN | select.POLLRDNORM
POLLOUT = select.POLLOUT | select.POLLWRNORM


def split(data: bytes) -> list[bytes]:
    """The records in `data`; EINVAL if one is malformed."""
    records = []
    at = 0
    while at < len(data):
        if len(data) - at < HEADER.size:
            raise pyfuse3.FUSEError(errno.EINVAL)
        length = HEADER.unpack_from(data, at)[1] & INFO_LENGTH
        if not HEADER.size <= length <= len(data) - at:
            raise pyfuse3.FUSEError(errno.EINVAL)
        records.append(data[at : at + length])
        at += length
    return records


class Peer(pyfuse3.Operations):
    """One queue in one mount. Handles: the inode's number, doubled, plus 1 for O_NONBLOCK."""

    def __init__(self) -> None:
        super().__init__()
        self.ring: deque[bytes] = deque()
        self.lossy = False
        self.waiting = trio.lowlevel.ParkingLot()
        self.handles: list[pyfuse3.PollHandle] = []
        self.line = b""
        self.keys: dict[int, bytes] = {}

    def attributes(self, inode: pyfuse3.InodeT) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = pyfuse3.ModeT(MODES[inode])
        entry.st_size = 4096
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.attr_timeout = entry.entry_timeout = 1
        return entry

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if parent_inode != pyfuse3.ROOT_INODE or name not in NAMES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(NAMES[name])

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self.attributes(inode)

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        handle = inode * 2 + bool(flags & os.O_NONBLOCK)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=True, nonseekable=True)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        return

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        while not self.ring:
            if fh & 1:
                raise pyfuse3.FUSEError(errno.EAGAIN)
            await self.waiting.park()
        taken = []
        while self.ring and len(self.ring[0]) <= size:
            taken.append(self.ring.popleft())
            size -= len(taken[-1])
        if not taken:
            raise pyfuse3.FUSEError(errno.EMSGSIZE)
        return b"".join(taken)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        if fh >> 1 == RECORDS:
            self.post(split(buf))
        elif fh >> 1 == POST:
            self.post_text(buf)
        else:
            raise pyfuse3.FUSEError(errno.EXDEV)
        return len(buf)

    async def poll(
        self,
        inode: pyfuse3.InodeT,
        fh: pyfuse3.FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        if poll_handle is not None:
            self.handles.append(poll_handle)
        if inode != QUEUE:
            return POLLOUT
        return POLLIN if self.ring else 0

    def post(self, records: list[bytes]) -> None:
        """Queue them; in a full ring the newest becomes a loss record, which is simpler than the
        kernel's mark and costs the same."""
        room = RING - len(self.ring)
        self.ring.extend(records[:room])
        if len(records) > room:
            if not self.lossy:
                self.ring.append(LOSS)
            self.lossy = True
        else:
            self.lossy = False
        self.waiting.unpark_all()
        handles, self.handles = self.handles, []
        for handle in handles:
            handle.notify()

    def post_text(self, text: bytes) -> None:
        """Run each whole line; what was posted before a wrong one stays posted."""
        *lines, self.line = (self.line + text).split(b"\n")
        records: list[bytes] = []
        try:
            for line in lines:
                if record := self.run(line):
                    records.append(record)
            if len(self.line) >= LINE:
                raise pyfuse3.FUSEError(errno.EINVAL)
        finally:
            self.post(records)

    def run(self, line: bytes) -> bytes | None:
        """`key update ID PAYLOAD`: remembers the payload, gives KEY_NOTIFY updated."""
        words = line.split()
        if not words or words[0].startswith(b"#"):
            return None
        if len(words) != 4 or words[:2] != [b"key", b"update"] or not words[2].isdigit():
            raise pyfuse3.FUSEError(errno.EINVAL)
        serial = int(words[2])
        if not 0 < serial < 1 << 32:
            raise pyfuse3.FUSEError(errno.EINVAL)
        self.keys[serial] = words[3]
        return KEY_RECORD.pack(KEY_UPDATED, KEY_RECORD.size, serial, 0)


async def serve() -> None:
    """Until SIGTERM or SIGINT, or until it is unmounted."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()


def main() -> None:
    pyfuse3.init(Peer(), sys.argv[1], {"fsname=peer_pyfuse3"})
    try:
        trio.run(serve)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
