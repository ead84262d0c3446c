"""sim/mountinfo as libmount reads it, through its C interface.

Debian 12 has no Python binding of libmount, PyPI's is of 2012, and psutil reads /proc/self/mounts alone.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from tests.consumer import Line, parse_mountinfo
from wqfs.sim import Simulation

_TEXTS = {
    "root": "mnt_fs_get_root", "mountpoint": "mnt_fs_get_target", "fstype": "mnt_fs_get_fstype",
    "source": "mnt_fs_get_srcpath", "options": "mnt_fs_get_vfs_options", "super_options": "mnt_fs_get_fs_options",
    "optional": "mnt_fs_get_optional_fields",
}  # fmt: skip
_FORWARD = 0


@pytest.fixture(scope="module")
def libmount() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libmount.so.1")
    except OSError:
        pytest.skip("libmount.so.1 is missing: apt-get install libmount1")
    for name in ("mnt_new_table_from_file", "mnt_new_iter"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in _TEXTS.values():
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("mnt_fs_get_id", "mnt_fs_get_parent_id"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.mnt_fs_get_devno.argtypes = [ctypes.c_void_p]
    library.mnt_fs_get_devno.restype = ctypes.c_uint64
    library.mnt_table_next_fs.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    return library


def read(library: ctypes.CDLL, file: Path) -> dict[int, Line]:
    """The lines of a mountinfo as libmount has them."""
    table = library.mnt_new_table_from_file(os.fsencode(file))
    assert table, "libmount reads no table"
    at = library.mnt_new_iter(_FORWARD)
    lines: dict[int, Line] = {}
    fs = ctypes.c_void_p()
    while library.mnt_table_next_fs(table, at, ctypes.byref(fs)) == 0:
        said = {name: os.fsdecode(getattr(library, call)(fs) or b"") for name, call in _TEXTS.items()}
        device = library.mnt_fs_get_devno(fs)
        line = Line(
            library.mnt_fs_get_id(fs), library.mnt_fs_get_parent_id(fs), f"{os.major(device)}:{os.minor(device)}",
            said["root"], said["mountpoint"], tuple(said["options"].split(",")), tuple(said["optional"].split()),
            said["fstype"], said["source"], tuple(said["super_options"].split(",")),
        )  # fmt: skip
        lines[line.id] = line
    return lines


def test_mountinfo_is_read_by_libmount_field_by_field(libmount: ctypes.CDLL, tmp_path: Path) -> None:
    here = Simulation()
    for line in (
        "mount -t ext4 -o ro,nosuid,errors=remount-ro /dev/sdb1 '/mnt/a b'",
        "mount -t tmpfs 'my source' /c\\\\d",
        "mount -t nfs4 'server:/x y' \"/e#f\"",
        "mount -t tmpfs none '/tab\there'",
        "mount -t tmpfs none /b\\303\\274",
        "mount --make-shared '/mnt/a b'",
        "mount --bind '/mnt/a b/inner dir' /g",
        "mount --make-slave /g",
        "mount --make-shared /g",
        "mount --make-unbindable /c\\\\d",
        "mount -t xfs /dev/nvme0n1p300 /h",
        "mount -t tmpfs none '/mnt/a b/new'",
    ):
        here.run(line)
    file = tmp_path / "mountinfo"
    file.write_bytes(os.fsencode(here.text("mountinfo")))
    wanted = parse_mountinfo(here.text("mountinfo"))
    assert len(wanted) >= 9
    assert {field for line in wanted.values() for field in line.optional} >= {"shared:1", "master:1", "unbindable"}
    assert read(libmount, file) == wanted
