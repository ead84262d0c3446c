"""How much is kept for readers: a count of bytes for a whole mount, with a bound.

Events are shared by all logs and streams that have not let go of them, so an event cannot count for each of these. It
belongs to a batch with those that came about when it did, and the batch gives its bytes back when the last of them is
gone: Python's own count of references says when. So no delivery costs anything. A batch of which one event is left
counts whole, which errs to the safe side.

The counts are estimates of what the objects take, strings by their length and their width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

EVENT_BYTES: Final = 700
"""An event, its record and its line."""
NOTICE_BYTES: Final = 500
"""The same event under another ID, with its line."""
LINE_KEPT: Final = 1024
"""Bytes of a line up to which it is kept once it was made."""
_BATCH: Final = 64
_LARGE: Final = 2 * EVENT_BYTES
"""Bytes of an event that begins a batch, so that those that count most keep no others."""


def text_bytes(text: str) -> int:
    """What the characters of a string take: a byte each, or up to four each where one of them is not ASCII."""
    return len(text) if text.isascii() else 4 * len(text)


class Batch:
    """Events that give back their bytes together."""

    __slots__ = ("_bytes", "_kept")

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._bytes = 0

    def add(self, size: int) -> None:
        self._bytes += size
        self._kept.used += size

    def __del__(self) -> None:
        with suppress(AttributeError):  # of a state that was refused, half made
            self._kept.used -= self._bytes


class Account:
    """What one user has of a Kept."""

    __slots__ = ("_kept", "_uid")

    def __init__(self, kept: Kept, uid: int) -> None:
        self._kept = kept
        self._uid = uid

    def take(self, size: int) -> bool:
        """Count `size` bytes, if they are not too many."""
        return self._kept.take(size, self._uid)

    def give_back(self, size: int) -> None:
        self._kept.give_back(size, self._uid)


class Kept:
    """limit: bytes; of_one: those of them that one Account may have, None for three quarters, so that one alone leaves
    something to others; used: how many are; checks: how often was checked; on_full: called where more than the limit
    are used, with that number, or 0 where somebody only looked, and lets go of some."""

    __slots__ = ("_batch", "_left", "_users", "checks", "limit", "of_one", "on_full", "used")

    def __init__(self, limit: int = 128 << 20, of_one: int | None = None) -> None:
        self.limit = limit
        self.of_one = limit * 3 // 4 if of_one is None else of_one
        self.used = 0
        self.checks = 0
        self.on_full: Callable[[int], object] = _nothing
        self._batch = Batch(self)
        self._left = _BATCH
        self._users: dict[int, int] = {}  # bytes of each, of those who have some

    def batch(self, size: int) -> Batch:
        """The batch of an event of `size` bytes that comes about now."""
        if not self._left or size > _LARGE:
            self.end_batch()
        self._left -= 1
        batch = self._batch
        batch.add(size)
        return batch

    def end_batch(self) -> None:
        """What comes about later is of another batch."""
        self._batch = Batch(self)
        self._left = _BATCH

    def check(self) -> None:
        """Let go of something where too much is kept."""
        self.checks += 1
        if self.used > self.limit:
            self.on_full(self.checks)

    def look(self) -> None:
        """`check`, by who made a text of what is kept."""
        if self.used > self.limit:
            self.on_full(0)

    def take(self, size: int, uid: int) -> bool:
        """Count `size` bytes of a user, if they are not too many."""
        of_user = self._users.get(uid, 0) + size
        if self.used + size > self.limit or of_user > self.of_one:
            return False
        self.used += size
        if of_user:
            self._users[uid] = of_user
        return True

    def give_back(self, size: int, uid: int) -> None:
        self.used -= size
        left = self._users.get(uid, 0) - size
        if left > 0:
            self._users[uid] = left
        else:
            self._users.pop(uid, None)


def _nothing(check: int) -> None:
    pass
