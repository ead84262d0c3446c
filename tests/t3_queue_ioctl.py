"""ioctl(2) on a queue: the kernel's two in their own forms, SET_FILTER by value, and wqfs's own."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import tools
from tests.tools import HEADER, LIMIT, NO_WAIT, ROOT, Mount, deliver, mounted, new_watch, opened, record, refused
from wqfs.abi import ioctls

SET_SIZE = 0x5760
SET_FILTER = 0x5761
WATCH_KEY = 0x40085770
WATCH_MOUNT = 0x50045771
WATCH_SB = 0x50045772
WATCH_DEVICES = 0x40045773
QUEUED = 0x80105774
ALL = 0xFFFFFFFF
KEY_TYPE, MOUNT_TYPE = 1, 2

libc = ctypes.CDLL(None, use_errno=True)
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: to be another user, and for allow_other")
needs_ptrace = pytest.mark.skipif(
    not IS_ROOT and YAMA.exists() and YAMA.read_text().strip() != "0",
    reason="needs root or kernel.yama.ptrace_scope=0: a daemon may not read its callers' memory here",
)
WITHOUT_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace") if IS_ROOT else ()
"""Starts a program that may read the memory of its equals and of nobody else."""


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with mounted(tmp_path_factory.mktemp("ioctl")) as mount:
        yield mount


@pytest.fixture
def watch(mount: Mount) -> Iterator[Path]:
    with new_watch(mount) as watch:
        yield watch


def sized(count: int) -> int:
    """WQFS_IOC_SET_FILTER(count)."""
    return 1 << 30 | (8 + 44 * count) << 16 | SET_FILTER


def rule(type_: int, info_filter: int = 0, info_mask: int = 0, subtypes: int = ALL) -> bytes:
    return struct.pack("=III8I", type_, info_filter, info_mask, subtypes, *[0] * 7)


def filter_of(*rules: bytes, count: int | None = None, reserved: int = 0) -> bytes:
    return struct.pack("=II", len(rules) if count is None else count, reserved) + b"".join(rules)


def by_pointer(fd: int, data: bytes) -> None:
    call(fd, SET_FILTER, ctypes.create_string_buffer(data, len(data)))


def by_value(fd: int, data: bytes) -> None:
    call(fd, sized((len(data) - 8) // 44), ctypes.create_string_buffer(data, len(data)))


def call(fd: int, command: int, argument: object) -> None:
    """ioctl(2) itself. Raises OSError."""
    if libc.ioctl(fd, ctypes.c_ulong(command), argument) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def watch_path(path: str, watch_id: int) -> bytearray:
    return bytearray(struct.pack("=i4096s", watch_id, path.encode()))


@contextmanager
def emptied(queue: Path) -> Iterator[int]:
    """A descriptor that does not wait, of a queue that holds nothing any more."""
    with opened(queue, NO_WAIT) as fd:
        with suppress(BlockingIOError):
            while True:
                os.read(fd, 1 << 16)
        yield fd


def read_record(fd: int) -> tuple[int, int, int, bytes]:
    """(type, subtype, watch ID, body) of the one record that is queued."""
    data = os.read(fd, 4096)
    word, info = HEADER.unpack_from(data)
    assert info & 0x7F == len(data), f"more than one record: {data.hex()}"
    return word & 0xFFFFFF, word >> 24, info >> 8 & 0xFF, data[8:]


def make_key(mount: Mount, name: str) -> int:
    """Add a key to the session keyring; returns its serial number."""
    mount.post(f"key add user {name} red @s")
    for line in (mount.path / "sim/keys").read_text().splitlines():
        if f" {name}:" in line:
            return int(line.split()[0], 16)
    raise AssertionError(f"no key {name} in sim/keys")


# -- SET_SIZE


@pytest.mark.parametrize(("size", "depth"), [(1, 32), (32, 32), (33, 64), (200, 224), (512, 512)])
def test_set_size_rounds_up_to_a_multiple_of_32(watch: Path, size: int, depth: int) -> None:
    with opened(watch / "queue") as fd:
        assert fcntl.ioctl(fd, SET_SIZE, size) == 0
    assert (watch / "depth").read_text() == f"{depth}\n"


@pytest.mark.parametrize("size", [0, 513, -1])
def test_set_size_outside_its_range(watch: Path, size: int) -> None:
    with opened(watch / "queue") as fd:
        with refused(errno.EINVAL):
            fcntl.ioctl(fd, SET_SIZE, size)
        assert fcntl.ioctl(fd, SET_SIZE, 64) == 0  # a refused one does not count
    assert (watch / "depth").read_text() == "64\n"


def test_set_size_twice(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        fcntl.ioctl(fd, SET_SIZE, 64)
        with refused(errno.EBUSY):
            fcntl.ioctl(fd, SET_SIZE, 64)
    assert (watch / "depth").read_text() == "64\n"


def test_set_size_after_the_file_depth(watch: Path) -> None:
    (watch / "depth").write_text("64\n")
    with opened(watch / "queue") as fd, refused(errno.EBUSY):
        fcntl.ioctl(fd, SET_SIZE, 64)


def test_set_size_of_a_queue_in_use_keeps_what_is_queued(mount: Mount, watch: Path) -> None:
    """The depth taken by default does not count as sizing."""
    with opened(watch / "queue") as fd:
        deliver(mount, record(1))
        assert fcntl.ioctl(fd, SET_SIZE, 64) == 0
        assert os.read(fd, 4096) == record(1)
        with refused(errno.EBUSY):
            fcntl.ioctl(fd, SET_SIZE, 64)


def test_set_size_on_the_write_end(watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        assert fcntl.ioctl(fd, SET_SIZE, 64) == 0
    assert (watch / "depth").read_text() == "64\n"


def test_set_size_of_one_root_queue_leaves_the_others(mount: Mount) -> None:
    with opened(mount.path / "queue") as first, opened(mount.path / "queue") as second:
        fcntl.ioctl(first, SET_SIZE, 64)
        assert fcntl.ioctl(second, SET_SIZE, 64) == 0


def test_set_size_strict_queue_keeps_nothing_before(mount_with: Callable[[str], Mount]) -> None:
    mount = mount_with("strict")
    watch = mount.watch()
    (watch / "objects").write_text("devices id=3\n")
    with opened(watch / "queue", NO_WAIT) as fd:
        deliver(mount, record(1))
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
        fcntl.ioctl(fd, SET_SIZE, 32)
        deliver(mount, record(2))
        assert os.read(fd, 4096) == record(2)


# -- SET_FILTER


FORMS = [pytest.param(by_pointer, marks=needs_ptrace), by_value]


@pytest.mark.parametrize("form", FORMS)
def test_set_filter_keeps_other_types_out(mount: Mount, watch: Path, form: Callable[[int, bytes], None]) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        form(fd, filter_of(rule(MOUNT_TYPE)))
        deliver(mount, record(1))
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
        form(fd, filter_of(rule(MOUNT_TYPE), rule(KEY_TYPE)))
        deliver(mount, record(2))
        assert os.read(fd, 4096) == record(2)
        assert mount.status(watch)["filtered"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_set_filter_of_sixteen_rules(mount: Mount, watch: Path, form: Callable[[int, bytes], None]) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        form(fd, filter_of(*[rule(MOUNT_TYPE)] * 15, rule(KEY_TYPE)))
        deliver(mount, record(1))
        assert os.read(fd, 4096) == record(1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "data",
    [
        filter_of(rule(KEY_TYPE), count=0),
        filter_of(*[rule(KEY_TYPE)] * 16, count=17),
        filter_of(rule(KEY_TYPE), reserved=1),
        filter_of(rule(KEY_TYPE, info_filter=0x300, info_mask=0x100)),
        filter_of(rule(KEY_TYPE, info_mask=0x40)),
    ],
    ids=["no rule", "17 rules", "reserved", "info_filter outside info_mask", "info_mask on the length"],
)
def test_set_filter_refused_leaves_the_old_one(
    mount: Mount, watch: Path, form: Callable[[int, bytes], None], data: bytes
) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        with refused(errno.EINVAL):
            form(fd, data)
        assert (watch / "filter").read_text() == "mount *\n"


def test_set_filter_null_pointer_removes(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        call(fd, SET_FILTER, None)
        deliver(mount, record(1))
        assert os.read(fd, 4096) == record(1)


def test_set_filter_sized_without_a_rule_removes(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        by_value(fd, filter_of())
        deliver(mount, record(1))
        assert os.read(fd, 4096) == record(1)


@needs_ptrace
def test_set_filter_bad_pointer(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        with refused(errno.EFAULT):
            call(fd, SET_FILTER, ctypes.c_void_p(8))
    assert (watch / "filter").read_text() == "mount *\n"


@needs_ptrace
def test_set_filter_reaching_beyond_the_memory(watch: Path) -> None:
    """The header can be read, the rules cannot."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    memory[page - 8 : page] = struct.pack("=II", 1, 0)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(at + page), ctypes.c_size_t(page), 0) == 0
    with opened(watch / "queue") as fd, refused(errno.EFAULT):
        call(fd, SET_FILTER, ctypes.c_void_p(at + page - 8))


