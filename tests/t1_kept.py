"""What is kept for readers is counted, shared events once, and those who keep most lose it first."""

from __future__ import annotations

import errno
import json
import sys

import pytest

from wqfs.event import Event, Log, NoRoom, Stream
from wqfs.fs.handles.lines import LineContext, WholeTextHandle
from wqfs.fs.handles.text import TextHandle
from wqfs.kept import EVENT_BYTES, Account, Kept
from wqfs.sim.devices import Devices
from wqfs.watch import Watch
from wqfs.watches import Limits, Watches

LONG = {"mountpoint": "/" + "x" * 4000}
RECORD = b"\x01\x00\x00\x00\x08\x00\x00\x00"
WIDE = "\U0001f600" + "x" * 3000
"""Takes 12,000 bytes: one such character makes all of them wide."""


def post(watches: Watches, count: int = 1) -> None:
    for _ in range(count):
        watches.publish(watches.event(0, RECORD, dict(LONG)), ())


def log_of(watch: Watch) -> Log:
    (log,) = watch.sinks
    assert isinstance(log, Log)
    return log


def make(memory: int, count: int, log_events: int = 4096) -> tuple[Watches, list[Watch]]:
    watches = Watches(Limits(memory=memory, log_events=log_events))
    return watches, [watches.make(f"w{n}", 0, 0, 0) for n in range(count)]


def test_event_counts_once_for_all_who_keep_it() -> None:
    watches, _ = make(1 << 20, 50)
    post(watches, 10)
    assert watches.kept.used == 10 * (EVENT_BYTES + 4001)


def test_events_give_back_what_they_took_when_the_last_watch_is_gone() -> None:
    watches, made = make(1 << 20, 2)
    post(watches, 100)
    for watch in made:
        log_of(watch).text()
        watches.remove_name(watch.name)
        watches.forget(watch)
    del watch, made
    watches.kept.end_batch()
    assert watches.kept.used == 0


def test_too_much_is_never_kept_and_every_event_is_accounted_for() -> None:
    watches, (watch, other) = make(100_000, 2)
    for _ in range(100):
        post(watches)
        assert watches.kept.used <= 100_000
    for each in (watch, other):
        lines = [json.loads(line) for line in bytes(log_of(each).text()).splitlines()]
        assert lines[0]["event"] == "cut" and lines[-1]["seq"] == 100


def test_who_keeps_most_is_cut_first() -> None:
    watches, (full, fresh) = make(200_000, 2)
    watches.watch_everything(fresh, False)
    post(watches, 35)
    watches.watch_everything(fresh, True)
    post(watches, 20)
    assert b'"cut"' in bytes(log_of(full).text())
    assert b'"cut"' not in bytes(log_of(fresh).text())


def test_texts_of_logs_count_too() -> None:
    watches, made = make(300_000, 20)
    post(watches, 30)
    for watch in made:
        log_of(watch).text()
        assert watches.kept.used <= 300_000


def test_text_that_is_read_in_part_is_kept_and_refused_beyond_the_bound() -> None:
    kept = Kept(10)
    first, second = (TextHandle(lambda: b"0123456", kept=Account(kept, uid)) for uid in range(2))
    assert first.read(0, 4, 0) == b"0123" and kept.used == 7
    assert second.read(0, 4, 0) == -errno.ENOMEM
    assert second.read(0, 7, 0) == b"0123456", "what is read at once is not kept"
    assert first.read(4, 4, 0) == b"456" and kept.used == 0
    assert first.read(7, 4, 0) == b""
    assert second.read(0, 1, 0) == b"0"
    second.release()
    assert kept.used == 0


def test_texts_of_one_user_leave_some_room_to_others() -> None:
    kept = Kept(100)
    mine, theirs = Account(kept, 1), Account(kept, 2)
    assert mine.take(75) and not mine.take(1) and theirs.take(25) and not theirs.take(1)
    mine.give_back(75)
    assert theirs.take(50) and not theirs.take(1)
    theirs.give_back(75)
    assert kept.used == 0 and mine.take(75)


