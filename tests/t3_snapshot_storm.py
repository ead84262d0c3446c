"""Never lose the start, and a cheap way back: consumers that begin in the middle of a storm.

Each subscribes (opens `events`), reads sim/snapshot, and applies what has a higher number. One whose
ring is small loses events: then it reads the snapshot again and takes the objects that are new or whose
`changed` is above what it had applied, and forgets those that are gone.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.tools import LIMIT, Mount, opened, wait_until

# Runs in a process of its own; the arguments: the mount, a name, how many rounds.
WRITER = """
import os, random, sys
mount, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(name)
post = os.open(mount + "/post", os.O_WRONLY)
def run(*lines):
    os.write(post, "".join(line + "\\n" for line in lines).encode())
run(f"mount -t tmpfs none /{name}", f"key newring {name} @s")
for at in range(rounds):
    base = f"/{name}/{at}"
    run(f"mount -t tmpfs none {base}", f"mount -t tmpfs none {base}/a", f"mount --bind {base}/a {base}/b")
    run(f"key add user {name}{at} x {name}", f"sb {chance.choice(('readonly', 'readwrite'))} /{name}")
    if chance.random() < 0.5:
        try:
            run(f"mount --move {base}/b {base}/a/c")
        except OSError:
            pass  # not from a shared mount
    if chance.random() < 0.7:
        run(f"umount -R {base}")
    if chance.random() < 0.5:
        run(f"key unlink {name}{at} {name}")
    if chance.random() < 0.3:
        run(f"mount -o remount,bind,{chance.choice(('ro', 'rw'))} /{name}")
