"""Seeded key operations on this kernel's real keyrings and on the simulated ones, side by side.

    python -m tests.conformance.kernel_keys FIRST COUNT [OPERATIONS [UID]]

For each seed a child process with a session keyring of its own does OPERATIONS of add_key(2),
request_key(2) and keyctl(2); the simulation does the same as a process of the same user. Compared
after each: what was returned, how every key describes itself, what every keyring links to. UID: do
it as that user, as only root may. At the
first difference the operations up to it are printed, the shortest script that shows it. The user's
own keyrings and those of others are not touched. Exit status 0 if nothing differs, 1 if something
does, 3 if there are no key calls here (EPERM and ENOSYS, of containers).
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
import sys
import time
from typing import Any

from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.keyring import Keyrings
from wqfs.sim.keys import Key

ADD_KEY, REQUEST_KEY, KEYCTL = 248, 249, 250  # x86-64
GET_ID, JOIN, UPDATE, REVOKE, SETPERM, DESCRIBE, CLEAR, LINK, UNLINK = 0, 1, 2, 3, 5, 6, 7, 8, 9
SEARCH, READ, SET_TIMEOUT, INVALIDATE, RESTRICT, MOVE = 10, 11, 15, 21, 29, 30
SPECIAL = (-1, -2, -3)
PERMS = (0x3F3F3F3F, 0x3F010000, 0x3F3F0000, 0x3B3F0000, 0x37010000, 0x2F010000, 0x1F010000, 0x003F0000, 0x3D010000)
NEGATIVE_S = 60
"""How long the kernel lets a key be negative that /sbin/request-key did not construct."""
MAX_KEYS = 40
PATIENCE_S = 5.0

Operation = tuple[Any, ...]
_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | bytes | None) -> int | str:
    """What a key call returns, or the name of its errno."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result


class Difference(Exception):
    """The kernel and the simulation answer differently."""


