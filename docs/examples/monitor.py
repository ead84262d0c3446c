"""A mount monitor: prints each mount that comes and goes, and looks again when events were lost.

python monitor.py MOUNTPOINT [blocking|trio|asyncio]
"""

import asyncio
import sys

from wqfs.client import Event, Loss, MountEvent, MountSubtype, Queue


def show(event: Event) -> None:
    match event:
        case MountEvent(subtype=MountSubtype.NEW_MOUNT, auxiliary_mount=mount):
            print(f"mounted {mount}", flush=True)
        case MountEvent(subtype=MountSubtype.UNMOUNT, auxiliary_mount=mount):
            print(f"unmounted {mount}", flush=True)
        case Loss():
            print("events were lost: read sim/mountinfo again", flush=True)


def blocking(queue: Queue) -> None:
    for event in queue:
        show(event)


async def in_a_task(queue: Queue) -> None:  # the same under trio and under asyncio
    async for event in queue:
        show(event)


with Queue.open(sys.argv[1], filter="mount new_mount,unmount") as queue:
    print("watching", flush=True)
    how = sys.argv[2] if len(sys.argv) > 2 else "blocking"
    if how == "blocking":
        blocking(queue)
    elif how == "trio":
        import trio

        trio.run(in_a_task, queue)
    else:
        asyncio.run(in_a_task(queue))
