"""Any bytes in each place where somebody else writes some: tests/fuzz/texts.py says what must hold."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import coverage, requests, texts
from wqfs.abi import records as r
from wqfs.fs.options import option_words
from wqfs.sim import calls, scenario_toml

NOISE = st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: text.encode())
NUMBERS = st.one_of(st.integers(-(1 << 70), 1 << 70), st.integers(0, 300)).map(lambda number: str(number).encode())
WORDS = st.one_of(st.sampled_from([word.encode("utf-8", "surrogateescape") for word in requests.WORDS]), NUMBERS, NOISE)
COMMANDS = st.one_of(
    st.sampled_from([line.encode() for line in requests.LIKELY]),
    st.builds(
        lambda name, words: b" ".join((name, *words)),
        st.sampled_from([name.encode() for name in requests.COMMAND_NAMES]),
        st.lists(WORDS, max_size=6),
    ),
)
OPTION_WORDS = st.sampled_from([word.encode() for word, _ in option_words()])
TOML_KEYS = st.sampled_from(
    [key.encode() for key in (*scenario_toml.SCENARIO_KEYS, *scenario_toml.WATCH_KEYS, *scenario_toml.STEP_KEYS)]
)
TOML_VALUES = st.one_of(
    st.sampled_from([b'"1s"', b'"200ms"', b"[]", b'["mount /"]', b"1e308", b"inf", b"nan", b"true", b"{ seq = 1 }",
                     b'"EBUSY"', b'"10000000"', b'"mount /dev/sda1 /mnt"', b"[[", b"9" * 5000, b"[" * 3000,
                     b"2026-01-01"]),
    NUMBERS,
)  # fmt: skip
TOML = st.lists(
    st.one_of(
        st.sampled_from([b"[[step]]", b"[[watch]]", b'name = "w"', b'run = "umount /"', b"[step]", b"# x"]),
        st.builds(lambda key, value: key + b" = " + value, TOML_KEYS, TOML_VALUES),
    ),
    max_size=12,
).map(b"\n".join)
JSON_LINES = st.dictionaries(
    st.sampled_from(["type", "event", "flags", "id", "record", "body", "sb", "error", "cookie", "text", "key", "aux",
                     "dev", "sector", "object", "triggered_on", "auxiliary_mount", "lost"]),
    st.one_of(st.integers(-3, 1 << 65), st.sampled_from(["meta", "lost", "mount", "new_mount", "key", "sb", "error",
                                                         "EIO", "zz", "00ff", [], ["IS_NOW_RO"], {}, None, 1.5])),
).map(lambda line: json.dumps(line).encode())  # fmt: skip
RECORDS = st.lists(
    st.builds(
        lambda word, info, body: r.HEADER.pack(word, info & ~0x7F | 8 + len(body)) + body,
        st.integers(0, 9).map(lambda type_: type_ | 3 << 24) | st.integers(0, (1 << 32) - 1),
        st.integers(0, (1 << 32) - 1),
        st.binary(max_size=119),
    ),
    max_size=20,
).map(b"".join)
RULES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.integers(0, (1 << 32) - 1)),
    min_size=1, max_size=17,
).map(
    lambda rules: struct.pack("=II", len(rules), 0) + b"".join(struct.pack("=4I28x", *rule) for rule in rules)
)  # fmt: skip

INTS = st.one_of(st.integers(-8, 40), st.sampled_from([1 << 31, 0xFFFFFFFF, 0x8000, 0x1001, 1 << 63, -(1 << 63)]))
TEXTS = st.sampled_from(
    ["/", "/mnt", "/mnt/a", "user", "desc", "tmpfs", "ext4", "/dev/sda1", "ro", "source", "keyring", "x" * 300, "\0",
     "\u00ff", "", "callout"]
)  # fmt: skip
KINDS = {"i": INTS, "n": TEXTS | st.none()}


@st.composite
def call_lines(draw: st.DrawFn) -> bytes:
    """Requests of sim/calls whose arguments are of the kinds that the calls want, or not."""
    lines = []
    for _ in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from([*calls.CALLS, "none"]))
        kinds = calls.CALLS[name][0] if name in calls.CALLS else "it"
        arguments: list[object] = [draw(KINDS.get(kind, TEXTS)) for kind in kinds]
        if draw(st.integers(0, 9)) == 0:
            arguments.append(draw(st.sampled_from([None, True, 1.5, [], {}, "\u0100"])))
        request = {"uid": draw(st.sampled_from([0, 7])), "gid": 0, "groups": [], "call": name, "args": arguments,
                   "process": draw(st.sampled_from(["pid.7", "pid.7", "", None])), "thread": ""}  # fmt: skip
        lines.append(json.dumps(request).encode())
    return b"\n".join(lines)


SENSIBLE = {
    "calls": call_lines(),
    "words": st.lists(WORDS, max_size=8).map(b" ".join),
    "commands": st.lists(COMMANDS, max_size=12).map(b"\n".join),
    "objects": st.lists(
        st.one_of(
            st.sampled_from([line.encode() for line in requests.OBJECTS]), st.lists(WORDS, max_size=4).map(b" ".join)
        ),
        max_size=8,
    ).map(b"\n".join),
    "filter": st.lists(
        st.one_of(
            st.sampled_from([line.encode() for line in requests.FILTERS]), st.lists(WORDS, max_size=4).map(b" ".join)
        ),
        max_size=8,
    ).map(b"\n".join),
    "set-filter": RULES,
    "records": RECORDS,
    "event-lines": JSON_LINES,
    "watch-path": st.builds(lambda n, path: struct.pack("=i", n) + path, st.integers(-2, 300), st.binary(max_size=40)),
    "options": st.lists(st.builds(lambda word, value: word + value, OPTION_WORDS, NUMBERS | NOISE), max_size=6).map(
        b",".join
    ),
    "scenario": TOML,
    "depth": st.lists(NUMBERS | NOISE, max_size=2).map(b"\n".join),
    "ioctl": st.lists(
        st.tuples(st.integers(0, 255), RECORDS | NOISE | st.binary(max_size=255)).map(
            lambda pair: bytes((pair[0], min(255, len(pair[1])))) + pair[1][:255]
        ),
        max_size=8,
    ).map(b"".join),
}


@pytest.mark.parametrize("target", texts.TARGETS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_only_documented_refusals_come(target: str, data: st.DataObject) -> None:
    texts.TARGETS[target](data.draw(SENSIBLE[target] | st.binary(max_size=200)))


@pytest.mark.parametrize("target", texts.TARGETS)
def test_what_was_found_before_holds(target: str) -> None:
    kept = list(coverage.corpus(target))
    assert kept
    for _, data in kept:
        texts.TARGETS[target](data)