class Pair:
    """One process's keyrings, here and there. kernel: the kernel's number of each simulated key."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.sim = Keyrings(lambda *_: None, lambda key, now_ns: self.ended.append(key.serial))
        actor = Actor(os.getuid(), os.getgid(), tuple(os.getgroups()))
        self.sim.login(actor)
        self.sim.processes.new(actor, "self", actor.uid, actor.gid, actor.groups)
        self.actor = self.sim.processes.actor(actor, "self")
        self.kernel: dict[int, int] = {}
        self.serials: list[int] = []
        session = self.sim.join_session(self.actor, None, 0)
        self.enter(session.serial, syscall(KEYCTL, JOIN, None))

    @property
    def now_ns(self) -> int:
        return time.time_ns()

    def enter(self, serial: int, number: int | str) -> None:
        if not isinstance(number, int):
            raise Difference(f"the kernel says {number} where the simulation made a key")
        if serial not in self.kernel:
            self.serials.append(serial)
        elif self.kernel[serial] != number:
            raise Difference(f"key {self.kernel[serial]} of the kernel became {number}")
        self.kernel[serial] = number

    def there(self, serial: int) -> int:
        """The kernel's number for a key, or a special one as it is."""
        return self.kernel.get(serial, serial)

    def do(self, operation: Operation) -> None:
        """One operation on both sides. Raises Difference."""
        name, *arguments = operation
        known = set(self.sim.by_serial)
        before = {s: [r.serial for r in key.linked_by] for s, key in self.sim.by_serial.items()}
        try:
            ours: Any = getattr(self, f"sim_{name}")(*arguments)
        except Refused as refused:
            ours = errno.errorcode[refused.errno or 0]
        theirs = getattr(self, f"kernel_{name}")(*arguments)
        for serial, number in ((-1, "_tid"), (-2, "_pid")):
            for made in self.sim.by_serial.keys() - known:
                if self.sim.by_serial[made].description == number:
                    self.enter(made, syscall(KEYCTL, GET_ID, serial, 0))
        if isinstance(ours, Key):
            self.enter(ours.serial, theirs)
        elif ours is not None and ours != theirs:
            raise Difference(f"the kernel says {theirs}, the simulation {ours}")
        elif ours is None and isinstance(theirs, str):
            raise Difference(f"the kernel says {theirs}, the simulation did it")
        if name == "request_with_callout" and isinstance(ours, str):
            self.find_negative(known)
        for serial in self.ended:
            self.wait_for_end(serial, before.get(serial, []))
        self.ended.clear()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.compare()
            except Difference:
                # Links to an invalidated key go a little later, also where a process holds the key.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)

    def depends_on_hashes(self, operation: Operation) -> bool:
        """Whether a search may come to several keys of the same name in nested keyrings: the kernel
        enters those in the order of their hashes, the simulation in that of their links."""
        name, *words = operation
        if name == "search":
            tops = {words[0]}
            index = words[1], words[2]
        elif name.startswith("request"):
            tops, index = set(), (words[0], words[1])
        else:
            return False
        if not tops or words[0] in SPECIAL:
            tops = {ring.serial for ring in self.sim._tops(self.actor)}
        named = [key for key in self.sim.by_serial.values() if key.index == index and key.linked_by]
        below = [key for key in named if {ring.serial for ring in key.linked_by} - tops]
        nested = any(serial in self.sim.by_serial and self.sim.by_serial[serial].linked_by for serial in tops)
        return len(named if nested else below) > 1

    def find_negative(self, known: set[int]) -> None:
        """The number of the negative key that a request left, from the keyring where it is."""
        for serial in self.sim.by_serial.keys() - known - self.kernel.keys():
            key = self.sim.by_serial[serial]
            (ring,) = key.linked_by
            if isinstance(self.links(self.there(ring.serial)), str):
                continue  # a destination that cannot be read hides it
            new = set(self.listed(self.there(ring.serial))) - set(self.kernel.values())
            if len(new) != 1:
                raise Difference(f"the kernel left {len(new)} new keys where the simulation left a negative one")
            self.enter(serial, new.pop())

    def links(self, ring: int) -> list[int] | str:
        buffer = ctypes.create_string_buffer(4096)
        size = syscall(KEYCTL, READ, ring, ctypes.addressof(buffer), len(buffer))
        return size if isinstance(size, str) else [n for (n,) in struct.iter_unpack("=i", buffer.raw[:size])]

    def listed(self, ring: int) -> list[int]:
        links = self.links(ring)
        return [] if isinstance(links, str) else links

    def wait_for_end(self, serial: int, rings: list[int]) -> None:
        """The kernel collects a little later what the simulation ends at once."""
        number = self.kernel.pop(serial, None)
        if serial in self.serials:
            self.serials.remove(serial)
        deadline = time.monotonic() + PATIENCE_S
        while number is not None:
            described = syscall(KEYCTL, DESCRIBE, number, None, 0)
            listed = [r for r in rings if r in self.kernel and number in self.listed(self.kernel[r])]
            if described == "ENOKEY" and not listed:
                return
            if time.monotonic() > deadline:
                raise Difference(f"key {number} ended in the simulation; in the kernel: {described}, linked {listed}")
            time.sleep(0.001)

    def compare(self) -> None:
        """How all keys describe themselves, and what keyrings link to."""
        for serial in self.serials:
            number = self.kernel[serial]
            buffer = ctypes.create_string_buffer(4096)
            size = syscall(KEYCTL, DESCRIBE, number, ctypes.addressof(buffer), len(buffer))
            theirs: Any = size if isinstance(size, str) else buffer.value.decode()
            ours = self.ask(self.sim.describe, serial)
            if ours != theirs:
                raise Difference(f"key {number}: the kernel describes {theirs}, the simulation {ours}")
            if self.sim.by_serial[serial].type.name == "keyring":
                theirs = self.links(number)
                ours = self.ask(self.sim.read, serial)
                if isinstance(ours, bytes):
                    ours = sorted(self.there(n) for (n,) in struct.iter_unpack("=i", ours))
                    theirs = theirs if isinstance(theirs, str) else sorted(theirs)
                if ours != theirs:
                    raise Difference(f"keyring {number}: the kernel has {theirs}, the simulation {ours}")

    def ask(self, call: Any, serial: int) -> Any:
        try:
            return call(self.actor, serial, self.now_ns)
        except Refused as refused:
            return errno.errorcode[refused.errno or 0]

    # -- the operations, each twice; keys are given by the simulation's numbers

    def sim_add(self, type_: str, description: str, payload: bytes, ring: int) -> Key:
        return self.sim.add(self.actor, type_, description, payload, ring, self.now_ns)

    def kernel_add(self, type_: str, description: str, payload: bytes, ring: int) -> int | str:
        return syscall(ADD_KEY, type_.encode(), description.encode(), payload, len(payload), self.there(ring))

    def sim_request(self, type_: str, description: str, ring: int | None) -> Key:
        return self.sim.request(self.actor, type_, description, self.now_ns, None, ring)

    def kernel_request(self, type_: str, description: str, ring: int | None) -> int | str:
        return syscall(REQUEST_KEY, type_.encode(), description.encode(), None, self.there(ring or 0))

    def sim_request_with_callout(self, type_: str, description: str, ring: int | None) -> Any:
        known = set(self.sim.by_serial)
        key = self.sim.request(self.actor, type_, description, self.now_ns, b"wqfs", ring)
        if key.serial in known:
            return key
        self.sim.negate(self.actor, key.serial, NEGATIVE_S, self.now_ns)
        return "ENOKEY"

    def kernel_request_with_callout(self, type_: str, description: str, ring: int | None) -> int | str:
        return syscall(REQUEST_KEY, type_.encode(), description.encode(), b"wqfs", self.there(ring or 0))

    def sim_search(self, ring: int, type_: str, description: str, target: int | None) -> Key:
        return self.sim.search(self.actor, ring, type_, description, self.now_ns, target)

    def kernel_search(self, ring: int, type_: str, description: str, target: int | None) -> int | str:
        number = self.there(target or 0)
        return syscall(KEYCTL, SEARCH, self.there(ring), type_.encode(), description.encode(), number)

    def sim_update(self, key: int, payload: bytes) -> None:
        self.sim.update(self.actor, key, payload, self.now_ns)

    def kernel_update(self, key: int, payload: bytes) -> int | str:
        return syscall(KEYCTL, UPDATE, self.there(key), payload, len(payload))

    def sim_link(self, key: int, ring: int) -> None:
        self.sim.link(self.actor, key, ring, self.now_ns)

    def kernel_link(self, key: int, ring: int) -> int | str:
        return syscall(KEYCTL, LINK, self.there(key), self.there(ring))

    def sim_unlink(self, key: int, ring: int) -> None:
        self.sim.unlink(self.actor, key, ring, self.now_ns)

    def kernel_unlink(self, key: int, ring: int) -> int | str:
        return syscall(KEYCTL, UNLINK, self.there(key), self.there(ring))

    def sim_move(self, key: int, source: int, target: int, exclusive: int) -> None:
        self.sim.move(self.actor, key, source, target, self.now_ns, exclusive=bool(exclusive))

    def kernel_move(self, key: int, source: int, target: int, exclusive: int) -> int | str:
        return syscall(KEYCTL, MOVE, self.there(key), self.there(source), self.there(target), exclusive)

    def sim_clear(self, ring: int) -> None:
        self.sim.clear(self.actor, ring, self.now_ns)

    def kernel_clear(self, ring: int) -> int | str:
        return syscall(KEYCTL, CLEAR, self.there(ring))

    def sim_revoke(self, key: int) -> None:
        self.sim.revoke(self.actor, key, self.now_ns)

    def kernel_revoke(self, key: int) -> int | str:
        return syscall(KEYCTL, REVOKE, self.there(key))

    def sim_invalidate(self, key: int) -> None:
        self.sim.invalidate(self.actor, key, self.now_ns)

    def kernel_invalidate(self, key: int) -> int | str:
        return syscall(KEYCTL, INVALIDATE, self.there(key))

    def sim_setperm(self, key: int, perm: int) -> None:
        self.sim.set_perm(self.actor, key, perm, self.now_ns)

    def kernel_setperm(self, key: int, perm: int) -> int | str:
        return syscall(KEYCTL, SETPERM, self.there(key), perm)

    def sim_timeout(self, key: int, seconds: int) -> None:
        self.sim.set_timeout(self.actor, key, seconds, self.now_ns)

    def kernel_timeout(self, key: int, seconds: int) -> int | str:
        return syscall(KEYCTL, SET_TIMEOUT, self.there(key), seconds)

    def sim_restrict(self, ring: int, type_: str | None, restriction: str | None) -> None:
        self.sim.restrict(self.actor, ring, self.now_ns, type_, restriction)

    def kernel_restrict(self, ring: int, type_: str | None, restriction: str | None) -> int | str:
        words = [None if word is None else word.encode() for word in (type_, restriction)]
        return syscall(KEYCTL, RESTRICT, self.there(ring), *words)

    def sim_read(self, key: int) -> Any:
        data = self.sim.read(self.actor, key, self.now_ns)
        return sorted(self.there(n) for (n,) in struct.iter_unpack("=i", data)) if self.is_ring(key) else data

    def kernel_read(self, key: int) -> Any:
        buffer = ctypes.create_string_buffer(4096)
        size = syscall(KEYCTL, READ, self.there(key), ctypes.addressof(buffer), len(buffer))
        if isinstance(size, str):
            return size
        data = buffer.raw[:size]
        return sorted(n for (n,) in struct.iter_unpack("=i", data)) if self.is_ring(key) else data

    def is_ring(self, key: int) -> bool:
        return key < 0 or self.sim.by_serial[key].type.name == "keyring"

    def sim_session(self) -> Key:
        return self.sim.join_session(self.actor, None, self.now_ns)

    def kernel_session(self) -> int | str:
        return syscall(KEYCTL, JOIN, None)


