"""A private mount for a test, and what a test does with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wqfs.cli.watching import refusal
from wqfs.client import Queue
from wqfs.testing.events import Event, Events
from wqfs.testing.server import PrivateServer


class Refused(OSError):
    """A command was refused. errno as write(2) gave it; the text is what `errors` says."""


class Watch:
    """A watch. path: its folder."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self._events = Events(path / "events", timeout)

    def queue(self, **options: Any) -> Queue:
        """A reader of its notification pipe; options as of Queue.open. The caller closes it."""
        return Queue.open(self.path, **options)

    def expect(self, type_: str, event: str | None = None, /, *, timeout: float | None = None, **fields: Any) -> Event:
        """Wait for an event; it and those before it are then done with.

        type_, event: words as in `events`, such as "mount", "new_mount"; fields: what it must have, such as
        mountpoint="/mnt"; timeout: seconds, by default the ini value wqfs_timeout. Raises AssertionError, which
        shows what came instead, and ValueError for a type or an event that there is not.
        """
        __tracebackhide__ = True
        return self._events.expect(type_, event, fields, timeout)

    async def aexpect(
        self, type_: str, event: str | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Event:
        """As `expect`, for a test under trio or asyncio: other tasks run meanwhile."""
        __tracebackhide__ = True
        return await self._events.aexpect(type_, event, fields, timeout)

    def events(self) -> list[Event]:
        """What came and was not expected yet."""
        return self._events.pending()

    def close(self) -> None:
        """Remove the watch; its readers find the end."""
        self._events.close()
        with suppress(OSError):
            self.path.rmdir()


class PrivateMount:
    """A mounted wqfs; at the end of a `with` it is gone. path: the mountpoint."""

    def __init__(self, options: str = "", *, timeout: float = 5.0) -> None:
        """Mount in a new temporary folder. options: as after -o; timeout: seconds for `expect`.

        Raises RuntimeError with what the daemon said when it does not mount.
        """
        self._server = PrivateServer(options)
        self.path = self._server.path
        self._timeout = timeout
        self._watches: list[Watch] = []
        try:
            self._all = self.watch("expect")
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """What the daemon has logged so far."""
        return self._server.log

    # -- making things happen

    def post(self, *lines: str) -> None:
        """Carry out commands, one after the other. Raises Refused with the reason; those after it do not happen."""
        __tracebackhide__ = True
        fd = os.open(self.path / "post", os.O_WRONLY)
        try:
            for line in lines:
                try:
                    os.write(fd, os.fsencode(line) + b"\n")
                except OSError as error:
                    raise Refused(error.errno, refusal(self.path, error, line), line) from None
        finally:
            os.close(fd)

    def play(self, scenario: str | os.PathLike[str], *words: str) -> None:
        """Run a scenario, a file or the name of a shipped one; words: options of `wqfs play`. Raises AssertionError
        with what it said when something expected did not come, or a step was refused."""
        __tracebackhide__ = True
        command = [sys.executable, "-m", "wqfs.cli", "play", "--mount", str(self.path), *words, os.fspath(scenario)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise AssertionError(f"wqfs play {os.fspath(scenario)} ended with {done.returncode}:\n{done.stderr}")

    # -- seeing what happens

    def watch(self, name: str, *objects: str, filter: Sequence[str] = ()) -> Watch:
        """Make a watch. objects, filter: lines as of the files of these names; without objects of everything."""
        folder = self.path / "watches" / name
        folder.mkdir()
        if filter:
            (folder / "filter").write_text("\n".join(filter) + "\n")
        for line in objects or ["everything"]:
            (folder / "objects").write_text(line + "\n")
        self._watches.append(Watch(folder, self._timeout))
        return self._watches[-1]

    def queue(self, **options: Any) -> Queue:
        """A fresh notification pipe; options as of Queue.open. The caller closes it."""
        return Queue.open(self.path, **options)

    def expect(self, type_: str, event: str | None = None, /, *, timeout: float | None = None, **fields: Any) -> Event:
        """Wait for an event anywhere on the mount, since it was made; as Watch.expect."""
        __tracebackhide__ = True
        return self._all.expect(type_, event, timeout=timeout, **fields)

    async def aexpect(
        self, type_: str, event: str | None = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Event:
        """As `expect`, for a test under trio or asyncio."""
        __tracebackhide__ = True
        return await self._all.aexpect(type_, event, timeout=timeout, **fields)

    def events(self) -> list[Event]:
        """What came on the mount and was not expected yet."""
        return self._all.events()

    def text(self, name: str) -> str:
        """A file of sim/: mountinfo, superblocks, keys, key-users, snapshot."""
        return (self.path / "sim" / name).read_text()

    def snapshot(self) -> dict[str, Any]:
        """sim/snapshot: all there is, with the number of the last event as `seq`."""
        found: dict[str, Any] = json.loads(self.text("snapshot"))
        return found

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until the readers of all queues have drained them. Raises TimeoutError."""
        command = [sys.executable, "-m", "wqfs.cli", "settle", "--mount", str(self.path), "--timeout", str(timeout)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise TimeoutError(done.stderr.strip())

    # -- the end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Unmount, end the daemon, remove the folder; again: nothing."""
        for watch in self._watches:
            watch._events.close()
        self._server.close()
