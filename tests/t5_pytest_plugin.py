"""The pytest plugin, by running pytest in pytest: what it gives, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tools import LIMIT, ROOT, wait_until

THREE_LINES = """
def test_expiry(wqfs):
    wqfs.post("automount server:/home/ada /home/ada -t nfs4", "expire /home/ada")
    wqfs.expect("mount", "expiry", mountpoint="/home/ada")
"""


def mounts() -> set[str]:
    """Private mounts of this run's inner ones, by the temporary folder that they are given."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return {line.split()[4] for line in table if " - fuse.wqfs " in line and "/wqfs-test-" in line}


class Inner:
    """pytest runs in a folder of their own, with their temporary files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        self.command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_plugin()]
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, test: str, *words: str, **env: str) -> subprocess.Popen[str]:
        (self.folder / "test_inner.py").write_text(test)
        return subprocess.Popen(
            [*self.command, *words],
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, test: str, *words: str, **env: str) -> tuple[int, str]:
        """Exit code and output; the run leaves neither mount nor folder nor process."""
        process = self.start(test, *words, **env)
        try:
            out, _ = process.communicate(timeout=50)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # workers too; mounts go by themselves
                process.communicate(timeout=LIMIT)
        self.assert_nothing_left()
        return process.returncode, out

    def assert_nothing_left(self) -> None:
        wait_until(lambda: not any(str(self.folder) in each for each in mounts()), "the mount to be gone")
        wait_until(lambda: not _processes(str(self.folder)), "the daemon to be gone")


def _plugin() -> list[str]:
    """Nothing where the installed wqfs has the entry point."""
    from importlib.metadata import entry_points

    return [] if any(each.value == "wqfs.testing.plugin" for each in entry_points(group="pytest11")) else [
        "-p", "wqfs.testing.plugin"
    ]  # fmt: skip


def _processes(word: str) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                command = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if word in command and "wqfs" in command:
                found.append(command)
    return found


@pytest.fixture
def inner(tmp_path: Path) -> Inner:
    return Inner(tmp_path)


def test_three_lines_are_an_automount_expiry(inner: Inner) -> None:
    code, out = inner.run(THREE_LINES)
    assert code == 0 and "1 passed" in out, out


def test_fixture_has_all_that_a_test_needs(inner: Inner) -> None:
    code, out = inner.run(
        """
import errno, os, pytest
from wqfs.client import MountEvent
from wqfs.testing import Refused

def test_all(wqfs):
    watch = wqfs.watch("mine", "mount / id=4", filter=["mount new_mount"])
    with wqfs.queue(depth=64) as queue, watch.queue() as other:
        wqfs.post("mount a /mnt/a -t tmpfs", "umount /mnt/a")
        assert [type(event) for event in queue.read(5)] == [MountEvent] * 2
        assert watch.expect("mount", "new_mount")["id"] == 4
        assert len(other.read(5)) == 1 and watch.events() == []
    assert [event["event"] for event in wqfs.events()] == ["new_mount", "unmount"]
    assert wqfs.expect("mount")["mountpoint"] == "/mnt/a"
    with pytest.raises(Refused, match="EWHAT") as refused:
        wqfs.post("sb error / EWHAT")
    assert refused.value.errno == errno.EINVAL
    assert "/mnt/a " not in wqfs.text("mountinfo") and wqfs.snapshot()["seq"] == 2
    wqfs.play("usb-stick", "--fast")
    wqfs.settle()
    watch.close()
    assert not watch.path.exists()

@pytest.mark.wqfs("strict,depth=32")
def test_options(wqfs):
    (wqfs.path / "watches/new").mkdir()
    assert (wqfs.path / "watches/new/objects").read_text() == ""

def test_factory_and_session(wqfs_factory, wqfs_session):
    one, other = wqfs_factory("strict"), wqfs_factory()
    one.post("mount a /mnt/a -t tmpfs")
    one.expect("mount", "new_mount")
    assert other.events() == wqfs_session.events() == []
"""
    )
    assert code == 0 and "3 passed" in out, out


def test_failing_expect_shows_what_came_and_the_log(inner: Inner) -> None:
    code, out = inner.run(
        """
def test_fails(wqfs):
    wqfs.post("mount a /mnt/a -t tmpfs")
    wqfs.expect("mount", "expiry", mountpoint="/mnt/a", timeout=0.2)
"""
    )
    assert code == 1
    assert "expected mount expiry mountpoint='/mnt/a', within 0.2 s; came:" in out
    assert "mount new_mount id=0" in out and "source='a'" in out
    assert "log of wqfs" in out and ": mounted" in out
    assert "wqfs/testing" not in out  # how it looks inside


def test_misspelt_words_are_not_waited_for(inner: Inner) -> None:
    code, out = inner.run(
        """
import pytest

@pytest.mark.parametrize("words", [("mnt",), ("mount", "unmont"), ("meta", "new_mount")])
def test_words(wqfs, words):
    with pytest.raises(ValueError, match="expected an? (type|event of)"):
        wqfs.expect(*words, timeout=60)
    wqfs.watch("w").close()
