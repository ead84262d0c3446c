"""A FUSE filesystem of one file whose reads are taken and never answered: what memory can be mapped from."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from wqfs.fs import mounting
from wqfs.fs.options import Options

_IN: Final = struct.Struct("=IIQQIIIHH")
_OUT: Final = struct.Struct("=IiQ")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _INIT, _INTERRUPT = 1, 2, 3, 14, 15, 18, 26, 36
_BATCH_FORGET: Final = 42


def _attributes(node: int) -> bytes:
    """struct fuse_attr: a folder, or a file of a page."""
    mode, size = (0o40755, 0) if node == 1 else (0o100644, 4096)
    return struct.pack("=QQQQQQIIIIIIIIII", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class _Server:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, True)
        self.taken = threading.Event()
        """A read was taken."""
        self._reads: list[int] = []

    def run(self) -> None:
        with suppress(OSError):  # the end of the mount
            while True:
                self._serve(os.read(self._fd, 1 << 20))

    def _serve(self, message: bytes) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(message)
        if opcode == _READ:
            self._reads.append(unique)
            self.taken.set()
        elif opcode not in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            body = self._body(opcode, node)
            number = -errno.ENOSYS if body is None else 0
            os.write(self._fd, _OUT.pack(_OUT.size + len(body or b""), number, unique) + (body or b""))

    def give_up(self) -> None:
        """Answer the reads after all, with EIO."""
        for unique in self._reads:
            with suppress(OSError):
                os.write(self._fd, _OUT.pack(_OUT.size, -errno.EIO, unique))

    @staticmethod
    def _body(opcode: int, node: int) -> bytes | None:
        if opcode == _INIT:
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, 4096, 0, 0, 0, 4096, 1, 0, 0, 0)
        if opcode == _LOOKUP:
            return struct.pack("=QQQQII", 2, 0, 1000, 1000, 0, 0) + _attributes(2)
        if opcode == _GETATTR:
            return struct.pack("=QII", 1000, 0, 0) + _attributes(node)
        if opcode == _OPEN:
            return struct.pack("=QII", 1, 0, 0)
        return b"" if opcode == _RELEASE else None


@contextmanager
def silent(folder: Path) -> Iterator[tuple[Path, threading.Event]]:
    """The file, and the event that a read was taken; at the end what waits for one gets EIO."""
    fd = mounting.mount(str(folder), Options(allow_other=os.geteuid() == 0))
    server = _Server(fd)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield folder / "file", server.taken
    finally:
        server.give_up()
        mounting.unmount(str(folder), lazy=True)
        os.close(fd)
        thread.join(5)