def test_bound_of_one_user_is_an_option() -> None:
    kept = Kept(100, 30)
    mine, theirs = Account(kept, 1), Account(kept, 2)
    assert mine.take(30) and not mine.take(1) and theirs.take(30) and not theirs.take(1)
    mine.give_back(10)
    assert mine.take(10)


def test_lines_that_count_together_are_kept_as_texts_are() -> None:
    kept, complaints = Kept(2000), []
    context = LineContext(4096, lambda *_, **more: complaints.append(more), Account(kept, 1))
    replaced: list[list[str]] = []
    handles = [
        WholeTextHandle("filter", lambda: b"", lambda lines, caller: replaced.append(list(lines)), context)
        for _ in range(2)
    ]
    block = memoryview(b"#\n" * 15)
    assert handles[0].write(block, 0, (1, 1, 1)) == 30 and kept.used >= 30
    assert handles[1].write(block, 0, (1, 1, 1)) == -errno.ENOMEM
    assert replaced == [["#"] * 15]
    handles[0].release()
    assert kept.used == 0
    assert handles[1].write(block, 0, (1, 1, 1)) == 30
    handles[1].release()
    assert kept.used == 0


def test_records_that_users_put_into_their_own_queues_are_bounded_too() -> None:
    watches, made = make(100_000, 2)
    for number in range(1000):
        watches.deliver_raw(made[number % 2], RECORD, 0)
        assert watches.kept.used <= 100_000
    for each in made:
        assert json.loads(bytes(log_of(each).text()).splitlines()[0])["event"] == "cut"


def test_removals_of_objects_with_long_names_are_bounded_too() -> None:
    watches, (watch,) = make(100_000, 1)
    devices = Devices()
    for _ in range(200):
        watches.add(watch, devices, 1, label="x" * 4000)
        watches.remove(watch, devices, 0, label="x" * 4000)
        assert watches.kept.used <= 100_000


def test_wide_characters_count_as_what_they_take() -> None:
    watches, _ = make(1 << 20, 1)
    watches.publish(watches.event(0, RECORD, {"mountpoint": WIDE}), ())
    assert watches.kept.used >= sys.getsizeof(WIDE)
    kept = Kept()
    context = LineContext(4096, lambda *_, **more: None, Account(kept, 1))
    replaced: list[list[str]] = []
    handle = WholeTextHandle("filter", lambda: b"", lambda lines, caller: replaced.append(list(lines)), context)
    text = "\n".join([WIDE] * 10).encode()
    handle.write(memoryview(text), 0, (1, 1, 1))
    assert sum(map(sys.getsizeof, handle._lines)) <= kept.used
    handle.release()
    assert replaced[-1] == [WIDE] * 10 and kept.used == 0


def test_rest_of_a_long_line_of_events_is_kept_as_a_text_is() -> None:
    kept = Kept(20_000)
    streams = [Stream(10, Account(kept, 1)) for _ in range(2)]
    short, long = Event(1, 0, RECORD, {}), Event(2, 0, RECORD, {"was": "x" * 9000})
    for stream in streams:
        stream.push(short)
        stream.push(long)
    both = short.line() + long.line()
    size = len(short.line()) + 1
    assert streams[0].read(size) == both[:size] and kept.used == len(both) - size
    assert streams[1].read(size) == short.line(), "up to the line that has no room"
    with pytest.raises(NoRoom):
        streams[1].read(1)
    assert streams[1].read(1 << 16) == long.line(), "what is read at once is not kept"
    assert streams[0].read(1 << 16) == both[size:] and kept.used == 0
    streams[0].push(long)
    assert streams[0].read(1) == b"{" and kept.used
    streams[0].close()
    assert kept.used == 0
