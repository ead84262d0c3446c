"""Waiting for a descriptor in a task of trio or of asyncio, whichever runs.

Imported at the first `await`: asyncio takes longer to import than all else here together.
"""

from __future__ import annotations

import asyncio
import sys


class Waiting:
    """The one task that may wait for a descriptor."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._in_trio = False

    async def readable(self, fd: int) -> None:
        """Return once it is readable. A second task at a time: trio.BusyResourceError, RuntimeError."""
        trio = sys.modules.get("trio")  # who does not use it has not imported it
        if trio is not None and trio.lowlevel.in_trio_task():
            self._in_trio = True
            try:
                await trio.lowlevel.wait_readable(fd)
            finally:
                self._in_trio = False
            return
        if self._future is not None:
            raise RuntimeError("another task waits for this queue already")
        loop = asyncio.get_running_loop()
        self._future = future = loop.create_future()
        loop.add_reader(fd, _wake, future)
        try:
            await future
        finally:
            if self._future is future:  # else it was closed, and the number may be another file's
                self._future = None
                loop.remove_reader(fd)

    def closing(self, fd: int) -> None:
        """Tell the waiting task that the descriptor is about to be closed."""
        if self._in_trio:
            sys.modules["trio"].lowlevel.notify_closing(fd)
        future, self._future = self._future, None
        if future is not None:
            future.get_loop().remove_reader(fd)
            if not future.done():
                future.set_exception(ValueError("the queue was closed"))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
