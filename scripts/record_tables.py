"""The tables of docs/reference/records.md, from the code that packs records."""

from __future__ import annotations

import os
import struct
from typing import Final

from scripts.markdown import table
from wqfs.abi import records as r
from wqfs.abi.errors import ERRNO_NAMES
from wqfs.event import event_word
from wqfs.sim.devices import ERRNO_OF

_Body = tuple[r.WatchType, str, struct.Struct | None, dict[str, str]]
_WIDTHS: Final = {"Q": (8, "u64"), "I": (4, "u32")}
_BODIES: Final[tuple[_Body, ...]] = (
    (
        r.WatchType.META,
        "removal",
        r.REMOVAL_BODY,
        {"id": "what is watched no longer: key, mount, superblock; the record may end before it"},
    ),
    (r.WatchType.META, "loss", None, {}),
    (
        r.WatchType.KEY_NOTIFY,
        "",
        r.KEY_BODY,
        {
            "key_id": "the key or keyring that changed",
            "aux": "linked, unlinked: the key; instantiated: the positive errno of a key that was negated, else 0",
        },
    ),
    (
        r.WatchType.MOUNT_NOTIFY,
        "",
        r.MOUNT_BODY,
        {
            "triggered_on": "the mount where it happened, see below",
            "auxiliary_mount": "the mount that came, went or moved, else 0",
        },
    ),
    (r.WatchType.SB_NOTIFY, "", r.SB_BODY, {"sb_id": "the superblock"}),
    (
        r.WatchType.SB_NOTIFY,
        "error",
        r.SB_ERROR_BODY,
        {
            "sb_id": "the superblock",
            "error_number": "an errno, positive",
            "error_cookie": "links the events of one fault, or 0",
        },
    ),
    (
        r.WatchType.BLOCK_NOTIFY,
        "",
        r.BLOCK_BODY,
        {"dev": "number of the device, as in st_rdev of stat(2)", "sector": "of 512 bytes"},
    ),
)
"""Type, subtype if it has a body of its own, the structure, its fields."""


def record_bodies() -> str:
    rows: list[tuple[object, ...]] = []
    for type_, subtype, body, fields in _BODIES:
        title = f"{type_.name} {subtype}".strip()
        at = r.RECORD_MIN
        if body is None:
            rows.append((title, "", "", "", "none: the record is its header"))
            continue
        assert struct.calcsize("=" + body.format[1:]) == body.size and len(body.format) == len(fields) + 1
        for letter, (name, meaning) in zip(body.format[1:], fields.items(), strict=True):
            size, word = _WIDTHS[letter]
            rows.append((title if at == r.RECORD_MIN else "", at, word, f"`{name}`", meaning))
            at += size
        if body is r.SB_ERROR_BODY:
            text = "what the filesystem said, to the end of the record, cut where it does not fit"
            rows.append(("", at, f"0..{r.RECORD_MAX - at} bytes", "text", text))
    return table(("type", "offset", "what", "field", "meaning"), rows)


def record_types() -> str:
    rows = []
    for type_, word in r.TYPE_WORDS.items():
        subtypes = ", ".join(f"{subtype.value} {event_word(type_, subtype)}" for subtype in r.SUBTYPES[type_])
        rows.append((int(type_), f"`{word}`", r.WatchType(type_).name, subtypes))
    assert {type_ for type_, *_ in _BODIES} == set(r.WatchType) == set(r.TYPE_WORDS)
    return table(("type", "word", "name", "subtypes"), rows)


_FLAGS: Final = {
    r.MountFlag.IN_SUBTREE: "it happened below the watched place, not at it",
    r.MountFlag.IS_NOW_RO: "of new_mount, readonly, setattr: the mount is read-only",
    r.MountFlag.IS_SUBMOUNT: "of new_mount: the kernel mounted it, as an automount",
}
_SB_FLAGS: Final = {r.SbFlag.IS_NOW_RO: "of readonly: the superblock is read-only; without it, it is writable again"}


def record_flags() -> str:
    rows = [("mount", flag, text) for flag, text in _FLAGS.items()]
    assert {*_FLAGS} == {*r.MountFlag} and {*_SB_FLAGS} == {*r.SbFlag}
    return table(
        ("type", "flag", "bit of `info`", "meaning"),
        (
            (word, f"`{flag.name}`", f"`{int(flag):#010x}`", text)
            for word, flag, text in [*rows, *(("sb", flag, text) for flag, text in _SB_FLAGS.items())]
        ),
    )


def device_errors() -> str:
    """What the filesystems on a device report when it fails so."""
    return table(
        ("block event", "`error_number` of the superblock's error", "sentence"),
        ((event_word(r.WatchType.BLOCK_NOTIFY, sub), ERRNO_NAMES[no], os.strerror(no)) for sub, no in ERRNO_OF.items()),
    )
