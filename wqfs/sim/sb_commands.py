"""sb: what happens to superblocks by itself."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from wqfs.abi import records as r
from wqfs.sim import remounting
from wqfs.sim.command import Actor, Command
from wqfs.sim.errors import Refused
from wqfs.sim.superblocks import Superblock

if TYPE_CHECKING:
    from wqfs.sim.system import System

TEXT_MAX: Final = r.RECORD_MAX - r.RECORD_MIN - r.SB_ERROR_BODY.size
"""Bytes of an error's text that fit a record."""
_MAX_ERRNO = 4095
_NUMBER = re.compile("0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}")
_ERRNOS: dict[str, int] = {name: getattr(errno, name) for name in dir(errno) if name[0] == "E"}
_ERRNOS.update({"EFSCORRUPTED": errno.EUCLEAN, "EFSBADCRC": errno.EBADMSG, "EWOULDBLOCK": errno.EWOULDBLOCK})


def superblock(system: System, arguments: Sequence[str], least: int, usage: str) -> Superblock:
    """The superblock that the first argument names; `least` arguments must be there."""
    if len(arguments) < least:
        raise Refused(errno.EINVAL, f"expected {usage}", 3 + len(arguments))
    try:
        return system.find_sb(arguments[0])[0]
    except Refused as refused:
        refused.word = 3
        raise


def no_more(arguments: Sequence[str], most: int) -> None:
    if len(arguments) > most:
        raise Refused(errno.EINVAL, f"expected nothing more, not {arguments[most]!r}", 3 + most)


def number(text: str, limit: int, what: str, word: int) -> int:
    """A number 0..limit, decimal or 0x hexadecimal."""
    value = -1
    if _NUMBER.fullmatch(text):
        value = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if not 0 <= value <= limit:
        raise Refused(errno.EINVAL, f"expected {what} of 0..{limit}, not {text!r}", word)
    return value


def _errno(text: str, word: int) -> int:
    named = _ERRNOS.get(text.upper())
    if named is not None:
        return named
    if not text[:1].isdecimal():
        raise Refused(errno.EINVAL, f"expected an errno such as EIO or 5, not {text!r}", word)
    value = number(text, _MAX_ERRNO, "an errno", word)
    if not value:
        raise Refused(errno.EINVAL, "expected an errno of 1..4095, not 0", word)
    return value


