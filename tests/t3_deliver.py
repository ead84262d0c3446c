"""WQFS_IOC_DELIVER: one record into one queue."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tools import LIMIT, NO_WAIT, Mount, new_watch, opened, refused, wait_until
from wqfs.abi import filters, ioctls
from wqfs.abi import records as r

UPDATED = r.encode(r.WatchType.KEY_NOTIFY, r.KeySubtype.UPDATED, r.KEY_BODY.pack(77, 0), watch_id=3)
CLEARED = r.encode(r.WatchType.KEY_NOTIFY, r.KeySubtype.CLEARED, r.KEY_BODY.pack(77, 0), watch_id=3)
REMOVAL = r.removal(77, 3)


def deliver(fd: int, record: bytes, size: int | None = None) -> None:
    fcntl.ioctl(
        fd, ioctls.WQFS_IOC_DELIVER, bytearray(ioctls.DELIVER.pack(len(record) if size is None else size, record))
    )


def test_record_comes_out_as_it_is(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        deliver(fd, UPDATED)
        assert os.read(fd, 4096) == UPDATED


def test_other_queues_hear_nothing(shared: Mount, watch: Path) -> None:
    with new_watch(shared) as other, opened(watch / "queue") as fd, opened(other / "queue", NO_WAIT) as there:
        deliver(fd, UPDATED)
        with refused(errno.EAGAIN):
            os.read(there, 4096)


def test_filter_holds_what_is_not_meta(watch: Path) -> None:
    rule = filters.FILTER_RULE.pack(r.WatchType.KEY_NOTIFY, 0, 0, 1 << r.KeySubtype.CLEARED, *[0] * 7)
    with opened(watch / "queue", NO_WAIT) as fd:
        fcntl.ioctl(fd, ioctls.wqfs_ioc_set_filter(1), bytearray(filters.FILTER_HEADER.pack(1, 0) + rule))
        for record in (UPDATED, CLEARED, REMOVAL):
            deliver(fd, record)
        assert os.read(fd, 4096) == CLEARED + REMOVAL
    assert "filtered 1\n" in (watch / "status").read_text()


def test_log_has_it_under_a_number(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd:
        deliver(fd, UPDATED)
        deliver(fd, CLEARED)
    first, second = map(json.loads, (watch / "log").read_text().splitlines())
    assert (first["event"], second["event"]) == ("updated", "cleared")
    assert first["key"] == second["key"] == 77
    assert second["seq"] == first["seq"] + 1


def test_queue_hears_no_longer_of_everything(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        deliver(fd, b"")
        shared.post("mount none /tmp -t tmpfs", "umount /tmp")
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_reader_that_waits_is_woken(watch: Path) -> None:
    with opened(watch / "queue") as fd, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(os.read, fd, 4096)
        wait_until(lambda: "readers 1\n" in (watch / "status").read_text(), "the reader to wait")
        deliver(fd, UPDATED)
        assert reading.result(LIMIT) == UPDATED


@pytest.mark.parametrize(
    ("record", "size"),
    [
        (UPDATED + UPDATED, 32),
        (UPDATED, 15),
        (UPDATED, 17),
        (UPDATED, 4),
        (bytes(16), 16),
        (UPDATED, 129),
        (UPDATED, 0xFFFFFFFF),
    ],
)
def test_what_is_not_one_record_is_refused(watch: Path, record: bytes, size: int) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        with refused(errno.EINVAL):
            deliver(fd, record, size)
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
