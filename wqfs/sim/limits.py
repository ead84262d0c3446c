"""Bounds of the simulated system's tables, each with the errno that one too many gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimLimits:
    """mounts: ENOSPC, as fs.mount-max; mount_text: bytes of the paths, sources and options of mounts together,
    ENOSPC; keys: of all users, EDQUOT; processes: with their threads and the login processes, ENOMEM as fork(2);
    devices: block devices that were ever named, ENOSPC;
    descriptors: of the mount API, ENFILE."""

    mounts: int = 100_000
    mount_text: int = 64 << 20
    keys: int = 100_000
    processes: int = 32_768
    devices: int = 16_384
    descriptors: int = 32_768
