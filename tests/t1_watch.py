"""Who is told what: watch.py without a mount."""

from __future__ import annotations

import errno

import pytest

from wqfs.abi import records as r
from wqfs.event import Log, Stream
from wqfs.watch import Watch, Watchable
from wqfs.watches import Limits, Watches, WatchRefused


class Thing(Watchable):
    """An object with an id."""

    __slots__ = ("id",)

    def __init__(self, id_: int) -> None:
        super().__init__()
        self.id = id_

    @property
    def watch_object_id(self) -> int:
        return self.id


KEY_UPDATED = r.encode(r.WatchType.KEY_NOTIFY, r.KeySubtype.UPDATED, r.KEY_BODY.pack(7, 0))


def happen(watches: Watches, *things: Thing, everything: int = 0) -> None:
    """An event on each thing in turn."""
    for thing in things:
        event = watches.event(0, KEY_UPDATED, {})
        watches.publish(event, [(thing.watchers, 0)], everything)


def read(watch: Watch) -> list[tuple[int, int, int]]:
    """(type, subtype, watch ID) of each queued record."""
    return [(got.type, got.subtype, got.watch_id) for got in r.decode(watch.queue.read(1 << 16) or b"")]


def test_watch_without_objects_hears_everything_with_id_0() -> None:
    watches = Watches()
    watch = watches.make("w", 0, 0, 0)
    happen(watches, Thing(1), Thing(2))
    assert read(watch) == [(1, 1, 0), (1, 1, 0)]


def test_watch_everything_gets_its_own_flags() -> None:
    watches = Watches()
    watch = watches.make("w", 0, 0, 0)
    happen(watches, Thing(1), everything=r.MountFlag.IN_SUBTREE)
    (record,) = r.decode(watch.queue.read(4096) or b"")
    assert record.info == r.MountFlag.IN_SUBTREE | 16


def test_strict_watch_without_objects_hears_nothing() -> None:
    watches = Watches(strict=True)
    watch = watches.make("w", 0, 0, 0)
    watch.queue.set_size(32)
    happen(watches, Thing(1))
    assert read(watch) == []


def test_first_object_replaces_everything() -> None:
    watches = Watches()
    watch, one, two = watches.make("w", 0, 0, 0), Thing(1), Thing(2)
    watches.add(watch, one, 5, label="one")
    happen(watches, two, one)
    assert read(watch) == [(1, 1, 5)]


def test_after_the_last_object_is_removed_it_watches_nothing() -> None:
    watches = Watches()
    watch, one = watches.make("w", 0, 0, 0), Thing(1)
    watches.add(watch, one, 5, label="one")
    watches.remove(watch, one, 0, label="one")
    happen(watches, one, Thing(2))
    assert read(watch) == [(r.WatchType.META, r.MetaSubtype.REMOVAL, 5)]


def test_same_object_twice_is_busy() -> None:
    watches = Watches()
    watch, one = watches.make("w", 0, 0, 0), Thing(1)
    watches.add(watch, one, 1, label="one")
    with pytest.raises(WatchRefused) as caught:
        watches.add(watch, one, 2, label="one")
    assert caught.value.errno == errno.EBUSY


def test_two_places_of_one_object_are_two_entries() -> None:
    watches = Watches()
    watch, one = watches.make("w", 0, 0, 0), Thing(1)
    watches.add(watch, one, 1, label="one")
    watches.add(watch, one, 2, label="one/a", place=("a",))
    happen(watches, one)
    assert read(watch) == [(1, 1, 2), (1, 1, 1)]  # newest first


@pytest.mark.parametrize("id_", [-1, 256, 1 << 31])
def test_id_outside_0_to_255_is_invalid(id_: int) -> None:
    watches = Watches()
    with pytest.raises(WatchRefused) as caught:
        watches.add(watches.make("w", 0, 0, 0), Thing(1), id_, label="one")
    assert caught.value.errno == errno.EINVAL


def test_removing_what_is_not_watched_is_badslt() -> None:
    watches = Watches()
    with pytest.raises(WatchRefused) as caught:
        watches.remove(watches.make("w", 0, 0, 0), Thing(1), 0, label="one")
    assert caught.value.errno == errno.EBADSLT


