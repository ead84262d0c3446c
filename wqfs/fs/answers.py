"""What was answered before a death, for requests that the kernel sends again (FUSE_NOTIFY_RESEND).

They come with bit 63 of `unique` set, where the request itself may have had it already: it came again before.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from wqfs.abi import fuse

_RESEND: Final = fuse.FUSE_UNIQUE_RESEND
_OUT_SIZE: Final = fuse.OUT_HEADER.size
_MOST: Final = 100_000
"""Far more than one entry of the journal can have, those to all that wait."""


class Answers:
    """Of all daemons before this one: the kernel may not have asked for those of the first yet."""

    def __init__(self) -> None:
        self._said: dict[int, bytes] = {}

    def keep(self, said: Iterable[bytes]) -> None:
        """A daemon has died having said that last: it may not have left."""
        for reply in said:
            unique = fuse.OUT_HEADER.unpack_from(reply)[2]
            if unique:  # else a notification
                self._said[unique] = reply
        while len(self._said) > _MOST:
            del self._said[next(iter(self._said))]

    def refuse(self, unique: int) -> None:
        """When that request comes again, its answer is EIO."""
        unique &= ~_RESEND
        self._said[unique] = fuse.OUT_HEADER.pack(_OUT_SIZE, -errno.EIO, unique)

    def take(self, unique: int) -> bytes | None:
        """The answer to a request that has come again, under its new number; None for one that waited, or that nobody
        has carried out."""
        for known in (unique, unique & ~_RESEND):
            answer = self._said.pop(known, None)
            if answer is not None:
                size, error, _ = fuse.OUT_HEADER.unpack_from(answer)
                return fuse.OUT_HEADER.pack(size, error, unique) + answer[_OUT_SIZE:]
        return None

    def forget(self) -> None:
        """No request comes again any more: all have, or have ended with who made them."""
        self._said.clear()
