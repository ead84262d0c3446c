"""Many events of one command, told to many watches: what each of them keeps is worked out, and the rest only counted.

A command that copies 20,000 mounts before 1,000 watches makes 20,000,000 deliveries, of which each queue keeps 512 at
most and loses the others. So events that the same watches hear in the same way are one Run; what one watch hears is a
Part: some runs, each under the watch's ID, in the order in which it all happened. A part is asked for as many of its
first or last events as somebody keeps, and makes no others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice, repeat

from wqfs.abi import records as r
from wqfs.abi.filters import Filter
from wqfs.event import Event, Told, record_under

_HEADERS_MAX = 16
"""Kinds of headers up to which what a filter lets through is kept for other filters that let through the same."""


class Run:
    """Events in order. orders: of each, a number that grows with all that happens in the command; unfiltered: they
    are removals, which no filter holds; rare: what one filter lets through, and no other may be asked to."""

    __slots__ = ("_headers", "_passing", "orders", "rare", "told", "unfiltered")

    def __init__(self, *, unfiltered: bool = False, rare: bool = False) -> None:
        self.rare = rare
        self.told: list[Told] = []
        self.orders: list[int] = []
        self.unfiltered = unfiltered
        self._headers: set[tuple[int, int]] | None = None
        self._passing: dict[frozenset[tuple[int, int]], Run] = {}

    def add(self, told: Told, order: int) -> None:
        self.told.append(told)
        self.orders.append(order)

    def passing(self, filter_: Filter, bits: int) -> Run:
        """The events that a filter lets into a queue whose watch adds `bits` to `info`."""
        if self.unfiltered:
            return self
        if self._headers is None:
            self._headers = {r.HEADER.unpack_from(told.record) for told in self.told}
        passed = frozenset(
            (word, info) for word, info in self._headers if filter_.passes(r.HEADER.pack(word, info | bits))
        )
        if len(passed) == len(self._headers):
            return self
        run = self._passing.get(passed)
        if run is None:
            run = Run(rare=len(self._headers) > _HEADERS_MAX)
            for told, order in zip(self.told, self.orders, strict=True):
                if r.HEADER.unpack_from(told.record) in passed:
                    run.add(told, order)
            if not run.rare:
                self._passing[passed] = run
        return run


Source = tuple[Run, int]
"""A run, and the bits of `info` that a watch hears it with: 0 where they are in it already."""


class Part:
    """What one watch hears, or several that hear the same. count: of events."""

    __slots__ = ("_first", "_last", "_records", "_sources", "count")

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = [(run, bits) for run, bits in sources if run.told]
        self.count = sum([len(run.told) for run, _ in self._sources])
        self._records: list[bytes] = []
        self._first: list[Told] = []
        self._last: list[Told] = []

    def records(self, count: int) -> list[bytes]:
        """The records of the first `count` events."""
        if len(self._records) < min(count, self.count):
            self._records = [record_under(told.record, bits) for told, bits in islice(self._forward(), count)]
        return self._records[:count]

    def first(self, count: int) -> list[Told]:
        """The first `count` events."""
        if len(self._first) < min(count, self.count):
            self._first = [_under(told, bits) for told, bits in islice(self._forward(), count)]
        return self._first[:count]

    def last(self, count: int) -> list[Told]:
        """The last `count` events."""
        if len(self._last) < min(count, self.count):
            self._last = [_under(told, bits) for told, bits in islice(self._backward(), count)][::-1]
        return self._last[-count:]

    @property
    def is_plain(self) -> bool:
        """Whether its events are there, so that `last` makes nothing."""
        return len(self._sources) == 1 and not self._sources[0][1]

    @property
    def last_number(self) -> int:
        """The number of the last event."""
        return max(run.told[-1].number for run, _ in self._sources)

    def _forward(self) -> Iterator[tuple[Told, int]]:
        if len(self._sources) == 1:
            run, bits = self._sources[0]
            return zip(run.told, repeat(bits))
        merged = heapq.merge(*[zip(run.orders, run.told, repeat(bits)) for run, bits in self._sources])
        return ((told, bits) for _, told, bits in merged)

    def _backward(self) -> Iterator[tuple[Told, int]]:
        if len(self._sources) == 1:
            run, bits = self._sources[0]
            return zip(reversed(run.told), repeat(bits))
        merged = heapq.merge(
            *[zip(reversed(run.orders), reversed(run.told), repeat(bits)) for run, bits in self._sources], reverse=True
        )
        return ((told, bits) for _, told, bits in merged)


def _under(told: Told, bits: int) -> Told:
    if not bits:
        return told
    assert isinstance(told, Event)  # a notice has its bits already
    return told.notice(bits)


class SharedParts:
    """The parts of one batch, of which watches that hear the same have one."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], Part] = {}

    def get(self, sources: list[Source]) -> Part:
        """The part of these sources."""
        if len(sources) != 1:
            return Part(sources)
        run, bits = sources[0]
        if run.rare or not run.told:
            return Part(sources)
        part = self._parts.get((id(run), bits))
        if part is None:
            part = self._parts[id(run), bits] = Part(sources)  # which holds the run
        return part
