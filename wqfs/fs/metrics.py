"""Counts for people and for Prometheus: the files `status` and `metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wqfs.watch import Watch

if TYPE_CHECKING:
    from wqfs.fs.filesystem import Filesystem


def status(filesystem: Filesystem, watch: Watch) -> str:
    """`name value` lines about one queue: records but for `bytes`; readers and pollers waiting now."""
    counts = watch.queue.statistics()
    readers, pollers = filesystem.queue_waits(watch)
    lines = {
        "queued": counts.queued,
        "bytes": counts.bytes,
        "posted": counts.posted,
        "delivered": counts.delivered,
        "lost": counts.lost,
        "filtered": counts.filtered,
        "readers": readers,
        "pollers": pollers,
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def text(filesystem: Filesystem) -> str:
    """The Prometheus text exposition format, version 0.0.4."""
    watches = filesystem.watches
    queued = lost = filtered = 0
    for watch in watches.by_number.values():
        counts = watch.queue.statistics()
        queued += counts.queued
        lost += counts.lost
        filtered += counts.filtered
    lines: list[str] = []

    def add(name: str, kind: str, help_: str, value: int) -> None:
        lines.append(f"# HELP wqfs_{name} {help_}\n# TYPE wqfs_{name} {kind}\nwqfs_{name} {value}\n")

    add("events_total", "counter", "Events since the mount.", watches.last_event)
    add("refused_total", "counter", "Refused commands and calls since the mount.", filesystem.refusals.count)
    add("watches", "gauge", "Named watches.", len(watches.by_name))
    add("queues", "gauge", "Notification pipes, named or open.", len(watches.by_number))
    add("handles", "gauge", "Open files.", len(filesystem.channel.handles))
    add("waiting_readers", "gauge", "Reads, and ioctls that settle, that wait.", len(filesystem.channel.waiting))
    add("records_queued", "gauge", "Records queued in all queues there are.", queued)
    add("records_lost", "gauge", "Records lost by the queues there are.", lost)
    add("records_filtered", "gauge", "Records kept out by the filters of the queues there are.", filtered)
    add("kept_bytes", "gauge", "Bytes of events and texts kept for readers, about.", filesystem.kept_bytes)
    add("mounts", "gauge", "Mounts of the simulated system.", len(filesystem.system.mounts.by_id))
    add("keys", "gauge", "Keys of the simulated system.", len(filesystem.system.keys.by_serial))
    return "".join(lines)
