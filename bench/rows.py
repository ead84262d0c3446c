"""The rows of the table, their targets (issue 2, "Measured"), and how many samples each takes."""

from dataclasses import dataclass

ALL = ("wqfs", "nosurvive", "c", "pyfuse3", "pipe")
FUSE = ("wqfs", "nosurvive", "c", "pyfuse3")


@dataclass(frozen=True)
class Target:
    """`limit` is a most, or a least; with `against`, a ratio to that server's figure."""

    limit: float
    against: str | None = None
    least: bool = False


@dataclass(frozen=True)
class Row:
    """`unit`: us, per_s, us_per_watch, ratio, kib or count. Without targets: for context."""

    key: str
    title: str
    unit: str = "us"
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Probe:
    """One run of the client: `readings` maps a value that it prints to a row."""

    mode: str
    count: int
    readings: tuple[tuple[str, str], ...]
    servers: tuple[str, ...] = ALL


OPERATION = (Target(1.3, "c"), Target(0.35, "pyfuse3"))
OPERATION_C = (Target(1.3, "c"),)
COMMANDS = (Target(50_000, least=True),)
PER_WATCH = (Target(4.0),)
WATCHES = (100, 1_000, 10_000)

ROWS = (
    Row("read", "read of one record, queue filled", targets=OPERATION),
    Row("read_empty", "read of an empty queue, O_NONBLOCK", targets=OPERATION),
    Row("poll", "poll(0), empty queue", targets=OPERATION),
    Row("ioctl", "ioctl, unknown number: ENOTTY", targets=OPERATION_C),
    Row("ioctl_busy", "ioctl, SET_SIZE again: EBUSY", targets=OPERATION_C),
    Row("write", "write of one raw record", targets=OPERATION),
    Row("wake", "raw record to blocked reader, median", targets=(Target(1.5, "c"),)),
    Row("wake_p99", "raw record to blocked reader, p99", targets=(Target(1.5, "c"),)),
    Row("wake_text", "text command to blocked reader, median", targets=(Target(3.0, "c"),)),
    Row("wake_text_p99", "text command to blocked reader, p99", targets=(Target(3.0, "c"),)),
    Row("throughput", "records to one reader, blocks of 512", "per_s", (Target(500_000, least=True),)),
    Row("reads_per_block", "reads that took a block of 512", "count"),
    Row("post_block", "text commands, writes of 64 KiB", "per_s", COMMANDS),
    Row("post_line", "text commands, one a write", "per_s", COMMANDS),
    Row("fanout_0", "event to no watch, the whole write"),
    *(Row(f"fanout_{n}", f"event to {n:,} watches, per watch", "us_per_watch", PER_WATCH) for n in WATCHES),
    *(Row(f"fanout_{n}_mean", f"event to {n:,} watches, mean", "us_per_watch") for n in WATCHES),
    Row("fanout_flat", "fan-out, dearest / cheapest per watch", "ratio", (Target(1.25),)),
    Row("fanout_net_flat", "the same without the write's own cost", "ratio"),
    Row("memory_watch", "daemon's memory per idle watch, of 10,000", "kib", (Target(8.0),)),
    Row("memory_reader", "daemon's memory per waiting reader, of 10,000", "kib", (Target(1.0),)),
    Row("idle", "context switches of an idle mount", "count", (Target(0.0),)),
)

PROBES: dict[str, tuple[Probe, ...]] = {
    "operations": (
        Probe("read", 30, (("median_ns", "read"),)),
        Probe("read_empty", 30, (("median_ns", "read_empty"),)),
        Probe("poll", 30, (("median_ns", "poll"),)),
        Probe("ioctl", 30, (("median_ns", "ioctl"),), ("wqfs", "nosurvive", "c", "pipe")),
        Probe("ioctl_busy", 30, (("median_ns", "ioctl_busy"),), ("wqfs", "nosurvive", "c")),
        Probe("write", 30, (("median_ns", "write"),)),
    ),
    "latency": (
        Probe("wake", 1000, (("median_ns", "wake"), ("p99_ns", "wake_p99"))),
        Probe("wake_text", 1000, (("median_ns", "wake_text"), ("p99_ns", "wake_text_p99")), FUSE),
    ),
    "throughput": (Probe("throughput", 300, (("median_ns", "throughput"), ("reads_per_block", "reads_per_block"))),),
    "commands": (
        Probe("post_block", 20, (("median_ns", "post_block"),), FUSE),
        Probe("post_line", 30, (("median_ns", "post_line"),), FUSE),
    ),
}
# What needs more than runs of the client: see scale.py.
GROUPS: dict[str, tuple[str, ...]] = {
    **{group: tuple(row for p in probes for _, row in p.readings) for group, probes in PROBES.items()},
    "fanout": tuple(row.key for row in ROWS if row.key.startswith("fanout")),
    "memory": ("memory_watch", "memory_reader"),
    "idle": ("idle",),
    "run": ("run",),  # see run.py: it has rows and columns of its own
}
UNITS = {row.key: row.unit for row in ROWS}


def convert(row: str, value: float) -> float:
    """From what the client prints to the row's unit."""
    unit = UNITS[row]
    if unit == "us":
        return value / 1e3
    return 1e9 / value if unit == "per_s" else value
