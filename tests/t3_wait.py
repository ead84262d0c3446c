"""`wqfs wait`, `wqfs post` and `wqfs watch` on a mount."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools import LIMIT, Mount, mounted, opened, wait_until
from wqfs.cli.watching import OwnWatch
from wqfs.sim.language import COMMANDS

WQFS = (sys.executable, "-m", "wqfs.cli")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A strict mount: what these commands do must not need the defaults of the other kind."""
    with mounted(tmp_path_factory.mktemp("strict"), "strict") as mount:
        yield mount


def wqfs(mount: Mount, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """A command on the mount that WQFS_MOUNT names, to its end."""
    return subprocess.run(
        [*WQFS, *words],
        input=given,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "WQFS_MOUNT": str(mount.path)},
        check=False,
    )


def watches(mount: Mount) -> list[str]:
    return sorted(each.name for each in (mount.path / "watches").iterdir())


@contextmanager
def waiting(mount: Mount, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A `wqfs wait` that has looked once and waits now."""
    process = subprocess.Popen(
        [*WQFS, "wait", "--mount", str(mount.path), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = mount.path / "watches" / f"wait-{process.pid}"
    try:
        wait_until(lambda: folder.exists() or process.poll() is not None, "its watch")
        # It has polled its events: so it has looked at the state before.
        wait_until(lambda: process.poll() is not None or _polls(process.pid), "its poll")
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)
        if folder.exists():  # killed before it could
            folder.rmdir()


def _polls(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/wchan").read_text() in ("poll_schedule_timeout.constprop.0", "do_sys_poll") or (
            Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("7", "271", "73")
        )
    except (OSError, IndexError):
        return False


CASES = [
    # condition, name, what stands before, what makes it true
    ("mounted", "/w/a", [], ["mount a /w/a -t tmpfs"]),
    ("mounted", "/w/b/../b/", [], ["mount b /w/x -t tmpfs", "mount --move /w/x /w/b"]),
    ("unmounted", "/w/c", ["mount c /w/c -t tmpfs", "mount d /w/c -t tmpfs"], ["umount /w/c", "umount /w/c"]),
    ("readonly", "/w/d", ["mount /dev/sdd1 /w/d -t ext4"], ["mount -o remount,bind,ro /w/d"]),
    ("readonly", "/w/e", ["mount /dev/sde1 /w/e -t ext4"], ["sb readonly /w/e"]),
    ("writable", "/w/f", ["mount /dev/sdf1 /w/f -t ext4 -o ro"], ["mount -o remount,rw /w/f"]),
    ("error", "/w/g", ["mount /dev/sdg1 /w/g -t ext4"], ["sb error /w/g EIO"]),
    ("error", "/dev/sdh1", ["mount /dev/sdh1 /w/h -t ext4"], ["device error /dev/sdh1 io"]),
    ("key-present", "wait-i", [], ["key add user wait-i x @s"]),
    ("key-changed", "%user:wait-j", ["key add user wait-j x @s"], ["key update wait-j y"]),
    ("key-gone", "wait-k", ["key add user wait-k x @s"], ["key revoke wait-k"]),
]


@pytest.mark.parametrize(("condition", "name", "before", "then"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_wait_for_what_comes_true_later(
    empty: Mount, condition: str, name: str, before: list[str], then: list[str]
) -> None:
    empty.post(*before)
    assert wqfs(empty, "wait", condition, name, "-t", "0").returncode == 2
    with waiting(empty, condition, name, "--timeout", "10", "--print") as process:
        assert process.poll() is None
        empty.post(*then)
        out, error = process.communicate(timeout=LIMIT)
    assert (process.returncode, error) == (0, "")
    assert isinstance(json.loads(out), dict)
    assert watches(empty) == []
    if condition != "key-changed":  # which means: from now on
        assert wqfs(empty, "wait", condition, name, "-t", "0").returncode == 0


MOMENTS = [
    # condition, name, what stands before, what makes it true and false again in one write
    ("unmounted", "/w/moment", ["mount m /w/moment -t tmpfs"], ["umount /w/moment", "mount m /w/moment -t tmpfs"]),
    ("mounted", "/w/other", [], ["mount m /w/other -t tmpfs", "umount /w/other"]),
    ("readonly", "/w/ro", ["mount /dev/sdm1 /w/ro -t ext4"], ["sb readonly /w/ro", "sb readwrite /w/ro"]),
    ("writable", "/w/rw", ["mount m /w/rw -t tmpfs -o ro"], ["mount -o remount,rw /w/rw", "mount -o remount,ro /w/rw"]),
    ("error", "/w/err", [], ["mount m /w/err -t tmpfs", "sb error /w/err EIO", "umount /w/err"]),
    ("key-present", "moment", [], ["key add user moment x @s", "key revoke moment"]),
    ("key-changed", "brief", ["key add user brief x @s"], ["key update brief y", "key unlink brief @s"]),
    ("key-gone", "short", ["key add user short x @s"], ["key unlink short @s", "key add user short y @s"]),
]


@pytest.mark.parametrize(("condition", "name", "before", "then"), MOMENTS, ids=[f"{c[0]} {c[1]}" for c in MOMENTS])
def test_wait_counts_what_was_true_for_a_moment(
    empty: Mount, condition: str, name: str, before: list[str], then: list[str]
) -> None:
    empty.post(*before)
    with waiting(empty, condition, name) as process:
        post_at_once(empty, *then)
        assert process.wait(LIMIT) == 0


def post_at_once(mount: Mount, *lines: str) -> None:
    """All in one write: nobody can look in between."""
    data = "".join(f"{line}\n" for line in lines).encode()
    with opened(mount.path / "post", os.O_WRONLY) as fd:
        assert os.write(fd, data) == len(data)


def test_wait_says_when_events_were_lost(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("events_depth=32")
    with waiting(mount, "mounted", "/never", "-t", "2") as process:
        os.kill(process.pid, signal.SIGSTOP)
        post_at_once(mount, *["mount m /m -t tmpfs", "umount /m"] * 40)
        os.kill(process.pid, signal.SIGCONT)
        _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 3 and "events were lost" in error


def test_wait_for_a_change_since_a_number(empty: Mount) -> None:
    empty.post("key add user since x @s")
    seq = json.loads((empty.path / "sim/snapshot").read_text())["seq"]
    assert wqfs(empty, "wait", "key-changed", "since", "--since-seq", str(seq), "-t", "0.1").returncode == 2
    empty.post("key update since y")
    assert wqfs(empty, "wait", "key-changed", "since", "--since-seq", str(seq), "-t", "5").returncode == 0


def test_wait_for_an_expiry(empty: Mount) -> None:
    empty.post("key add user expiring x @s", "key timeout expiring 1")
    assert wqfs(empty, "wait", "key-gone", "expiring").returncode == 0


def test_wait_for_a_further_error(empty: Mount) -> None:
    empty.post("mount m /w/further -t tmpfs", "sb error /w/further EIO")
    seq = json.loads((empty.path / "sim/snapshot").read_text())["seq"]
    empty.post("sb edquot /w/further")  # changes it, but is no error
    assert wqfs(empty, "wait", "error", "/w/further", "--since-seq", str(seq), "-t", "0.1").returncode == 2
    empty.post("sb error /w/further EIO")
    assert wqfs(empty, "wait", "error", "/w/further", "--since-seq", str(seq), "-t", "5").returncode == 0


def test_wait_for_the_topmost_of_a_stack(empty: Mount) -> None:
    empty.post("mount m /w/low -t tmpfs -o ro", "mount m /w/top -t tmpfs", "mount --move /w/low /w/top")
    assert wqfs(empty, "wait", "readonly", "/w/top", "-t", "0").returncode == 0


def test_wait_takes_any_time_limit(empty: Mount) -> None:
    with waiting(empty, "mounted", "/w/limit", "-t", "1e9") as process:
        empty.post("mount a /w/limit -t tmpfs")
        assert process.wait(LIMIT) == 0


def test_wait_timed_out_says_what_for(empty: Mount) -> None:
    done = wqfs(empty, "wait", "mounted", "/never", "--timeout", "0.05")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "wqfs wait: /never: not mounted within 0.05 s\n")


def test_wait_ends_with_the_mount(mount: Mount) -> None:
    with waiting(mount, "mounted", "/never") as process:
        mount.process.terminate()
        _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 1 and "the mount ended" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mounted", "relative"], "expected an absolute folder"),
        (["broken", "/x"], "invalid choice: 'broken'"),
        (["mounted"], "NAME"),
        (["mounted", "/x", "--since-seq", "3"], "--since-seq is for error and key-changed"),
    ],
)
def test_wait_wrong_use_is_a_sentence_and_1(empty: Mount, words: list[str], said: str) -> None:
    done = wqfs(empty, "wait", *words)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert watches(empty) == []


# -- post


def test_post_of_words_and_of_a_line(empty: Mount) -> None:
    assert wqfs(empty, "post", "mount", "src", "/w/with blank", "-t", "tmpfs").returncode == 0
    assert "/w/with\\040blank " in (empty.path / "sim/mountinfo").read_text()
    done = wqfs(empty, "post", "umount '/w/with blank'")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "blank" not in (empty.path / "sim/mountinfo").read_text()


def test_post_refused_says_what_errors_says(empty: Mount) -> None:
    done = wqfs(empty, "post", "sb", "error", "/", "EWHAT")
    assert done.returncode == 1
    last = (empty.path / "errors").read_text().splitlines()[-1]
    assert "'EWHAT'" in done.stderr and done.stderr.removeprefix("wqfs post: ").strip() in last
    done = wqfs(empty, "post", "-q", "nonsense")
    assert (done.returncode, done.stderr) == (1, "")


def test_post_refused_in_a_container_says_why(empty: Mount) -> None:
    """Where the pid in `errors` is not the one that the command knows of itself."""
    if os.getuid():
        pytest.skip("needs root: a pid namespace")
    env = {**os.environ, "WQFS_MOUNT": str(empty.path)}
    for words, said in ((["post", "sb error / EHOW"], "'EHOW'"), (["watch", "make", "v", "--filter", "sb ho"], "'ho'")):
        done = subprocess.run(
            ["unshare", "--pid", "--fork", *WQFS, *words],
            capture_output=True, text=True, timeout=LIMIT, env=env, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and said in done.stderr, done.stderr


@pytest.mark.parametrize(("options", "after"), [((), False), (("--keep-going",), True)])
def test_post_of_standard_input_stops_at_a_refused_line(empty: Mount, options: tuple[str, ...], after: bool) -> None:
    lines = f"# a comment\nmount a /w/p{after}1 -t tmpfs\n\nbad\nmount a /w/p{after}2 -t tmpfs"
    done = wqfs(empty, "post", *options, given=lines)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "'bad'" in done.stderr
    mounts = (empty.path / "sim/mountinfo").read_text()
    assert f"/w/p{after}1 " in mounts
    assert (f"/w/p{after}2 " in mounts) is after


def test_post_of_several_lines_as_one_word_is_refused(empty: Mount) -> None:
    done = wqfs(empty, "post", "mount a /w/q -t tmpfs\nmount b /w/q -t tmpfs")
    assert done.returncode == 1 and "one line" in done.stderr
    assert "/w/q " not in (empty.path / "sim/mountinfo").read_text()


def test_post_lists_the_commands_without_a_mount(tmp_path: Path) -> None:
    def listed(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "WQFS_MOUNT": str(tmp_path)}
        return subprocess.run(
            [*WQFS, "post", "--commands", *words], capture_output=True, text=True, timeout=LIMIT, env=env, check=False
        )

    assert all(f"\n{command.usage}\n" in listed().stdout for command in COMMANDS)
    assert listed("sb", "network").stdout.startswith("sb network SUPERBLOCK down|up\n    The network")
    assert listed("nosuch").returncode == 1


# -- watch


def test_commands_in_containers_may_have_the_same_pid(empty: Mount) -> None:
    """Each with a watch of its own on the one mount: here two in one process stand for them."""
    one = OwnWatch(empty.path, "tail", ["everything"], [], None)
    other = OwnWatch(empty.path, "tail", ["everything"], [], None)
    try:
        assert watches(empty) == [f"tail-{os.getpid()}", f"tail-{os.getpid()}-2"]
        empty.post("sb error / EIO")
        assert [len(each.events()) for each in (one, other)] == [1, 1]
    finally:
        one.close()
        other.close()
    assert watches(empty) == []


def test_watch_is_made_listed_changed_and_removed(empty: Mount) -> None:
    done = wqfs(
        empty, "watch", "make", "one", "--object", "mount / id=2", "--filter", "mount new_mount", "--depth", "40"
    )
    folder = empty.path / "watches/one"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder}\n", "")
    assert [(folder / name).read_text() for name in ("objects", "filter", "depth")] == [
        "mount / id=2\n",
        "mount new_mount\n",
        "64\n",
    ]
    assert (
        wqfs(empty, "watch", "change", "one", "--object=-mount /", "--object", "devices", "--filter", "").returncode
        == 0
    )
    assert ((folder / "objects").read_text(), (folder / "filter").read_text()) == ("devices id=0\n", "")
    (line,) = wqfs(empty, "watch", "list", "--json").stdout.splitlines()
    about = json.loads(line)
    assert (about["name"], about["depth"], about["objects"], about["filter"]) == ("one", 64, ["devices id=0"], [])
    table = wqfs(empty, "watch", "list").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["NAME", "one"] and table[1].endswith("devices id=0")
    assert wqfs(empty, "watch", "remove", "one").returncode == 0
    assert watches(empty) == []
    done = wqfs(empty, "watch", "list")
    assert (done.returncode, done.stdout) == (0, "") and "no watches" in done.stderr


def test_watch_that_cannot_be_made_whole_is_not_made(empty: Mount) -> None:
    done = wqfs(empty, "watch", "make", "half", "--object", "mount nowhere")
    assert done.returncode == 1 and "wqfs watch: objects line 1 word 2 'nowhere': expected" in done.stderr
    assert watches(empty) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["make", "a/b"], "a name without /"),
        (["make", ".."], "a name without /"),
        (["change", "nosuch", "--depth", "3"], "there is no watch 'nosuch'"),
        (["remove", "nosuch"], "there is no watch 'nosuch'"),
        (["make", "deep", "--depth", "513"], "depth line 1 word 1 '513'"),
        ([], "ACTION"),
        (["rename", "x"], "invalid choice"),
    ],
)
def test_watch_wrong_use_is_a_sentence_and_1(empty: Mount, words: list[str], said: str) -> None:
    done = wqfs(empty, "watch", *words)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert watches(empty) == []
