"""What the simulated system says when it refuses."""

from __future__ import annotations

import os


class Refused(OSError):
    """An operation that the kernel would refuse, or a command that makes no sense.

    errno: what the kernel's interface would give; reason: a sentence without capital or full stop
    (`expected a user key, not a keyring`); word: which word of the command was wrong, counted from
    1, or 0 for the whole.
    """

    def __init__(self, errno_: int, reason: str, word: int = 0) -> None:
        super().__init__(errno_, f"{reason} ({os.strerror(errno_)})")
        self.reason = reason
        self.word = word
