"""The journal of what a successor does again (wqfs.fs.journal), and that doing it again gives the same."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from mmap import PAGESIZE

import pytest

from wqfs.abi import fuse
from wqfs.event import Log
from wqfs.fs import taking_over
from wqfs.fs.channel_limits import BUFFER_SIZE
from wqfs.fs.filesystem import Filesystem
from wqfs.fs.journal import BUSY_S, FULL, SIZE, WORN_S, Entry, Journal
from wqfs.fs.options import Options
from wqfs.fs.recorder import Clock, Recorder
from wqfs.fs.taking_over import DEADLY, CaughtUp
from wqfs.kept import EVENT_BYTES

OPEN_READ, OPEN_WRITE = os.O_RDONLY, os.O_WRONLY
ME = (0, 0, 7)


def test_entries_come_back_as_they_were() -> None:
    journal = Journal()
    journal.turn_to(1)
    journal.append(3, 77, b"one")
    journal.append(4, 78, b"")
    journal.append(5, 79, memoryview(b"three"))
    assert list(journal.entries(1)) == [Entry(3, 77, b"one"), Entry(4, 78, b""), Entry(5, 79, b"three")]


def test_turning_to_the_next_checkpoint_touches_nothing_of_the_one_before_under_load() -> None:
    journal = Journal()
    journal.turn_to(1)
    while not journal.is_due:
        journal.append(1, 0, bytes(100_000))
    noted = list(journal.entries(1))
    journal.turn_to(2)
    journal.append(1, 0, b"new")
    assert journal.generation == 2
    assert [entry.payload for entry in journal.entries(2)] == [b"new"]
    assert list(journal.entries(1)) == noted
    journal.turn_to(3)
    assert list(journal.entries(3)) == []


def test_journal_at_rest_takes_no_memory() -> None:
    journal = Journal()
    for generation in (1, 2):
        journal.turn_to(generation)
        while not journal.is_full:
            journal.append(1, 0, bytes(100_000))
    assert shared_kib(journal) > 2 * FULL >> 10
    journal.turn_to(3)  # for it is full
    assert shared_kib(journal) > 2 * FULL >> 10
    journal.turn_to(4)  # at rest
    assert shared_kib(journal) <= (BUFFER_SIZE >> 10) + 16
    journal.append(1, 0, b"goes on")
    assert [entry.payload for entry in journal.entries(4)] == [b"goes on"]


def shared_kib(journal: Journal) -> int:
    """Of the journal's memory, what there is (proc_pid_smaps(5))."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(journal.memory))
    with open("/proc/self/smaps", encoding="ascii") as file:
        at_it = itertools.dropwhile(lambda line: not line.startswith(f"{start:x}-"), file)
        return next(int(line.split()[1]) for line in at_it if line.startswith("Rss:"))


def test_checkpoint_counts_by_its_number_and_its_process() -> None:
    journal = Journal()
    journal.turn_to(7, 4711)
    assert journal.counts(7, 4711)
    assert not journal.counts(7, 4712) and not journal.counts(6, 4711)
    assert journal.generation == 7


def test_successor_goes_on_after_what_is_there() -> None:
    journal = Journal()
    journal.turn_to(1)
    journal.append(1, 0, b"one")
    seen_by_the_next = Journal(journal.memory)
    seen_by_the_next.go_on(1)
    seen_by_the_next.append(1, 0, b"two")
    assert [entry.payload for entry in journal.entries(1)] == [b"one", b"two"]


def test_full_leaves_room_for_what_cannot_wait() -> None:
    journal = Journal()
    journal.turn_to(1)
    while not journal.is_full:
        journal.append(1, 0, bytes(100_000))
    for _ in range(4):
        journal.append(1, 0, bytes(200_000))
    assert FULL < SIZE
    with pytest.raises(OverflowError):
        journal.append(1, 0, bytes(SIZE))


def test_checkpoint_is_due_after_as_much_work_as_a_successor_should_do_again() -> None:
    journal = Journal()
    journal.turn_to(1)
    while not journal.is_due:
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
        journal.append(1, 0, bytes(10_000))
    entries = len(list(journal.entries(1)))
    assert BUSY_S / 0.01 <= entries < 2 * BUSY_S / 0.01
    assert not journal.is_full
    journal.turn_to(2)
    assert not journal.is_due


