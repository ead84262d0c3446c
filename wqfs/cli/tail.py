"""`wqfs tail`: show events as they happen, of a mount or of the kernel's own notification pipe."""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wqfs.abi.filters import Filter
from wqfs.cli import choosing, lines, tables
from wqfs.cli.command import EXIT_LOST, EXIT_OK, EXIT_TIMED_OUT, CommandFailed, Parser, count, parser, poll_ms, seconds
from wqfs.cli.sources import Source, kernel_source, watch_source
from wqfs.cli.watching import Event
from wqfs.event import record_of


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "tail",
        "Show what happens, a line for each event, until Ctrl-C, COUNT events, or SECONDS. Takes nothing from a\n"
        "watch's queue.",
        "exit codes: 0 events were seen; 1 error or usage; 2 timed out; 3 events were lost; 130 Ctrl-C.\n"
        "What is said about the command goes to standard error, the events to standard output.",
    )
    options.add_argument("watch", metavar="WATCH", nargs="?", help="the name of a watch; by default one of its own")
    what = options.add_argument_group("which events")
    what.add_argument("--event", "-e", metavar="EVENT", action="append", default=[], help=choosing.HELP)
    what.add_argument(
        "--object",
        metavar="LINE",
        action="append",
        default=[],
        help="what its own watch watches, as in `objects`: 'mount /mnt id=1', 'key @s'; by default everything",
    )
    what.add_argument(
        "--filter", metavar="RULE", action="append", default=[], help="its filter, as in `filter`, instead of --event"
    )
    what.add_argument("--since-seq", metavar="N", type=int, help="first those of WATCH's log with a number above N")
    what.add_argument(
        "--cursor-file", metavar="FILE", help="as --since-seq with the number in FILE, which is kept up to date"
    )
    what.add_argument(
        "--kernel", action="store_true", help="from the kernel's own notification pipe: keys alone, by default @s"
    )
    end = options.add_argument_group("how long")
    end.add_argument("--count", "-n", metavar="COUNT", type=count, help="end after so many events")
    end.add_argument("--timeout", "-t", metavar="SECONDS", type=seconds, help="end after so long")
    end.add_argument("--idle-timeout", metavar="SECONDS", type=seconds, help="end when nothing came for so long")
    end.add_argument("--fail-on-loss", action="store_true", help="end as soon as events were lost")
    shape = options.add_argument_group("how they look")
    shape.add_argument(
        "--output",
        "-o",
        choices=("short", "json", "raw", "cat"),
        default="short",
        help="a readable line; JSON as in `events`; the binary records; a readable line without the time",
    )
    shape.add_argument("--json", "-j", action="store_const", const="json", dest="output", help="the same as -o json")
    shape.add_argument("--format", metavar="TEXT", help="such as '{time} {event} {mountpoint}', by the names of JSON")
    shape.add_argument("--fields", metavar="NAMES", help="such as event,mountpoint: these with tabs between")
    shape.add_argument("--timefmt", metavar="FORMAT", help="of times, as strftime(3); %%f are microseconds")
    shape.add_argument("--ts", action="store_true", help="times with the date")
    shape.add_argument("--utc", action="store_true", help="times in UTC")
    tables.add_colour(shape)
    shape.add_argument("--quiet", "-q", action="store_true", help="say nothing on standard error but errors")
    options.add_argument(
        "--exec",
        metavar="COMMAND",
        help="run it by the shell for each event: the event is its standard input as JSON, and WQFS_SEQ, WQFS_TYPE, "
        "WQFS_EVENT ... its environment",
    )
    return options


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = make_parser()
    given = options.parse_args(arguments)
    if given.watch and (given.object or given.filter or given.kernel):
        options.error("--object, --filter and --kernel are for a watch of its own, not for WATCH")
    if given.filter and given.event:
        options.error("expected --event or --filter, not both")
    if (given.since_seq is not None or given.cursor_file) and not given.watch:
        options.error("--since-seq and --cursor-file need a WATCH, whose log has what was before")
    if given.since_seq is not None and given.cursor_file:
        options.error("expected --since-seq or --cursor-file, not both")
    if sum((given.format is not None, given.fields is not None, given.output != "short")) > 1:
        options.error("expected one of --output, --format and --fields")
    chosen = choosing.events_filter(given.event)
    write = _writer(given)
    since = _cursor(given.cursor_file) if given.cursor_file else given.since_seq
    make = kernel_source if given.kernel else watch_source
    with make(given.mount, given.watch, given.object, "\n".join(given.filter), chosen, since) as source:
        if not given.quiet:
            print(f"wqfs tail: {source.said}", file=sys.stderr, flush=True)
        return _Tail(source, write, chosen, given).run()


