"""Where the figures come from: machine and versions."""

import datetime
import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path

from bench.keeper import Failed
from bench.probe import tool


def facts(cpu: int, rounds: int, quick: bool) -> list[tuple[str, str]]:
    """In the order of the report. The load is that before the benchmark."""
    libfuse = compiler = commit = virtual = "unknown"
    with suppress(Failed):
        libfuse = tool(["pkg-config", "--modversion", "fuse3"])
    with suppress(Failed):
        compiler = tool(["cc", "--version"]).split("\n")[0]
    with suppress(Failed, OSError):
        commit = tool(["git", "describe", "--always", "--dirty"])
    with suppress(Failed, OSError):
        virtual = tool(["systemd-detect-virt"])
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return [
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("wqfs", commit),
        ("CPU", f"{of('/proc/cpuinfo', 'model name')}, {os.cpu_count()} CPUs, CPU {cpu} used"),
        ("memory", of("/proc/meminfo", "MemTotal")),
        ("virtual machine", virtual),
        ("kernel", f"{platform.release()} {platform.machine()}"),
        ("Python", platform.python_version()),
        ("trio", importlib.metadata.version("trio")),
        ("pyfuse3", importlib.metadata.version("pyfuse3")),
        ("libfuse", libfuse),
        ("compiler", compiler),
        ("load before", load),
        ("rounds", f"{rounds}{', quick' if quick else ''}"),
    ]


def of(path: str, name: str) -> str:
    """The first value of `name : value` lines."""
    lines = Path(path).read_text().splitlines()
    values = (line.split(":", 1)[1].strip() for line in lines if line.startswith(name) and ":" in line)
    return next(values, "unknown")