def test_checkpoint_at_rest_is_worth_its_while_after_less_work() -> None:
    journal = Journal()
    journal.turn_to(1)
    journal.look()
    assert (journal.is_worn, journal.is_due) == (False, False)
    end = time.process_time() + WORN_S
    while time.process_time() < end:
        pass
    journal.look()
    assert (journal.is_worn, journal.is_due) == (True, False)
    journal.turn_to(2)
    assert not journal.is_worn


def are_in_place(room: memoryview) -> bool:
    """Whether this process has the pages, as /proc/PID/pagemap tells it (proc(5))."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    first, end = start // PAGESIZE, -(-(start + len(room)) // PAGESIZE)
    with open("/proc/self/pagemap", "rb") as pagemap:
        words = os.pread(pagemap.fileno(), (end - first) * 8, first * 8)
    return all(word >> 63 for (word,) in struct.iter_unpack("=Q", words))


def test_pages_that_requests_are_read_to_are_in_place() -> None:
    """A daemon killed while the kernel fetches one would leave a caller with EIO."""
    journal = Journal()
    for generation in (1, 2, 3):
        assert len(journal.room) == BUFFER_SIZE and are_in_place(journal.room)
        journal.turn_to(generation)
        while not journal.is_full:
            journal.append(1, 0, bytes(5000))


def test_pages_are_in_place_in_who_takes_over() -> None:
    journal = Journal()
    journal.turn_to(1)
    journal.append(1, 0, bytes(100_000))
    pid = os.fork()
    if not pid:
        before = are_in_place(journal.room)  # a fork copies no pages of shared memory
        journal.go_on(1)
        os._exit(2 * before + are_in_place(journal.room))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_writer_killed_within_an_entry_leaves_none() -> None:
    journal = Journal()
    journal.turn_to(1)
    journal.append(1, 0, b"whole")
    pid = os.fork()
    if not pid:
        # All but the mark: as far as a writer may get.
        next_at = journal._at
        journal.memory[next_at : next_at + 12] = struct.pack("=QI", 77, 1 << 24 | 5)
        journal.memory[next_at + 16 : next_at + 21] = b"half."
        os._exit(0)
    os.waitpid(pid, 0)
    assert [entry.payload for entry in journal.entries(1)] == [b"whole"]
    journal.append(1, 0, b"next")
    assert [entry.payload for entry in journal.entries(1)] == [b"whole", b"next"]


def test_what_a_buffer_had_before_is_never_taken_for_an_entry() -> None:
    journal = Journal()
    for generation in range(1, 9):
        journal.turn_to(generation)
        for number in range(generation % 3):
            journal.append(1, 0, bytes((generation, number)) * 11)
        expected = [bytes((generation, number)) * 11 for number in range(generation % 3)]
        assert [entry.payload for entry in journal.entries(generation)] == expected


class Machine:
    """A filesystem with a recorder, driven by FUSE messages, without a kernel."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.recorder = Recorder(Journal(), Clock())
        from wqfs.fs.channel import Channel

        recorder = self.recorder
        recorder.send = self.sent.append
        recorder.forward = lambda message: None
        recorder.drain = lambda: None
        recorder.attach(Channel(recorder.answer, recorder.pass_on, show=recorder.show))
        recorder.real_fetch = lambda *_: None
        recorder.filesystem = self.filesystem = Filesystem(Options(), 0, 0, recorder.fetch, recorder.clock.read)
        self.filesystem.note = recorder
        self.filesystem.channel = recorder.channel
        recorder.journal.turn_to(1)
        self._unique = 0
        self.caught_up: CaughtUp

    def ask(self, opcode: int, body: bytes, *, again: int = 0) -> int:
        """Send a request; again: the `unique` of one that is sent again. Returns the `unique`."""
        self._unique += 2
        unique = again | fuse.FUSE_UNIQUE_RESEND if again else self._unique
        size = fuse.IN_HEADER.size + len(body)
        message = fuse.IN_HEADER.pack(size, opcode, unique, 1, 0, 0, 7, 0, 0) + body
        room = self.recorder.journal.room
        room[:size] = message
        self.recorder.receive_again(room, size)
        self.recorder.outside()
        return unique

    def read(self, fh: int, *, again: int = 0) -> int:
        return self.ask(fuse.READ, struct.pack("=QQIIQII", fh, 0, 4096, 2, 0, 0, 0), again=again)

    def write(self, fh: int, data: bytes, *, again: int = 0) -> int:
        return self.ask(fuse.WRITE, struct.pack("=QQIIQII", fh, 0, len(data), 0, 0, 1, 0) + data, again=again)

    def answers(self, unique: int) -> list[bytes]:
        return [reply[16:] for reply in self.sent if fuse.OUT_HEADER.unpack_from(reply)[2] == unique]


