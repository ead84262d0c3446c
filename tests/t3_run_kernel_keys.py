"""`wqfs run --keys kernel`: the kernel's own keys, watched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import pages
from tests.running import KERNEL, RUN, run, running
from tests.t3_run_programs import INNER, RECORDS, with_names
from tests.tools import LIMIT, ROOT

IN_A_SESSION = ("keyctl", "session", "-")
"""Starts a command in a session keyring of its own, with which all goes that a test makes."""

WATCHED = """\
new ring = ring
new other = other
new key = key
watch under 256 = EINVAL
watch what is not there = ENOKEY
watch on no pipe = EINVAL
watch on no descriptor = EINVAL
unwatch what is not watched = EBADSLT
new hidden = hidden
hide it = 0
watch it = EACCES
new plain = plain
watch ring = 0
watch ring again = EBUSY
watch ring at another queue = 0
unwatch it there = 0 [removal ring 9 at 1]
watch other = 0
watch key = 0
watch the session = 0
add to ring = twin [linked ring twin 1]
link key to other = 0 [linked other key 2]
link it again = 0 [linked other key 2]
link what is not there = ENOKEY
link other into itself = EDEADLOCK
unlink twin from other = ENOENT
move twin to other = 0 [unlinked ring twin 1] [linked other twin 2]
move it to where it is = 0
move it from where it is not = ENOENT
search and link = twin [linked ring twin 1]
search in vain = ENOKEY
request and link = plain [linked other plain 2]
request and link again = plain [linked other plain 2]
request in vain = ENOKEY
unlink key from other = 0 [unlinked other key 2]
unlink it again = ENOENT
replace a ring = inner [linked other inner 2]
by another = inner 2 [linked other inner 2 2]
add what is there = key [updated key - 3]
add the same = key [updated key - 3]
update key = 0 [updated key - 3]
update it with the same = 0 [updated key - 3]
update it with nothing = EINVAL
update it with too much = EINVAL
update a keyring = ENOTSUP
permissions = 0 [setattr key - 3]
the same permissions = 0 [setattr key - 3]
no such permissions = EINVAL
owner = 0 [setattr key - 3]
timeout = 0 [setattr key - 3]
the same timeout = 0 [setattr key - 3]
no timeout = 0 [setattr key - 3]
no timeout again = 0 [setattr key - 3]
no rights to write = 0 [setattr key - 3]
update it = EACCES
no rights to set = 0 [setattr key - 3]
timeout = EACCES
permissions = EACCES
clear ring = 0 [cleared ring - 1]
key is gone: [removal key 3]
clear it again = 0 [cleared ring - 1]
clear a key = ENOTDIR
restrict it = 0 [setattr ring - 1]
restrict it again = EEXIST
restrict by nonsense = ENOENT
link to the restricted = EPERM
unwatch ring = 0 [removal ring 1]
clear ring = 0
new doomed = doomed [linked other doomed 2]
watch it = 0
revoke it = 0 [revoked doomed - 5]
revoke it again = EKEYREVOKED
watch what is revoked = EKEYREVOKED
unlink it = 0 [unlinked other doomed 2]
it is gone: [removal doomed 5]
new doomed = doomed [linked other doomed 2]
watch it = 0
invalidate it = 0 [invalidated doomed - 5]
it is gone: [removal doomed 5]
keep the session = 0
join another session = another session
watch that = 0
add to it = colour [linked another session colour 7 at 1]
and a ring = empty [linked another session empty 7 at 1]
a child adds to it = child [linked another session child 7 at 1]
"""
AS_NOBODY = """\
a ring of nobody's = own
permissions of another's = EACCES
watch it = EACCES
clear another's that one does not possess = EACCES
watch what is possessed = 0
clear it, empty as it is = 0 [cleared empty - 9 at 1]
its timeout = 0 [setattr empty - 9 at 1]
its permissions = EACCES
"""


pytestmark = pytest.mark.usefixtures("kernel_keys")


def outside(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in a session of its own."""
    command = [*IN_A_SESSION, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=LIMIT)


def test_events_of_every_operation_are_the_kernels_and_the_simulations() -> None:
    for keys in ("simulated", "kernel"):
        done = run(sys.executable, ROOT / "tests/watched_keys.py", options=("--keys", keys))
        assert (done.stdout, done.stderr, done.returncode) == (WATCHED, "", 0), keys


def test_rights_of_another_user_count() -> None:
    if os.getuid():
        pytest.skip("only root becomes another user")
    for keys in ("simulated", "kernel"):
        done = run(sys.executable, ROOT / "tests/watched_keys.py", "nobody", options=("--keys", keys))
        assert (done.stdout, done.stderr, done.returncode) == (WATCHED + AS_NOBODY, "", 0), keys


