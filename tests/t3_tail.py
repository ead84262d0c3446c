"""`wqfs tail` on mounts: what it shows, when it ends, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import LIMIT, Mount, deliver, is_mounted, running, wait_until
from wqfs.abi import records as r
from wqfs.cli import lines
from wqfs.cli.sources import KernelEvents
from wqfs.client import KeyEvent, Loss, MountEvent, Queue, parse_events

WQFS = (sys.executable, "-m", "wqfs.cli")
EVENTS = ("mount /dev/sdb1 /mnt/tail -t ext4 -o ro", "sb error /mnt/tail EIO bad block", "umount /mnt/tail")


def tail(mount: Mount, *words: str, **options: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [*WQFS, "tail", "--mount", str(mount.path), *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, **options},
        check=False,
    )


class Running:
    """A `wqfs tail` that watches by now."""

    def __init__(self, mount: Mount, words: Sequence[str]) -> None:
        # Its own error stream tells when it watches.
        self.process = subprocess.Popen(
            [*WQFS, "tail", "--mount", str(mount.path), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()

    def end(self) -> tuple[int, list[str]]:
        """Its exit code and lines, once it has ended by itself."""
        out, error = self.process.communicate(timeout=LIMIT)
        assert "Traceback" not in error, error
        return self.process.returncode, out.splitlines()


@pytest.fixture
def started(shared: Mount) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*words: str) -> Running:
        running.append(Running(shared, words))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.communicate(timeout=LIMIT)


@contextmanager
def on_terminal(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose terminal is ours."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait(LIMIT)
        os.close(ours)


def read_line(terminal: int) -> bytes:
    found = b""
    while not found.endswith(b"\n"):
        found += os.read(terminal, 1)
    return found


# -- formats


def test_short_line_says_what_happened(shared: Mount, started: Callable[..., Running]) -> None:
    running = started("-n", "3")
    assert running.said == f"wqfs tail: watching everything on {shared.path}\n"
    shared.post(*EVENTS)
    code, lines = running.end()
    assert code == 0
    assert [re.sub(r"^\d\d:\d\d:\d\d\.\d{6} ", "", line) for line in lines] == [
        "mount new_mount /mnt/tail /dev/sdb1 ext4 IN_SUBTREE IS_NOW_RO"
        if "IN_SUBTREE" in lines[0]
        else "mount new_mount /mnt/tail /dev/sdb1 ext4 IS_NOW_RO",
        "sb    error EIO /mnt/tail /dev/sdb1 ext4 'bad block'",
        "mount unmount /mnt/tail /dev/sdb1 ext4",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{6} ", line) for line in lines)


def test_short_line_of_a_move_has_both_places_and_blanks_are_escaped(
    shared: Mount, started: Callable[..., Running]
) -> None:
    running = started("-n", "4", "-o", "cat")
    shared.post("mount a '/mnt/a b' -t tmpfs", "mount --move '/mnt/a b' /mnt/c", "umount /mnt/c")
    assert running.end()[1] == [
        r"mount new_mount /mnt/a\040b a tmpfs",
        r"mount move_from /mnt/a\040b -> /mnt/c a tmpfs",
        r"mount move_to /mnt/a\040b -> /mnt/c a tmpfs",
        "mount unmount /mnt/c a tmpfs",
    ]


def test_json_is_the_line_of_events(shared: Mount, started: Callable[..., Running]) -> None:
    watch = shared.watch("json")
    try:
        running = started("json", "-j", "-n", "3")
        shared.post(*EVENTS)
        code, lines = running.end()
        assert (code, lines) == (0, (watch / "log").read_text().splitlines())
    finally:
        watch.rmdir()


def test_raw_is_what_the_queue_gives(shared: Mount) -> None:
    watch = shared.watch("raw")
    try:
        shared.post(*EVENTS)
        done = subprocess.run(
            [*WQFS, "tail", "--mount", shared.path, "raw", "-o", "raw", "--since-seq", "0", "-n", "3"],
            capture_output=True,
            timeout=LIMIT,
            check=True,
        )
        with open(watch / "queue", "rb", buffering=0) as queue:
            assert queue.read(4096) == done.stdout
        assert isinstance(parse_events(done.stdout)[0], MountEvent)
    finally:
        watch.rmdir()


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--format", "{event}:{mountpoint}{nosuch}"], ["new_mount:/mnt/tail", "error:/mnt/tail", "unmount:/mnt/tail"]),
        (["--fields", "event,error,flags"], ["new_mount\t\tIS_NOW_RO", "error\tEIO\t", "unmount\t\t"]),
        (
            ["-o", "cat", "-e", "sb"],
            ["sb    error EIO /mnt/tail /dev/sdb1 ext4 'bad block'"],
        ),
    ],
)
def test_formats_for_scripts(
    shared: Mount, started: Callable[..., Running], words: list[str], lines: list[str]
) -> None:
    running = started(*words, "-n", str(len(lines)))
    shared.post(*EVENTS)
    assert running.end() == (0, lines)


def test_times_are_written_as_asked(shared: Mount, started: Callable[..., Running]) -> None:
    runs = [
        (started("-n1", "--ts", "--utc"), r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+0000 mount"),
        (started("-n1", "--timefmt", "%H h %f"), r"\d\d h \d{6} mount"),
        (started("-n1", "--format", "{time}", "--timefmt", "%Y"), r"20\d\d$"),
    ]
    shared.post(*EVENTS)
    for each, pattern in runs:
        code, lines = each.end()
        assert code == 0 and re.match(pattern, lines[0]), lines


def test_colors_on_a_terminal_alone_and_not_with_no_color(shared: Mount, started: Callable[..., Running]) -> None:
    assert "\x1b" not in _one(shared, started("-n1"))
    assert "\x1b[32mmount new_mount\x1b[0m" in _one(shared, started("-n1", "--color", "always"))
    for no_color, colored in (("", True), ("1", False)):
        command = ["env", f"NO_COLOR={no_color}", "TERM=xterm", *WQFS, "tail", "--mount", str(shared.path), "-n1"]
        with on_terminal(*command) as (process, terminal):
            assert b"watching everything" in read_line(terminal)
            shared.post(EVENTS[0], EVENTS[2])
            shown = read_line(terminal)
            assert (b"\x1b[32m" in shown) is colored
            assert process.wait(LIMIT) == 0


def _one(mount: Mount, running: Running) -> str:
    mount.post(EVENTS[0], EVENTS[2])
    code, lines = running.end()
    assert code == 0
    return lines[0]


def test_names_cannot_command_the_terminal(shared: Mount, started: Callable[..., Running]) -> None:
    running = started("-n1", "-o", "cat")
    shared.post("mount 'bad\x1b[2J' /mnt/escape -t tmpfs", "umount /mnt/escape")
    code, lines = running.end()
    assert code == 0 and lines == [r"mount new_mount /mnt/escape bad\x1b[2J tmpfs"]


# -- which events


@pytest.mark.parametrize(
    ("chosen", "events"),
    [
        (["mount"], ["new_mount", "unmount"]),
        (["error"], ["error"]),
        (["unmount", "sb:error"], ["error", "unmount"]),
        (["key:iv"], ["instantiated", "invalidated"]),
        (["key:linked"], ["linked"]),
    ],
)
def test_events_are_chosen(
    shared: Mount, started: Callable[..., Running], chosen: list[str], events: list[str]
) -> None:
    words = [word for each in chosen for word in ("-e", each)]
    running = started(*words, "-n", str(len(events)), "--format", "{event}", "--timeout", "10")
    shared.post(*EVENTS, "key add user tail x @s", "key invalidate tail")
    assert running.end() == (0, events)


def test_events_of_a_named_watch_are_chosen_without_touching_its_filter(shared: Mount) -> None:
    watch = shared.watch("chosen")
    try:
        shared.post(*EVENTS)
        done = tail(shared, "chosen", "--since-seq", "0", "-e", "unmount", "-n1", "--format", "{event}")
        assert (done.returncode, done.stdout) == (0, "unmount\n")
        assert (watch / "filter").read_text() == ""
        assert shared.status(watch)["queued"] == 3
    finally:
        watch.rmdir()


def test_objects_of_its_own_watch(shared: Mount, started: Callable[..., Running]) -> None:
    shared.post("mount a /mnt/object -t tmpfs")
    running = started("--object", "mount /mnt/object id=7", "-n1", "--format", "{event} {id}")
    shared.post(*EVENTS, "mount b /mnt/object/b -t tmpfs")
    assert running.end() == (0, ["new_mount 7"])
    shared.post("umount -R /mnt/object")


def test_own_watch_sees_everything_on_a_strict_mount(strict_mount: Mount) -> None:
    running = Running(strict_mount, ["-n1", "--format", "{event}"])
    strict_mount.post(*EVENTS)
    assert running.end() == (0, ["new_mount"])
    wait_until(lambda: not list((strict_mount.path / "watches").iterdir()), "its watch to be gone")


# -- how long


def test_timeout_is_2_without_events_and_0_with_some(shared: Mount, started: Callable[..., Running]) -> None:
    assert tail(shared, "-t", "0.05").returncode == 2
    assert tail(shared, "--idle-timeout", "0.05").returncode == 2
    running = started("-t", "1")
    shared.post(*EVENTS)
    code, lines = running.end()
    assert (code, len(lines)) == (0, 3)


def test_timeout_before_count_is_2(shared: Mount, started: Callable[..., Running]) -> None:
    running = started("--idle-timeout", "0.3", "-n", "5")
    shared.post(*EVENTS)
    code, lines = running.end()
    assert (code, len(lines)) == (2, 3)


def test_loss_is_3_and_can_end_it(tmp_path: Path, mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=2")
    for words in (["-n", "2"], ["--fail-on-loss"]):
        running = Running(mount, words)
        running.process.send_signal(signal.SIGSTOP)
        mount.post(*EVENTS, *EVENTS)
        running.process.send_signal(signal.SIGCONT)
        code, lines = running.end()
        if words == ["--fail-on-loss"]:
            assert code == 3
            assert re.search(r"meta +lost \d events were lost", lines[-1]), lines
        else:
            assert code in (0, 3) and len(lines) >= 2


def test_raw_loss_is_the_loss_record(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=2")
    running = subprocess.Popen(
        [*WQFS, "tail", "--mount", mount.path, "-o", "raw", "--fail-on-loss"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stderr is not None and running.stderr.readline()
    running.send_signal(signal.SIGSTOP)
    mount.post("key add user k x @s", *EVENTS)
    running.send_signal(signal.SIGCONT)
    out, _ = running.communicate(timeout=LIMIT)
    assert running.returncode == 3
    assert Loss in [type(event) for event in parse_events(out)]
    assert out.endswith(r.LOSS) and isinstance(parse_events(out)[0], KeyEvent)


def test_removed_watch_ends_it_with_0(shared: Mount, started: Callable[..., Running]) -> None:
    watch = shared.watch("ending")
    running = started("ending")
    watch.rmdir()
    assert running.end() == (0, [])


def test_ctrl_c_ends_it_and_takes_its_watch_away(shared: Mount, started: Callable[..., Running]) -> None:
    before = set((shared.path / "watches").iterdir())
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130)):
        running = started()
        running.process.send_signal(number)
        assert running.end()[0] == code
        assert set((shared.path / "watches").iterdir()) == before


def test_reader_that_goes_away_ends_it_while_idle(shared: Mount, started: Callable[..., Running]) -> None:
    running = started()
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(LIMIT) == 0


def test_killed_server_ends_it_with_a_sentence(mount: Mount) -> None:
    running = Running(mount, [])
    os.killpg(mount.process.pid, signal.SIGKILL)
    _, error = running.process.communicate(timeout=LIMIT)
    assert (running.process.returncode, error) == (1, "wqfs tail: the mount has ended: its server is gone.\n")


def test_closed_standard_streams_are_no_files_of_the_mount(mount: Mount) -> None:
    command = f"exec {sys.executable} -m wqfs.cli tail --mount {mount.path} -n1 <&- >&- 2>&-"
    with running("sh", "-c", command) as process:
        wait_until(lambda: os.listdir(mount.path / "watches"), "its watch")

        def has_ended() -> bool:  # by the first event after its open of `events`
            mount.post("sb error / EIO")
            return process.poll() is not None

        wait_until(has_ended, "its end")
        assert process.returncode == 0
    assert os.listdir(mount.path / "watches") == []


def test_unmount_ends_it(mount: Mount) -> None:
    running = Running(mount, [])
    mount.process.send_signal(signal.SIGTERM)
    assert running.end()[0] == 0
    assert not is_mounted(mount.path)


# -- from where it was


def test_cursor_file_goes_on_where_it_was(shared: Mount, tmp_path: Path) -> None:
    watch = shared.watch("cursor")
    cursor = tmp_path / "cursor"
    words = ["cursor", "--cursor-file", str(cursor), "--idle-timeout", "0.1", "--format", "{event}", "-q"]
    try:
        shared.post(*EVENTS[:2])
        assert tail(shared, *words).stdout == "new_mount\nerror\n"
        shared.post(EVENTS[2])
        done = tail(shared, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "unmount\n", "")
        assert tail(shared, *words).returncode == 2
        last = json.loads((watch / "log").read_text().splitlines()[-1])["seq"]
        assert cursor.read_text() == f"{last}\n"
        assert os.listdir(tmp_path) == ["cursor"]
    finally:
        watch.rmdir()


def test_since_seq_misses_nothing_and_repeats_nothing_while_events_go_on(shared: Mount) -> None:
    watch = shared.watch("race")
    poster = subprocess.Popen(
        [
            "sh",
            "-c",
            "for i in $(seq 100); do echo 'mount a /r -t tmpfs'; echo 'umount /r'; done > \"$0\"",
            shared.path / "post",
        ]
    )
    try:
        done = tail(shared, "race", "--since-seq", "0", "-n", "200", "--fields", "seq", "-t", "15")
        assert poster.wait(LIMIT) == 0
        numbers = [int(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0 and numbers == list(range(numbers[0], numbers[0] + 200))
    finally:
        poster.kill()
        poster.wait(LIMIT)
        watch.rmdir()


def test_exec_runs_for_each_event(shared: Mount, started: Callable[..., Running]) -> None:
    running = started(
        "-n2", "-e", "mount", "--exec", 'echo "$WQFS_EVENT $WQFS_MOUNTPOINT $(jq -r .source)"; exit 3', "-ocat"
    )
    shared.post(*EVENTS)
    out, error = running.process.communicate(timeout=LIMIT)
    assert [line for line in out.splitlines() if not line.startswith("mount ")] == [
        "new_mount /mnt/tail /dev/sdb1",
        "unmount /mnt/tail /dev/sdb1",
    ]
    assert error.count("--exec ended with 3") == 2


# -- wrong use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "cannot read the watch 'nosuch': No such file or directory"),
        (["-e", "new_mont"], "did you mean new_mount"),
        (["-e", "key:ix"], "setattr, the letters iplncrvs, not"),
        (["-e", "lock:new"], "-e: expected one of"),
        (["--object", "mount nowhere"], "objects of the watch"),
        (["--filter", "lock *"], "filter of the watch"),
        (["--filter", "key *", "-e", "key"], "not both"),
        (["--since-seq", "3"], "need a WATCH"),
        (["--format", "{event"], "--format"),
        (["--format", "{event.x}"], "expected a name in the braces"),
        (["--format", "{seq:05d}"], "--format: Unknown format code 'd'"),
        (["-n", "0"], "expected a count"),
        (["-t", "long"], "expected seconds"),
        (["-j", "--fields", "seq"], "expected one of --output, --format and --fields"),
        (["w", "--kernel"], "not for WATCH"),
        (["--kernel", "--object", "mount /"], "expected `key SERIAL`"),
    ],
)
def test_wrong_use_is_a_sentence_and_1(shared: Mount, words: list[str], said: str) -> None:
    before = set((shared.path / "watches").iterdir())
    done = tail(shared, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert set((shared.path / "watches").iterdir()) == before


def test_kernels_pipe_or_the_reason_why_not(shared: Mount) -> None:
    done = tail(shared, "--kernel", "-t", "0.05")
    if done.returncode == 1:
        assert "this kernel has no notification pipes" in done.stderr
    else:
        assert done.returncode == 2 and "in the kernel" in done.stderr


@pytest.fixture
def kernel_key() -> Iterator[int]:
    """A key of the kernel's own, called wqfs-tail."""
    done = subprocess.run("keyctl add user wqfs-tail x @u".split(), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no key can be made here: {done.stderr.strip()}")
    yield int(done.stdout)
    subprocess.run(["keyctl", "unlink", done.stdout.strip(), "@u"], capture_output=True, check=False)


def test_kernels_events_get_the_names_that_keys_have(shared: Mount, kernel_key: int) -> None:
    """A mount gives the records that a kernel with notification pipes would."""
    with Queue.open(shared.path) as queue:
        body = r.KEY_BODY.pack(kernel_key, 0)
        linked = r.KEY_BODY.pack(0x7FFFFFFF, kernel_key)
        deliver(
            shared,
            r.encode(r.WatchType.KEY_NOTIFY, r.KeySubtype.UPDATED, body, watch_id=3),
            r.encode(r.WatchType.KEY_NOTIFY, r.KeySubtype.LINKED, linked),
        )
        events = KernelEvents(queue, "").events()
    assert events is not None
    line = lines.short(None, color=False)
    assert [line(event).decode() for event in events] == [
        f"key   updated wqfs-tail ({kernel_key}) id=3\n",
        f"key   linked 2147483647 wqfs-tail ({kernel_key})\n",
    ]


def test_time_to_start_needs_neither_trio_nor_pyfuse3() -> None:
    modules = "wqfs.cli.tail, wqfs.cli.wait, wqfs.cli.watch"
    code = f"import sys, {modules}; print([m for m in ('trio', 'pyfuse3', 'asyncio', 'wqfs.sim') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "[]\n"
