"""Two users on one mount: what each sees of the other, and how much each may take."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.tools import AT_ONCE, LIMIT, Call, Mount, deliver, opened, record, refused, running, wait_until
from tests.users import ADA, BEN, PYTHON, answer_to, as_user, needs_users, public_mount, run_as
from wqfs.abi import ioctls

pytestmark = needs_users


@pytest.fixture
def public() -> Iterator[Mount]:
    with public_mount() as mount:
        yield mount


@pytest.fixture
def private() -> Iterator[Mount]:
    with public_mount("allow_other,private_mounts") as mount:
        yield mount


def watch_of(mount: Mount, uid: int, *objects: str) -> Path:
    """A watch of the user's, with its objects."""
    name = f"w{uid}"
    assert answer_to(uid, f"os.mkdir('watches/{name}')", mount.path) == "None"
    for line in objects:
        assert answer_to(uid, f"write('watches/{name}/objects', {line + chr(10)!r})", mount.path) == str(len(line) + 1)
    return mount.path / "watches" / name


def events_of(folder: Path) -> list[tuple[str, str]]:
    lines = map(json.loads, (folder / "log").read_text().splitlines())
    return [(line["type"], line["event"]) for line in lines]


def add_key(mount: Mount, uid: int, description: str) -> None:
    """A key of the user's own, which others may not view."""
    mount.post(f"process new p{uid} uid={uid} gid={uid}", f"as p{uid} key add user {description} v @u")


# -- keys


def test_unnamed_watches_hear_of_the_keys_that_their_users_may_view(public: Mount) -> None:
    ada, ben = watch_of(public, ADA), watch_of(public, BEN)
    public.post("key add user secret v @s", "key setperm secret 0x3f000000")
    add_key(public, ADA, "hers")
    public.post(f"as p{ADA} key setperm {serial_of(public, 'hers')} 0x3f3f0000")
    public.post("key add user open v @s", "key setperm open 0x3f3f3f3f", "key update open w")
    for folder, other in ((ada, "secret"), (ben, "hers")):
        assert other not in (folder / "log").read_text()
        assert "secret" not in (folder / "log").read_text()
        assert ("key", "updated") in events_of(folder)
    assert '"hers"' in (ada / "log").read_text()


def test_key_of_another_user_cannot_be_watched(public: Mount) -> None:
    watch_of(public, BEN)
    add_key(public, ADA, "hers")
    serial = serial_of(public, "hers")
    line = f"key {serial} id=1\n"
    assert answer_to(BEN, f"write('watches/w{BEN}/objects', {line!r})", public.path) == "EACCES"
    data = repr(struct.pack("=ii", serial, 1))
    call = f"fcntl.ioctl(os.open('watches/w{BEN}/queue', 0), {ioctls.WQFS_IOC_WATCH_KEY}, {data})"
    assert answer_to(BEN, call, public.path) == "EACCES"
    watch_of(public, ADA, line.strip())


def test_watching_as_a_process_is_for_its_own_user(public: Mount) -> None:
    for uid in (ADA, BEN):
        watch_of(public, uid)
    add_key(public, ADA, "hers")
    data = ioctls.WATCH_KEY_AS.pack(serial_of(public, "hers"), 1, f"p{ADA}".encode(), b"")
    for uid, answer in ((BEN, "EPERM"), (ADA, "0")):
        call = f"fcntl.ioctl(os.open('watches/w{uid}/queue', 0), {ioctls.WQFS_IOC_WATCH_KEY_AS}, bytearray({data!r}))"
        assert answer_to(uid, call, public.path) == answer


def serial_of(mount: Mount, description: str) -> int:
    keys = json.loads((mount.path / "sim/snapshot").read_text())["keys"]
    return next(int(key["serial"]) for key in keys if key["description"] == description)