@pytest.mark.parametrize("flags", [[], ["-static"]], ids=["dynamic", "static"])
def test_program_in_c_gets_its_records(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "notify"
    subprocess.run(["cc", "-Wall", "-Werror", "-O2", *flags, "-o", program, ROOT / "tests/notify.c"], check=True)
    done = run(program, options=KERNEL)
    # The collector says by and by that a key has ended.
    assert (sorted(done.stdout.splitlines()), done.stderr) == (sorted(RECORDS.splitlines()), "")


# -- keyctl(1) of Debian's keyutils

WATCHER = """\
keyctl newring ring @s > ring
ring=$(cat ring)
keyctl watch $ring > log &
until grep -qs clr log; do keyctl clear $ring; done
keyctl add user colour red $ring > colour
keyctl timeout $ring 100
keyctl unlink $(cat colour) $ring
keyctl unlink $ring @s
wait
"""


def test_keyctl_watch_prints_what_happens_to_a_key(tmp_path: Path) -> None:
    done = run("sh", "-euc", f"cd {tmp_path}\n{WATCHER}", options=KERNEL)
    assert (done.returncode, done.stderr) == (0, "")
    ring, colour = ((tmp_path / name).read_text().strip() for name in ("ring", "colour"))
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == f"{ring} clr"
    assert [line for line in lines if line != lines[0]] == [
        f"{ring} link {colour}",
        f"{ring} attr",
        f"{ring} unlk {colour}",
        f"{ring} gc",
    ]


@pytest.mark.parametrize("named", [[], ["-n", "wqfs-test"]], ids=["", "named"])
def test_keyctl_watch_session_add_rm_and_sync(tmp_path: Path, named: list[str]) -> None:
    (tmp_path / "inner.sh").write_text(INNER)
    command = f"cd {tmp_path} && keyctl watch_session {' '.join(named)} nlog glog 3 sh -eu inner.sh"
    done = run("sh", "-euc", command, options=KERNEL)
    assert (done.returncode, done.stdout) == (0, "")
    colour, inner, deep = ((tmp_path / name).read_text().strip() for name in ("colour", "inner", "deep"))
    session = re.fullmatch(r"Joined session keyring: (\d+)\n", done.stderr)[1]  # type: ignore[index]
    assert (tmp_path / "nlog").read_text().splitlines() == [
        f"{session} link {colour}",
        f"{session} link {inner}",
        f"{inner} link {deep}",
        f"{session} unlk {colour}",
        "Monitoring terminated",
    ]
    assert (tmp_path / "glog").read_text() == f"{inner} gc\nMonitoring terminated\n"


def test_page_does_what_it_shows() -> None:
    page = "docs/how-to/run-unmodified-programs.md"
    (block,) = [block for block in pages.blocks(page) if block.text.startswith("$ wqfs run --keys kernel")]
    with pages.shell_for(page) as shell:
        for command in pages.commands(block.text):
            assert shell.run(command.text) == command.output


# -- real keys

REAL = """\
keyctl add user before x @s
{run} keyctl add user inside x @s
{run} sh -c 'keyctl show @s'
keyctl show @s
grep -c 'user      inside: 1' /proc/keys
"""


def test_keys_are_the_kernels_and_the_session_is_that_of_who_runs_it() -> None:
    done = outside("sh", "-euc", REAL.replace("{run}", " ".join((*RUN, *KERNEL, "--"))))
    assert done.returncode == 0, done.stderr
    before, inside, *rest = done.stdout.splitlines()
    shown = re.findall(r"^ *(\d+) .* user: (\w+)$", done.stdout, re.MULTILINE)
    assert sorted(shown) == sorted([(before, "before"), (inside, "inside")] * 2)
    assert rest[-1] == "1"


def test_every_command_of_keyctl_goes_to_the_kernel() -> None:
    script = ROOT / "tests/keyctl_commands.sh"
    here = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    done = run("sh", script, options=KERNEL)
    assert (done.returncode, done.stderr) == (here.returncode, here.stderr)
    # Of a key that has just ended the kernel says one thing or another, by what its collector did meanwhile.
    mine, kernels = (
        [line for line in with_names(each.stdout) if not line.startswith("keyctl_read_alloc:")] for each in (done, here)
    )
    assert mine == kernels


def test_run_without_a_session_of_its_own_has_one_for_all_its_processes() -> None:
    script = "keyctl add user colour red @s > /dev/null; keyctl print %user:colour; keyctl rdescribe @s"
    done = run("sh", "-euc", script, options=KERNEL)
    assert done.stdout.splitlines()[0] == "red", done.stderr
    assert "keyring;" in done.stdout


def test_without_a_watch_calls_are_left_alone() -> None:
    done = run("keyctl", "add", "user", "colour", "red", "@s", options=(*KERNEL, "--trace"))
    assert (done.returncode, done.stderr) == (0, "")


# -- the command


def test_waiting_for_keys_is_for_simulated_ones() -> None:
    done = run("true", options=(*KERNEL, "--wait-for-keys"))
    assert done.returncode == 125
    assert "--wait-for-keys is for simulated keys" in done.stderr


def test_trace_shows_the_watch() -> None:
    with running("sh", "-c", "r=$(keyctl newring r @s); keyctl watch $r", options=KERNEL) as watcher:
        watcher.wait_for("KEYCTL_WATCH_KEY")
        line = re.sub(r"\d{3,}", "N", next(each for each in watcher.trace if "WATCH_KEY" in each))
        assert line == "[N] keyctl(KEYCTL_WATCH_KEY, N, 3, 1) = 0"