def _writer(given: argparse.Namespace) -> Callable[[Event], bytes]:
    clock = lines.Clock(given.timefmt, utc=given.utc, date=given.ts)
    if given.format is not None:
        return lines.formatted(given.format, clock)
    if given.fields is not None:
        return lines.fields(given.fields.split(","), clock)
    if given.output in ("json", "raw"):
        return lines.as_json if given.output == "json" else lines.raw
    return lines.short(clock if given.output == "short" else None, color=tables.wants_colour(given.color))


def _cursor(file: str) -> int:
    """The number in a cursor file; 0 when there is none yet."""
    try:
        return int(Path(file).read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise CommandFailed(f"--cursor-file: {file}: expected a number: {error}.") from None


class _Tail:
    def __init__(
        self, source: Source, write: Callable[[Event], bytes], chosen: Filter | None, given: argparse.Namespace
    ) -> None:
        self._source = source
        self._write = write
        self._chosen = chosen
        self._given = given
        self._seen = 0
        self._lost = False

    def run(self) -> int:
        """Show events until it is enough; returns the exit code."""
        given = self._given
        deadline = None if given.timeout is None else time.monotonic() + given.timeout
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        poll.register(sys.stdout, 0)  # POLLERR: whoever reads has gone
        timed_out = False
        while True:
            events = self._source.events()
            if events is None:
                if not given.quiet:
                    print("wqfs tail: it has ended: the watch or the mount was removed", file=sys.stderr)
                break
            if events:
                if self._show(events):
                    break
                continue
            limits = [deadline - time.monotonic()] if deadline is not None else []
            limits += [given.idle_timeout] if given.idle_timeout is not None else []
            left = min(limits, default=None)
            if left is not None and left <= 0 and deadline is not None and time.monotonic() >= deadline:
                timed_out = True
                break
            ready = poll.poll(poll_ms(left))
            if any(fd == sys.stdout.fileno() for fd, _ in ready):
                raise BrokenPipeError
            if not ready:
                timed_out = True
                break
        if self._lost:
            return EXIT_LOST
        missed = given.count is not None or not self._seen
        return EXIT_TIMED_OUT if timed_out and missed else EXIT_OK

    def _show(self, events: list[Event]) -> bool:
        """Write events; returns whether that is the end."""
        end = False
        out = []
        number = 0
        for event in events:
            gap = lines.is_gap(event)
            if not gap and self._chosen is not None and not self._chosen.passes(record_of(event)):
                continue
            out.append(self._write(event))
            number = event["seq"]
            if self._given.exec:
                self._emit(out, number)
                out = []
                self._run(event)
            self._lost |= gap
            self._seen += not gap
            if (gap and self._given.fail_on_loss) or self._seen == self._given.count:
                end = True
                break
        self._emit(out, number)
        return end

    def _emit(self, out: list[bytes], number: int) -> None:
        if not out:
            return
        sys.stdout.buffer.write(b"".join(out))
        sys.stdout.buffer.flush()
        if self._given.cursor_file:
            # Beside it and renamed: whoever is killed in between leaves the old number or the new.
            beside = f"{self._given.cursor_file}.{os.getpid()}"
            try:
                Path(beside).write_text(f"{number}\n")
                os.replace(beside, self._given.cursor_file)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(beside)
                raise CommandFailed(f"cannot write {self._given.cursor_file}: {error.strerror}.") from None

    def _run(self, event: Event) -> None:
        names = {f"WQFS_{name.upper()}": ",".join(v) if isinstance(v, list) else str(v) for name, v in event.items()}
        safe = {name: value.replace("\0", "") for name, value in names.items()}
        done = subprocess.run(
            ["/bin/sh", "-c", self._given.exec], input=lines.as_json(event), env={**os.environ, **safe}, check=False
        )
        if done.returncode:
            print(f"wqfs tail: --exec ended with {done.returncode} for event {event['seq']}", file=sys.stderr)