"""
    )
    assert code == 0 and "3 passed" in out, out


def test_failing_test_has_the_logs_of_all_mounts_that_it_made(inner: Inner) -> None:
    code, out = inner.run("def test_fails(wqfs_factory):\n    wqfs_factory(), wqfs_factory('strict')\n    assert 0\n")
    assert code == 1 and out.count("log of wqfs_factory") == out.count(": mounted") == 2, out


def test_failing_play_shows_what_it_said(inner: Inner) -> None:
    (inner.folder / "bad.toml").write_text('title = "bad"\n[[step]]\nat = 0\nrun = "nonsense"\n')
    code, out = inner.run("def test_fails(wqfs):\n    wqfs.play('bad.toml')\n")
    assert code == 1 and "wqfs play bad.toml ended with 1" in out, out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_or_killed_run_leaves_nothing(inner: Inner, number: int) -> None:
    process = inner.start(
        "import time\ndef test_hangs(wqfs, wqfs_session):\n    open('ready', 'w').close()\n    time.sleep(60)\n"
    )
    try:
        wait_until((inner.folder / "ready").exists, "the test to run")
        assert len([each for each in mounts() if str(inner.folder) in each]) == 2
        os.kill(process.pid, number)
        process.communicate(timeout=LIMIT)
        inner.assert_nothing_left()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def test_hanging_test_is_ended_by_its_time_limit(inner: Inner) -> None:
    code, out = inner.run(
        """
import os, pytest

@pytest.mark.timeout(1, method="signal")
def test_hangs(wqfs):
    os.read(os.open(wqfs.path / "queue", os.O_RDONLY), 100)
"""
    )
    assert code == 1 and "Timeout" in out, out


def test_beside_trio_and_asyncio(inner: Inner) -> None:
    code, out = inner.run(
        """
import asyncio, trio

async def monitor(queue, found):
    async for event in queue:
        found.append(event)

async def under_trio(wqfs):
    found = []
    with wqfs.queue() as queue:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor, queue, found)
            wqfs.post("mount a /mnt/a -t tmpfs")
            await wqfs.aexpect("mount", "new_mount")
            while not found:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

def test_trio(wqfs):
    trio.run(under_trio, wqfs)

async def under_asyncio(wqfs):
    found = []
    with wqfs.queue() as queue:
        task = asyncio.create_task(monitor(queue, found))
        wqfs.post("mount b /mnt/b -t tmpfs")
        await wqfs.aexpect("mount", "new_mount", mountpoint="/mnt/b")
        while not found:
            await asyncio.sleep(0.01)
        task.cancel()

def test_asyncio(wqfs):
    asyncio.run(under_asyncio(wqfs))
"""
    )
    assert code == 0 and "2 passed" in out, out


BESIDE = """
import asyncio, os, pathlib, pytest, pytest_asyncio, pytest_trio, trio

async def monitor(queue, found):
    async for event in queue:
        found.append(event)

@pytest_trio.trio_fixture
async def monitored(wqfs, nursery):
    found = []
    with wqfs.queue() as queue:
        nursery.start_soon(monitor, queue, found)
        yield found
        nursery.cancel_scope.cancel()

@pytest.mark.trio
async def test_trio(wqfs, monitored):
    note(wqfs)
    wqfs.post("mount a /mnt/a -t tmpfs")
    await wqfs.aexpect("mount", "new_mount", mountpoint="/mnt/a")
    with trio.fail_after(10):
        while not monitored:
            await trio.sleep(0.01)

@pytest_asyncio.fixture
async def task(wqfs):
    found = []
    with wqfs.queue() as queue:
        running = asyncio.create_task(monitor(queue, found))
        yield found
        running.cancel()

@pytest.mark.asyncio
async def test_asyncio(wqfs, task):
    note(wqfs)
    wqfs.post("mount b /mnt/b -t tmpfs")
    await wqfs.aexpect("mount", "new_mount", mountpoint="/mnt/b")
    async with asyncio.timeout(10):
        while not task:
            await asyncio.sleep(0.01)

@pytest.mark.parametrize("number", range(4))
def test_plain(wqfs, wqfs_session, number):
    note(wqfs)
    note(wqfs_session)
    wqfs.post(f"mount c /mnt/{number} -t tmpfs")
    wqfs.expect("mount", "new_mount", mountpoint=f"/mnt/{number}")

def note(mount):
    with open("noted", "a") as file:
        file.write(f"{os.environ.get('PYTEST_XDIST_WORKER')} {mount.path}\\n")
"""


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_beside_the_fixtures_of_pytest_trio_and_pytest_asyncio(inner: Inner, words: tuple[str, ...]) -> None:
    code, out = inner.run(BESIDE, *words)
    assert code == 0 and "6 passed" in out, out
    noted = {tuple(line.split()) for line in (inner.folder / "noted").read_text().splitlines()}
    workers = {worker for worker, _ in noted}
    assert workers == ({"gw0", "gw1"} if words else {"None"})
    # A mount for each test, and one of its own for each process.
    assert len({place for _, place in noted}) == len(noted) == 6 + len(workers)


FAILING = """
import os, pytest