def choose(rng: random.Random, pair: Pair) -> Operation:
    """The next operation; most keyrings and keys that it names are there."""
    keys = pair.serials
    rings = [s for s in keys if pair.sim.by_serial[s].type.name == "keyring"]

    def key() -> int:
        return int(rng.choice([*keys, -3]))

    def ring() -> int:
        return int(rng.choice(rings + rings + list(SPECIAL) + keys[-1:]))

    def type_() -> str:
        return rng.choice(("user", "user", "keyring", "logon"))

    def name() -> str:
        return rng.choice(("a", "b", "c", "q:a"))

    if len(keys) > MAX_KEYS:
        return ("clear", ring())
    payload = b"x" * rng.choice((0, 1, 1, 9, 100))
    return rng.choice(
        [("add", "keyring", name(), b"", ring())] * 3
        + [("add", type_(), name(), payload, ring())] * 5
        + [("link", key(), ring())] * 4
        + [("move", key(), ring(), ring(), rng.randrange(2))] * 3
        + [("unlink", key(), ring())] * 3
        + [("search", ring(), type_(), name(), rng.choice((None, None, ring())))] * 3
        + [("request", type_(), name(), rng.choice((None, None, ring())))] * 3
        + [("setperm", key(), rng.choice(PERMS))] * 2
        + [("update", key(), payload), ("read", key()), ("invalidate", key())]
        + [("timeout", key(), rng.choice((0, 1000)))]
        + [rng.choice((("revoke", key()), ("clear", ring()), ("request_with_callout", type_(), name(), None)))]
        + [rng.choice((("session",), ("restrict", ring(), *rng.choice(((None, None), ("user", ""), ("x", "y"))))))]
        + [("request_with_callout", type_(), name(), rng.choice((None, ring())))]
    )  # fmt: skip


