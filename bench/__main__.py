"""`python -m bench`: wqfs and its peers in one run, medians and ratios, bench/RESULTS.md.

Exit status: 0 all measured, whether targets are met or missed; 1 something could not be measured;
2 usage.
"""

import argparse
import os
import signal
import sys
import tempfile
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench import machine, scale
from bench.keeper import Failed, Keeper
from bench.probe import Figures, Workshop, measure, start
from bench.report import Report
from bench.rows import GROUPS, PROBES
from bench.run import RunCost
from bench.run import measure as measure_run
from bench.servers import NAMES, Mounted, Server, Wqfs, make, unmount

PREFIX = "wqfs-bench-"
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
ROUNDS, QUICK_ROUNDS = 7, 2
SCALE_ROUNDS, QUICK_SCALE_ROUNDS = 3, 1
IDLE_S, QUICK_IDLE_S = 10.0, 3.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="wqfs beside its peers")
    names = [*GROUPS, *(row for rows in GROUPS.values() for row in rows)]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"a group ({', '.join(GROUPS)}) or a row; may be repeated",
    )
    parser.add_argument("--servers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}; quick {QUICK_ROUNDS}")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="default the last")
    parser.add_argument("--output", type=Path, help="default RESULTS.md for a whole run, else none")
    return parser.parse_args()


def chosen_rows(only: list[str] | None) -> set[str]:
    chosen: set[str] = set()
    for name in only or GROUPS:
        chosen |= set(GROUPS.get(name, (name,)))
    return chosen


def on_fresh(shop: Workshop, names: list[str], row: tuple[str, ...], body: Callable[[Server], None]) -> None:
    """`body` on each server, newly mounted for it."""
    for name in names:
        if (row[0], name) in shop.figures.failures:
            continue
        server = make(name, shop.keeper, shop.folder)
        if not start(server, shop.figures, row):
            continue
        try:
            body(server)
        except (Failed, OSError) as error:
            shop.figures.fail(row, name, str(error))
        finally:
            server.stop()


def at_scale(shop: Workshop, chosen: set[str], names: list[str]) -> None:
    """A round of the rows of scale.py but for idle."""

    def fan_out(server: Server) -> None:
        if isinstance(server, Wqfs):
            scale.fan_out(shop, server)

    def watch_memory(server: Server) -> None:
        if isinstance(server, Wqfs):
            scale.watch_memory(shop, server)

    def reader_memory(server: Server) -> None:
        if isinstance(server, Mounted):
            scale.reader_memory(shop, server)

    ours = [name for name in names if name in ("wqfs", "nosurvive")]
    if chosen & set(GROUPS["fanout"]):
        on_fresh(shop, ours, GROUPS["fanout"], fan_out)
    if "memory_watch" in chosen:
        on_fresh(shop, ours, ("memory_watch",), watch_memory)
    if "memory_reader" in chosen:
        # pyfuse3 serves 99 requests at a time.
        on_fresh(
            shop, [name for name in names if name in ("wqfs", "nosurvive", "c")], ("memory_reader",), reader_memory
        )


def idle(shop: Workshop, names: list[str], seconds: float) -> None:
    servers = [make(name, shop.keeper, shop.folder) for name in names]
    mounted = [server for server in servers if isinstance(server, Mounted)]
    try:
        scale.idle(shop, [server for server in mounted if start(server, shop.figures, ("idle",))], seconds)
    finally:
        for server in mounted:
            server.stop()


def run(shop: Workshop, options: argparse.Namespace, rounds: int) -> None:
    chosen = chosen_rows(options.only)
    for group in PROBES:
        if chosen & set(GROUPS[group]):
            print(f"{group} ...", file=sys.stderr, flush=True)
            servers = [make(name, shop.keeper, shop.folder) for name in options.servers]
            measure(shop, group, servers, rounds, chosen)
    scale_rounds = options.rounds or (QUICK_SCALE_ROUNDS if options.quick else SCALE_ROUNDS)
    for number in range(scale_rounds):
        if chosen & {*GROUPS["fanout"], *GROUPS["memory"]}:
            print(f"fan-out and memory {number + 1}/{scale_rounds} ...", file=sys.stderr, flush=True)
            at_scale(shop, chosen, options.servers)
    if "idle" in chosen:
        print("idle ...", file=sys.stderr, flush=True)
        idle(shop, options.servers, QUICK_IDLE_S if options.quick else IDLE_S)


def run_cost(shop: Workshop, options: argparse.Namespace) -> RunCost | None:
    """What `wqfs run` costs, if that is asked for."""
    if "run" not in chosen_rows(options.only):
        return None
    print("wqfs run ...", file=sys.stderr, flush=True)
    return measure_run(shop, options.rounds or (QUICK_SCALE_ROUNDS if options.quick else SCALE_ROUNDS))


def interrupted(number: int, frame: types.FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    options = arguments()
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    sweep()
    facts = machine.facts(options.cpu, rounds, options.quick)
    figures = Figures()
    keeper = Keeper(options.cpu)
    # Not TemporaryDirectory: what is still mounted must not be walked through.
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    shop = Workshop(keeper, folder, figures, options.quick)
    try:
        shop.build()
        run(shop, options, rounds)
        cost = run_cost(shop, options)
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        keeper.close()
        clear(folder)
    report = Report(figures, chosen_rows(options.only), cost)
    text = report.text(facts)
    print(text)
    whole = not options.only and not options.quick and set(options.servers) == set(NAMES)
    output = options.output or (RESULTS if whole else None)
    if output:
        output.write_text(text)
    return 1 if figures.failures or (cost is not None and cost.failures) else 0


def sweep() -> None:
    """Mounts of a run that was killed: nobody's command line names them any more."""
    commands = b""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            commands += file.read_bytes()
    mounts = [Path(line.split(" ")[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    dead = [path for path in mounts if path.parent.name.startswith(PREFIX) and bytes(path) not in commands]
    for path in dead:
        unmount(path)
    for folder in {path.parent for path in dead}:
        clear(folder)


def clear(folder: Path) -> None:
    """Empty mountpoints, binaries and logs; a folder still in use stays and is named."""
    try:
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    except OSError as error:
        print(f"bench: left behind: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
