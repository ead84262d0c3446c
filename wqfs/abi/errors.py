"""The one error of this room: bytes that are not what they claim to be."""

from __future__ import annotations


class Malformed(ValueError):
    """Bytes break a rule of their format.

    offset: where in the bytes, counted from 0; rule: what was expected, and what came.
    """

    def __init__(self, offset: int, rule: str) -> None:
        super().__init__(f"at byte {offset}: {rule}")
        self.offset = offset
        self.rule = rule