def test_watcher_of_a_keyring_reads_no_name_of_a_key_that_is_not_for_them(public: Mount) -> None:
    """The number is in the record, as with keyctl(2); the name is what `events` adds."""
    public.post("key add keyring shared '' @s", "key setperm shared 0x3f3f3f3f")
    serial = serial_of(public, "shared")
    ben, owner = watch_of(public, BEN, f"key {serial} id=1"), public.watch("owner")
    public.post("key add user secret v @s", "key setperm secret 0x3f000000", "key link secret shared")
    lines = [json.loads(line) for line in (ben / "log").read_text().splitlines()]
    (line,) = [line for line in lines if line["event"] == "linked"]
    assert line["aux"] == serial_of(public, "secret") and "aux_description" not in line
    assert '"aux_description":"secret"' in (owner / "log").read_text()
    public.post("key setperm secret 0x3f3f3f3f", "key unlink secret shared")
    assert '"aux_description":"secret"' in (ben / "log").read_text()


def test_keys_and_snapshot_show_each_user_their_own(public: Mount) -> None:
    for uid, name in ((ADA, "hers"), (BEN, "his")):
        add_key(public, uid, name)
    public.post("key add user roots v @s")
    for uid, own, other, process in ((ADA, "hers", "his", f"p{BEN}"), (BEN, "his", "hers", f"p{ADA}")):
        for file in ("sim/keys", "sim/snapshot"):
            text = answer_to(uid, f"open({file!r}).read()", public.path)
            assert f"{own}:" in text or f'"{own}"' in text
            assert f" {other}:" not in text and f'"{other}"' not in text
            assert "roots" not in text and process not in text
    assert answer_to(ADA, "open('sim/key-users').read()", public.path).count(":") >= 3  # as the kernel: counts of all


# -- mounts, superblocks, devices


def test_what_happens_to_mounts_is_public(public: Mount) -> None:
    everything, named = watch_of(public, ADA), watch_of(public, BEN, "mount / id=1", "devices id=2", "sb / id=3")
    public.post("mount /dev/sdb1 /mnt -t ext4", "sb error / EIO", "device error /dev/sdb io")
    for folder in (everything, named):
        assert {("mount", "new_mount"), ("sb", "error"), ("block", "io")} <= set(events_of(folder))
    assert "/mnt" in answer_to(ADA, "open('sim/mountinfo').read()", public.path)


def test_private_mounts_are_the_owners_alone(private: Mount) -> None:
    ada, owner = watch_of(private, ADA), private.watch("owner")
    private.post("mount /dev/sdb1 /mnt -t ext4", "sb error / EIO", "device error /dev/sdb io")
    add_key(private, ADA, "hers")
    deliver(private, record(1))
    deliver(private, record(2), record(3))
    assert {kind for kind, _ in events_of(ada)} == {"key"} and "raw" not in (ada / "log").read_text()
    assert {kind for kind, _ in events_of(owner)} == {"mount", "sb", "block", "key"}
    assert (owner / "log").read_text().count('"raw":true') == 3
    for name in ("mountinfo", "superblocks", "snapshot"):
        assert (private.path / "sim" / name).stat().st_mode & 0o777 == 0o400
        assert answer_to(ADA, f"os.stat('sim/{name}').st_size", private.path) == "0"
        assert (private.path / "sim" / name).read_text()
        assert answer_to(ADA, f"open('sim/{name}').read()", private.path) == "EACCES"
    assert "hers" in answer_to(ADA, "open('sim/keys').read()", private.path)


@pytest.mark.parametrize("line", ["mount / id=1", "sb / id=1", "devices id=1"])
def test_private_mounts_cannot_be_named(private: Mount, line: str) -> None:
    watch_of(private, ADA)
    assert answer_to(ADA, f"write('watches/w{ADA}/objects', {line + chr(10)!r})", private.path) == "EACCES"
    assert "private_mounts" in (private.path / "errors").read_text()
    number, data = {
        "mount": (ioctls.WQFS_IOC_WATCH_MOUNT, ioctls.WATCH_PATH.pack(1, b"/")),
        "sb": (ioctls.WQFS_IOC_WATCH_SB, ioctls.WATCH_PATH.pack(1, b"/")),
        "devices": (ioctls.WQFS_IOC_WATCH_DEVICES, ioctls.WATCH_DEVICES.pack(1)),
    }[line.split()[0]]
    call = f"fcntl.ioctl(os.open('watches/w{ADA}/queue', 0), {number}, bytearray({data!r}))"
    assert answer_to(ADA, call, private.path) == "EACCES"
    with opened(private.watch("owner") / "queue") as fd:
        fcntl.ioctl(fd, number, bytearray(data))


