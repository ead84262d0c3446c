"""wqfs.queue: the rules of its docstring, one by one and against a model."""

from __future__ import annotations

import errno
from select import POLLHUP, POLLIN

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from wqfs.abi import records as r
from wqfs.abi.records import LOSS
from wqfs.event import Event
from wqfs.queue import BufferTooSmall, Queue, SizeRefused
from wqfs.together import Part, Run

READABLE = POLLIN | 0x040


def record(number: int, body: int = 8) -> bytes:
    return r.encode(1, 1, number.to_bytes(8, "little")[:body].ljust(body, b"\0"))


def sized(depth: int = 32) -> Queue:
    queue = Queue()
    queue.hold()
    queue.set_size(depth)
    return queue


def full() -> Queue:
    queue = sized()
    for number in range(32):
        queue.post(record(number))
    return queue


# -- depth


@pytest.mark.parametrize(("asked", "got"), [(1, 32), (32, 32), (33, 64), (256, 256), (511, 512), (512, 512)])
def test_depth_is_rounded_up_to_a_page_of_notes(asked: int, got: int) -> None:
    assert sized(asked).depth == got


@pytest.mark.parametrize("depth", [0, 513, 0xFFFFFFFF])
def test_depth_outside_is_einval_and_does_not_count(depth: int) -> None:
    queue = Queue()
    with pytest.raises(SizeRefused) as caught:
        queue.set_size(depth)
    assert caught.value.errno == errno.EINVAL
    queue.set_size(1)


def test_depth_set_twice_is_ebusy() -> None:
    queue = sized()
    with pytest.raises(SizeRefused) as caught:
        queue.set_size(64)
    assert caught.value.errno == errno.EBUSY
    assert queue.depth == 32


def test_queue_not_sized_keeps_no_record_and_no_mark() -> None:
    queue = Queue()
    queue.hold()
    queue.post(record(1))
    queue.set_size(1)
    assert queue.read(4096) is None
    assert (queue.lost, queue.loss_next, queue.poll()) == (0, False, 0)


def test_default_depth_is_taken_at_the_first_record() -> None:
    queue = Queue(40)
    queue.hold()
    assert queue.depth == 0
    queue.post(record(1))
    assert queue.depth == 64


def test_default_depth_does_not_count_as_sizing() -> None:
    queue = Queue(256)
    queue.hold()
    for number in range(40):
        queue.post(record(number))
    queue.set_size(1)
    assert queue.depth == 32
    queue.post(record(40))
    assert queue.read(4096) == b"".join(map(record, range(40)))
    assert queue.read(8) == LOSS


# -- reading


def test_read_takes_as_many_whole_records_as_fit() -> None:
    queue = sized()
    for number in range(3):
        queue.post(record(number))
    assert queue.read(47) == record(0) + record(1)
    assert queue.read(47) == record(2)
    assert queue.read(47) is None


def test_read_with_a_buffer_too_small_consumes_nothing() -> None:
    queue = sized()
    queue.post(record(0))
    with pytest.raises(BufferTooSmall) as caught:
        queue.read(15)
    assert caught.value.needed == 16
    assert queue.read(16) == record(0)


def test_read_of_size_0_is_empty_whatever_is_queued() -> None:
    queue = sized()
    assert queue.read(0) == b""
    queue.post(record(0))
    assert queue.read(0) == b""
    assert len(queue) == 1


def test_read_without_a_write_side_drains_then_ends() -> None:
    queue = sized()
    queue.post(record(0))
    queue.let_go()
    assert queue.poll() == READABLE | POLLHUP
    assert queue.read(4096) == record(0)
    assert queue.poll() == POLLHUP
    assert queue.read(4096) == b""


# -- loss


def test_loss_comes_after_the_newest_queued_record() -> None:
    queue = full()
    queue.post(record(99))
    assert queue.read(16 * 32) == b"".join(map(record, range(32)))
    queue.post(record(32))
    assert queue.read(4096) == LOSS + record(32)


def test_loss_record_is_one_for_a_gap_of_many() -> None:
    queue = full()
    for number in range(50):
        queue.post(record(number))
    queue.read(4096)
    assert queue.read(4096) == LOSS
    assert queue.lost == 50
    assert queue.read(4096) is None


def test_loss_record_alone_is_not_reported_by_poll() -> None:
    queue = full()
    queue.post(record(99))
    queue.read(4096)
    assert queue.loss_next
    assert (queue.poll(), queue.bytes, len(queue)) == (0, 0, 0)