def run(seed: int, count: int) -> str | None:
    """What differs with this seed, with the operations that lead there, or None."""
    rng = random.Random(seed)
    pair = Pair()
    done: list[Operation] = []
    for _ in range(count):
        operation = choose(rng, pair)
        if pair.depends_on_hashes(operation):
            continue
        done.append(operation)
        try:
            pair.do(done[-1])
        except Difference as difference:
            script = "\n".join(f"    {operation}" for operation in done)
            return f"seed {seed}, operation {len(done)}: {difference}\n{script}"
    return None


def main() -> int:
    first, seeds, *rest = map(int, sys.argv[1:])
    count = rest[0] if rest else 100
    if len(rest) > 1:
        os.setgroups([])
        os.setgid(rest[1])
        os.setuid(rest[1])
    probe = syscall(KEYCTL, JOIN, None)
    if probe in ("EPERM", "ENOSYS", "EACCES"):
        print(f"key calls answer {probe} here")
        return 3
    mismatches = 0
    for seed in range(first, first + seeds):
        pid = os.fork()
        if not pid:
            try:
                wrong = run(seed, count)
                if wrong:
                    print(wrong, flush=True)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(2)
            os._exit(1 if wrong else 0)
        mismatches += os.waitpid(pid, 0)[1] != 0
    print(f"{seeds} seeds of {count} operations, {mismatches} mismatches")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
