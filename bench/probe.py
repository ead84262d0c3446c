"""Runs of the client against servers in turn: A B C, A B C, so that a noisy minute hits them all."""

import shlex
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.keeper import Failed, Keeper, tail
from bench.rows import PROBES, Probe, convert
from bench.servers import Paths, Server

HERE = Path(__file__).resolve().parent
CLIENT_S = 60.0


@dataclass
class Figures:
    """What was measured, one value a round, and what could not be, by row and server."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, row: str, server: str, value: float) -> None:
        self.values[row, server].append(value)

    def fail(self, rows: Iterable[str], server: str, why: str) -> None:
        for row in rows:
            self.failures.setdefault((row, server), why)


@dataclass(frozen=True)
class Workshop:
    """Where a run happens; `quick` takes fewer samples."""

    keeper: Keeper
    folder: Path
    figures: Figures
    quick: bool

    def build(self) -> None:
        """Compiles client and C peer into the folder; Failed with what the compiler said."""
        flags = ["-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"]
        self.compile([*flags, "-pthread", "client.c"], "client", "")
        self.compile([*flags, "peer_lowlevel.c"], "peer_lowlevel", "fuse3")

    def compile(self, arguments: list[str], name: str, package: str) -> None:
        if package:
            asked = tool(["pkg-config", "--cflags", "--libs", package])
            arguments = [*arguments, *shlex.split(asked)]
        tool(["cc", *arguments, "-o", str(self.folder / name)])

    def client(self, mode: str, paths: Paths, count: int) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.folder / "client.log"
        command = [str(self.folder / "client"), mode, paths.queue, paths.records, paths.post]
        return self.keeper.start([*command, paths.text, str(count)], log), log

    def run(self, mode: str, paths: Paths, count: int) -> dict[str, float]:
        """The client's `name value` lines; Failed if it complained or took too long."""
        process, log = self.client(mode, paths, count)
        try:
            output, _ = process.communicate(timeout=CLIENT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{mode}: no end after {CLIENT_S:.0f} s") from None
        finally:
            if process.returncode is None:
                # It may sit in a call that only the end of the connection ends.
                self.keeper.kill_all()
            self.keeper.end(process)
        if process.returncode:
            raise Failed(tail(log))
        pairs = (line.split() for line in output.decode().splitlines())
        return {name: float(value) for name, value in pairs}


def tool(command: list[str]) -> str:
    done = subprocess.run(command, cwd=HERE, timeout=CLIENT_S, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def start(server: Server, figures: Figures, rows: Iterable[str]) -> bool:
    """False, and the failure noted, if it does not."""
    try:
        server.start()
    except (Failed, OSError) as error:
        figures.fail(rows, server.name, str(error))
        with suppress(Failed, OSError):
            server.stop()
        return False
    return True


def measure(shop: Workshop, group: str, servers: list[Server], rounds: int, only: set[str]) -> None:
    """A group's probes; a server that fails one is started anew and skips that probe from then on."""
    probes = [probe for probe in PROBES[group] if only & {row for _, row in probe.readings}]
    rows = [row for probe in probes for _, row in probe.readings]
    alive = [server for server in servers if start(server, shop.figures, rows)]
    try:
        for number in range(rounds):
            for probe in probes:
                # The other way round each time: nobody always comes first, or after whom.
                for server in alive[:: -1 if number % 2 else 1]:
                    if not one(shop, probe, server):
                        alive = [other for other in alive if renew(shop, other, rows)]
    finally:
        for server in servers:
            server.stop()


def one(shop: Workshop, probe: Probe, server: Server) -> bool:
    """False if the server had to be given up."""
    rows = [row for _, row in probe.readings]
    if server.name not in probe.servers or (rows[0], server.name) in shop.figures.failures:
        return True
    try:
        with server.queue() as paths:
            told = shop.run(probe.mode, paths, max(probe.count // 5, 5) if shop.quick else probe.count)
    except (Failed, OSError) as error:
        shop.figures.fail(rows, server.name, str(error))
        return False
    for name, row in probe.readings:
        shop.figures.add(row, server.name, convert(row, told[name]))
    return True


def renew(shop: Workshop, server: Server, rows: list[str]) -> bool:
    server.stop()
    return start(server, shop.figures, rows)
