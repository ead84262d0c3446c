"""The simulated system's tables are bounded in bytes too: what is as long as it may be, as often as it may be."""

from __future__ import annotations

import errno
import tracemalloc

import pytest

from wqfs.fs.control import Control
from wqfs.fs.handles.lines import LineRefused
from wqfs.sim import Refused, Simulation
from wqfs.sim.command import Actor
from wqfs.sim.limits import SimLimits
from wqfs.sim.mounts import segments
from wqfs.sim.system import System
from wqfs.watches import Limits, Watches

LONG = "/" + "/".join(["x"] * 2000)
"""A path of 4,000 bytes and 2,000 names."""


def refusal(simulation: Simulation, line: str) -> int:
    with pytest.raises(Refused) as refused:
        simulation.run(line)
    return refused.value.errno or 0


def test_binding_what_is_bound_does_not_grow_without_end() -> None:
    simulation = Simulation()
    simulation.run(f"mount --bind {LONG} /a")
    assert refusal(simulation, f"mount --bind /a{LONG[:3900]} /b") == errno.ENAMETOOLONG
    simulation.run("mount --bind /a/b /c")
    assert " /x/" in simulation.text("mountinfo")


@pytest.mark.parametrize(
    "line", [f"mount -t tmpfs t /{{}}{LONG[:3900]}", f"mount -t tmpfs {'s' * 3900} /{{}}",
             f"mount -t tmpfs -o {'o' * 3900} t /{{}}"], ids=["path", "source", "options"],
)  # fmt: skip
def test_text_of_mounts_is_bounded_and_given_back(line: str) -> None:
    simulation = Simulation(bounds=SimLimits(mount_text=200_000))
    before = simulation.system.mounts._text
    with pytest.raises(Refused) as refused:
        for number in range(1000):
            simulation.run(line.format(number))
    assert refused.value.errno == errno.ENOSPC
    for mount in simulation.text("mountinfo").splitlines()[1:]:
        simulation.run(f"umount {mount.split(' ')[4]}")
    assert simulation.system.mounts._text == before


def test_moves_and_binds_count_too() -> None:
    simulation = Simulation(bounds=SimLimits(mount_text=300_000))
    simulation.run("mount -t tmpfs t /a")
    for number in range(50):
        simulation.run(f"mount -t tmpfs t /a/{number}")
    assert refusal(simulation, f"mount --rbind /a {LONG}") == errno.ENOSPC
    simulation.run("mount --move /a /b")


