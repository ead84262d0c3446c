"""The files of text: which text each place has, made only when something changed.

A size is asked for at every stat, and an `ls -l` of a system with 20,000 mounts must not cost
20,000 lines each time; so a text of the whole mount is kept until something changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wqfs.abi import filter_text
from wqfs.fs import metrics, nodes
from wqfs.fs.nodes import Place
from wqfs.sim import key_views, objects
from wqfs.sim import views as sim_views
from wqfs.sim.command import Actor
from wqfs.watch import Watch

if TYPE_CHECKING:
    from wqfs.fs.filesystem import Filesystem


class Cache:
    """The texts of one mount."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._fs = filesystem
        self._kept: dict[Place, tuple[tuple[int, int], bytes]] = {}
        system = filesystem.system
        # What changes only with the simulated system, and what changes by itself.
        self._kept_makers: dict[Place, Callable[[], str]] = {
            nodes.MOUNTINFO: lambda: sim_views.mountinfo(system.mounts),
            nodes.SUPERBLOCKS: lambda: sim_views.superblocks(system.superblocks),
        }
        self._makers: dict[Place, Callable[[Actor | None], str]] = {
            nodes.KEYS: lambda viewer: key_views.keys_text(system.keys, viewer, self._now()),
            nodes.KEY_USERS: lambda viewer: key_views.key_users_text(system.keys),
            nodes.SNAPSHOT: lambda viewer: sim_views.snapshot(system, viewer, self._now()),
            nodes.METRICS: lambda viewer: metrics.text(filesystem),
        }
        self._watch_makers: dict[Place, Callable[[Watch], str]] = {
            nodes.OBJECTS: objects.text,
            nodes.FILTER: lambda watch: filter_text.format(watch.queue.filter),
            nodes.DEPTH: lambda watch: f"{watch.queue.depth}\n",
            nodes.STATUS: lambda watch: metrics.status(filesystem, watch),
        }

    def _now(self) -> int:
        """The time, with the keys that it has ended collected."""
        return self._fs.collect_keys()

    def text(self, place: Place, watch: Watch | None, viewer: Actor | None = None) -> bytes:
        """The text of a place now; bytes that are no UTF-8 as they came in.

        viewer: who reads, None for who may see everything; keys show themselves to who has View.
        """
        if watch is not None:
            return _encode(self._watch_makers[place](watch))
        if place is nodes.ERRORS:
            return self._fs.refusals.text()
        if place in self._makers:
            return _encode(self._makers[place](viewer))
        if place not in self._kept_makers:
            return b""
        version = (self._fs.system.changed, self._fs.watches.last_event)
        kept = self._kept.get(place)
        if kept is None or kept[0] != version:
            kept = self._kept[place] = (version, _encode(self._kept_makers[place]()))
        return kept[1]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
