"""Random scenarios, for soak tests: the same seed gives the same commands, and on a fresh mount the same bytes.

Commands are tried on a simulation of their own first, so that each is known to be carried out or
to be refused, and how.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from wqfs.abi.errors import ERRNO_NAMES
from wqfs.abi.records import BlockSubtype
from wqfs.sim.errors import Refused
from wqfs.sim.language import quote
from wqfs.sim.mount_options import PROPAGATION
from wqfs.sim.scenario import Scenario, Step, WatchSpec
from wqfs.sim.simulation import Simulation

_NAMES = ("a", "b", "c", "data", "old disk", "ümlaut", "x#1", "back\\slash")
_ERRNOS = ("EIO", "ENOSPC", "EUCLEAN", "EROFS", "ENODATA")
_ATTRIBUTES = ("ro", "rw", "nosuid", "nodev", "noexec", "noatime", "relatime", "ro,nosuid")
_MOUNTS_KEPT = 64
"""About so many mounts are kept, so that a long storm does not become one of ever larger trees."""
_NS_PER_S = 1_000_000_000


def random_scenario(seed: int, count: int = 1000, rate: float = 100.0) -> Scenario:
    """A scenario of `count` commands, `rate` a second, on a watch of everything."""
    maker = _Maker(random.Random(seed))
    interval_ns = round(_NS_PER_S / rate)
    steps = tuple(maker.step(at, at * interval_ns) for at in range(count))
    return Scenario(
        title=f"random, seed {seed}, {count} commands",
        watches=(WatchSpec("everything"),),
        steps=steps,
    )


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._simulation = Simulation()
        self._kinds: tuple[tuple[Callable[[], str], int], ...] = (
            (self._mount, 8), (self._umount, 8), (self._bind, 4), (self._move, 3), (self._propagation, 2),
            (self._remount, 4), (self._automount, 2), (self._superblock, 6), (self._device, 2), (self._key, 12),
            (self._change_key, 12),
        )  # fmt: skip

    def step(self, at: int, at_ns: int) -> Step:
        """The next command, which has been carried out, or was refused, on the simulation."""
        makers, weights = zip(*self._kinds, strict=True)
        line = self._chance.choices(makers, weights)[0]()
        try:
            self._simulation.run(line)
        except Refused as refused:
            return Step(name=f"step {at + 1}", at_ns=at_ns, run=(line,), refused=ERRNO_NAMES[refused.errno or 0])
        return Step(name=f"step {at + 1}", at_ns=at_ns, run=(line,))

    # -- what there is

    def _any_mount(self) -> str:
        return quote(self._chance.choice([*self._simulation.system.mounts.by_id.values()]).path)

    def _new_path(self) -> str:
        base = self._chance.choice([*self._simulation.system.mounts.by_id.values()]).path
        if base.count("/") > 4:
            base = ""
        return quote(f"{base.rstrip('/')}/{self._chance.choice(_NAMES)}")

    def _any_key(self) -> str:
        rings = {"_ses", "_uid.0", "_uid_ses.0", ".user_reg"}  # those that are there from the start
        keys = [k.serial for k in self._simulation.system.keys.by_serial.values() if k.description not in rings]
        return str(self._chance.choice(keys)) if keys and self._chance.random() < 0.95 else "none"

    def _any_ring(self) -> str:
        rings = [
            k.serial
            for k in self._simulation.system.keys.by_serial.values()
            if k.type.name == "keyring" and k.description.startswith("ring")
        ]
        return str(self._chance.choice(rings)) if rings and self._chance.random() < 0.5 else "@s"

    # -- commands

    def _mount(self) -> str:
        if len(self._simulation.system.mounts.by_id) > _MOUNTS_KEPT:
            return self._umount()
        disk = f"/dev/sd{self._chance.choice('bcde')}{self._chance.randint(1, 3)}"
        kind, source = self._chance.choice((("ext4", disk), ("xfs", disk), ("tmpfs", "none"), ("nfs", "host:/export")))
        option = self._chance.choice(("", " -o ro", " -o errors=remount-ro", " -o nosuid,nodev"))
        return f"mount -t {kind} {source} {self._new_path()}{option}"

    def _umount(self) -> str:
        return f"umount {self._chance.choice(('', '', '-l ', '-R '))}{self._any_mount()}"

    def _bind(self) -> str:
        if len(self._simulation.system.mounts.by_id) > _MOUNTS_KEPT:
            return self._umount()
        return f"mount {self._chance.choice(('--bind', '--rbind'))} {self._any_mount()} {self._new_path()}"

    def _move(self) -> str:
        return f"mount --move {self._any_mount()} {self._new_path()}"

    def _propagation(self) -> str:
        return f"mount --make-{self._chance.choice(PROPAGATION)} {self._any_mount()}"

    def _remount(self) -> str:
        bind = self._chance.choice(("", "bind,"))
        return f"mount -o remount,{bind}{self._chance.choice(_ATTRIBUTES)} {self._any_mount()}"

    def _automount(self) -> str:
        return self._chance.choice((f"automount -t nfs host:/home {self._new_path()}", "expire"))

    def _superblock(self) -> str:
        where = self._any_mount()
        number = self._chance.randrange(1 << 32)
        return self._chance.choice(
            (
                f"sb error {where} {self._chance.choice(_ERRNOS)} cookie={number} inode {number % 9999}",
                f"sb edquot {where} {self._chance.choice(('user', 'group', 'project'))} {number % 2000}",
                f"sb readonly {where}",
                f"sb readwrite {where}",
                f"sb network {where} {self._chance.choice(('up', 'down'))}",
                f"sb fill {where} {number % 101}",
            )
        )

    def _device(self) -> str:
        error = self._chance.choice([*BlockSubtype]).name.lower()
        return f"device error /dev/sd{self._chance.choice('bcde')} {error} sector={self._chance.randrange(1 << 40)}"

    def _key(self) -> str:
        name = self._chance.choice(_NAMES)
        if self._chance.random() < 0.3:
            return f"key newring {quote('ring ' + name)} {self._any_ring()}"
        return f"key add user {quote(name)} {self._chance.randrange(1 << 30)} {self._any_ring()}"

    def _change_key(self) -> str:
        key = self._any_key()
        return self._chance.choice(
            (
                f"key update {key} {self._chance.randrange(1 << 30)}",
                f"key link {key} {self._any_ring()}",
                f"key unlink {key} {self._any_ring()}",
                f"key setperm {key} 0x3f3f0000",
                f"key clear {self._any_ring()}" if self._chance.random() < 0.2 else f"key revoke {key}",
                f"key invalidate {key}",
            )
        )