@pytest.mark.parametrize(
    "line",
    [f"mount -t tmpfs t /m{{}}{LONG[:3900]}", f"mount -t tmpfs \N{MUSICAL SYMBOL G CLEF}{'s' * 3900}{{}} /{{}}"],
    ids=["narrow", "wide"],
)  # fmt: skip
def test_estimate_of_mounts_is_not_far_below_what_they_take(line: str) -> None:
    simulation = Simulation(bounds=SimLimits(mount_text=4 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            for number in range(1000):
                simulation.run(line.format(number, number))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * (4 << 20)


def test_threads_are_given_back_when_they_end() -> None:
    simulation = Simulation(bounds=SimLimits(processes=4))
    simulation.run("process new p")
    for _ in range(3):
        simulation.run("as p/one key add user a b @t")
        simulation.run("as p/two key add user a b @t")
        assert refusal(simulation, "as p/three key add user a b @t") == errno.ENOMEM
        simulation.run("process exit p/one")
        simulation.run("process exec p")
    simulation.run("process exit p")
    for name in "abc":
        simulation.run(f"process new {name}")
    assert refusal(simulation, "process new d") == errno.ENOMEM


def test_user_who_would_be_one_process_too_many_is_refused_and_others_go_on() -> None:
    simulation = Simulation(bounds=SimLimits(processes=2))
    simulation.run("key add user a b @s", uid=1)
    with pytest.raises(Refused) as refused:
        simulation.run("key add user a b @s", uid=2)
    assert refused.value.errno == errno.ENOMEM
    simulation.run("key add user a b @s", uid=1)


def test_keys_of_all_are_bounded_and_logins_have_a_little_room_beyond() -> None:
    simulation = Simulation(bounds=SimLimits(keys=40))
    with pytest.raises(Refused) as refused:
        for number in range(50):
            simulation.run(f"key add user a{number} b @s")
    assert refused.value.errno == errno.EDQUOT and "max_keys" in refused.value.reason
    with pytest.raises(Refused) as refused:
        for number in range(1, 20):
            simulation.run(f"key get_persistent @s {number}")
    assert refused.value.errno == errno.EDQUOT


def test_detached_trees_count_as_mounts_and_give_back_what_they_took() -> None:
    simulation = Simulation(bounds=SimLimits(mounts=10, descriptors=6))
    system = simulation.system
    simulation.run("mount -t tmpfs t /a")
    numbers = []
    with pytest.raises(Refused) as refused:
        for _ in range(10):
            mount, _ = system.mounts.lookup("/a")
            numbers.append(system.descriptors.add_detached(system.mounts.copy(mount), system.mounts))
    assert refused.value.errno == errno.ENFILE and len(numbers) == 6
    for number in numbers:
        system.descriptors.close(system, number, 0)
    for _ in range(8):
        simulation.run("mount -t tmpfs t /a")
    with pytest.raises(Refused) as refused:
        mount, _ = system.mounts.lookup("/a")
        system.descriptors.add_detached(system.mounts.copy(mount), system.mounts)
    assert refused.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "rest",
    ["".join(f"/{name % 100:02}" for name in range(1300)), ("/\U0001f600" + "x" * 240) * 15],
    ids=["names", "wide"],
)
def test_objects_with_long_paths_take_no_more_memory_than_is_counted(rest: str) -> None:
    simulation = Simulation()
    watches = simulation.system.watches
    watches.limits = Limits(user_objects=2000, watches=100_000, queues=100_000)
    tracemalloc.start()
    try:
        with pytest.raises(OSError) as refused:
            for number in range(100_000):
                path = f"/{number}{rest}"
                target, place, label = simulation.system.resolve(["mount", path], Actor(0, 0), 0)
                watches.add(watches.make(f"w{number}", 0, 0, 0), target, 0, label=label, place=place)
        segments.cache_clear()
        took = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert refused.value.errno == errno.EDQUOT and number > 20
    assert took < 2000 * 1024 * 1.3


def test_threads_of_one_process_leave_room_for_users_who_come_later() -> None:
    simulation = Simulation(bounds=SimLimits(processes=16))
    simulation.run("process new p uid=1")
    with pytest.raises(Refused) as refused:
        for number in range(16):
            simulation.run(f"as p/t{number} key add user a b @t", uid=1)
    assert refused.value.errno == errno.ENOMEM and number == 12
    simulation.run("key add user a b @s", uid=2)


def small_control(processes: int) -> Control:
    watches = Watches(strict=True)
    return Control(System(watches, now_ns=0, limits=SimLimits(processes=processes)), watches, lambda: 0)


def test_user_who_could_not_log_in_is_refused_the_next_time_too() -> None:
    control = small_control(2)
    control.run("mount none /a -t tmpfs", (1, 1, 1), 0)
    for _ in range(2):
        with pytest.raises(LineRefused) as refused:
            control.run("mount none /b -t tmpfs", (2, 2, 1), 0)
        assert refused.value.errno == errno.ENOMEM
    control.run("mount none /b -t tmpfs", (1, 1, 1), 0)


def test_threads_of_programs_count_as_others_and_are_given_back() -> None:
    control = small_control(8)
    control.run("process new p", (0, 0, 1), 0)

    def call(thread: str) -> dict[str, object]:
        who = {"uid": 0, "gid": 0, "groups": (), "process": "p", "thread": thread}
        return control.call({**who, "call": "get_keyring_id", "args": [-3, 0]}, 0)

    answers = [call(f"t{number}") for number in range(7)]
    assert [answer.get("errno", 0) for answer in answers] == [0] * 6 + [errno.ENOMEM], answers
    control.run("process exit p", (0, 0, 1), 0)
    control.run("process new p", (0, 0, 1), 0)
    assert call("t9").get("errno", 0) == 0