def test_loss_record_needs_eight_bytes() -> None:
    queue = full()
    queue.post(record(99))
    queue.read(4096)
    with pytest.raises(BufferTooSmall) as caught:
        queue.read(7)
    assert caught.value.needed == 8


# -- who waits


def test_change_is_told_once_for_many_records() -> None:
    queue = sized()
    told: list[Queue] = []
    queue.on_change = told.append
    queue.post_part(part_of([record(1), record(2)]))
    assert told == [queue]


def test_change_is_told_at_hangup() -> None:
    queue = sized()
    queue.hold()
    told: list[Queue] = []
    queue.on_change = told.append
    queue.let_go()
    assert told == []
    queue.let_go()
    assert told == [queue]


# -- the model


def part_of(raws: list[bytes]) -> Part:
    run = Run()
    for number, raw in enumerate(raws):
        run.add(Event(number, 0, raw, {}), number)
    return Part([(run, 0)])


class ModelledQueue(RuleBasedStateMachine):
    """A queue beside a list of (record, whether records were lost after it)."""

    @initialize(default=st.sampled_from([0, 1, 33]))
    def make(self, default: int) -> None:
        self.queue = Queue(default)
        self.queue.hold()
        self.default = default
        self.depth = 0
        self.sized = False
        self.ring: list[tuple[bytes, bool]] = []
        self.loss_next = False
        self.posted = self.lost = self.delivered = self.number = 0

    def model_post(self, raw: bytes) -> None:
        if not self.depth:
            if not self.default:
                return
            self.depth = -(-self.default // 32) * 32
        self.posted += 1
        if len(self.ring) < self.depth:
            self.ring.append((raw, False))
        else:
            self.ring[-1] = (self.ring[-1][0], True)
            self.lost += 1

    def new_record(self, body: int) -> bytes:
        self.number += 1
        return record(self.number, body)

    @rule(body=st.integers(0, 119))
    def post(self, body: int) -> None:
        raw = self.new_record(body)
        self.queue.post(raw)
        self.model_post(raw)

    @rule(count=st.integers(0, 70))
    def post_part(self, count: int) -> None:
        raws = [self.new_record(8) for _ in range(count)]
        self.queue.post_part(part_of(raws))
        for raw in raws:
            self.model_post(raw)

    @rule(depth=st.sampled_from([0, 1, 33, 64, 513]))
    def set_size(self, depth: int) -> None:
        expected = errno.EBUSY if self.sized else 0 if 1 <= depth <= 512 else errno.EINVAL
        try:
            self.queue.set_size(depth)
            got = 0
        except SizeRefused as refused:
            got = refused.errno or -1
        if self.sized and not 1 <= depth <= 512:
            assert got in (errno.EBUSY, errno.EINVAL)  # which first: conformance/ says
        else:
            assert got == expected
        if not expected:
            self.sized = True
            self.depth = -(-depth // 32) * 32

    @rule(size=st.one_of(st.integers(0, 40), st.integers(41, 1500)))
    def read(self, size: int) -> None:
        try:
            got = self.queue.read(size)
        except BufferTooSmall as error:
            first = LOSS if self.loss_next else self.ring[0][0]
            assert size < len(first) == error.needed
            return
        taken = b""
        while size:
            if self.loss_next and len(taken) + 8 <= size:
                taken += LOSS
                self.loss_next = False
            elif self.loss_next:
                break
            if not self.ring or len(taken) + len(self.ring[0][0]) > size:
                break
            raw, self.loss_next = self.ring.pop(0)
            taken += raw
            self.delivered += 1
            if not self.ring:
                break  # a loss record after the last waits for the next read
        if taken or not size:
            assert got == taken
        else:
            assert got == (None if self.queue.writers else b"")
            assert not self.ring

    @precondition(lambda self: self.queue.writers)
    @rule()
    def let_go(self) -> None:
        self.queue.let_go()

    @precondition(lambda self: not self.queue.writers)
    @rule()
    def hold(self) -> None:
        self.queue.hold()

    @rule()
    def look(self) -> None:
        mask = (READABLE if self.ring else 0) | (0 if self.queue.writers else POLLHUP)
        assert self.queue.poll() == mask
        assert (self.queue.depth, self.queue.loss_next) == (self.depth, self.loss_next)
        got = self.queue.statistics()
        assert (got.queued, got.bytes) == (len(self.ring), sum(len(raw) for raw, _ in self.ring))
        assert (got.posted, got.delivered, got.lost) == (self.posted, self.delivered, self.lost)


test_queue_answers_as_the_model = ModelledQueue.TestCase
