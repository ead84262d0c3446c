"""`clock advance` on a real mount: time passes at once, for keys, for events, for who waits."""

from __future__ import annotations

import errno
import json
import os
import time

from tests.tools import Call, Mount, opened, refused
from wqfs.abi import records as r


def test_key_expires_when_the_clock_is_put_forward(mount: Mount) -> None:
    mount.post("key add user ticket x @s", "key timeout ticket 10", "clock advance 11")
    with refused(errno.EKEYEXPIRED):
        mount.post("key update ticket y")
    assert " expd " in next(line for line in (mount.path / "sim/keys").read_text().splitlines() if "ticket" in line)


def test_reader_waiting_for_a_key_to_be_collected_is_woken_at_once(mount: Mount) -> None:
    mount.post("key add user ticket x @s", "key timeout ticket 10")
    watch = mount.watch()
    (watch / "objects").write_text("key ticket id=7\n")
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        mount.post("clock advance 311")
        (record,) = r.decode(call.result())
    assert (record.type, record.subtype, record.watch_id) == (r.WatchType.META, r.MetaSubtype.REMOVAL, 7)


def test_collection_that_was_planned_follows_the_clock(mount: Mount) -> None:
    """The daemon's own timer, that is: nothing but time passes after the clock was put forward."""
    mount.post("key add user ticket x @s", "key timeout ticket 1")
    watch = mount.watch()
    (watch / "objects").write_text("key ticket id=7\n")
    with opened(watch / "queue") as fd:
        call = Call(os.read, fd, 4096)
        mount.wait_for_readers(watch)
        mount.post("clock advance 299")
        assert len(call.result()) == 16


def test_events_carry_the_time_of_the_clock(mount: Mount) -> None:
    watch = mount.watch()
    mount.post("clock advance 86400.5", "sb error / EIO")
    event = json.loads((watch / "log").read_text())
    assert 86400 < event["time"] - time.time() < 86402
