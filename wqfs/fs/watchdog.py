"""Looking whether the mount answers, for as long as a service manager or a starter wants to know."""

from __future__ import annotations

import logging
import math
import os
import subprocess
from collections.abc import Callable

import trio

from wqfs.fs.supervision import notify, say_ready, start_check, watchdog_interval

log = logging.getLogger(__name__)


async def watch_over(
    mountpoint: str,
    answered: Callable[[], int],
    on_ready: Callable[[], object] | None,
    check: subprocess.Popen[bytes] | None = None,
) -> None:
    """Say that the mount is ready once it answers, then feed the watchdog as long as it does.

    answered: how many requests by name were, so far; while that grows the mount answers, if others make a look wait for
    long. on_ready: called when it is ready. check: the child that was started, if it was.
    """
    interval = watchdog_interval()
    process = start_check(mountpoint) if check is None else check
    ready = False
    assert process.stdout is not None
    answers = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
    before = 0
    try:
        while True:
            said: bytes | bytearray | None = None
            with trio.move_on_after(interval / 3 if interval and ready else math.inf):
                said = await answers.receive_some(64)
            if said is None:
                now = answered()
                if now != before:
                    notify("WATCHDOG=1")
                before = now
                continue
            if not said:
                break
            if not ready:
                ready = True
                say_ready(mountpoint, on_ready)
            if interval:
                notify("WATCHDOG=1")
        if interval or not ready:
            # The mount may have been taken away; if it was not, the silence brings the watchdog.
            log.warning("%s: a look through the mount failed", mountpoint)
            await trio.sleep(math.inf)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await answers.aclose()
            if process.poll() is None:  # else this is a successor, and it was the child of another
                await trio.to_thread.run_sync(process.wait)
        process.stdout.close()
