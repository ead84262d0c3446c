"""States of a mount that are not as they were written, with a checksum that is right: `python -m tests.fuzz.left
--count N --seed S`. Each is refused in words, or read; nothing else is raised, and nothing is said by what was half
made.
"""

from __future__ import annotations

import argparse
import collections
import random
import resource
import sys
import zlib

from tests.t1_state import busy
from wqfs.fs import state, store

_MEMORY = 2 << 30
"""Bytes that this process may have: a pickle can ask for as much as it likes."""


def mutated(body: bytes, dice: random.Random) -> bytes:
    """The body with bytes changed, left out, or put in."""
    changed = bytearray(body)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        at = dice.randrange(len(changed))
        kind = dice.random()
        if kind < 0.6:
            changed[at] = dice.randrange(256)
        elif kind < 0.8:
            del changed[at : at + dice.randrange(1, 9)]
        else:
            changed[at:at] = dice.randbytes(dice.randrange(1, 9))
    return bytes(changed)


def fuzz(seed: int, count: int) -> dict[str, int]:
    """How many were read, and how many refused. Raises what `load` raises and should not, or RuntimeError for what was
    raised where nobody can catch it."""
    unraisable: list[str] = []
    sys.unraisablehook = lambda event: unraisable.append(f"{event.err_msg}: {event.exc_value!r}")
    written = state.dump(store.Left(busy().recorder, {}, 0))
    head, body = written[: state.HEAD.size], written[state.HEAD.size :]
    magic, format_, _, _, version = state.HEAD.unpack(head)
    dice = random.Random(seed)
    found: collections.Counter[str] = collections.Counter()
    for number in range(count):
        changed = mutated(body, dice)
        new_head = state.HEAD.pack(magic, format_, len(changed), zlib.crc32(changed), version)
        try:
            state.load(new_head + changed)
            found["read"] += 1
        except state.StateRefused:
            found["refused"] += 1
        if unraisable:
            raise RuntimeError(f"seed {seed}, number {number}: {unraisable[0]}")
    return dict(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    print(fuzz(given.seed, given.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
