"""The names of errnos, and the one error of this room: bytes that are not what they claim to be."""

from __future__ import annotations

import errno
from typing import Final

ERRNO_NAMES: Final[dict[int, str]] = {
    **errno.errorcode,
    # Of two names for one number the kernel's.
    errno.EAGAIN: "EAGAIN",
    errno.EDEADLK: "EDEADLK",
    errno.EOPNOTSUPP: "EOPNOTSUPP",
}
"""Number -> name, as errno(3) and the kernel's sources have it."""


class Malformed(ValueError):
    """Bytes break a rule of their format.

    offset: where in the bytes, counted from 0; rule: what was expected, and what came.
    """

    def __init__(self, offset: int, rule: str) -> None:
        super().__init__(f"at byte {offset}: {rule}")
        self.offset = offset
        self.rule = rule
