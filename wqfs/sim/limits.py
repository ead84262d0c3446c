"""Bounds of the simulated system's tables, each with the errno that one too many gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimLimits:
    """mounts: ENOSPC, as fs.mount-max; mount_text: bytes of the paths, sources and options of mounts together,
    ENOSPC; keys: of all users, EDQUOT; user_keys, user_key_bytes: of each user but root, EDQUOT, as kernel.keys.maxkeys
    and maxbytes; processes: with their threads and the login processes, ENOMEM as fork(2); threads: of one process,
    None for three quarters, ENOMEM; devices: block devices that were ever named, ENOSPC; descriptors: of the mount
    API, ENFILE."""

    mounts: int = 100_000
    mount_text: int = 64 << 20
    keys: int = 100_000
    user_keys: int = 200
    user_key_bytes: int = 20_000
    processes: int = 32_768
    threads: int | None = None
    devices: int = 16_384
    descriptors: int = 32_768
