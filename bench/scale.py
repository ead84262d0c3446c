"""What many watches, many readers and nobody at all cost the daemon."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from bench.keeper import Failed
from bench.probe import Workshop
from bench.rows import WATCHES
from bench.servers import Mounted, Paths, Wqfs

WRITES = 17
# Deep enough for the writes of all sizes, the first watch sees them all.
DEPTH = 64
MANY = 10_000
MAKE_S = 120.0
SETTLE_S = 0.3
STALLED_S = 5.0
SETTLED_KIB = 64
# fuse_in_header and fuse_read_in, fuse_in_header and fuse_open_in [linux/fuse.h]
READ_BYTES = 40 + 40
OPEN_BYTES = 40 + 8


def family(pid: int) -> list[int]:
    """The process and all below it that have not ended."""
    pids = [pid]
    for each in pids:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            pids += [int(word) for word in children.read_text().split()]
    return [each for each in pids if _lives(each)]


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"


def pss_kib(pid: int) -> int:
    total = 0
    for each in family(pid):
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def settled_pss_kib(pid: int) -> int:
    """When two looks agree: allocations go on a while after the last request."""
    before = -SETTLED_KIB
    until = time.monotonic() + MAKE_S
    while abs((now := pss_kib(pid)) - before) >= SETTLED_KIB:
        if time.monotonic() > until:
            raise Failed(f"memory still moves after {MAKE_S:.0f} s")
        before = now
        time.sleep(SETTLE_S)
    return now


def switches(pid: int) -> int:
    """Context switches, voluntary and not, of all threads."""
    total = 0
    for each in family(pid):
        for status in Path(f"/proc/{each}/task").glob("*/status"):
            lines = status.read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return total


def fan_out(shop: Workshop, server: Wqfs) -> None:
    """One event to no watch, 100, 1,000, 10,000: watches are added, so each has room for all."""
    figures, made = shop.figures, 0
    costs = {}
    # The client's own queue is a pipe that it leaves alone: no watch is drained.
    records = Paths("pipe", str(server.directory / "sim" / "records"), "-", "-")
    shop.run("write_alone", records, WRITES)  # the first ones pay for code that is cold, and those that follow do not
    alone = shop.run("write_alone", records, WRITES)["median_ns"] / 1e3
    figures.add("fanout_0", server.name, alone)
    for count in WATCHES:
        with shop.keeper.deadline(MAKE_S, f"fan-out: mkdir of {count} watches"):
            while made < count:
                server.make_watch(f"w{made}")
                depth = server.directory / "watches" / f"w{made}" / "depth"
                depth.write_text(f"{DEPTH}\n")
                made += 1
        told = shop.run("write_alone", records, WRITES)
        costs[count] = told["median_ns"] / 1e3 / count
        figures.add(f"fanout_{count}", server.name, costs[count])
        figures.add(f"fanout_{count}_mean", server.name, told["mean_ns"] / 1e3 / count)
    with shop.keeper.deadline(MAKE_S, "fan-out: status"):
        for watch, sent in (("w0", len(WATCHES) * WRITES), (f"w{made - 1}", WRITES)):
            status = server.status(watch)
            if status.get("lost") != 0 or status.get("queued") != sent:
                raise Failed(f"{watch}: expected {sent} queued and none lost, not {status}")
    figures.add("fanout_flat", server.name, max(costs.values()) / min(costs.values()))
    net = [cost - alone / count for count, cost in costs.items()]
    figures.add("fanout_net_flat", server.name, max(net) / min(net))


def watch_memory(shop: Workshop, server: Wqfs) -> None:
    with shop.keeper.deadline(MAKE_S, "memory: mkdir of watches"):
        server.warm_up()
        server.make_watch("first")
        before = settled_pss_kib(server.pid)
        for number in range(MANY):
            server.make_watch(f"w{number}")
        after = settled_pss_kib(server.pid)
    shop.figures.add("memory_watch", server.name, (after - before) / MANY)


def bytes_read(pid: int) -> int:
    """By read(2) and its like: what came from /dev/fuse shows here."""
    total = 0
    for each in family(pid):
        lines = Path(f"/proc/{each}/io").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("rchar:"))
    return total


def all_read(server: Mounted, expected: int) -> None:
    """Returns when the server has read so many bytes, Failed when no more come."""
    most, until = -1, 0.0
    while (now := bytes_read(server.pid)) < expected:
        if now > most:
            most, until = now, time.monotonic() + STALLED_S
        if time.monotonic() > until:
            raise Failed(f"expected {MANY} readers to wait, but their requests stopped short of the server")
        time.sleep(SETTLE_S)


def reader_memory(shop: Workshop, server: Mounted) -> None:
    """10,000 threads of one client in read: of wqfs on one descriptor, of a peer (whose files keep
    the position lock, ABI.md 3) each on its own."""
    mode, each = "readers", READ_BYTES
    if not isinstance(server, Wqfs):
        mode, each = "readers_apart", READ_BYTES + OPEN_BYTES
    with server.queue() as paths, shop.keeper.deadline(MAKE_S, f"memory: {MANY} readers"):
        if isinstance(server, Wqfs):
            server.warm_up()
        before = settled_pss_kib(server.pid)
        expected = bytes_read(server.pid) + MANY * each
        process, log = shop.client(mode, paths, MANY)
        try:
            if process.stdout is None or not process.stdout.readline():
                raise Failed(log.read_text(errors="replace").strip())
            all_read(server, expected)
            after = settled_pss_kib(server.pid)
            if threads(process) <= MANY:
                raise Failed(f"expected {MANY} readers to wait, not {threads(process) - 1}")
        finally:
            # At once: the client has nothing to say goodbye to.
            shop.keeper.end(process, signal.SIGKILL)
    shop.figures.add("memory_reader", server.name, (after - before) / MANY)


def threads(process: subprocess.Popen[bytes]) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{process.pid}/task"))
    return 0


def idle(shop: Workshop, servers: list[Mounted], seconds: float) -> None:
    """All at once: who sleeps does not disturb."""
    time.sleep(1.0)
    before = {server.name: switches(server.pid) for server in servers}
    time.sleep(seconds)
    for server in servers:
        shop.figures.add("idle", server.name, switches(server.pid) - before[server.name])