# -- a watch is its owner's


def test_files_of_a_watch_and_of_the_owner_are_closed_to_others(public: Mount) -> None:
    watch_of(public, ADA)
    for call in (f"os.listdir('watches/w{ADA}')", f"open('watches/w{ADA}/log').read()", f"os.rmdir('watches/w{ADA}')"):
        assert answer_to(BEN, call, public.path) in ("EACCES", "EPERM"), call
    for name in ("errors", "queue"):
        assert answer_to(BEN, f"open({name!r}).read()", public.path) == "EACCES"
    for name in ("post", "sim/records", "sim/calls"):
        assert answer_to(BEN, f"os.open({name!r}, os.O_WRONLY)", public.path) == "EACCES"
    assert answer_to(BEN, "os.listdir('watches')", public.path) == f"['w{ADA}']"  # names are for all, as in /tmp


def test_metrics_count_and_name_nobody(public: Mount) -> None:
    watch_of(public, ADA)
    add_key(public, ADA, "hers")
    text = answer_to(BEN, "open('metrics').read()", public.path)
    assert "wqfs_watches 1" in text
    assert all(line.startswith("#") or line.split()[-1].isdigit() for line in text.splitlines())
    assert "hers" not in text and str(ADA) not in text


@pytest.mark.parametrize(
    "call", ["os.stat('.')", "os.listdir('.')", "os.stat('metrics')", "open('metrics').read()", "os.mkdir('watches/x')"]
)
def test_allow_root_is_closed_to_other_users(call: str) -> None:
    with public_mount("allow_root") as mount:
        below = f"os.chdir('mnt') or {call}"
        assert answer_to(ADA, below, mount.path.parent) == "EACCES"
        assert os.listdir(mount.path / "watches") == []


