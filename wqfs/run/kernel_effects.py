"""The effects that a call may have on watched keys of the kernel, and how they are seen.

The supervisor does not see the result of a call that goes on in the kernel. It looks at the watched keys before and
after, and tells an event from the difference. Some calls may leave none (a key is updated with what it has, an empty
keyring is cleared): then the rights decide that the caller has on the key, once the call is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from wqfs.abi.records import KeySubtype
from wqfs.run.call import PAGE, Call, signed
from wqfs.run.kernel_state import LINK, SESSION, WRITE, Look


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a key."""

    key: int
    subtype: KeySubtype
    aux: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """An event that a call may make. seen: looks whether it did; unseen: what is told once the call is over and
    nothing was seen, by the caller's rights; unless: what speaks against that."""

    seen: Callable[[Look], Told | None]
    unseen: Told | None = None
    unless: Callable[[Look], bool] = lambda after: False


@dataclass
class Known:
    """What the events told so far say of watched keyrings, and cannot always be read. links: (keyring, key)."""

    links: set[tuple[int, int]] = field(default_factory=set)
    restricted: set[int] = field(default_factory=set)

    def tell(self, event: Told) -> None:
        """An event was told."""
        if event.subtype == KeySubtype.LINKED:
            self.links.add((event.key, event.aux))
        elif event.subtype == KeySubtype.UNLINKED:
            self.links.discard((event.key, event.aux))
        elif event.subtype in (KeySubtype.CLEARED, KeySubtype.REVOKED):
            self.links = {each for each in self.links if each[0] != event.key}

    def forget(self, key: int) -> None:
        """A key has ended."""
        self.restricted.discard(key)
        self.links = {each for each in self.links if key not in each}


class About:
    """One call before the kernel carries it out. is_watched: whether a key is; resolve: the key that the caller means
    by a number, None if unknown; before: the keys as they are; known: see Known."""

    def __init__(
        self,
        call: Call,
        is_watched: Callable[[int], bool],
        resolve: Callable[[int], int | None],
        before: Look,
        known: Known,
    ) -> None:
        self.call = call
        self.is_watched = is_watched
        self.before = before
        self.known = known
        self._resolve = resolve

    # -- arguments

    def key(self, at: int) -> int | None:
        """The key that an argument names."""
        return self._resolve(signed(self.call.arguments[at]))

    def watched_key(self, at: int) -> int | None:
        """The same, if it is watched."""
        serial = self.key(at)
        return serial if serial is not None and self.is_watched(serial) else None

    def text(self, at: int, limit: int = PAGE) -> str | None:
        """The text that an argument points to; None where the kernel refuses it too."""
        try:
            return os.fsdecode(self.call.read_text(self.call.arguments[at], limit))
        except OSError:
            return None

    def may(self, serial: int, right: int) -> bool:
        """Whether the caller has a right on a key, the possessor's too if it owns it or has it in its session."""
        state = self.before.state(serial)
        possessed = state.uid == self.call.task.uid
        if not possessed and (session := self._resolve(SESSION)) is not None:
            possessed = self.before.is_below(session, serial)
        return not state.error and bool(state.rights(self.call.task, possessed=possessed) & right)

    def may_link(self, ring: int, key: int) -> bool:
        """Whether the caller may link a key to a keyring."""
        return self.may(ring, WRITE) and self.may(key, LINK)

    def holds(self, ring: int, key: int) -> bool:
        """Whether a keyring has a key, as far as it can be seen."""
        links = self.before.links(ring)
        return (ring, key) in self.known.links if links is None else key in links

    # -- links

    def linked(self, ring: int | None, key: int | None, finds: Callable[[Look], int | None]) -> list[Effect]:
        """A key is linked to a keyring. key: if it is known before; finds: tells it afterwards otherwise."""
        if ring is None:
            return []
        before, count = self.before.links(ring), self.before.count(ring)

        def seen(after: Look) -> Told | None:
            links = after.links(ring)
            if before is not None and links is not None:
                fresh = [each for each in links if each not in before]
                if key is None and fresh:
                    return Told(ring, KeySubtype.LINKED, fresh[0])
                return Told(ring, KeySubtype.LINKED, key) if key is not None and key in fresh else None
            now = after.count(ring)
            found = finds(after) if key is None else key
            grown = now is not None and count is not None and now > count
            return Told(ring, KeySubtype.LINKED, found) if found is not None and grown else None

        # A link that is there already is made again, and told, without a difference.
        if key is None or not self.holds(ring, key) or not self.may_link(ring, key):
            return [Effect(seen)]
        return [Effect(seen, Told(ring, KeySubtype.LINKED, key))]

    def unlinked(self, ring: int | None, key: int | None) -> list[Effect]:
        """A key is unlinked from a keyring."""
        if ring is None or key is None:
            return []
        before, count = self.before.links(ring), self.before.count(ring)

        def seen(after: Look) -> Told | None:
            links = after.links(ring)
            if before is not None and links is not None:
                gone = bool(set(before) - set(links))  # by type and description: it may be another key
            else:
                now = after.count(ring)
                gone = now is not None and count is not None and now < count
            return Told(ring, KeySubtype.UNLINKED, key) if gone else None

        return [Effect(seen)]

    def the_only(self, type_: str | None, description: str | None) -> Callable[[Look], int | None]:
        """Finds the key that is called so, if there is one alone."""

        def finds(look: Look) -> int | None:
            called = look.called(type_, description) if type_ and description else set()
            return next(iter(called)) if len(called) == 1 else None

        return finds
