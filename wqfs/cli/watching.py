"""Watches that a command makes for itself on a mount, and reads as text while it works."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wqfs.cli.command import CommandFailed, poll_ms

Event = dict[str, Any]
_READ = 1 << 20


class EventLines:
    """An open `events`, O_NONBLOCK: whole lines as they come."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def fileno(self) -> int:
        return self._fd

    def events(self) -> list[Event] | None:
        """What one read gives, empty while there is nothing; None at the end."""
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class OwnWatch:
    """A watch under a name that nobody else has, with an open `events`; `close` removes it."""

    def __init__(self, mount: Path, name: str, objects: Sequence[str], rules: Sequence[str], depth: int | None) -> None:
        self._mount = mount
        self.folder = mount / "watches" / f"{name}-{os.getpid()}"
        try:
            self.folder.mkdir()
        except OSError as error:
            raise CommandFailed(f"cannot make a watch in {self.folder.parent}: {error.strerror}.") from None
        self._fd = -1
        try:
            for file, lines in (
                ("filter", rules),
                ("depth", [] if depth is None else [str(depth)]),
                ("objects", objects),
            ):
                if lines:
                    self._write(file, lines)
            self._fd = os.open(self.folder / "events", os.O_RDONLY | os.O_NONBLOCK)
        except BaseException:
            self.close()
            raise
        self._lines = EventLines(self._fd)

    def _write(self, file: str, lines: Sequence[str]) -> None:
        for line in ["\n".join(lines)] if file == "filter" else lines:
            try:
                (self.folder / file).write_bytes(os.fsencode(line + "\n"))
            except OSError as error:
                raise CommandFailed(f"{file} of the watch: {refusal(self._mount, error)}.") from None

    def fileno(self) -> int:
        return self._fd

    def events(self) -> list[Event]:
        """What has come since the last call; empty if nothing has. Lost ones are an event `lost`."""
        found: list[Event] = []
        while more := self._lines.events():
            found += more
        return found

    def status(self) -> dict[str, int]:
        """The numbers of `status`."""
        pairs = (line.split() for line in (self.folder / "status").read_text().splitlines())
        return {name: int(value) for name, value in pairs}

    def close(self) -> None:
        """Remove the watch."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        try:
            self.folder.rmdir()
        except OSError:
            pass  # the mount may be gone, and the watch with it


def refusal(mount: Path, error: OSError) -> str:
    """Why a write to a control file was refused, in the words of `errors` if it has them for this process."""
    try:
        last = (mount / "errors").read_text(errors="replace").splitlines()[-1]
    except (OSError, IndexError):
        return str(error.strerror)
    return last.partition(f" pid={os.getpid()} ")[2] or str(error.strerror)


def wait_readable(watches: Sequence[OwnWatch], seconds: float) -> None:
    """Wait until one of the watches has events, at most so long."""
    poll = select.poll()
    for watch in watches:
        poll.register(watch, select.POLLIN)
    poll.poll(poll_ms(seconds))