@needs_ptrace
def test_set_filter_on_the_write_end(watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        by_pointer(fd, filter_of(rule(MOUNT_TYPE)))
    assert (watch / "filter").read_text() == "mount *\n"


CALLER = """
import ctypes, os, sys
uid, dumpable = sys.argv[1:]
if uid != "-":
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(4, int(dumpable), 0, 0, 0) == 0  # PR_SET_DUMPABLE
os.mkdir("watches/caller")
fd = os.open("watches/caller/queue", os.O_RDONLY)
data = bytes.fromhex(sys.stdin.readline())
for command in map(int, sys.stdin.readline().split()):
    done = libc.ioctl(fd, ctypes.c_ulong(command), ctypes.create_string_buffer(data, len(data)))
    print(os.strerror(ctypes.get_errno()) if done < 0 else done)
"""


def forms_as_caller(mount: Mount, *, uid: str = "-", dumpable: bool = True) -> dict[str, str]:
    """What both forms of SET_FILTER answer to another process."""
    done = subprocess.run(
        [*WITHOUT_PTRACE, sys.executable, "-SIc", CALLER, uid, str(int(dumpable))],
        input=f"{filter_of(rule(MOUNT_TYPE)).hex()}\n{SET_FILTER} {sized(1)}\n",
        cwd=mount.path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pointer, value = done.stdout.splitlines()
    return {"pointer": pointer, "value": value}


@pytest.fixture
def mount_without_ptrace(mount_with: Callable[[str], Mount], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Mount]:
    """Mounts with a daemon that may read the memory of its equals alone, as an unprivileged one's or
    a confined service's."""
    monkeypatch.setattr(tools, "MOUNT_COMMAND", (*WITHOUT_PTRACE, *tools.MOUNT_COMMAND))
    return mount_with


@needs_ptrace
def test_set_filter_forms_of_an_equal(mount_without_ptrace: Callable[[str], Mount]) -> None:
    assert forms_as_caller(mount_without_ptrace("")) == {"pointer": "0", "value": "0"}


def test_set_filter_forms_of_a_caller_that_is_not_dumpable(
    mount_without_ptrace: Callable[[str], Mount],
) -> None:
    mount = mount_without_ptrace("")
    assert forms_as_caller(mount, dumpable=False) == {"pointer": os.strerror(errno.EPERM), "value": "0"}


@needs_root
def test_set_filter_forms_of_another_user(mount_without_ptrace: Callable[[str], Mount]) -> None:
    """The server of root becomes the caller to read, so no more than the caller's own rights are needed."""
    mount = mount_without_ptrace("allow_other")
    assert forms_as_caller(mount, uid="65534") == {"pointer": "0", "value": "0"}


@needs_root
def test_set_filter_forms_of_another_user_with_the_daemon_of_root(mount_with: Callable[[str], Mount]) -> None:
    assert forms_as_caller(mount_with("allow_other"), uid="65534") == {"pointer": "0", "value": "0"}


@needs_root
def test_set_filter_forms_of_a_caller_that_is_not_dumpable_with_the_daemon_of_root(
    mount_with: Callable[[str], Mount],
) -> None:
    mount = mount_with("allow_other")
    assert forms_as_caller(mount, uid="65534", dumpable=False) == {"pointer": os.strerror(errno.EPERM), "value": "0"}


# -- wqfs's own: watches


def test_watch_key_gives_its_events_under_the_id(mount: Mount, watch: Path) -> None:
    key = make_key(mount, "colour")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, 7))
        mount.post(f"key update {key} blue")
        assert read_record(fd) == (KEY_TYPE, 1, 7, struct.pack("=II", key, 0))
    assert (watch / "objects").read_text() == f"key {key} id=7\n"


