"""`wqfs top`: a live table of queues. Plain ANSI: a table that is drawn anew needs no library."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wqfs.cli import tables
from wqfs.cli.command import EXIT_OK, CommandFailed, Parser, parser, seconds
from wqfs.cli.deadline import stuck_children
from wqfs.cli.finding import find_mount, named_mount
from wqfs.cli.looking import WORDS, Look, look

_LIMIT_S = 1.0
_KEYS = ("name", "used", "posted", "delivered", "lost", "readers", "pollers")
_ENTER, _LEAVE = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"
_HOME, _LINE_END, _BELOW = "\033[H", "\033[K", "\033[J"


def make_parser() -> Parser:
    """The command's parser."""
    options = parser(
        "top",
        "A live table of the queues of watches, until q or Ctrl-C; s changes the order, r reverses it.\n"
        "Without a terminal one table after the other.",
        "exit codes: 0 ended by q or --once; 1 error or usage; 130 Ctrl-C",
    )
    options.add_argument("--once", action="store_true", help="one table, its rates measured over one delay")
    options.add_argument("--delay", "-d", metavar="SECONDS", type=seconds, default=1.0, help="between tables (1)")
    options.add_argument("--sort", "-s", choices=_KEYS, default="name", help="the order (name); numbers: largest first")
    tables.add_colour(options)
    return options


class _Top:
    def __init__(self, mountpoint: str, sort: str, colour: bool) -> None:
        self.mountpoint = mountpoint
        self.sort = sort
        self.reverse = False
        self.colour = colour
        self.now = self.before = (0.0, Look("stuck"))

    def look(self) -> None:
        """Look again; a mount that left one look unanswered is not asked until that look has ended."""
        seen = Look("stuck") if stuck_children() else look(self.mountpoint, _LIMIT_S)
        self.before, self.now = self.now, (time.monotonic(), seen)

    def lines(self) -> list[str]:
        """The table, a line each."""
        (then, old), (now, new) = self.before, self.now
        if new.state != "ok":
            said = f"{tables.printable(self.mountpoint)} is {WORDS[new.state].format(self.mountpoint, _LIMIT_S)}"
            return [tables.coloured(said, tables.RED, self.colour)]
        span = now - then if old.state == "ok" else 0.0
        rows = []
        for name, numbers in new.watches.items():
            if numbers is None:
                rows.append((name, [*("-" for _ in range(6))], dict.fromkeys(_KEYS, -1.0)))
                continue
            past = old.watches.get(name)
            rates = {key: _rate(numbers[key], past[key] if past else None, span) for key in ("posted", "delivered")}
            cells = [
                f"{numbers['queued']}/{numbers['depth']}",
                *("-" if rate is None else f"{rate:.1f}" for rate in rates.values()),
                *(str(numbers[key]) for key in ("lost", "readers", "pollers")),
            ]
            values = {key: float(numbers[key]) for key in ("lost", "readers", "pollers")}
            values |= {key: rate or 0.0 for key, rate in rates.items()}
            rows.append((name, cells, values | {"used": numbers["queued"] / max(numbers["depth"], 1)}))
        if self.sort != "name":
            rows.sort(key=lambda row: -row[2][self.sort])
        if self.reverse:
            rows.reverse()
        heads = ["watch", "used/depth", "posted/s", "delivered/s", "lost", "readers", "pollers"]
        drawn = tables.table(heads, [[tables.printable(name), *cells] for name, cells, _ in rows])
        counts = {name.removeprefix("wqfs_"): value for name, value in new.metrics.items()}
        head = f"{tables.printable(self.mountpoint)}  events {counts.get('events_total', 0)}, "
        head += f"queues {counts.get('queues', 0)}, waiting readers {counts.get('waiting_readers', 0)}"
        for at, (_, _, values) in enumerate(rows, 1):
            if values.get("lost", 0) > 0:
                drawn[at] = tables.coloured(drawn[at], tables.RED, self.colour)
        return [head, tables.coloured(drawn[0], tables.BOLD, self.colour), *drawn[1:]]

    def screen(self) -> list[str]:
        """The table with the keys below it."""
        order = f"by {self.sort}, reversed" if self.reverse else f"by {self.sort}"
        return [
            *self.lines(),
            "",
            tables.coloured(f"{order}; s: another order, r: reverse, q: end", tables.DIM, self.colour),
        ]

    def key(self, key: str) -> bool:
        """Do what a key says; returns whether to go on."""
        if key == "s":
            self.sort = _KEYS[(_KEYS.index(self.sort) + 1) % len(_KEYS)]
        elif key == "r":
            self.reverse = not self.reverse
        return key not in ("q", "\x04", "\x03")