"""

Copy = dict[tuple[str, int], Any]


def copy_of(snapshot: dict[str, Any]) -> Copy:
    """What a consumer keeps: of a mount its parent and whether it is read-only, of a superblock whether
    it is, of a keyring its links."""
    copy: Copy = {("mount", m["id"]): (m["parent"], "ro" in m["options"]) for m in snapshot["mounts"]}
    copy.update({("sb", s["id"]): s["read_only"] for s in snapshot["superblocks"]})
    copy.update({("key", k["serial"]): frozenset(k["links"]) for k in snapshot["keys"] if "links" in k})
    return copy


def applied(copy: Copy, event: dict[str, Any]) -> None:
    """Change the copy as one event says."""
    kind = event["event"]
    read_only = "IS_NOW_RO" in event["flags"]
    if event["type"] == "mount":
        about = ("mount", event["auxiliary_mount"] or event["triggered_on"])
        if kind == "new_mount":
            copy[about] = (event["triggered_on"], read_only)
        elif kind == "unmount":
            del copy[about]
        elif kind == "move_to":
            copy[about] = (event["triggered_on"], copy[about][1])
        elif kind in ("readonly", "setattr"):
            copy[about] = (copy[about][0], read_only)
    elif event["type"] == "sb" and kind == "readonly":
        copy[("sb", event["sb"])] = read_only
    elif event["type"] == "key" and kind in ("linked", "unlinked"):
        links = copy.get(("key", event["key"]), frozenset())
        one = {event["aux"]}
        copy[("key", event["key"])] = links | one if kind == "linked" else links - one


class Consumer:
    """rereads: how many objects a reading after a loss took, of how many there were."""

    def __init__(self, mount: Mount, name: str, pause: Callable[[], object]) -> None:
        self._mount = mount
        self._watch = mount.watch(name)
        self._fd = os.open(self._watch / "events", os.O_RDONLY)
        self._pause = pause
        self._rest = b""
        snapshot = self._snapshot()
        self.copy = copy_of(snapshot)
        self.seq = snapshot["seq"]
        self.rereads: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self.error: BaseException | None = None
        self._thread.start()

    def _snapshot(self) -> dict[str, Any]:
        return json.loads((self._mount.path / "sim/snapshot").read_text())  # type: ignore[no-any-return]

    def _consume(self) -> None:
        try:
            while data := os.read(self._fd, 4096):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._apply(json.loads(line))
                self._pause()
        except BaseException as error:
            self.error = error

    def _apply(self, event: dict[str, Any]) -> None:
        if event["event"] == "lost":
            self._way_back()
        elif event["seq"] > self.seq:
            applied(self.copy, event)
            self.seq = event["seq"]

    def _way_back(self) -> None:
        snapshot = self._snapshot()
        taken = 0
        there: set[tuple[str, int]] = set()
        for kind, list_, key in (("mount", "mounts", "id"), ("sb", "superblocks", "id"), ("key", "keys", "serial")):
            for each in snapshot[list_]:
                about = (kind, each[key])
                there.add(about)
                if each["changed"] > self.seq or (about not in self.copy and (kind != "key" or "links" in each)):
                    taken += 1
                    self.copy.update(copy_of({"mounts": [], "superblocks": [], "keys": [], list_: [each]}))
        for about in set(self.copy) - there:
            del self.copy[about]
        self.seq = snapshot["seq"]
        self.rereads.append((taken, len(there)))

    def settled(self) -> Copy:
        """The copy once all that was queued has been applied; ends the consumer."""
        os.rmdir(self._watch)  # hangs up: the reader drains, then finds the end
        self._thread.join(LIMIT * 2)
        assert not self._thread.is_alive()
        os.close(self._fd)
        if self.error is not None:
            raise self.error
        return self.copy


def superblocks_that_are_there(copy: Copy, truth: Copy) -> Copy:
    """The copy without superblocks that no event says have come or gone."""
    return {about: state for about, state in copy.items() if about[0] != "sb" or about in truth}


def _has_come_to(mount: Mount, seq: int, writers: list[subprocess.Popen[bytes]]) -> bool:
    """Whether so many events have happened, or no more will."""
    now = json.loads((mount.path / "sim/snapshot").read_text())["seq"]
    return now >= seq or all(writer.poll() is not None for writer in writers)


def storm(mount: Mount, pause: Callable[[], object], consumers: int, rounds: int) -> list[Consumer]:
    """Writers, and consumers that begin while they write."""
    chance = random.Random(5)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(mount.path), f"w{n}", str(rounds)]) for n in range(2)
    ]
    begun = []
    for n in range(consumers):
        seq = json.loads((mount.path / "sim/snapshot").read_text())["seq"]
        target = seq + chance.randrange(50, 400)
        wait_until(partial(_has_come_to, mount, target, writers), "the storm")
        begun.append(Consumer(mount, f"c{n}", pause))
    assert [writer.wait(LIMIT * 2) for writer in writers] == [0, 0]
    return begun


def truth_of(mount: Mount) -> Copy:
    return copy_of(json.loads((mount.path / "sim/snapshot").read_text()))


def test_consumers_that_begin_in_a_storm_never_diverge(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=100000")
    consumers = storm(mount, lambda: None, 6, 150)
    truth = truth_of(mount)
    assert len(truth) > 100
    for consumer in consumers:
        assert superblocks_with(truth, consumer.settled()) == truth
        assert consumer.rereads == []


def superblocks_with(truth: Copy, copy: Copy) -> Copy:
    """The copy, with the superblocks that it could not hear of: those that came with a mount."""
    known = superblocks_that_are_there(copy, truth)
    return {**{about: state for about, state in truth.items() if about[0] == "sb" and about not in copy}, **known}


def test_consumer_that_lost_re_reads_only_what_moved(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=64")
    slow = threading.Event()
    consumers = storm(mount, lambda: slow.wait(0.01), 3, 150)
    slow.set()
    mount.post("sb error / EIO")  # after a gap there is something to hear of
    truth = truth_of(mount)
    rereads = []
    for consumer in consumers:
        assert superblocks_with(truth, consumer.settled()) == truth
        rereads += consumer.rereads
    assert rereads, "nobody lost anything"
    assert sum(taken for taken, _ in rereads) < sum(there for _, there in rereads)
    assert any(taken < there / 2 for taken, there in rereads)


def test_snapshot_never_shows_less_than_the_events_before_it(mount: Mount) -> None:
    """State first: also in the middle of commands that make many events."""
    watch = mount.watch()
    mount.post("mount -t tmpfs none /p", "mount --make-shared /p", "mount --bind /p /q")
    with (
        opened(watch / "events") as fd,
        subprocess.Popen([sys.executable, "-c", WRITER, str(mount.path), "p", "60"]) as writer,
    ):
        heard: dict[int, int] = {}
        rest = b""
        while writer.poll() is None or select.select([fd], [], [], 0)[0]:
            if not select.select([fd], [], [], 0.05)[0]:
                continue
            *lines, rest = (rest + os.read(fd, 65536)).split(b"\n")
            events = [json.loads(line) for line in lines]
            snapshot = json.loads((mount.path / "sim/snapshot").read_text())
            there = {each["id"] for each in snapshot["mounts"]}
            for event in events:
                assert snapshot["seq"] >= event["seq"]
                if event["event"] in ("new_mount", "unmount"):
                    heard[event["auxiliary_mount"]] = event["event"] == "unmount"
                if event["event"] == "unmount":
                    assert event["auxiliary_mount"] not in there
        assert len(heard) > 200


def test_write_to_post_returns_when_its_events_are_queued_everywhere(mount: Mount) -> None:
    watches = [mount.watch(f"w{n}") for n in range(20)]
    queues = [os.open(watch / "queue", os.O_RDONLY | os.O_NONBLOCK) for watch in watches]
    post = os.open(mount.path / "post", os.O_WRONLY)
    try:
        for _ in range(200):
            os.write(post, b"sb error / EIO\n")
            assert [len(os.read(queue, 4096)) for queue in queues] == [24] * len(queues)
    finally:
        for fd in (post, *queues):
            os.close(fd)