def cut(text: str, limit: int) -> bytes:
    """`text` as UTF-8, cut to `limit` bytes between two characters."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) <= limit:
        return raw
    while limit and raw[limit] & 0xC0 == 0x80:
        limit -= 1
    return raw[:limit]


def report_error(system: System, sb: Superblock, number: int, now_ns: int, *, cookie: int = 0, text: str = "") -> None:
    """A filesystem reports an error, a positive errno; with errors=remount-ro it turns read-only. The
    text is cut to what fits the record."""
    turns = "errors=remount-ro" in sb.options and not sb.read_only
    sb.errors += 1
    sb.read_only = sb.read_only or turns
    body = r.SB_ERROR_BODY.pack(sb.id, number, cookie)[r.SB_BODY.size :] + cut(text, TEXT_MAX)
    sb.last_error = system.watches.last_event + 1
    system.notify_sb(r.SbSubtype.ERROR, sb, now_ns, body=body)
    if turns:
        system.notify_sb(r.SbSubtype.READONLY, sb, now_ns, r.SbFlag.IS_NOW_RO)


def _error(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 2, "DIR and ERRNO")
    wrong = _errno(arguments[1], 4)
    cookie = 0
    text_at = 2
    if len(arguments) > 2 and arguments[2].startswith("cookie="):
        cookie = number(arguments[2][7:], 0xFFFFFFFF, "a cookie", 5)
        text_at = 3
    report_error(system, sb, wrong, now_ns, cookie=cookie, text=" ".join(arguments[text_at:]))


def _edquot(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 1, "DIR [user|group|project ID]")
    kind, id_ = "user", actor.uid
    if len(arguments) > 1:
        kind = arguments[1]
        if kind not in ("user", "group", "project"):
            raise Refused(errno.EINVAL, f"expected user, group or project, not {kind!r}", 4)
        if len(arguments) < 3:
            raise Refused(errno.EINVAL, f"expected the ID of the {kind}", 5)
        id_ = number(arguments[2], 0xFFFFFFFF, "an ID", 5)
        no_more(arguments, 3)
    system.notify_sb(r.SbSubtype.EDQUOT, sb, now_ns, names={kind: id_})


def _readonly(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 1, "DIR")
    no_more(arguments, 1)
    remounting.sb_set_readonly(system, sb, True, now_ns)


def _readwrite(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 1, "DIR")
    no_more(arguments, 1)
    remounting.sb_set_readonly(system, sb, False, now_ns)


def _network(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 2, "DIR and up or down")
    word = arguments[1]
    if word not in ("up", "down"):
        raise Refused(errno.EINVAL, f"expected up or down, not {word!r}", 4)
    no_more(arguments, 2)
    if sb.on_block_device:
        raise Refused(errno.EINVAL, f"expected a network filesystem, not {sb.fstype} on {sb.source}", 3)
    if sb.network_down != (word == "down"):
        sb.network_down = word == "down"
        system.notify_sb(r.SbSubtype.NETWORK, sb, now_ns, names={"network": word})


def _freeze(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 1, "DIR")
    no_more(arguments, 1)
    if sb.frozen:
        raise Refused(errno.EBUSY, f"{sb.source} is frozen already", 3)
    sb.frozen = True
    system.changed_silently(sb)


def _thaw(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 1, "DIR")
    no_more(arguments, 1)
    if not sb.frozen:
        raise Refused(errno.EINVAL, f"{sb.source} is not frozen", 3)
    sb.frozen = False
    system.changed_silently(sb)


def _fill(system: System, actor: Actor, arguments: Sequence[str], now_ns: int) -> None:
    sb = superblock(system, arguments, 2, "DIR and PERCENT")
    percent = number(arguments[1], 100, "a number of percent", 4)
    no_more(arguments, 2)
    sb.fill_percent = percent
    system.changed_silently(sb)


COMMANDS = (
    Command(
        ("sb", "error"),
        "sb error SUPERBLOCK ERRNO [cookie=N] [TEXT...]",
        "A filesystem reports an error; with its option errors=remount-ro it turns read-only.",
        "error; then readonly if it turns read-only.",
        _error,
        "EINVAL: no such superblock, errno, or cookie",
    ),
    Command(
        ("sb", "edquot"),
        "sb edquot SUPERBLOCK [user|group|project ID]",
        "A quota is exceeded: by default that of the user who gives the command.",
        "edquot",
        _edquot,
        "EINVAL: no such superblock, kind, or ID",
    ),
    Command(
        ("sb", "readonly"),
        "sb readonly SUPERBLOCK",
        "A superblock turns read-only by itself.",
        "readonly, unless it is so already.",
        _readonly,
        "EINVAL: no such superblock",
    ),
    Command(
        ("sb", "readwrite"),
        "sb readwrite SUPERBLOCK",
        "A superblock turns read-write by itself.",
        "readonly without IS_NOW_RO, unless it is so already.",
        _readwrite,
        "EINVAL: no such superblock",
    ),
    Command(
        ("sb", "network"),
        "sb network SUPERBLOCK down|up",
        "The network under a filesystem goes or comes back.",
        "network, unless it is so already.",
        _network,
        "EINVAL: no such superblock, it is on a block device, or neither up nor down",
    ),
    Command(
        ("sb", "freeze"),
        "sb freeze SUPERBLOCK",
        "A superblock is frozen, as for a snapshot (FIFREEZE): sim/superblocks says so.",
        "none: the record format has none for it",
        _freeze,
        "EBUSY: it is frozen already; EINVAL: no such superblock",
    ),
    Command(
        ("sb", "thaw"),
        "sb thaw SUPERBLOCK",
        "A frozen superblock is used again (FITHAW).",
        "none",
        _thaw,
        "EINVAL: it is not frozen, or no such superblock",
    ),
    Command(
        ("sb", "fill"),
        "sb fill SUPERBLOCK PERCENT",
        "A filesystem fills up, or empties: 0..100 percent; at 100 its state is full.",
        "none: the record format has none for it",
        _fill,
        "EINVAL: no such superblock, or no number of 0..100",
    ),
)