def test_watch_key_session_keyring(mount: Mount, watch: Path) -> None:
    make_key(mount, "before")  # the session keyring is there from now on
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", -3, 255))
        key = make_key(mount, "later")
        type_, subtype, watch_id, body = read_record(fd)
        assert (type_, subtype, watch_id, body[4:]) == (KEY_TYPE, 2, 255, struct.pack("=I", key))  # linked


def test_watch_key_removed(mount: Mount, watch: Path) -> None:
    key = make_key(mount, "removed")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, 7))
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, -1))
        assert read_record(fd) == (0, 0, 7, struct.pack("=Q", key))  # META removal
        mount.post(f"key update {key} blue")
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_watch_key_that_is_not_there(watch: Path) -> None:
    with opened(watch / "queue") as fd, refused(errno.ENOKEY):
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", 0x7FFFFFFF, 1))


def test_watch_key_that_is_revoked(mount: Mount, watch: Path) -> None:
    key = make_key(mount, "revoked")
    mount.post(f"key revoke {key}")
    with opened(watch / "queue") as fd, refused(errno.EKEYREVOKED):
        fcntl.ioctl(fd, WATCH_KEY, struct.pack("=ii", key, 1))


def test_watch_mount_gives_its_events_under_the_id(mount: Mount, watch: Path) -> None:
    mount.post("mount /dev/sda1 /mnt/mount -t ext4")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_MOUNT, watch_path("/mnt/mount", 3))
        mount.post("mount /dev/sda2 /mnt/mount/below -t ext4")
        assert read_record(fd)[:3] == (MOUNT_TYPE, 0, 3)  # new_mount
    assert (watch / "objects").read_text() == "mount /mnt/mount id=3\n"


