"""For programs that read notification pipes: the same API on a queue of wqfs and on the kernel's own pipe.

    from wqfs.client import Loss, MountEvent, MountSubtype, Queue

    with Queue.open("/run/wqfs", filter="mount new_mount,unmount") as queue:
        for event in queue:
            match event:
                case MountEvent(subtype=MountSubtype.NEW_MOUNT):
                    print("mounted:", event.auxiliary_mount)
                case Loss():
                    print("events were lost: look at the mounts again")

`queue.py` is the pipe, `events.py` what it says. Nothing here needs more than Python; `async for` works under
trio and under asyncio.
"""

from wqfs.abi.errors import Malformed
from wqfs.abi.filter_text import FilterTextError
from wqfs.abi.filters import ALL_SUBTYPES, Filter, Rule
from wqfs.abi.records import BlockSubtype, KeySubtype, MountFlag, MountSubtype, SbFlag, SbSubtype, WatchType
from wqfs.client.events import (
    BlockEvent,
    Event,
    KeyEvent,
    Loss,
    MountEvent,
    Removal,
    SuperblockError,
    SuperblockEvent,
    UnknownEvent,
    parse_events,
)
from wqfs.client.queue import Queue

__all__ = [
    "ALL_SUBTYPES",
    "BlockEvent",
    "BlockSubtype",
    "Event",
    "Filter",
    "FilterTextError",
    "KeyEvent",
    "KeySubtype",
    "Loss",
    "Malformed",
    "MountEvent",
    "MountFlag",
    "MountSubtype",
    "Queue",
    "Removal",
    "Rule",
    "SbFlag",
    "SbSubtype",
    "SuperblockError",
    "SuperblockEvent",
    "UnknownEvent",
    "WatchType",
    "parse_events",
]
