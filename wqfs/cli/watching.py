"""Watches that a command makes for itself on a mount, and reads as text while it works."""

from __future__ import annotations

import json
import os
import re
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wqfs.cli.command import CommandFailed, poll_ms

Event = dict[str, Any]
_READ = 1 << 20
_SAME_NAME_MAX = 1024
_ERRORS_LINE = re.compile(r"\S+ uid=\d+ pid=(\d+) (.*)")
_SHOWN = 200
"""Characters of a line that `errors` shows."""


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
        self.folder = _new_folder(mount / "watches", f"{name}-{os.getpid()}")
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
                raise CommandFailed(f"{file} of the watch: {refusal(self._mount, error, line)}.") from None

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


def _new_folder(parent: Path, name: str) -> Path:
    """A new folder called so, or with a number behind: processes of several containers may have the same pid."""
    for number in range(1, _SAME_NAME_MAX):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise CommandFailed(f"cannot make a watch in {parent}: {error.strerror}.") from None
        return folder
    raise CommandFailed(f"cannot make a watch in {parent}: {name} and {_SAME_NAME_MAX} like it are there.")


def refusal(mount: Path, error: OSError, *lines: str) -> str:
    """Why a write of some of `lines` to a control file was refused, in the words of `errors` if it has them."""
    try:
        kept = (mount / "errors").read_text(errors="replace").splitlines()
    except OSError:
        return str(error.strerror)  # another user's mount
    found = [match for match in map(_ERRORS_LINE.fullmatch, reversed(kept)) if match]
    # By the line, else by the pid: which is not ours there when we are in a container and the server is not.
    ends = tuple(f"]: {line[:_SHOWN]}" for line in lines if line)
    named = [match for match in found if match[2].endswith(ends)] if ends else []
    named += [match for match in found if match[1] == str(os.getpid())]
    return str(named[0][2] if named else error.strerror)


def wait_readable(watches: Sequence[OwnWatch], seconds: float) -> None:
    """Wait until one of the watches has events, at most so long."""
    poll = select.poll()
    for watch in watches:
        poll.register(watch, select.POLLIN)
    poll.poll(poll_ms(seconds))