def test_watch_mount_ends_the_watch_on_everything(mount: Mount, watch: Path) -> None:
    mount.post("mount /dev/sdb1 /mnt/here -t ext4")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_MOUNT, watch_path("/mnt/here", 3))
        mount.post("mount /dev/sdb2 /mnt/elsewhere -t ext4")
        with refused(errno.EAGAIN):
            os.read(fd, 4096)


def test_watch_sb_gives_its_events_under_the_id(mount: Mount, watch: Path) -> None:
    mount.post("mount /dev/sdc1 /mnt/sb -t ext4")
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_SB, watch_path("/mnt/sb", 4))
        mount.post("sb error /mnt/sb EIO")
        type_, subtype, watch_id, body = read_record(fd)
        assert (type_, subtype, watch_id) == (3, 1, 4)
        assert struct.unpack_from("=I", body, 8) == (errno.EIO,)


def test_watch_devices_gives_their_events_under_the_id(mount: Mount, watch: Path) -> None:
    with emptied(watch / "queue") as fd:
        fcntl.ioctl(fd, WATCH_DEVICES, struct.pack("=i", 5))
        mount.post("device error /dev/sdd timeout sector=9")
        type_, subtype, watch_id, body = read_record(fd)
        assert (type_, subtype, watch_id, body[8:]) == (4, 1, 5, struct.pack("=Q", 9))


KINDS: dict[str, tuple[int, Callable[[int], bytearray]]] = {
    "key": (WATCH_KEY, lambda watch_id: bytearray(struct.pack("=ii", -3, watch_id))),
    "mount": (WATCH_MOUNT, lambda watch_id: watch_path("/", watch_id)),
    "sb": (WATCH_SB, lambda watch_id: watch_path("/", watch_id)),
    "devices": (WATCH_DEVICES, lambda watch_id: bytearray(struct.pack("=i", watch_id))),
}


@pytest.fixture(params=KINDS)
def add(request: pytest.FixtureRequest, mount: Mount) -> Callable[[int, int], int]:
    """A function (fd, watch ID) that watches an object of a kind."""
    make_key(mount, "any")
    command, argument = KINDS[request.param]
    return lambda fd, watch_id: fcntl.ioctl(fd, command, argument(watch_id))


