"""The filter of a notification pipe, as IOC_WATCH_QUEUE_SET_FILTER takes it.

struct watch_notification_filter (linux/watch_queue.h):

    0    u32 nr_filters        1..16
    4    u32 reserved          0
    8    nr_filters times struct watch_notification_type_filter, 44 bytes each:
         0   u32 type
         4   u32 info_filter   bits inside info_mask
         8   u32 info_mask     not the length bits
         12  u32 subtype_filter[8], of which the kernel uses the first
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from wqfs.abi.errors import Malformed
from wqfs.abi.records import WATCH_INFO_LENGTH, WatchType

FILTER_HEADER = struct.Struct("=II")
assert FILTER_HEADER.size == 8
FILTER_RULE = struct.Struct("=III8I")
assert FILTER_RULE.size == 44

FILTERS_MAX = 16
ALL_SUBTYPES = 0xFFFFFFFF
_KNOWN_TYPES = len(WatchType)
_RECORD_START = struct.Struct("=II")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: records of `type` whose subtype's bit is set and `info & info_mask == info_filter`."""

    type: int
    subtypes: int = ALL_SUBTYPES
    info_filter: int = 0
    info_mask: int = 0


class Filter:
    """What may enter a queue. A record passes if any rule lets it; no rule at all lets none."""

    __slots__ = ("_by_type", "rules")

    def __init__(self, rules: Sequence[Rule]) -> None:
        """rules: checked already; those of types that are not known are dropped here, as the kernel does."""
        self.rules = tuple(rule for rule in rules if rule.type < _KNOWN_TYPES)
        by_type: dict[int, tuple[tuple[int, int, int], ...]] = {}
        for rule in self.rules:
            entry = (rule.subtypes, rule.info_mask, rule.info_filter)
            by_type[rule.type] = (*by_type.get(rule.type, ()), entry)
        self._by_type = by_type

    def passes(self, record: bytes) -> bool:
        """Whether `record`, with its watch's ID in place, may enter."""
        word, info = _RECORD_START.unpack_from(record)
        subtype = word >> 24
        if subtype > 31:  # beyond subtype_filter[0], the only word that counts
            return False
        for subtypes, mask, value in self._by_type.get(word & 0xFFFFFF, ()):
            if subtypes >> subtype & 1 and info & mask == value:
                return True
        return False


def check_rule(rule: Rule, at: int = 0) -> None:
    """Raise Malformed, with the offset `at`, when the kernel would answer EINVAL to this rule."""
    if rule.info_filter & ~rule.info_mask:
        raise Malformed(at, f"expected info_filter inside info_mask {rule.info_mask:#x}, not {rule.info_filter:#x}")
    if rule.info_mask & WATCH_INFO_LENGTH:
        raise Malformed(at, f"expected an info_mask without the length bits 0x7f, not {rule.info_mask:#x}")


def decode_count(head_untrusted: bytes) -> int:
    """How many rules follow a filter's first 8 bytes. Raises Malformed as the kernel answers EINVAL."""
    if len(head_untrusted) < FILTER_HEADER.size:
        raise Malformed(0, f"expected a filter header of 8 bytes, not {len(head_untrusted)}")
    count, reserved = FILTER_HEADER.unpack_from(head_untrusted)
    if not 1 <= count <= FILTERS_MAX:
        raise Malformed(0, f"expected nr_filters 1..{FILTERS_MAX}, not {count}")
    if reserved:
        raise Malformed(4, f"expected reserved 0, not {reserved}")
    return int(count)


def decode(data_untrusted: bytes) -> Filter:
    """A filter from the bytes that SET_FILTER points at, nr_filters rules long or longer."""
    count = decode_count(data_untrusted)
    size = FILTER_HEADER.size + count * FILTER_RULE.size
    if len(data_untrusted) < size:
        raise Malformed(len(data_untrusted), f"expected {size} bytes for {count} rules, not {len(data_untrusted)}")
    rules = []
    for at in range(FILTER_HEADER.size, size, FILTER_RULE.size):
        type_, info_filter, info_mask, subtypes, *_ = FILTER_RULE.unpack_from(data_untrusted, at)
        rule = Rule(type_, subtypes, info_filter, info_mask)
        check_rule(rule, at)
        rules.append(rule)
    return Filter(rules)


def encode(rules: Sequence[Rule]) -> bytes:
    """The bytes for SET_FILTER."""
    parts = [FILTER_HEADER.pack(len(rules), 0)]
    parts += [FILTER_RULE.pack(r.type, r.info_filter, r.info_mask, r.subtypes, *([0] * 7)) for r in rules]
    return b"".join(parts)