def test_fails(wqfs, wqfs_session):
    wqfs.expect("mount", "expiry", timeout=0.1)

@pytest.mark.timeout(1, method="signal")
def test_hangs(wqfs, wqfs_session):
    os.read(os.open(wqfs.path / "queue", os.O_RDONLY), 100)

def test_dies(wqfs, wqfs_session):
    os._exit(3)

def test_passes(wqfs):
    pass
"""


def test_failing_hanging_and_dying_tests_of_workers_leave_nothing(inner: Inner) -> None:
    code, out = inner.run(FAILING, "-n", "2", "-rA")
    assert code == 1 and "3 failed, 1 passed" in out, out
    assert "came:\nE " in out and "log of wqfs" in out and "Timeout" in out and "crashed" in out


@pytest.mark.parametrize("whom", ["controller", "group", "worker"])
def test_interrupted_run_of_workers_leaves_nothing(inner: Inner, whom: str) -> None:
    process = inner.start(
        "import os, time, pytest\n@pytest.mark.parametrize('n', range(2))\ndef test_hangs(wqfs, wqfs_session, n):\n"
        "    open(f'ready{n}-{os.getpid()}', 'w').close()\n    time.sleep(60)\n",
        "-n",
        "2",
    )
    try:
        wait_until(lambda: len(list(inner.folder.glob("ready*"))) == 2, "both tests to run")
        assert len([each for each in mounts() if str(inner.folder) in each]) == 4
        if whom == "group":  # as Ctrl-C of a terminal
            os.killpg(process.pid, signal.SIGINT)
        elif whom == "controller":
            os.kill(process.pid, signal.SIGINT)
        else:
            for ready in inner.folder.glob("ready*"):
                os.kill(int(ready.name.partition("-")[2]), signal.SIGKILL)
        process.communicate(timeout=LIMIT)
        inner.assert_nothing_left()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def test_tasks_wait_for_events_at_once(inner: Inner) -> None:
    """And one that somebody else's look takes from the file wakes who waits for it."""
    code, out = inner.run(
        """
import asyncio, time, trio

async def both(wqfs, start, checkpoint):
    done = []
    async def wait(place):
        done.append((await wqfs.aexpect("mount", "new_mount", mountpoint=place, timeout=20))["mountpoint"])
    start(wait, "/a")
    start(wait, "/b")
    for _ in range(20):
        await checkpoint()
    begin = time.monotonic()
    wqfs.post("mount b /b -t tmpfs", "mount a /a -t tmpfs")
    assert len(wqfs.events()) == 2  # this reads what both wait for
    while not done:
        await checkpoint()
    assert time.monotonic() - begin < 5
    wqfs.post("mount b /b -t tmpfs", "mount a /a -t tmpfs")
    while len(done) < 2:
        await checkpoint()
    assert sorted(done) == ["/a", "/b"]

def test_trio(wqfs):
    async def main():
        async with trio.open_nursery() as nursery:
            await both(wqfs, nursery.start_soon, trio.lowlevel.checkpoint)
    trio.run(main)

def test_asyncio(wqfs):
    async def main():
        tasks = []
        await both(wqfs, lambda wait, place: tasks.append(asyncio.create_task(wait(place))), lambda: asyncio.sleep(0))
    asyncio.run(main())

def test_time_limit_and_end(wqfs):
    async def main():
        watch = wqfs.watch("w")
        task = asyncio.create_task(watch.aexpect("mount"))
        await asyncio.sleep(0)
        watch.close()
        for waiting in (task, wqfs.aexpect("mount", timeout=0.05)):
            try:
                await waiting
            except AssertionError as error:
                print("said", error)
    asyncio.run(main())
    trio.run(late, wqfs)

async def late(wqfs):
    try:
        await wqfs.aexpect("mount", timeout=0.05)
    except AssertionError as error:
        print("said", error)
""",
        "-s",
    )
    assert code == 0 and "3 passed" in out, out
    assert out.count("within 0.05 s") == 2 and "said expected mount *, the watch has ended" in out, out


def test_examples_of_the_how_to_hold(inner: Inner) -> None:
    page = (ROOT / "docs/how-to/test-with-pytest.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    code, out = inner.run("\n\n".join([blocks[1], blocks[0]]))
    assert len(blocks) == 2 and code == 0 and "2 passed" in out, out


def test_without_fusermount3_it_is_skipped_or_by_the_variable_an_error(inner: Inner, tmp_path: Path) -> None:
    code, out = inner.run(THREE_LINES, "-rs", PATH=str(tmp_path))
    assert code == 0 and "1 skipped" in out and "fusermount3 is not installed" in out, out
    code, out = inner.run(THREE_LINES, PATH=str(tmp_path), WQFS_REQUIRE_MOUNT="1")
    assert code == 1 and "WQFS_REQUIRE_MOUNT is set" in out, out


def test_plugin_is_light_to_load() -> None:
    code = "import sys, wqfs.testing.plugin; print([m for m in ('trio', 'pyfuse3', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "[]\n"
