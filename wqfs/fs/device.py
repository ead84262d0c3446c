"""The loop that moves messages between /dev/fuse, the channel and pyfuse3. All of fs's waiting.

One task reads /dev/fuse until it would block; on one processor the kernel has the next request in
place by then, so a busy queue costs a read and a write a request, and trio nothing. After a burst
other tasks get their turn.

Neither side may block the other: what pyfuse3's socket does not take at once waits in a queue.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from wqfs.fs.channel import Channel
from wqfs.fs.channel_limits import MAX_WRITE

log = logging.getLogger(__name__)

BURST: Final = 256
"""Requests served before other tasks get a turn."""
BUFFER_SIZE: Final = MAX_WRITE + 4096
"""As large as libfuse's: a WRITE's data and a page for headers."""


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
        clock: Callable[[], float] | None = None,
        on_started: Callable[[], object] | None = None,
    ) -> None:
        self._fd = fuse_fd
        self._names = names
        self._backlog: deque[bytes] = deque()
        self._backlog_grew = trio.Event()
        self.channel = Channel(
            self._send, self._forward, max_waiting=max_waiting, clock=clock, on_started=on_started
        )

    # -- the channel's outlets

    def _send(self, message: bytes) -> None:
        try:
            os.write(self._fd, message)
        except OSError as error:
            # ENOENT: the caller was killed meanwhile; ENODEV, ENOTCONN: the mount is gone.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                log.error("the kernel refused a reply of %d bytes: %s", len(message), error)

    def _forward(self, message: bytes) -> None:
        if not self._backlog:
            try:
                self._names.send(message)
                return
            except BlockingIOError:
                pass
        self._backlog.append(message)
        self._backlog_grew.set()

    # -- tasks

    async def serve(self) -> None:
        """Serve until the mount is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_names)
            nursery.start_soon(self._serve_backlog)
            await self._serve_kernel()
            nursery.cancel_scope.cancel()

    async def _serve_kernel(self) -> None:
        fd, receive, readv = self._fd, self.channel.receive, os.readv
        buffer = bytearray(BUFFER_SIZE)
        buffers = [buffer]
        message = memoryview(buffer)
        while True:
            await trio.lowlevel.wait_readable(fd)
            try:
                for _ in range(BURST):
                    receive(message, readv(fd, buffers))
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno not in (errno.EINTR, errno.ENOENT):  # ENOENT: interrupted while read
                    raise

    async def _serve_names(self) -> None:
        names, answered, send = self._names, self.channel.answered, self._send
        while True:
            await trio.lowlevel.wait_readable(names)
            try:
                for _ in range(BURST):
                    reply = names.recv(BUFFER_SIZE)
                    if not reply:
                        return
                    send(answered(reply))
            except BlockingIOError:
                continue

    async def _serve_backlog(self) -> None:
        while True:
            await self._backlog_grew.wait()
            while self._backlog:
                await trio.lowlevel.wait_writable(self._names)
                try:
                    self._names.send(self._backlog[0])
                except BlockingIOError:
                    continue
                self._backlog.popleft()
            self._backlog_grew = trio.Event()
