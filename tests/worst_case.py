"""How much memory hostile users can make the daemon take: fills all that they can fill, up to each limit's errno.

    python -m tests.worst_case [--users N] [--owner] [--rounds N] [--depth RECORDS] [-o OPTIONS]

As root, by hand: it takes minutes, threads by the ten thousand, and up to some GiB. N users (1) share the work in
parallel, each with processes of their own; --owner: first the owner fills the simulated system; --rounds: all once
more, for what is left must not grow; --depth: records that
each queue is filled with (512, all there may be). A line for each stage says what was reached, and the memory of the
processes of the mount then, Pss/Rss in MiB. What has one limit in common is filled in turn and let go of again; the
largest stays. Exit status 1 if another user cannot go on though only one was hostile, 3 if the daemon passes 6 GiB.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from tests.dying import metric
from tests.hostile_user import Hand, Reached, Users, Work, record, until_refused
from tests.tools import Mount
from tests.users import ADA, public_mount

OTHER: Final = 23456
LOG_EVENTS: Final = 4096
TOO_MUCH: Final = 6 << 30


# -- the owner


def owners_stages(mount: Path, post: int) -> Iterator[tuple[str, Callable[[], Reached]]]:
    """The simulated system, which the owner alone may fill."""
    path = ("/" + "x" * 245) * 15
    lines = {
        "mounts": f"mount -t tmpfs {'s' * 100} /{{}}{path}",
        "keys": f"key add user {{}} {'x' * 200} @s",
        "devices": f"device add /dev/{{}}{'d' * 4000}",
        "processes": "process new {:064}",
    }

    def post_many(line: str) -> Reached:
        return until_refused(lambda number: os.write(post, line.format(number).encode() + b"\n"), 1 << 20)

    for name, line in lines.items():
        yield name, partial(post_many, line)

    def post_nonsense() -> Reached:
        for _ in range(200):
            with suppress(OSError):
                os.write(post, b"x" * 4000 + b"\n")
        return 200, "100 are kept"

    def ask_in_part() -> Reached:
        return until_refused(lambda _: _write_part(os.open(mount / "sim/calls", os.O_RDWR)), 100)

    yield "errors", post_nonsense
    yield "requests of sim/calls", ask_in_part


def _write_part(calls: int) -> None:
    """Nearly 8 MiB of a request; the file stays open."""
    for offset in range(0, 63 << 17, 1 << 17):
        os.pwrite(calls, b"x" * (1 << 17), offset)


# -- memory


def processes_of(mount: Mount) -> dict[int, str]:
    """The mount command, which supervises, and all below it, by what they are."""
    pids, found = [mount.process.pid], {}
    for pid in pids:
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            found[pid] = {"wqfs": "daemon", "wqfs-checkpoint": "checkpoint"}.get(name, "other")
    return found | {mount.process.pid: "supervisor"}


def mebibytes(pid: int, file: str, name: str) -> int:
    """A line of /proc/PID/smaps_rollup or status."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if match is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(match[1]) >> 10


def memory_of(pid: int) -> tuple[int, int]:
    """Pss and Rss."""
    return mebibytes(pid, "smaps_rollup", "Pss"), mebibytes(pid, "smaps_rollup", "Rss")


def memory(mount: Mount) -> str:
    together, parts = 0, []
    found = processes_of(mount)
    while "daemon" not in found.values() and mount.process.poll() is None:  # it has another name while it forks
        found = processes_of(mount)
    for pid, name in found.items():
        with suppress(OSError):  # it has ended
            pss, rss = memory_of(pid)
            together += pss
            parts.append(f"{name} {pss}/{rss}")
    peak = mebibytes(mount.daemon, "status", "VmHWM")
    return f"{together:5} MiB: {', '.join(sorted(parts))}, peak {peak}"