@pytest.fixture
def start() -> Callable[[], tuple[Machine, int, int]]:
    def make() -> tuple[Machine, int, int]:
        """A machine, a queue's reader and a writer of records."""
        from wqfs.fs import nodes

        machine = Machine()
        watch = machine.filesystem.make_watch("w", 0, 0)
        queue = machine.filesystem.open(nodes.QUEUE, watch, OPEN_READ, ME)
        records = machine.filesystem.open(nodes.RECORDS, None, OPEN_WRITE, ME)
        return machine, queue, records

    return make


RECORD = struct.pack("=IIII", 1 | 1 << 24, 16, 7, 0)
Start = Callable[[], tuple[Machine, int, int]]


def successor(before: Machine, start: Start) -> Machine:
    """Another machine, as a checkpoint had it, that did again what `before` noted."""
    machine, _, _ = start()
    machine._unique = 1000  # the kernel goes on counting
    machine.recorder.journal = before.recorder.journal
    machine.caught_up = taking_over.catch_up(machine.recorder, 1)
    return machine


def test_record_that_was_answered_is_not_there_again(start: Start) -> None:
    machine, queue, records = start()
    machine.write(records, RECORD)
    assert machine.answers(machine.read(queue)) == [RECORD]
    next_one = successor(machine, start)
    unique = next_one.read(queue)
    assert next_one.answers(unique) == []  # it waits


def test_answer_that_did_not_arrive_comes_again(start: Start) -> None:
    machine, queue, records = start()
    machine.write(records, RECORD)
    unique = machine.read(queue)
    next_one = successor(machine, start)
    again = next_one.read(queue, again=unique)
    assert next_one.answers(again) == [RECORD]


def test_waiting_reader_is_answered_once(start: Start) -> None:
    machine, queue, records = start()
    waits = machine.read(queue)
    writes = machine.write(records, RECORD)
    assert machine.answers(waits) == [RECORD]
    next_one = successor(machine, start)
    assert next_one.answers(next_one.read(queue, again=waits)) == [RECORD]
    assert len(next_one.answers(next_one.write(records, RECORD, again=writes))) == 1
    assert next_one.answers(next_one.read(queue)) == []  # the write did not happen twice


def test_close_that_was_read_and_not_noted_is_done_where_nothing_is_sent_again(start: Start) -> None:
    machine, queue, records = start()
    machine.write(records, RECORD)
    close = fuse.IN_HEADER.pack(64, fuse.RELEASE, 990, 1, 0, 0, 7, 0, 0) + struct.pack("=QIIQ", queue, 0, 0, 0)
    machine.recorder.journal.room[: len(close)] = close  # the kernel wrote it there, and the daemon died
    next_one = successor(machine, start)
    assert set(next_one.recorder.channel.handles) == {queue, records}
    taking_over.nothing_is_sent_again(next_one.recorder, next_one.caught_up.unnoted_close)
    assert set(next_one.recorder.channel.handles) == {records}
    one_more = successor(machine, start)  # should that die at once
    assert set(one_more.recorder.channel.handles) == {records}
    taking_over.nothing_is_sent_again(one_more.recorder, one_more.caught_up.unnoted_close)
    assert set(one_more.recorder.channel.handles) == {records}


def test_close_that_was_read_last_and_noted_was_not_left_undone(start: Start) -> None:
    machine, queue, records = start()
    machine.ask(fuse.RELEASE, struct.pack("=QIIQ", queue, 0, 0, 0))
    next_one = successor(machine, start)
    assert next_one.caught_up == CaughtUp(1, b"", "")
    assert set(next_one.recorder.channel.handles) == {records}
    for _ in range(DEADLY):
        next_one = successor(next_one, start)
    assert next_one.caught_up.refused == ""


