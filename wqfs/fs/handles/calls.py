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

REQUEST_MAX = 8 << 20
"""Bytes of a request: the largest payload, each byte of it as \\u00XX."""

CallRunner = Callable[[dict[str, Any]], dict[str, Any]]
"""Carries out a request; returns the answer. Raises KeyError, TypeError or ValueError for what is none."""


class CallsHandle(Handle):
    """An open `sim/calls`."""

    __slots__ = ("_answer", "_complain", "_pieces", "_run")

    def __init__(self, run: CallRunner, complain: Complain) -> None:
        self._run = run
        self._complain = complain
        self._pieces = b""
        self._answer = b""

    def write(self, data: memoryview, offset: int, caller: Caller) -> int:
        self._pieces = bytes(data) if not offset else self._pieces + data
        if self._pieces[-1:] != b"\n":
            if len(self._pieces) > REQUEST_MAX:
                self._pieces = b""
                return -errno.EINVAL
            return len(data)
        request, self._pieces = self._pieces, b""
        try:
            answer = self._run(json.loads(request))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._complain("sim/calls", f"expected a request as `wqfs run` makes them: {error!r}", caller)
            return -errno.EINVAL
        self._answer = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        return len(data)

    def read(self, offset: int, size: int, flags: int) -> bytes:
        return self._answer[offset : offset + size]