def test_limits_are_edquot() -> None:
    watches = Watches(Limits(watches=1, objects=1))
    watch = watches.make("w", 7, 0, 0)
    watches.add(watch, Thing(1), 0, label="one")
    for refused in (
        lambda: watches.make("x", 7, 0, 0),
        lambda: watches.add(watch, Thing(2), 0, label="two"),
    ):
        with pytest.raises(WatchRefused) as caught:
            refused()
        assert caught.value.errno == errno.EDQUOT
    watches.make("y", 8, 0, 0)  # another user has watches of his own


def test_object_that_goes_tells_each_of_its_watches() -> None:
    watches = Watches()
    first, second, one = watches.make("a", 0, 0, 0), watches.make("b", 0, 0, 0), Thing(9)
    watches.add(first, one, 1, label="one")
    watches.add(second, one, 2, label="one")
    watches.object_gone(one, 0)
    assert (read(first), read(second)) == ([(0, 0, 1)], [(0, 0, 2)])
    assert one.watchers == () and first.entries == ()


def test_forgotten_watch_is_on_no_list() -> None:
    watches = Watches()
    watch, one = watches.make("w", 0, 0, 0), Thing(1)
    watches.add(watch, one, 1, label="one")
    watches.remove_name("w")
    watches.forget(watch)
    assert one.watchers == () and not watches.by_number and not watches.by_name


def test_removed_name_hangs_up() -> None:
    watches = Watches()
    watch = watches.make("w", 0, 0, 0)
    assert watch.queue.read(64) is None
    watches.remove_name("w")
    assert watch.queue.read(64) == b""


def test_raw_records_come_as_they_are_in_every_shape() -> None:
    watches = Watches()
    watch = watches.make("w", 0, 0, 0)
    stream = Stream(10)
    watch.sinks = (*watch.sinks, stream)
    raw = [r.encode(77, 9, b"abc", watch_id=200), r.LOSS]
    watches.publish_raw(raw, 0)
    assert watch.queue.read(4096) == b"".join(raw)
    (log,) = (sink for sink in watch.sinks if isinstance(sink, Log))
    assert bytes(log.text()) == stream.read(1 << 16)
    assert watches.last_event == 2


def test_raw_records_reach_nobody_who_watches_nothing() -> None:
    watches = Watches(strict=True)
    watch = watches.make("w", 0, 0, 0)
    watch.queue.set_size(32)
    watches.publish_raw([KEY_UPDATED], 0)
    assert read(watch) == []


def test_nameless_watches_count_until_they_are_forgotten() -> None:
    watches = Watches(Limits(watches=1))
    nameless = watches.make("", 0, 0, 0)
    with pytest.raises(WatchRefused) as caught:
        watches.make("w", 0, 0, 0)
    assert caught.value.errno == errno.EDQUOT
    watches.forget(nameless)
    watches.make("w", 0, 0, 0)
    watches.remove_name("w")
    with pytest.raises(WatchRefused):
        watches.make("x", 0, 0, 0)  # the one without its name is not forgotten yet


def test_objects_of_a_user_and_of_all_are_bounded_and_given_back() -> None:
    watches = Watches(Limits(user_objects=3, all_objects=5))
    things = [Thing(number) for number in range(4)]
    mine, also_mine, theirs = (watches.make(f"w{uid}{n}", uid, 0, 0) for uid, n in ((1, 1), (1, 2), (2, 1)))
    for watch, number in ((mine, 0), (mine, 1), (also_mine, 0), (theirs, 0), (theirs, 1)):
        watches.add(watch, things[number], 0, label="a thing")
    for watch, code in ((mine, errno.EDQUOT), (theirs, errno.ENOSPC)):
        with pytest.raises(WatchRefused) as caught:
            watches.add(watch, things[3], 0, label="a thing")
        assert caught.value.errno == code
    watches.remove(mine, things[0], 0, label="a thing")
    watches.object_gone(things[1], 0)
    watches.remove_name(also_mine.name)
    watches.forget(also_mine)
    for thing in things[1:]:
        watches.add(mine, thing, 0, label="a thing")


def test_object_with_a_long_path_counts_for_several() -> None:
    watches = Watches(Limits(user_objects=100))
    watch = watches.make("w", 0, 0, 0)
    with pytest.raises(WatchRefused) as caught:
        watches.add(watch, Thing(1), 0, label="mount /" + "x/" * 2000, place=("x",) * 2000)
    assert caught.value.errno == errno.EDQUOT
    watches.add(watch, Thing(1), 0, label="mount /" + "x/" * 700, place=("x",) * 700)
