"""`wqfs play`, `wqfs record` and `wqfs settle` on real mounts."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.t1_man_pages import scenario_example
from tests.t1_scenario import SHIPPED
from tests.tools import LIMIT, Mount, mounted, opened, running, wait_until
from wqfs.cli import finding, main
from wqfs.sim.expectation import Expectation
from wqfs.sim.scenario_toml import format

WQFS = [sys.executable, "-m", "wqfs.cli"]
ROOT = Path(__file__).resolve().parent.parent


def wqfs(*words: str | Path, mount: Mount | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    where = ["--mount", str(mount.path)] if mount else []
    return subprocess.run(
        [*WQFS, str(words[0]), *where, *map(str, words[1:])],
        input=text, capture_output=True, text=True, timeout=LIMIT * 3, cwd=ROOT, check=False,
    )  # fmt: skip


def played(mount: Mount, text: str, *options: str, code: int = 0, left: Sequence[str] = ()) -> str:
    done = wqfs("play", *options, "-", mount=mount, text=text)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(mount.path / "watches") == list(left)
    return done.stderr


def queue_bytes(mount: Mount, name: str) -> bytes:
    with opened(mount.path / "watches" / name / "queue", os.O_RDONLY | os.O_NONBLOCK) as fd:
        data = b""
        try:
            while more := os.read(fd, 65536):
                data += more
        except BlockingIOError:
            pass
    return data


W = '[[watch]]\nname = "w"\n'


# -- shipped scenarios, and that of the man page


def test_example_of_wqfs_scenario_5_comes_as_it_says(mount: Mount) -> None:
    played(mount, scenario_example(), "--fast")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "autofs"])
def test_shipped_scenario_holds(mount: Mount, name: str) -> None:
    done = wqfs("play", "--fast", name, mount=mount)
    assert done.returncode == 0, done.stderr
    assert os.listdir(mount.path / "watches") == []


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "autofs"])
def test_shipped_scenario_with_one_thing_changed_fails(mount: Mount, name: str) -> None:
    scenario = SHIPPED[name]
    at, step = next((at, step) for at, step in enumerate(scenario.steps) if step.expect)
    wrong = replace(step, expect=(broken(step.expect[0]), *step.expect[1:]))
    changed = replace(scenario, steps=(*scenario.steps[:at], wrong, *scenario.steps[at + 1 :]))
    done = wqfs("play", "--fast", "-", mount=mount, text=format(changed))
    assert done.returncode == 2, done.stderr
    assert "expected" in done.stderr and "came: " in done.stderr


def broken(expectation: Expectation) -> Expectation:
    """The same, but for one thing that does not hold."""
    if expectation.file:
        return replace(expectation, contains="nowhere in it", within_ns=0)
    if expectation.status:
        return replace(expectation, status={"lost": 12345}, within_ns=0)
    return replace(expectation, members={**expectation.members, "source": "nobody"}, within_ns=0)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_autofs_host_loses_no_event_at_its_rate(mount: Mount) -> None:
    done = wqfs("play", "autofs", mount=mount)
    assert done.returncode == 0, done.stderr
    summary = done.stderr.splitlines()[-1]
    assert "28001 events" in summary
    assert "lost" not in summary


# -- expectations and their failures


def test_failed_expectation_says_what_came_instead(mount: Mount) -> None:
    said = played(
        mount,
        W + '[[step]]\nname = "go"\nrun = "mount none /a -t tmpfs"\n'
        'expect = { watch = "w", event = "unmount", within = "100ms" }\n',
        code=2,
    )
    assert "go: expected watch = 'w', event = 'unmount'" in said
    assert "came: mount new_mount" in said and "mountpoint=/a" in said


def test_failed_expectation_ends_the_run_unless_told_to_go_on(mount: Mount) -> None:
    text = (
        W + '[[step]]\nexpect = { watch = "w", event = "x", within = 0 }\n'
        '[[step]]\nname = "later"\nrun = "mount none /later -t tmpfs"\n'
    )
    played(mount, text, code=2)
    assert "/later" not in (mount.path / "sim/mountinfo").read_text()
    played(mount, text, "--keep-going", code=2)
    assert "/later" in (mount.path / "sim/mountinfo").read_text()


def test_absent_event_that_came_fails(mount: Mount) -> None:
    said = played(
        mount,
        W + '[[step]]\nrun = "sb error / EIO"\nexpect = { watch = "w", event = "error", absent = true }\n',
        code=2,
    )
    assert "came: sb error" in said


def test_count_needs_so_many_events_of_its_own(mount: Mount) -> None:
    lines = '["sb error / EIO", "sb error / EIO"]'
    twice = W + f'[[step]]\nrun = {lines}\nexpect = [{{ watch = "w", event = "error", count = %d, within = 0.1 }}]\n'
    played(mount, twice % 2)
    played(mount, twice % 3, code=2)
    both = '{ watch = "w", event = "error", within = 0.1 }'
    played(mount, W + f'[[step]]\nrun = "sb error / EIO"\nexpect = [{both}, {both}]\n', code=2)


def test_events_before_the_step_do_not_count(mount: Mount) -> None:
    played(
        mount,
        W + '[[step]]\nrun = "sb error / EIO"\n[[step]]\nexpect = { watch = "w", event = "error", within = 0 }\n',
        code=2,
    )


def test_expectation_waits_for_what_comes_later(mount: Mount) -> None:
    with subprocess.Popen(["sh", "-c", f"sleep 0.5; echo 'sb error / EIO' > {mount.path}/post"]):
        played(mount, W + '[[step]]\nexpect = { watch = "w", event = "error", within = 20 }\n')


def test_expectation_on_events_that_were_lost_says_so(mount_with: object) -> None:
    mount = mount_with("events_depth=8")  # type: ignore[operator]
    text = (
        W + "[[step]]\nrun = [" + ", ".join(['"sb error / EIO"'] * 50) + ', "sb edquot /"]\n'
        'expect = { watch = "w", event = "edquot", within = 0 }\n'
    )
    assert "events were lost" in played(mount, text, code=3)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("umount /none", 0, ""),
        ("mount none /b -t tmpfs", 2, "it was carried out"),
        ("sb error none EIO", 0, ""),
        ("umount /", 2, "EBUSY"),
    ],
)
def test_refusal_is_expected_by_its_errno(mount: Mount, line: str, code: int, said: str) -> None:
    assert said in played(mount, f'[[step]]\nrun = "{line}"\nrefused = "EINVAL"\n', code=code)


def test_refused_command_ends_the_run_with_the_reason(mount: Mount) -> None:
    said = played(mount, '[[step]]\nname = "go"\nrun = ["sb error / EIO", "umount /none"]\n', code=1)
    assert "go: refused: " in said and "'umount'" not in said and "/none" in said


def test_records_are_delivered_as_they_are(mount: Mount) -> None:
    mount.watch("all")
    played(mount, '[[step]]\nrecords = ["00000b0108050000", "0b00000110000000aabbccddeeff0011"]\n', left=["all"])
    assert queue_bytes(mount, "all").hex() == "00000b01080500000b00000110000000aabbccddeeff0011"


# -- time


def test_steps_keep_their_times(mount: Mount) -> None:
    began = time.monotonic()
    played(mount, '[[step]]\nat = 0.5\nevery = 0.1\nrepeat = 6\nrun = "sb error / EIO"\n')
    assert time.monotonic() - began >= 1.0


def test_fast_does_not_wait_but_puts_the_clock_forward(mount: Mount) -> None:
    text = (
        '[[step]]\nrun = ["key add user k x @s", "key timeout k 100"]\n'
        '[[step]]\nat = "2m"\nrun = "key update k y"\nrefused = "EKEYEXPIRED"\n'
    )
    began = time.monotonic()
    played(mount, text, "--fast")
    assert time.monotonic() - began < 60


# -- wrong use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["play"], "expected FILE"),
        (["play", "/none.toml"], "cannot read /none.toml"),
        (["play", "none"], "wqfs play --list"),
        (["play", "--wrong"], "unrecognized arguments"),
        (["play", "--speed", "0", "storm"], "expected a speed"),
        (["play", "--random", "1", "storm"], "expected FILE"),
        (["record", "w", "--object", "devices"], "for a watch of its own"),
        (["record", "-n", "0"], "expected a count of 1 or more"),
        (["settle", "--timeout", "-1"], "expected seconds"),
    ],
)
def test_wrong_use_is_a_sentence_and_1(words: Sequence[str], said: str) -> None:
    done = wqfs(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_misspelt_command_is_told_so() -> None:
    done = wqfs("plya", "storm")
    assert done.returncode == 1
    assert "did you mean play?" in done.stderr


@pytest.mark.parametrize("command", ["play", "record", "settle"])
def test_folder_that_is_no_mount_is_said(tmp_path: Path, command: str) -> None:
    done = wqfs(command, "--mount", tmp_path, *(["storm"] if command == "play" else []))
    assert done.returncode == 1
    assert f"{tmp_path} is no wqfs mount" in done.stderr


def test_only_mount_is_found_and_several_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WQFS_MOUNT", raising=False)
    before = finding.mounted()
    (tmp_path / "a b").mkdir()
    with mounted(tmp_path / "a b") as one:
        assert one.path in finding.mounted() and one.path not in before
        (tmp_path / "c").mkdir()
        with mounted(tmp_path / "c") as two:
            assert main(["settle"]) == 1
            said = capsys.readouterr().err
            assert str(one.path) in said and str(two.path) in said
            monkeypatch.setenv("WQFS_MOUNT", str(two.path))
            assert main(["settle"]) == 0


def test_list_names_the_shipped_scenarios() -> None:
    done = wqfs("play", "--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(SHIPPED)


def test_print_gives_the_scenario_as_text() -> None:
    assert wqfs("play", "--print", "storm").stdout == format(SHIPPED["storm"])


def test_help_of_wqfs_names_its_commands() -> None:
    done = subprocess.run([*WQFS, "--help"], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT, check=True)
    assert all(f"\n  {command} " in done.stdout for command in ("mount", "play", "record", "settle"))
    assert "exit codes" in wqfs("play", "--help").stdout


def test_command_starts_without_what_only_mounting_needs() -> None:
    program = (
        "import sys, wqfs.cli.play, wqfs.cli.record, wqfs.cli.settle; print({'trio', 'pyfuse3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "set()\n"


# -- ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_play_leaves_no_watch_and_no_traceback(mount: Mount, number: int) -> None:
    text = W + '[[step]]\nat = "1h"\nrun = "sb error / EIO"\n'
    with subprocess.Popen(
        [*WQFS, "play", "--mount", str(mount.path), "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as player:
        assert player.stdin and player.stderr
        player.stdin.write(text.encode())
        player.stdin.close()
        wait_until(lambda: os.listdir(mount.path / "watches"), "the watch of the scenario")
        player.send_signal(number)
        assert player.wait(LIMIT) == 130
        assert b"Traceback" not in player.stderr.read()
    assert os.listdir(mount.path / "watches") == []


def test_private_mount_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # other tests may mount meanwhile, but not in there
    assert wqfs("play", "--private", "--fast", "-q", "storm").returncode == 0
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_private_mount_that_cannot_be_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fusermount3 = tmp_path / "bin/fusermount3"
    fusermount3.parent.mkdir()
    fusermount3.write_text("#!/bin/sh\necho no mounts today >&2\nexit 1\n")
    fusermount3.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PATH", f"{fusermount3.parent}:{os.environ['PATH']}")
    done = wqfs("play", "--private", "--fast", "storm")
    assert done.returncode == 1 and "no mounts today" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_private_mount_goes_with_a_player_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    scenario = '[[step]]\nat = 60\nrun = "mount a /a -t tmpfs"\n'
    with running(*WQFS, "play", "--private", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as player:
        assert player.stdin
        player.stdin.write(scenario.encode())
        player.stdin.close()

        def mounts() -> list[Path]:
            return [place for place in finding.mounted() if tmp_path in place.parents]

        wait_until(mounts, "its mount")
        player.kill()
        wait_until(lambda: not mounts(), "its mount to be gone")


def test_random_scenario_gives_the_same_bytes_on_two_mounts(tmp_path: Path) -> None:
    found = []
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        with mounted(tmp_path / str(at), "depth=512") as mount:
            mount.watch("all")
            done = wqfs("play", "--fast", "-q", "--random", "5", "--count", "300", mount=mount)
            assert done.returncode == 0, done.stderr
            found.append(queue_bytes(mount, "all"))
    assert found[0] == found[1] and len(found[0]) > 3000


def test_progress_is_one_line_on_a_terminal(mount: Mount) -> None:
    here, there = pty.openpty()
    scenario = W + '[[step]]\nname = "a mount"\nat = 0.5\nrun = "mount none /x -t tmpfs"\n'
    with subprocess.Popen(
        [*WQFS, "play", "--mount", str(mount.path), "-"], stdin=subprocess.PIPE, stderr=there, cwd=ROOT
    ) as player:
        os.close(there)
        player.communicate(scenario.encode(), timeout=LIMIT)
    said = b""
    try:
        while more := os.read(here, 4096):
            said += more
    except OSError:  # EIO: the other side is closed
        pass
    os.close(here)
    drawn, end = said.split(b"\n")[0].split(b"\r"), said.split(b"\n")[-2]
    assert drawn[1].startswith(b"0/1  0.5 s  a mount") and b": 1 steps, 1 events in 0.5" in end


# -- record


def test_recording_played_back_delivers_the_same_bytes(tmp_path: Path) -> None:
    def on_a_mount(name: str, *play: str | Path, record: bool) -> bytes:
        (tmp_path / name).mkdir()
        with mounted(tmp_path / name, "depth=512") as mount:
            mount.watch("all")
            recorder = None
            if record:
                recorder = subprocess.Popen(
                    [*WQFS, "record", "--mount", str(mount.path), "-o", str(tmp_path / "r.toml"), "all"], cwd=ROOT
                )
                wait_until(
                    lambda: (tmp_path / "r.toml").exists() and "title" in (tmp_path / "r.toml").read_text(), "it"
                )
            done = wqfs("play", "--fast", "-q", *play, mount=mount)
            assert done.returncode == 0, done.stderr
            data = queue_bytes(mount, "all")
            if recorder is not None:
                mount.path.joinpath("watches/all").rmdir()
                assert recorder.wait(LIMIT) == 0
            return data

    first = on_a_mount("one", "--random", "3", "--count", "200", record=True)
    assert len(first) > 2000
    assert on_a_mount("two", tmp_path / "r.toml", record=False) == first


def test_recording_says_in_words_what_came_and_when(mount: Mount) -> None:
    with subprocess.Popen(
        [*WQFS, "record", "--mount", str(mount.path), "-n", "2", "--object", "sb / id=3"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as recorder:
        assert recorder.stdout
        text = ""
        while "title = " not in text:  # written once it watches
            text += recorder.stdout.readline()
        mount.post("sb error / EIO cookie=9 the text", "mount none /x -t tmpfs", "clock advance 2.5", "sb edquot /")
        assert recorder.wait(LIMIT) == 0
        text += recorder.stdout.read()
    assert text.count("[[step]]") == 2
    assert '"error":"EIO"' in text.replace(" ", "") and "the text" in text and "edquot" in text
    first, second = re.findall(r"^at = ([0-9.]+)$", text, re.MULTILINE)
    assert first == "0" and 2.5 <= float(second) < 2.5 + LIMIT  # the times of the events


def test_recording_that_sees_nothing_times_out(mount: Mount) -> None:
    assert wqfs("record", "-t", "0.2", mount=mount).returncode == 2
    assert os.listdir(mount.path / "watches") == []


def test_recording_of_a_watch_that_is_not_there_is_refused(mount: Mount) -> None:
    done = wqfs("record", "none", mount=mount)
    assert done.returncode == 1 and "cannot read the watch 'none'" in done.stderr


# -- settle


def test_settle_waits_for_the_readers_and_not_for_watches_without_any(mount: Mount) -> None:
    mount.watch("unread")
    read = mount.watch("read")
    mount.post("sb error / EIO")
    assert wqfs("settle", mount=mount).returncode == 0
    with opened(read / "queue") as fd:
        done = wqfs("settle", "--timeout", "0.3", mount=mount)
        assert (done.returncode, "read still has records" in done.stderr) == (2, True)
        os.read(fd, 4096)
        assert wqfs("settle", "--timeout", "20", mount=mount).returncode == 0
    assert wqfs("settle", "unread", "--timeout", "0.3", mount=mount).returncode == 2
    done = wqfs("settle", "none", mount=mount)
    assert (done.returncode, "there is no watch 'none'" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", ["play", "record", "settle"])
def test_options_of_the_help_are_those_of_the_man_page(command: str) -> None:
    page = (ROOT / "docs/man/wqfs-play.1").read_text().replace("\\-", "-")
    for option in set(re.findall(r"--[a-z-]+", wqfs(command, "--help").stdout)) - {"--help"}:
        assert option in page