@pytest.mark.parametrize("looks_at", ["log", "nothing", "log twice"])
def test_who_let_go_of_what_was_too_much_has_let_go_of_it(start: Start, looks_at: str) -> None:
    """Which of them, and when, hangs on who has looked at what, which is not done again."""
    from wqfs.fs import nodes

    def start_small() -> tuple[Machine, int, int]:
        machine, _, records = start()
        watches = machine.filesystem.watches
        watches.limits = replace(watches.limits, memory=10 * EVENT_BYTES)
        watches.decide(None)
        (watch,) = watches.by_number.values()
        for place in nodes.EVENTS, nodes.LOG:
            fhs[place] = machine.filesystem.open(place, watch, OPEN_READ, ME)
        return machine, fhs[nodes.EVENTS], records

    fhs: dict[nodes.Place, int] = {}
    machine, events, records = start_small()
    for number in range(40):
        machine.write(records, RECORD)
        if number in {"log": (8,), "log twice": (3, 30), "nothing": ()}[looks_at]:
            machine.read(fhs[nodes.LOG])
    next_one = successor(machine, start_small)
    for each in machine, next_one:
        each.sent.clear()
        (watch,) = each.filesystem.watches.by_number.values()
        (log,) = (sink for sink in watch.sinks if isinstance(sink, Log))
        each.read(events)
        each.sent.append(bytes(log.text()))
    assert machine.sent[0][16:] == next_one.sent[0][16:] and machine.sent[1:] == next_one.sent[1:]
    assert b"lost" in machine.sent[0] and b"cut" in machine.sent[1], "there was too much"


def test_request_over_which_all_die_is_answered_with_eio(start: Start) -> None:
    machine, _, records = start()
    body = struct.pack("=QQIIQII", records, 0, 16, 0, 0, 1, 0) + RECORD
    deadly, other = (fuse.IN_HEADER.pack(96, fuse.WRITE, unique, 1, 0, 0, 7, 0, 0) + body for unique in (990, 992))
    refused = []
    for message in (deadly,) * (DEADLY - 1) + (other,) + (deadly,) * DEADLY:
        machine.recorder.journal.room[: len(message)] = message  # the kernel wrote it there, and the daemon died
        machine = successor(machine, start)
        refused.append(machine.caught_up.refused)
    assert (any(refused[:-1]), refused[-1]) == (False, f"opcode {fuse.WRITE}, uid 0, pid 7")
    again = machine.write(records, RECORD, again=990)
    assert machine.sent == [fuse.OUT_HEADER.pack(16, -errno.EIO, again)]
    assert len(machine.answers(machine.write(records, RECORD))) == 1


def test_of_requests_that_pyfuse3_has_the_one_that_it_is_at_is_blamed(start: Start) -> None:
    machine, _, _ = start()
    refused = []
    for _ in range(DEADLY):
        machine.ask(fuse.MKDIR, bytes(8) + b"w\0", again=990)
        machine.ask(fuse.MKDIR, bytes(8) + b"w\0", again=992)  # read after it, and waits for its turn
        machine.recorder.names_go_on()
        machine = successor(machine, start)
        refused.append(machine.caught_up.refused)
    assert (any(refused[:-1]), refused[-1]) == (False, f"opcode {fuse.MKDIR}, uid 0, pid 7")
    again = machine.ask(fuse.MKDIR, bytes(8) + b"w\0", again=990)
    machine.ask(fuse.MKDIR, bytes(8) + b"w\0", again=992)
    assert machine.sent == [fuse.OUT_HEADER.pack(16, -errno.EIO, again)]
    machine.recorder.names_go_on()
    machine.recorder.names_wait()
    assert successor(machine, start).caught_up.refused == ""


def test_close_over_which_all_die_is_refused_and_nothing_stays_open(start: Start) -> None:
    machine, queue, records = start()
    close = fuse.IN_HEADER.pack(64, fuse.RELEASE, 990, 1, 0, 0, 7, 0, 0) + struct.pack("=QIIQ", records, 0, 0, 0)
    for _ in range(DEADLY):
        machine.recorder.journal.room[: len(close)] = close  # the kernel wrote it there, and the daemon died
        machine = successor(machine, start)
    assert machine.caught_up.refused == f"opcode {fuse.RELEASE}, uid 0, pid 7"
    assert set(machine.recorder.channel.handles) == {queue}
    assert set(successor(machine, start).recorder.channel.handles) == {queue}, "and it is noted"


def test_what_was_read_last_and_is_no_close_is_not_done_again(start: Start) -> None:
    machine, queue, records = start()
    machine.ask(fuse.POLL, struct.pack("=QQII", queue, 5, 0, 0))  # not noted
    next_one = successor(machine, start)
    taking_over.nothing_is_sent_again(next_one.recorder, next_one.caught_up.unnoted_close)
    assert set(next_one.recorder.channel.handles) == {queue, records} and next_one.sent == []


