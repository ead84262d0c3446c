"""wqfs.client.Queue, the same tests on a queue of a mount and on a pipe of the kernel's own.

The kernel's is skipped where it was built without CONFIG_WATCH_QUEUE; t3_reference_kernel.py runs it there.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import pytest
import trio
import trio.testing

from tests.tools import AT_ONCE, LIMIT, Mount, later, mounted, refused
from wqfs.client import (
    Event,
    FilterTextError,
    KeyEvent,
    KeySubtype,
    Loss,
    Queue,
    Removal,
    Rule,
)

SPECIAL_SESSION = -3
DEPTH = 32


class Keys(Protocol):
    """A keyring whose keys can be watched, and queues for it."""

    def queue(self, *, depth: int = DEPTH, filter: str | list[Rule] | None = None) -> Queue:
        """A queue that watches nothing yet."""
        ...

    def add(self) -> int:
        """A new key of the session keyring; its serial number."""
        ...

    def update(self, key: int) -> None: ...

    def revoke(self, key: int) -> None: ...


class MountKeys:
    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._names = iter(range(1000))

    def queue(self, *, depth: int = DEPTH, filter: str | list[Rule] | None = None) -> Queue:
        return Queue.open(self._mount.path, depth=depth, filter=filter)

    def add(self) -> int:
        name = f"key{next(self._names)}"
        self._mount.post(f"key add user {name} payload @s")
        for line in (self._mount.path / "sim/keys").read_text().splitlines():
            if f" {name}:" in line:
                return int(line.split()[0], 16)
        raise AssertionError(f"no {name} in sim/keys")

    def update(self, key: int) -> None:
        self._mount.post(f"key update {key} other")

    def revoke(self, key: int) -> None:
        self._mount.post(f"key revoke {key}")


class KernelKeys:
    _ADD_KEY, _KEYCTL = 248, 250
    _UPDATE, _REVOKE, _JOIN_SESSION_KEYRING = 2, 3, 1

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._names = iter(range(1000))
        self._keyctl(self._JOIN_SESSION_KEYRING, None)

    def _keyctl(self, *arguments: object) -> int:
        answer = int(self._libc.syscall(self._KEYCTL, *arguments))
        if answer < 0:
            raise OSError(ctypes.get_errno(), "keyctl")
        return answer

    def queue(self, *, depth: int = DEPTH, filter: str | list[Rule] | None = None) -> Queue:
        return Queue.native(depth=depth, filter=filter)

    def add(self) -> int:
        name = f"key{next(self._names)}".encode()
        key = int(self._libc.syscall(self._ADD_KEY, b"user", name, b"payload", 7, SPECIAL_SESSION))
        assert key > 0, os.strerror(ctypes.get_errno())
        return key

    def update(self, key: int) -> None:
        self._keyctl(self._UPDATE, key, b"other", 5)

    def revoke(self, key: int) -> None:
        self._keyctl(self._REVOKE, key)


def has_native_pipes() -> bool:
    try:
        Queue.native().close()
    except OSError as error:
        assert error.errno in (errno.ENOPKG, errno.EINVAL), error
        return False
    return True


NATIVE = has_native_pipes()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with mounted(tmp_path_factory.mktemp("strict"), "strict,enobufs") as mount:
        yield mount


@pytest.fixture(params=["mount", "kernel"] if NATIVE else ["mount"])
def keys(request: pytest.FixtureRequest) -> Keys:
    if request.param == "kernel":
        return KernelKeys()
    return MountKeys(request.getfixturevalue("strict"))


@pytest.fixture
def watched(keys: Keys) -> Iterator[tuple[Queue, int]]:
    """A queue, and a key that it watches under ID 5."""
    with keys.queue() as queue:
        key = keys.add()
        queue.watch_key(key, 5)
        yield queue, key


def updated(key: int, watch_id: int = 5) -> tuple[KeySubtype, int, int]:
    return KeySubtype.UPDATED, key, watch_id


def said(events: list[Event]) -> list[tuple[object, int, int]]:
    """Of key events subtype, key and watch ID; fails for others."""
    found: list[tuple[object, int, int]] = []
    for event in events:
        assert isinstance(event, KeyEvent), event
        found.append((event.subtype, event.key_id, event.watch_id))
    return found


# -- on both


def test_read_gives_all_that_is_there(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    for _ in range(3):
        keys.update(key)
    assert said(queue.read(LIMIT)) == [updated(key)] * 3
    assert queue.queued_bytes() == 0


def test_read_waits_for_an_event(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    thread = later(keys.update, key)
    assert said(queue.read(LIMIT)) == [updated(key)]
    thread.join()


def test_read_nowait_of_nothing_would_block(watched: tuple[Queue, int]) -> None:
    with pytest.raises(BlockingIOError):
        watched[0].read_nowait()
    with refused(errno.EAGAIN):
        watched[0].read_nowait()


def test_read_with_a_timeout_of_nothing_times_out(watched: tuple[Queue, int]) -> None:
    for timeout in (0.0, 0.05):
        before = time.monotonic()
        with refused(errno.ETIMEDOUT):
            watched[0].read(timeout)
        assert timeout <= time.monotonic() - before < timeout + AT_ONCE


def test_iteration_gives_events_one_by_one_and_read_the_rest(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    for _ in range(3):
        keys.update(key)
    assert said([next(queue)]) == [updated(key)]
    assert said(queue.read_nowait()) == [updated(key)] * 2


def test_queue_is_a_file_to_select_and_poll(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    assert select.select([queue], [], [], 0) == ([], [], [])
    poll = select.poll()
    poll.register(queue, select.POLLIN)
    assert poll.poll(0) == []
    keys.update(key)
    assert select.select([queue], [], [], LIMIT)[0] == [queue]
    assert poll.poll(0) == [(queue.fileno(), select.POLLIN)]


def test_loss_is_an_event_at_its_place(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    for _ in range(DEPTH + 3):
        keys.update(key)
    events: list[Event] = []
    while len(events) <= DEPTH:
        events += queue.read_nowait()
    keys.update(key)
    assert said(events[:DEPTH]) == [updated(key)] * DEPTH
    assert [type(event) for event in events[DEPTH:]] == [Loss]
    assert said(queue.read(LIMIT)) == [updated(key)]


def test_unwatched_key_is_a_removal(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    queue.unwatch_key(key)
    (event,) = queue.read(LIMIT)
    assert isinstance(event, Removal) and (event.object_id, event.watch_id) == (key, 5)
    with refused(errno.EBADSLT):
        queue.unwatch_key(key)


def test_watching_twice_is_ebusy(watched: tuple[Queue, int]) -> None:
    with refused(errno.EBUSY):
        watched[0].watch_key(watched[1], 6)


def test_watching_with_an_id_out_of_range_is_einval(watched: tuple[Queue, int], keys: Keys) -> None:
    with refused(errno.EINVAL):
        watched[0].watch_key(keys.add(), 256)


def test_watching_no_key_is_enokey(watched: tuple[Queue, int]) -> None:
    with refused(errno.ENOKEY):
        watched[0].watch_key(2**31 - 1, 6)


def test_depth_out_of_range_and_twice(keys: Keys) -> None:
    with keys.queue() as queue, refused(errno.EBUSY):
        queue.set_depth(64)
    for depth in (0, 513):
        with refused(errno.EINVAL):
            keys.queue(depth=depth)


@pytest.mark.parametrize("rules", ["key revoked", [Rule(1, 1 << KeySubtype.REVOKED)]], ids=["words", "rules"])
def test_filter_lets_pass_what_it_names(keys: Keys, rules: str | list[Rule]) -> None:
    with keys.queue(filter=rules) as queue:
        key = keys.add()
        queue.watch_key(key, 5)
        keys.update(key)
        keys.revoke(key)
        assert said(queue.read(LIMIT)) == [(KeySubtype.REVOKED, key, 5)]


@pytest.mark.parametrize("nothing", ["nothing", []], ids=["words", "rules"])
def test_filter_of_nothing_and_of_none(keys: Keys, watched: tuple[Queue, int], nothing: str | list[Rule]) -> None:
    queue, key = watched
    queue.set_filter(nothing)
    keys.update(key)
    with refused(errno.EAGAIN):
        queue.read_nowait()
    queue.set_filter(None)
    keys.update(key)
    assert said(queue.read(LIMIT)) == [updated(key)]


def test_wrong_filter_is_refused_and_changes_nothing(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    with pytest.raises(FilterTextError, match="line 2, word 1"):
        queue.set_filter("key *\nlock *")
    with refused(errno.EINVAL):
        queue.set_filter([Rule(1, info_filter=1 << 16)])
    with refused(errno.EINVAL):
        queue.set_filter([Rule(1)] * 17)
    keys.update(key)
    assert said(queue.read(LIMIT)) == [updated(key)]


def test_closed_queue_is_closed(keys: Keys) -> None:
    queue = keys.queue()
    fd = queue.fileno()
    queue.close()
    queue.close()
    assert queue.closed and queue.fileno() == -1 and "closed" in repr(queue)
    with refused(errno.EBADF):
        os.fstat(fd)
    for use in (queue.read, queue.read_nowait, queue.queued_bytes, lambda: queue.watch_key(1), lambda: next(queue)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_queue_is_not_inherited_by_programs(watched: tuple[Queue, int]) -> None:
    assert not os.get_inheritable(watched[0].fileno())


def test_waiting_read_is_interrupted_by_a_signal_that_raises(watched: tuple[Queue, int]) -> None:
    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    thread = later(signal.pthread_kill, main, signal.SIGUSR1)
    try:
        with pytest.raises(KeyboardInterrupt):
            watched[0].read(LIMIT)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_async_for_under_trio(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched
    found: list[Event] = []

    async def take() -> None:
        async for event in queue:
            found.append(event)
            if len(found) == 3:
                break

    async def main() -> None:
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(3):
                    await trio.to_thread.run_sync(keys.update, key)

    trio.run(main)
    assert said(found) == [updated(key)] * 3


def test_async_for_under_asyncio(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched

    async def main() -> list[Event]:
        found: list[Event] = []
        async with asyncio.timeout(LIMIT):
            loop = asyncio.get_running_loop()
            updates = [loop.run_in_executor(None, keys.update, key)]
            async for event in queue:
                found.append(event)
                if len(found) == 3:
                    break
                updates.append(loop.run_in_executor(None, keys.update, key))
            await asyncio.gather(*updates)
        return found

    assert said(asyncio.run(main())) == [updated(key)] * 3


def test_cancelled_wait_loses_nothing(keys: Keys, watched: tuple[Queue, int]) -> None:
    queue, key = watched

    async def under_trio() -> None:
        with trio.move_on_after(0.05) as scope:
            await queue.aread()
        assert scope.cancelled_caught

    async def under_asyncio() -> list[Event]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await queue.aread()
        keys.update(key)
        return await asyncio.wait_for(queue.aread(), LIMIT)

    trio.run(under_trio)
    assert said(asyncio.run(under_asyncio())) == [updated(key)]


def test_second_waiting_task_is_refused(watched: tuple[Queue, int]) -> None:
    queue = watched[0]

    async def under_asyncio() -> None:
        first = asyncio.create_task(queue.aread())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await queue.aread()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    async def under_trio() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.aread)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await queue.aread()
            nursery.cancel_scope.cancel()

    asyncio.run(under_asyncio())
    trio.run(under_trio)


def test_close_wakes_a_waiting_task(keys: Keys) -> None:
    async def under_asyncio() -> None:
        queue = keys.queue()
        task = asyncio.create_task(queue.aread())
        await asyncio.sleep(0.05)
        queue.close()
        with pytest.raises(ValueError, match="closed"):
            await asyncio.wait_for(task, LIMIT)

    async def under_trio() -> None:
        queue = keys.queue()

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await queue.aread()

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                queue.close()

    asyncio.run(under_asyncio())
    trio.run(under_trio)


@pytest.mark.skipif(not NATIVE, reason="this kernel has no notification pipes (CONFIG_WATCH_QUEUE)")
def test_native_pipe_watches_keys_alone() -> None:
    with Queue.native() as queue:
        assert queue.is_native
        with refused(errno.EOPNOTSUPP):
            queue.watch_devices()
        with refused(errno.EOPNOTSUPP):
            queue.watch_mount("/")
        with refused(errno.EOPNOTSUPP):
            queue.watch_superblock("/")


def test_import_takes_neither_trio_nor_asyncio_nor_pyfuse3() -> None:
    code = "import sys, wqfs.client; print([m for m in ('trio', 'asyncio', 'pyfuse3', 'wqfs.sim') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "[]\n"
