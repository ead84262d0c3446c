"""SET_FILTER on a queue: by pointer, as the kernel's, and by value; and whose memory a pointer may reach into."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tools
from tests.queue_ioctls import KEY_TYPE, MOUNT_TYPE, SET_FILTER, sized
from tests.tools import LIMIT, NO_WAIT, Mount, deliver, opened, record, refused

ALL = 0xFFFFFFFF

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


FORMS = [pytest.param(by_pointer, marks=needs_ptrace), by_value]


@pytest.mark.parametrize("form", FORMS)
def test_set_filter_keeps_other_types_out(shared: Mount, watch: Path, form: Callable[[int, bytes], None]) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        form(fd, filter_of(rule(MOUNT_TYPE)))
        deliver(shared, record(1))
        with refused(errno.EAGAIN):
            os.read(fd, 4096)
        form(fd, filter_of(rule(MOUNT_TYPE), rule(KEY_TYPE)))
        deliver(shared, record(2))
        assert os.read(fd, 4096) == record(2)
        assert shared.status(watch)["filtered"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_set_filter_of_sixteen_rules(shared: Mount, watch: Path, form: Callable[[int, bytes], None]) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        form(fd, filter_of(*[rule(MOUNT_TYPE)] * 15, rule(KEY_TYPE)))
        deliver(shared, record(1))
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
    shared: Mount, watch: Path, form: Callable[[int, bytes], None], data: bytes
) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        with refused(errno.EINVAL):
            form(fd, data)
        assert (watch / "filter").read_text() == "mount *\n"


def test_set_filter_null_pointer_removes(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        call(fd, SET_FILTER, None)
        deliver(shared, record(1))
        assert os.read(fd, 4096) == record(1)


def test_set_filter_sized_without_a_rule_removes(shared: Mount, watch: Path) -> None:
    with opened(watch / "queue", NO_WAIT) as fd:
        by_value(fd, filter_of(rule(MOUNT_TYPE)))
        by_value(fd, filter_of())
        deliver(shared, record(1))
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
