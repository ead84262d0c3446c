"""`sim/calls`: system calls on behalf of a program, a request and an answer each.

A request is one line of JSON, an answer too; bytes stand in it as text of the characters 0..255 (latin-1), for
then it costs nothing to read them:

    {"uid": 1000, "gid": 1000, "groups": [], "process": "pid.77", "thread": "", "call": "read", "args": [591206539]}
    {"data": "red"}   {"value": 591206539}   {"constructing": 591206539}   {"errno": 13, "reason": "..."}

Written with pwrite(2) at 0, read with pread(2) at 0 by the same descriptor: `wqfs run` does both. Who may open
the file acts for anybody, so it belongs to who mounts, and nobody else gets it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any

from wqfs.fs.handles.base import Caller, Complain, Handle
from wqfs.kept import Account

REQUEST_MAX = 8 << 20
"""Bytes of a request: the largest payload, each byte of it as \\u00XX."""

CallRunner = Callable[[dict[str, Any]], dict[str, Any]]
"""Carries out a request; returns the answer. Raises KeyError, TypeError or ValueError for what is none."""


class CallsHandle(Handle):
    """An open `sim/calls`."""

    __slots__ = ("_answer", "_complain", "_kept", "_pieces", "_run")

    def __init__(self, run: CallRunner, complain: Complain, kept: Account) -> None:
        """kept: where a request is counted while it comes in pieces."""
        self._kept = kept
        self._run = run
        self._complain = complain
        self._pieces = b""
        self._answer = b""

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        request = bytes(data) if not offset else self._pieces + data
        self._keep(b"")
        if request[-1:] != b"\n":
            if len(request) > REQUEST_MAX:
                return -errno.EINVAL
            return len(data) if self._keep(request) else -errno.ENOMEM
        try:
            answer = self._run(json.loads(request))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            self._complain("sim/calls", f"expected a request as `wqfs run` makes them: {error!r}", caller)
            return -errno.EINVAL
        self._answer = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        return len(data)

    def _keep(self, pieces: bytes) -> bool:
        """Keep what has come of a request; whether there is room for it."""
        self._kept.give_back(len(self._pieces))
        self._pieces = pieces if self._kept.take(len(pieces)) else b""
        return self._pieces == pieces

    def release(self) -> None:
        self._keep(b"")

    def read(self, offset: int, size: int, flags: int) -> bytes:
        return self._answer[offset : offset + size]
