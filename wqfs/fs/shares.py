"""How much of a table each user has, so that one user does not take it from the others."""

from __future__ import annotations


class Shares:
    """Counts by user. most: what one user may have."""

    __slots__ = ("_had", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._had: dict[int, int] = {}

    def full(self, uid: int) -> bool:
        """Whether the user has all that one may have."""
        return self._had.get(uid, 0) >= self.most

    def take(self, uid: int) -> None:
        """The user has one more."""
        self._had[uid] = self._had.get(uid, 0) + 1

    def give(self, uid: int) -> None:
        """The user has one less."""
        left = self._had[uid] - 1
        if left:
            self._had[uid] = left
        else:
            del self._had[uid]

    def __bool__(self) -> bool:
        """Whether anybody has anything."""
        return bool(self._had)
