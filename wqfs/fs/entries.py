"""What a Recorder notes in its journal: the kinds of entries, and what each of them holds.

REQUEST            a request, as it came from the kernel
REQUEST_AND_MORE   the same, behind what carrying it out took from outside: see `with_more`
NAME               pickled: the request that pyfuse3 was at, and the change: see Recorder.name_changed
REPLY              pyfuse3's reply to that request
COLLECT            nothing: the keys whose time was over have ended
END_WAITS          pickled: the reads that were ended, and the errno
HANG_UP            nothing: all watches have hung up
FETCHED            pickled: the number of a look into a caller's memory, and what it gave
LET_GO             pickled: what was let go of for a reason that is noted already, as in `with_more`
DROP               the handle that was let go of
TAKE_OVER          a close that nobody has noted, or nothing: a daemon has died, and this one goes on
"""

from __future__ import annotations

import pickle
import struct
from typing import Final

from wqfs.fs.journal import REQUEST, Entry
from wqfs.watches import Sink

REQUEST_AND_MORE, NAME, REPLY, COLLECT, END_WAITS, HANG_UP, TAKE_OVER, FETCHED, LET_GO, DROP = range(REQUEST + 1, 11)
FH: Final = struct.Struct("=Q")
_U32: Final = struct.Struct("=I")

Looks = list[tuple[int, str] | None]
"""How each look into a caller's memory began: None if it did, else the errno and its sentence."""
Gone = list[tuple[int, list[Sink]]]
"""Of whose events was let go, and at which check of what is kept (Watches.decide); 0 where that is noted already."""


def with_more(looks: Looks, gone: Gone, request: memoryview) -> bytes:
    """The payload of REQUEST_AND_MORE."""
    more = pickle.dumps((looks, gone))
    return _U32.pack(len(more)) + more + request


def more_in(entry: Entry) -> tuple[Looks, Gone]:
    """What is before the request in REQUEST_AND_MORE; nothing in others."""
    if entry.kind != REQUEST_AND_MORE:
        return [], []
    looks, gone = pickle.loads(entry.payload[_U32.size : _request_at(entry.payload)])
    return looks, gone


def request_in(entry: Entry) -> bytes:
    """The request that was noted there; b"" where something else was."""
    if entry.kind == REQUEST:
        return entry.payload
    return entry.payload[_request_at(entry.payload) :] if entry.kind == REQUEST_AND_MORE else b""


def _request_at(payload: bytes) -> int:
    return _U32.size + int(_U32.unpack_from(payload)[0])