def test_user_in_a_user_namespace_is_the_user_outside(public: Mount) -> None:
    """Root of a namespace of one's own is nobody's root on the mount."""
    unshare = ("unshare", "--user", "--map-root-user")
    if subprocess.run(as_user(ADA, *unshare, "true"), capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not permitted to users here")
    program = """
import errno, os
for call in (lambda: open("errors").read(), lambda: os.open("post", os.O_WRONLY), lambda: os.mkdir("watches/mine")):
    try: print(os.geteuid(), call())
    except OSError as error: print(errno.errorcode[error.errno])
"""
    done = subprocess.run(
        as_user(ADA, *unshare, PYTHON, "-SIc", program),
        cwd=public.path, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["EACCES", "EACCES", "0 None"], done.stderr
    assert (public.path / "watches/mine").stat().st_uid == ADA


# -- how much each may take


def test_users_have_limits_of_their_own() -> None:
    with public_mount("allow_other,max_watches=2,max_queues=3") as mount:
        make = "[os.mkdir(f'watches/{os.getuid()}.{n}') for n in range(%d)]"
        assert answer_to(ADA, make % 3, mount.path) == "EDQUOT"
        assert answer_to(BEN, make % 2, mount.path) == "ENOSPC"
        assert len(os.listdir(mount.path / "watches")) == 3
        assert f"user {ADA} has 2 watches, the limit max_watches" in mount.log()


def test_open_files_of_one_user_leave_some_to_others() -> None:
    with public_mount("allow_other,max_user_handles=3,max_handles=5") as mount:
        open_them = "[os.open('metrics', 0) for _ in range(%d)]"
        assert answer_to(ADA, open_them % 3, mount.path).startswith("[")
        assert answer_to(ADA, open_them % 4, mount.path) == "EDQUOT"
        assert answer_to(ADA, "[os.open('sim', 0) for _ in range(4)]", mount.path) == "EDQUOT"
        assert f"user {ADA} has 3 files open, the limit max_user_handles" in mount.log()
        program = "import os, sys; fds = [os.open('metrics', 0) for _ in range(3)]; print('open', flush=True); input()"
        command = as_user(ADA, PYTHON, "-SIc", program)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with running(*command, cwd=mount.path, **pipes) as process:
            assert process.stdout is not None and process.stdout.readline() == b"open\n"
            assert answer_to(BEN, open_them % 2, mount.path).startswith("[")
            assert answer_to(BEN, open_them % 3, mount.path) == "ENFILE"  # the mount's bound comes first
        wait_until(lambda: answer_to(ADA, open_them % 3, mount.path).startswith("["), "the files to be closed")


def test_waiting_calls_of_one_user_leave_some_to_others() -> None:
    with public_mount("allow_other,max_user_waiting=2,max_waiting=3") as mount, ExitStack() as stack:
        ada, ben = watch_of(mount, ADA), watch_of(mount, BEN)
        for _ in range(2):
            command = as_user(ADA, "cat", ada / "queue")
            stack.enter_context(running(*command, stdout=subprocess.DEVNULL))
        mount.wait_for_readers(ada, 2)
        read = f"os.read(os.open('{ada}/queue', 0), 16)"
        assert answer_to(ADA, read, mount.path) == "EDQUOT"
        assert f"a call of user {ADA} was refused: 2 wait, the limit max_user_waiting" in mount.log()
        reader = stack.enter_context(running(*as_user(BEN, "cat", ben / "queue"), stdout=subprocess.DEVNULL))
        mount.wait_for_readers(ben)
        reader.kill()
        wait_until(lambda: mount.status(ben)["readers"] == 0, "the read to be given up")
        with opened(mount.watch("root") / "queue") as fd:
            call = Call(os.read, fd, 16)
            mount.wait_for_readers(mount.path / "watches/root")
            deliver(mount, record(1))
            assert call.result(AT_ONCE) == record(1)


def test_refused_calls_do_not_fill_the_log() -> None:
    with public_mount("allow_other,max_watches=1") as mount:
        program = """
import os
os.mkdir("watches/one")
for n in range(200):
    try: os.mkdir(f"watches/two\\nWARNING forged: {n}")
    except OSError: pass
"""
        run_as(ADA, program, cwd=mount.path)
        assert mount.log().count("refused") <= 20
        assert "\nWARNING forged" not in mount.log() and "'two\\nWARNING forged: 0'" in mount.log()


def test_lines_count_as_of_who_opened_the_file(public: Mount) -> None:
    """A set-user-ID program that prints what its caller wants, into the caller's own file: no right comes with it."""
    public.post("key add user secret v @s", "key setperm secret 0x3f000000")
    line = f"key {serial_of(public, 'secret')} id=1"
    ada = watch_of(public, ADA)
    echo = public.path.parent / "echo"
    shutil.copy("/bin/echo", echo)
    echo.chmod(0o4755)
    if os.statvfs(echo).f_flag & os.ST_NOSUID:
        pytest.skip("/tmp is mounted nosuid")
    done = subprocess.run(
        as_user(ADA, "sh", "-c", 'exec "$0" "$1" > "$2"', echo, line, ada / "objects"),
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert (ada / "objects").read_text() == "everything id=0\n"
    assert "uid=0" in (public.path / "errors").read_text()  # who wrote it


def test_descriptor_passed_on_reads_as_who_opened_it(public: Mount) -> None:
    """A descriptor is a right, as of any file: what was opened as root shows root's view to who gets it."""
    public.post("key add user secret v @s", "key setperm secret 0x3f000000")
    with opened(public.path / "sim/keys") as fd:
        done = subprocess.run(as_user(ADA, "cat"), stdin=fd, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert "secret" in done.stdout
    with refused(errno.ENOENT):
        os.stat(public.path / "watches/secret")
