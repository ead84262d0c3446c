"""watch_mount and watch_sb, of the series of 2020 (David Howells, "Mount notifications"), which no kernel has.

    watch_mount(int dfd, const char *path, unsigned int at_flags, int watch_fd, int watch_id)
    watch_sb(int dfd, const char *path, unsigned int at_flags, int watch_fd, int watch_id)

They watch the simulated tree. The order of checks is the series': ID and flags, then the path, then the queue.
Where it answered 0 for a descriptor that is no notification pipe, for it forgot to say EINVAL, this says it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from wqfs.run.call import Call, signed, unsigned
from wqfs.run.mounts import AT_EMPTY_PATH, AT_NO_AUTOMOUNT, only
from wqfs.run.places import Places
from wqfs.run.simulated import System


class PathWatches:
    """Answers for both. Each takes a Call and returns 0; raises Gone, and OSError."""

    def __init__(self, system: System, places: Places) -> None:
        self._system = system
        self._places = places

    def watch_mount(self, call: Call) -> int:
        return self._watch(call, "path_of", self._system.watch_mount)

    def watch_sb(self, call: Call) -> int:
        return self._watch(call, "superblock_of", self._system.watch_sb)

    def _watch(self, call: Call, name: str, watch: Callable[[int, bytes, int], None]) -> int:
        flags, fd, watch_id = unsigned(call.arguments[2]), signed(call.arguments[3]), signed(call.arguments[4])
        if not -1 <= watch_id <= 255:
            raise OSError(errno.EINVAL, f"expected a watch ID of -1..255, not {watch_id}")
        only(flags, AT_NO_AUTOMOUNT | AT_EMPTY_PATH)
        place = self._places.at(call, 1, 0, empty=bool(flags & AT_EMPTY_PATH))
        what = self._system.call(None, "", name, *place)
        try:
            with call.borrowed(fd) as mine:
                if self._system.is_queue(mine):
                    watch(mine, what if isinstance(what, bytes) else str(what).encode(), watch_id)
                    return 0
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        raise OSError(errno.EINVAL, f"descriptor {fd} is no notification pipe: {os.strerror(errno.EINVAL)}")