@pytest.mark.parametrize("watch_id", [-2, 256, 0x7FFFFFFF])
def test_watch_with_an_id_outside_its_range(watch: Path, add: Callable[[int, int], int], watch_id: int) -> None:
    with opened(watch / "queue") as fd, refused(errno.EINVAL):
        add(fd, watch_id)
    assert (watch / "objects").read_text() == "everything id=0\n"


def test_watch_twice(watch: Path, add: Callable[[int, int], int]) -> None:
    with opened(watch / "queue") as fd:
        assert add(fd, 1) == 0
        with refused(errno.EBUSY):
            add(fd, 2)


def test_watch_removed_that_is_none(watch: Path, add: Callable[[int, int], int]) -> None:
    with opened(watch / "queue") as fd:
        with refused(errno.EBADSLT):
            add(fd, -1)
        assert add(fd, 1) == 0
        assert add(fd, -1) == 0
        with refused(errno.EBADSLT):
            add(fd, -1)


def test_watch_removed_posts_the_removal(watch: Path, add: Callable[[int, int], int]) -> None:
    with emptied(watch / "queue") as fd:
        add(fd, 9)
        add(fd, -1)
        assert read_record(fd)[:3] == (0, 0, 9)
    assert (watch / "objects").read_text() == ""


def test_watch_on_the_write_end(watch: Path, add: Callable[[int, int], int]) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        assert add(fd, 1) == 0


def test_watch_on_a_root_queue(mount: Mount, add: Callable[[int, int], int]) -> None:
    with opened(mount.path / "queue", NO_WAIT) as fd:
        add(fd, 9)
        add(fd, -1)
        assert read_record(fd)[:3] == (0, 0, 9)


@pytest.mark.parametrize("command", [WATCH_MOUNT, WATCH_SB], ids=["mount", "sb"])
def test_watch_path_without_its_zero_byte(watch: Path, command: int) -> None:
    with opened(watch / "queue") as fd, refused(errno.EINVAL):
        fcntl.ioctl(fd, command, bytearray(struct.pack("=i", 1) + b"/" * 4096))


@pytest.mark.parametrize("command", [WATCH_MOUNT, WATCH_SB], ids=["mount", "sb"])
@pytest.mark.parametrize("path", ["", "mnt"])
def test_watch_path_that_is_not_absolute(watch: Path, command: int, path: str) -> None:
    with opened(watch / "queue") as fd, refused(errno.EINVAL):
        fcntl.ioctl(fd, command, watch_path(path, 1))


# -- wqfs's own: how much is queued


def queued(fd: int) -> tuple[int, ...]:
    """(records, bytes, loss, depth)."""
    answer = bytearray(16)
    assert fcntl.ioctl(fd, QUEUED, answer) == 0
    return struct.unpack("=IIII", answer)


