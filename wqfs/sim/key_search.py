"""Finding keys in trees of keyrings (Linux 6.12, security/keys/keyring.c and process_keys.c).

A search looks into a keyring before it looks into the keyrings linked there, follows links six
deep, and enters only keyrings that grant Search. A keyring may be linked from many others; what
was searched once is not searched again, so that no tree takes longer than its number of links.

Possession is the same search for one key from the caller's keyrings; here it goes upwards from
the key, which has few parents where a session may have many keys.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from wqfs.sim.command import Actor
from wqfs.sim.keys import Key, Keyring, Need, permits

MAX_DEPTH = 6
"""How many links deep a search goes (KEYRING_SEARCH_MAX_DEPTH)."""

SKIP = -1
"""From the `refusal` of `find`: pass over the key without a word."""


def find(
    top: Keyring,
    indexes: tuple[tuple[str, str], ...],
    actor: Actor,
    refusal: Callable[[Key], int],
    *,
    possessed: bool,
) -> tuple[Key | None, int, Key | None]:
    """The first key under one of `indexes` in `top` or below.

    refusal: gives the errno that makes the search pass over a key, 0 if none, or SKIP: as if it
    were not there. Returns the key, or None with the errno of the last key that was passed over (0
    if there was none) and that key. `top` itself may be the key. The caller has checked Search on
    `top`.
    """
    error = 0
    passed: Key | None = None

    def take(key: Key) -> bool:
        nonlocal error, passed
        wrong = refusal(key)
        if wrong == SKIP:
            return False
        # A negative key's error comes after its permissions (keyring_search_iterator).
        if wrong in (0, key.error) and not permits(key, actor, Need.SEARCH, possessed=possessed):
            wrong = errno.EACCES
        if wrong:
            error, passed = wrong, key
        return not wrong

    if top.index in indexes:
        if take(top):
            return top, 0, None
        return None, error, passed
    depths: dict[Keyring, int] = {}
    stack = [(top, 0)]
    while stack:
        ring, depth = stack.pop()
        if depths.get(ring, MAX_DEPTH + 1) <= depth:
            continue
        depths[ring] = depth
        if ring.revoked or ring.invalidated:
            continue
        for index in indexes:
            key = ring.links.get(index)
            if key is not None and take(key):
                return key, 0, None
        if depth < MAX_DEPTH:
            for nested in reversed(ring.rings.values()):
                if permits(nested, actor, Need.SEARCH, possessed=possessed):
                    stack.append((nested, depth + 1))
    return None, error, passed


def possesses(key: Key, actor: Actor, tops: tuple[Keyring, ...]) -> bool:
    """Whether a search from `tops`, the caller's keyrings, finds exactly this key.

    The key and every keyring on the way must grant Search to a possessor; states do not count, but
    nothing is found through a revoked or invalidated keyring.
    """
    if not permits(key, actor, Need.SEARCH, possessed=True):
        return False
    if key in tops:
        return True
    seen: set[Keyring] = set()
    level: list[Keyring] = list(key.linked_by)
    for _ in range(MAX_DEPTH + 1):
        above: list[Keyring] = []
        for ring in level:
            if ring in seen:
                continue
            seen.add(ring)
            if ring.revoked or ring.invalidated or not permits(ring, actor, Need.SEARCH, possessed=True):
                continue
            if ring in tops:
                return True
            above.extend(ring.linked_by)
        if not above:
            return False
        level = above
    return False


def link_refusal(ring: Keyring, key: Key) -> int:
    """Why `key` cannot be linked into `ring`: EDEADLK for a cycle, ELOOP for keyrings too deep
    below it, or 0 (keyring_detect_cycle)."""
    if not isinstance(key, Keyring):
        return 0
    if key is ring:
        return errno.EDEADLK
    depths: dict[Keyring, int] = {}
    stack = [(key, 0)]
    while stack:
        at, depth = stack.pop()
        if depths.get(at, -1) >= depth:
            continue
        depths[at] = depth
        if at.rings.get(ring.description) is ring:
            return errno.EDEADLK
        if at.rings and depth >= MAX_DEPTH:
            return errno.ELOOP
        for nested in reversed(at.rings.values()):
            stack.append((nested, depth + 1))
    return 0
