"""What the tests of ioctl(2) on a queue share: the numbers, written out again, and calls with them."""

from __future__ import annotations

import struct

from tests.tools import Mount

SET_SIZE = 0x5760
SET_FILTER = 0x5761
WATCH_KEY = 0x40085770
WATCH_MOUNT = 0x50045771
WATCH_SB = 0x50045772
WATCH_DEVICES = 0x40045773
QUEUED = 0x80105774
KEY_TYPE, MOUNT_TYPE = 1, 2


def sized(count: int) -> int:
    """WQFS_IOC_SET_FILTER(count)."""
    return 1 << 30 | (8 + 44 * count) << 16 | SET_FILTER


def watch_path(path: str, watch_id: int) -> bytearray:
    return bytearray(struct.pack("=i4096s", watch_id, path.encode()))


def make_key(mount: Mount, name: str) -> int:
    """Add a key to the session keyring; returns its serial number."""
    mount.post(f"key add user {name} red @s")
    for line in (mount.path / "sim/keys").read_text().splitlines():
        if f" {name}:" in line:
            return int(line.split()[0], 16)
    raise AssertionError(f"no key {name} in sim/keys")