def test_queued_of_a_new_queue(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        assert queued(fd) == (0, 0, 0, 0)


def test_queued_counts_records_and_bytes(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd:
        deliver(mount, record(1, 20), record(2, 127))
        assert queued(fd) == (2, 147, 0, 256)
        os.read(fd, 20)
        assert queued(fd) == (1, 127, 0, 256)


def test_queued_tells_of_a_loss_that_comes_next(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue") as fd:
        fcntl.ioctl(fd, SET_SIZE, 32)
        deliver(mount, *[record(n) for n in range(33)])
        assert queued(fd) == (32, 512, 0, 32)
        os.read(fd, 512)
        assert queued(fd) == (0, 0, 1, 32)
        os.read(fd, 8)
        assert queued(fd) == (0, 0, 0, 32)


def test_queued_on_the_write_end(mount: Mount, watch: Path) -> None:
    with opened(watch / "queue", os.O_WRONLY) as fd:
        deliver(mount, record(1))
        assert queued(fd)[:2] == (1, 16)


def test_fionread_is_the_kernels_answer_for_a_file(mount: Mount, watch: Path) -> None:
    """It never reaches a server (ABI.md, 3); this test says so if one day it does."""
    with opened(watch / "queue") as fd:
        deliver(mount, record(1))
        answer = bytearray(4)
        fcntl.ioctl(fd, termios.FIONREAD, answer)
        assert struct.unpack("=i", answer) == (4096,)


# -- nobody's


@pytest.mark.parametrize(
    "command", [0x5762, 0x576F, 0x80045775, 0x40045775, 0xC0045775, 0x80105773, 0x40045760, 0x12345678]
)
def test_ioctl_unknown(mount: Mount, watch: Path, command: int) -> None:
    with opened(watch / "queue") as fd:
        deliver(mount, record(1))
        before = mount.status(watch)
        with refused(errno.ENOTTY):
            fcntl.ioctl(fd, command, bytearray(64))
        assert mount.status(watch) == before


def test_ioctl_of_a_terminal(watch: Path) -> None:
    with opened(watch / "queue") as fd:
        assert not os.isatty(fd)
        with pytest.raises(termios.error) as caught:
            termios.tcgetattr(fd)
        assert caught.value.args[0] == errno.ENOTTY


# -- from C

PROGRAM = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/watch_queue.h>
#include "wqfs.h"

static void number(const char *name, unsigned long value) { printf("%s %lu\n", name, value); }

static void did(const char *name, int answer)
{
	printf("%s %s\n", name, answer < 0 ? strerror(errno) : "ok");
}

/* Standard input is the queue; the argument is a key. */
int main(int argc, char **argv)
{
	struct wqfs_watch_key key = { .key = argc > 1 ? atoi(argv[1]) : 0, .id = 1 };
	struct wqfs_watch_path path = { .id = 2, .path = "/mnt/c" };
	struct wqfs_watch_devices devices = { .id = 3 };
	struct wqfs_queued queued = { 0 };
	struct {
		struct watch_notification_filter head;
		struct watch_notification_type_filter rules[2];
	} filter = {
		.head = { .nr_filters = 2 },
		.rules = {
			{ .type = WATCH_TYPE_META, .subtype_filter = { 1 } },
			{ .type = WATCH_TYPE_KEY_NOTIFY, .subtype_filter = { 1 << NOTIFY_KEY_UPDATED } },
		},
	};

	number("IOC_WATCH_QUEUE_SET_SIZE", IOC_WATCH_QUEUE_SET_SIZE);
	number("IOC_WATCH_QUEUE_SET_FILTER", IOC_WATCH_QUEUE_SET_FILTER);
	number("WQFS_IOC_WATCH_KEY", WQFS_IOC_WATCH_KEY);
	number("WQFS_IOC_WATCH_MOUNT", WQFS_IOC_WATCH_MOUNT);
	number("WQFS_IOC_WATCH_SB", WQFS_IOC_WATCH_SB);
	number("WQFS_IOC_WATCH_DEVICES", WQFS_IOC_WATCH_DEVICES);
	number("WQFS_IOC_QUEUED", WQFS_IOC_QUEUED);
	number("WQFS_IOC_SETTLE", WQFS_IOC_SETTLE);
	number("WQFS_IOC_WATCH_KEY_AS", WQFS_IOC_WATCH_KEY_AS);
	number("WQFS_IOC_DELIVER", WQFS_IOC_DELIVER);
	number("WATCH_KEY_AS.size", sizeof(struct wqfs_watch_key_as));
	number("DELIVER.size", sizeof(struct wqfs_deliver));
	number("WQFS_SETTLE_READERS", WQFS_SETTLE_READERS);
	for (unsigned n = 0; n <= 16; n++)
		printf("WQFS_IOC_SET_FILTER(%u) %lu\n", n, (unsigned long)WQFS_IOC_SET_FILTER(n));
	number("WATCH_KEY.size", sizeof(key));
	number("WATCH_PATH.size", sizeof(path));
	number("WATCH_DEVICES.size", sizeof(devices));
	number("QUEUED.size", sizeof(queued));
	number("filter", sizeof(filter));

	did("size", ioctl(0, IOC_WATCH_QUEUE_SET_SIZE, 40));
	did("size again", ioctl(0, IOC_WATCH_QUEUE_SET_SIZE, 40));
	did("filter by value", ioctl(0, WQFS_IOC_SET_FILTER(2), &filter));
	did("no filter", ioctl(0, IOC_WATCH_QUEUE_SET_FILTER, NULL));
	did("key", ioctl(0, WQFS_IOC_WATCH_KEY, &key));
	did("mount", ioctl(0, WQFS_IOC_WATCH_MOUNT, &path));
	did("sb", ioctl(0, WQFS_IOC_WATCH_SB, &path));
	did("devices", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	did("devices again", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	key.id = path.id = devices.id = -1;
	did("no key", ioctl(0, WQFS_IOC_WATCH_KEY, &key));
	did("no mount", ioctl(0, WQFS_IOC_WATCH_MOUNT, &path));
	did("no sb", ioctl(0, WQFS_IOC_WATCH_SB, &path));
	did("no devices", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	did("no devices again", ioctl(0, WQFS_IOC_WATCH_DEVICES, &devices));
	did("queued", ioctl(0, WQFS_IOC_QUEUED, &queued));
	printf("queued %u %u %u %u\n", queued.records, queued.bytes, queued.loss, queued.depth);
	return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PROGRAM, compiled against the header that is shipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("gcc is missing: apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.c").write_text(PROGRAM)
    done = subprocess.run(
        [compiler, "-Wall", "-Werror", "-I", str(ROOT / "wqfs/abi"), "-o", "program", "program.c"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "program"


def output_of(program: Path, queue: Path, key: int = 0) -> list[str]:
    with opened(queue) as fd:
        done = subprocess.run(
            [str(program), str(key)], stdin=fd, capture_output=True, text=True, timeout=LIMIT, check=True
        )
    return done.stdout.splitlines()


def test_header_in_c_has_the_numbers_of_python(program: Path, mount: Mount) -> None:
    said = dict(line.rsplit(" ", 1) for line in output_of(program, mount.path / "queue"))
    names = [name for name in vars(ioctls) if name.startswith(("IOC_", "WQFS_IOC_"))]
    assert len(names) == 10
    for name in (*names, "WQFS_SETTLE_READERS"):
        assert int(said[name]) == getattr(ioctls, name), name
    for count in range(17):
        assert int(said[f"WQFS_IOC_SET_FILTER({count})"]) == ioctls.wqfs_ioc_set_filter(count)
    for name in ("WATCH_KEY", "WATCH_PATH", "WATCH_DEVICES", "QUEUED", "WATCH_KEY_AS", "DELIVER"):
        assert int(said[f"{name}.size"]) == getattr(ioctls, name).size, name
    assert int(said["filter"]) == ioctls.wqfs_ioc_set_filter(2) >> 16 & 0x3FFF


def test_header_in_c_has_the_numbers_of_these_tests(program: Path, mount: Mount) -> None:
    said = dict(line.rsplit(" ", 1) for line in output_of(program, mount.path / "queue"))
    wanted = {
        "IOC_WATCH_QUEUE_SET_SIZE": SET_SIZE,
        "IOC_WATCH_QUEUE_SET_FILTER": SET_FILTER,
        "WQFS_IOC_WATCH_KEY": WATCH_KEY,
        "WQFS_IOC_WATCH_MOUNT": WATCH_MOUNT,
        "WQFS_IOC_WATCH_SB": WATCH_SB,
        "WQFS_IOC_WATCH_DEVICES": WATCH_DEVICES,
        "WQFS_IOC_QUEUED": QUEUED,
        "WQFS_IOC_SET_FILTER(16)": sized(16),
    }
    assert {name: int(said[name]) for name in wanted} == wanted


def test_program_in_c_uses_every_ioctl(program: Path, mount: Mount) -> None:
    mount.post("mount /dev/sde1 /mnt/c -t ext4")
    key = make_key(mount, "c")
    with new_watch(mount) as watch:
        lines = output_of(program, watch / "queue", key)
        did = lines[lines.index("size ok") :]
        assert did == [
            "size ok",
            f"size again {os.strerror(errno.EBUSY)}",
            "filter by value ok",
            "no filter ok",
            "key ok",
            "mount ok",
            "sb ok",
            "devices ok",
            f"devices again {os.strerror(errno.EBUSY)}",
            "no key ok",
            "no mount ok",
            "no sb ok",
            "no devices ok",
            f"no devices again {os.strerror(errno.EBADSLT)}",
            "queued ok",
            "queued 4 64 0 64",  # the four removals
        ]