def _rate(new: int, old: int | None, span: float) -> float | None:
    # A watch that was made anew under its name counts from 0 again.
    return None if old is None or span <= 0 or new < old else (new - old) / span


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    given = make_parser().parse_args(arguments)
    place = named_mount(given.mount).mountpoint if given.mount else str(Path(find_mount(None)))
    top = _Top(place, given.sort, tables.wants_colour(given.color))
    live = sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    top.look()
    if top.now[1].state != "ok":
        raise CommandFailed(f"{place} is {WORDS[top.now[1].state].format(place, _LIMIT_S)}.")
    if given.once or not live:
        while True:
            time.sleep(given.delay)
            top.look()
            state = top.now[1].state
            if state not in ("ok", "stuck"):
                raise CommandFailed(f"{place} is {WORDS[state].format(place, _LIMIT_S)}.")
            print("\n".join(top.lines()), flush=True)
            if given.once:
                return EXIT_OK
            print(flush=True)
    with _screen() as resized:
        _live(top, max(given.delay, 0.05), resized)
    return EXIT_OK


def _live(top: _Top, delay: float, resized: int) -> None:
    while True:
        _draw(top.screen())
        due = time.monotonic() + delay
        while (left := due - time.monotonic()) > 0:
            ready, _, _ = select.select([0, resized], [], [], left)
            if resized in ready:
                os.read(resized, 512)
                _draw(top.screen())
            if 0 in ready:
                keys = os.read(0, 64).decode("ascii", "replace") or "q"
                if not all(top.key(key) for key in keys):
                    return
                _draw(top.screen())
        top.look()


def _draw(lines: Sequence[str]) -> None:
    width, height = shutil.get_terminal_size()  # 80 x 24 where the terminal does not say
    shown = [line[:width] if "\033" not in line else _cut(line, width) for line in lines[:height]]
    sys.stdout.write(_HOME + (_LINE_END + "\r\n").join(shown) + _LINE_END + _BELOW)
    sys.stdout.flush()


def _cut(line: str, width: int) -> str:
    """A line of one colour, cut to a width."""
    start, _, rest = line.partition("m")
    return f"{start}m{rest.removesuffix(chr(27) + '[0m')[:width]}\033[0m"


@contextmanager
def _screen() -> Iterator[int]:
    """The terminal as a screen of ours, given back at the end and while we are stopped by Ctrl-Z; yields a descriptor
    that is readable when it is to be drawn anew: its size has changed, or we go on."""
    before = termios.tcgetattr(0)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    old_handler = signal.signal(signal.SIGWINCH, lambda number, frame: None)
    old_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def enter() -> None:
        tty.setcbreak(0)
        sys.stdout.write(_ENTER)

    def leave() -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()

    def stop(number: int, frame: object) -> None:
        leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # here we stop, and go on with SIGCONT
        signal.signal(signal.SIGTSTP, stop)
        enter()

    old_stop = signal.signal(signal.SIGTSTP, stop)
    try:
        enter()
        yield reader
    finally:
        signal.signal(signal.SIGTSTP, old_stop)
        leave()
        signal.set_wakeup_fd(old_fd)
        signal.signal(signal.SIGWINCH, old_handler)
        os.close(reader)
        os.close(writer)
