"""What a successor does before it serves: all that was noted since its checkpoint, once more, with the same times.

Then it is what the daemon was when that died, but for what that daemon had read and not noted, which has not happened.
What was answered last, and perhaps never left, is known to the recorder, should the kernel ask for it again. One thing
at a time is noted and then answered, so that is what the last entry said, and nothing before it.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from wqfs.abi import fuse
from wqfs.fs.entries import NAME, REPLY, TAKE_OVER, request_in
from wqfs.fs.journal import Entry
from wqfs.fs.recorder import Recorder
from wqfs.fs.replay import replaying

_CLOSE_SIZE = fuse.RELEASE_IN.size


DEADLY: Final = 8
"""So many daemons may die in a row over one request. Then it is taken for the reason."""


class CaughtUp(NamedTuple):
    """entries: how many were done again; unnoted_close: the close that the daemon had read and not noted, b"" if there
    was none, see `nothing_is_sent_again`; refused: a request that is answered with EIO from now on, for DEADLY daemons
    died over it, in words, "" for none."""

    entries: int
    unnoted_close: bytes
    refused: str


def catch_up(recorder: Recorder, generation: int) -> CaughtUp:
    """Do again what was noted after checkpoint `generation`."""
    journal = recorder.journal
    journal.go_on(generation)
    entries = list(journal.entries(generation))
    unnoted = bytes(journal.room[:_CLOSE_SIZE])
    if fuse.START.unpack_from(unnoted)[2] == _last_noted(entries):
        unnoted = bytes(_CLOSE_SIZE)
    # It died over what pyfuse3 was at, if it was that one's turn; else over what it had read last.
    at_work = journal.at_work
    blamed = at_work if any(at_work) else unnoted
    if entries and entries[-1].kind == TAKE_OVER and entries[-1].payload:
        unnoted = entries[-1].payload  # of a successor that died before it had done it
    left_out = _unanswered_names(entries)
    said: list[bytes] = []
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with replaying(recorder) as replay:
            for at, entry in enumerate(entries):
                if entry.kind == TAKE_OVER:
                    replay.has_died(_last_said(entries[:at], said))
                    said = []
                else:
                    said = replay.do(entry) if at not in left_out else []
            replay.has_died(_last_said(entries, said))
    finally:
        logging.disable(disabled)
    if not _is_open_close(recorder, unnoted):
        unnoted = b""
    length, opcode, unique = fuse.START.unpack_from(blamed)
    uid, _, pid = fuse.CALLER.unpack_from(blamed)
    is_refused = length and journal.died_over(unique & ~fuse.FUSE_UNIQUE_RESEND) >= DEADLY
    if is_refused:
        recorder.answers.refuse(unique)
    recorder.takes_over(unnoted)
    if is_refused and opcode == fuse.RELEASE:
        recorder.drop(fuse.RELEASE_IN.unpack_from(blamed)[1])
    refused = f"opcode {opcode}, uid {uid}, pid {pid}" if is_refused else ""
    return CaughtUp(len(entries), unnoted, refused)


def _last_noted(entries: list[Entry]) -> int:
    """The last request that the last daemon has noted, its `unique`; 0 if it has noted none."""
    for entry in reversed(entries):
        if entry.kind == TAKE_OVER:
            break
        if request := request_in(entry):
            return int(fuse.START.unpack_from(request)[2])
    return 0


def _last_said(entries: list[Entry], said: list[bytes]) -> list[bytes]:
    """What may not have left when a daemon died after `entries`, the last of which has said `said`."""
    return [entries[-1].payload] if entries and entries[-1].kind == REPLY else said


def _unanswered_names(entries: list[Entry]) -> set[int]:
    """Where the changes of names stand whose reply had not left when a daemon died: one at most for each."""
    found: set[int] = set()
    pending: int | None = None
    for at, entry in enumerate((*entries, Entry(TAKE_OVER, 0, b""))):
        if entry.kind == NAME:
            pending = at
        elif entry.kind == REPLY:
            pending = None
        elif entry.kind == TAKE_OVER and pending is not None:
            found.add(pending)
            pending = None
    return found


def _is_open_close(recorder: Recorder, message: bytes) -> bool:
    """Whether that is a close of a handle that is still open: what a daemon had read last may be anything."""
    is_close = len(message) == _CLOSE_SIZE and fuse.START.unpack_from(message)[:2] == (_CLOSE_SIZE, fuse.RELEASE)
    return is_close and fuse.RELEASE_IN.unpack_from(message)[1] in recorder.channel.handles


def nothing_is_sent_again(recorder: Recorder, unnoted_close: bytes) -> None:
    """On a kernel that cannot: no answer is asked for again. A close that was read, and not noted, is heard of no more:
    it is done now."""
    recorder.answers.forget()
    if unnoted_close:
        room = recorder.journal.room
        room[: len(unnoted_close)] = unnoted_close
        recorder.channel.receive(room, len(unnoted_close))
        recorder.outside()