def test_who_waits_is_answered_only_after_asking_again(start: Start) -> None:
    machine, queue, records = start()
    waits = machine.read(queue)
    next_one = successor(machine, start)
    next_one.write(records, RECORD)
    assert next_one.answers(waits) == []  # the kernel would take it for nobody's
    assert next_one.answers(next_one.read(queue, again=waits)) == [RECORD]


def test_answers_outlive_a_successor_that_dies_before_they_are_asked_for(start: Start) -> None:
    machine, queue, records = start()
    machine.write(records, RECORD)
    unique = machine.read(queue)
    next_one = successor(machine, start)
    next_one.recorder.journal.turn_to(2)  # its checkpoint, and it dies
    taking_over.catch_up(next_one.recorder, 2)
    assert next_one.answers(next_one.read(queue, again=unique)) == [RECORD]


def test_successor_of_a_successor_does_again_what_that_one_did(start: Start) -> None:
    machine, queue, records = start()
    waits = machine.read(queue)
    second = successor(machine, start)  # forgets who waits; then
    second.write(records, RECORD)
    assert second.answers(second.read(queue, again=waits)) == [RECORD]
    third = successor(second, start)
    assert third.answers(third.read(queue)) == []
    assert third.answers(third.read(queue, again=waits)) == [RECORD]


def test_name_left_out_once_is_left_out_again(start: Start) -> None:
    machine, _, _ = start()
    machine.ask(fuse.MKDIR, struct.pack("=II", 0o755, 0) + b"new\0")
    machine.filesystem.make_watch("new", 0, 0)
    machine.recorder.name_changed(("mkdir", "new", 0, 0))
    second = successor(machine, start)
    unique = second.ask(fuse.MKDIR, struct.pack("=II", 0o755, 0) + b"new\0")
    second.filesystem.make_watch("new", 0, 0)
    second.recorder.name_changed(("mkdir", "new", 0, 0))
    second.recorder.replied(fuse.OUT_HEADER.pack(16, 0, unique))
    third = successor(second, start)
    assert list(third.filesystem.watches.by_name) == ["w", "new"]


def test_name_whose_reply_never_left_is_left_out(start: Start) -> None:
    machine, _, _ = start()
    machine.ask(fuse.MKDIR, struct.pack("=II", 0o755, 0) + b"new\0")
    machine.filesystem.make_watch("new", 0, 0)
    machine.recorder.name_changed(("mkdir", "new", 0, 0))
    assert "new" not in successor(machine, start).filesystem.watches.by_name


def test_name_whose_reply_left_is_there(start: Start) -> None:
    machine, _, _ = start()
    unique = machine.ask(fuse.MKDIR, struct.pack("=II", 0o755, 0) + b"new\0")
    machine.filesystem.make_watch("new", 0, 0)
    machine.recorder.name_changed(("mkdir", "new", 0, 0))
    may_fork = [machine.recorder.may_fork]
    machine.recorder.replied(fuse.OUT_HEADER.pack(16, 0, unique))
    assert [*may_fork, machine.recorder.may_fork] == [False, True]
    next_one = successor(machine, start)
    assert "new" in next_one.filesystem.watches.by_name
    again = next_one.ask(fuse.MKDIR, struct.pack("=II", 0o755, 0) + b"new\0", again=unique)
    assert next_one.answers(again) == [b""]


def test_all_that_was_posted_is_the_same_again(start: Start) -> None:
    from wqfs.fs import nodes

    machine, _, _ = start()
    post = machine.filesystem.open(nodes.POST, None, OPEN_WRITE, ME)
    lines = b"mount /dev/sdb1 /mnt -t ext4\nkey add user k x @s\nsb error /mnt EIO\nkey timeout k 5\n"
    made, _, _ = start()
    made.filesystem.open(nodes.POST, None, OPEN_WRITE, ME)
    made.recorder.journal = machine.recorder.journal
    machine.write(post, lines)
    taking_over.catch_up(made.recorder, 1)
    for machine_ in (machine, made):
        machine_.recorder.clock.now_ns = machine.recorder.clock.now_ns
    texts = [
        machine_.filesystem._texts.text(place, None).decode()
        for machine_ in (machine, made)
        for place in (nodes.MOUNTINFO, nodes.SUPERBLOCKS, nodes.KEYS)
    ]
    assert texts[:3] == texts[3:]
    assert machine.filesystem.watches.last_event == made.filesystem.watches.last_event > 4