def stop_if_too_much(mount: Mount) -> None:
    while mount.process.poll() is None:
        with suppress(OSError):
            if memory_of(mount.daemon)[1] << 20 > TOO_MUCH:
                print("the daemon has more than 6 GiB: stopped", flush=True)
                for pid in processes_of(mount):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                subprocess.run(["fusermount3", "-uz", "-q", "--", str(mount.path)], check=False)
                os._exit(3)
        time.sleep(0.5)


# -- the run


STAYS: Final = (
    "try_what_is_the_owners", "make_watches", "set_filters", "lose_objects", "add_objects", "fill_queues", "read_logs",
    "begin_threads", "wait",
)  # fmt: skip
IN_TURN: Final = ("read_texts", "read_snapshots", "write_filters", "write_half_lines")
AT_LAST: Final = ("open_events", "read_half_events", "fill_events", "poll_events")


class Run:
    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._post = os.open(mount.path / "post", os.O_WRONLY)
        self._records = os.open(mount.path / "sim/records", os.O_WRONLY)

    def stage(self, name: str, work: Callable[[], Reached]) -> None:
        start = time.monotonic()
        count, word = work()
        took = time.monotonic() - start
        print(f"{name:<24} {count:>10} {word:<16} {took:6.1f} s {memory(self._mount)}", flush=True)

    def fill(self, users: Users, owner: bool) -> None:
        self.stage("nothing", lambda: (0, ""))
        if owner:
            for name, work in owners_stages(self._mount.path, self._post):
                self.stage(f"owner: {name}", work)
        for name in (*STAYS, *IN_TURN, *AT_LAST):
            self.stage(name, partial(users.run, name))
            if name in IN_TURN:
                users.let_go()
        self.stage("owner: raw records", self._happen)

    def _happen(self) -> Reached:
        """Events that all watches hear, as many as a `log` keeps."""
        for first in range(0, LOG_EVENTS, 512):
            os.write(self._records, b"".join(map(record, range(first, first + 512))))
        return LOG_EVENTS, ""

    def go_on(self, who: str, hand: Hand) -> bool:
        """Whether somebody can make a watch and read an event, each within a second."""
        start = time.monotonic()
        hand.ask("make_one")
        made, word = hand.answer()
        if made:
            os.write(self._post, f"mount -t tmpfs t /for-{who}\n".encode())
            hand.ask("read_one")
            _, word = hand.answer()
        took = round((time.monotonic() - start) * 1000)
        print(f"{who}: {word or f'a watch and an event, in {took} ms'}", flush=True)
        return not word and took < 2000

    def clear(self) -> tuple[int, str]:
        """Remove all watches, which stay when their users have gone; returns what is left."""
        path = self._mount.path
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with suppress(OSError):
                if metric(path, "handles") < 20:
                    break
            time.sleep(1)
        for entry in os.scandir(path / "watches"):
            os.rmdir(entry.path)
        return metric(path, "queues"), f"queues, {metric(path, 'kept_bytes')} bytes kept"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=1)
    parser.add_argument("--owner", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("-o", dest="options", default="allow_other")
    arguments = parser.parse_args()
    if os.geteuid():
        parser.error("only root can be other users")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as of timeout(1): nothing is left mounted
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with public_mount(arguments.options) as mount:
        uids = range(ADA, ADA + arguments.users)
        rounds = [Users(mount.path, uids, arguments.depth) for _ in range(arguments.rounds)]
        others = {"another-user": Hand(OTHER, Work(mount.path, OTHER)), "root": Hand(0, Work(mount.path, 0))}
        threading.Thread(target=stop_if_too_much, args=(mount,), daemon=True).start()
        run = Run(mount)
        go_on = []
        try:
            for at, users in enumerate(rounds):
                run.fill(users, arguments.owner and not at)
                go_on += [run.go_on(who, hand) for who, hand in others.items()]
                users.close()
                run.stage("left", run.clear)
        finally:
            for hand in (*others.values(), *(hand for users in rounds for hand in users.hands)):
                hand.close()
    return int(arguments.users == 1 and not all(go_on))


if __name__ == "__main__":
    sys.exit(main())
