"""The face `core`: queue, watches and simulated keyring in memory.

Compared: open, close, set_size, set_filter, watch, post, read, readv, and poll of the read end.
What only a descriptor can answer is not.
"""

from __future__ import annotations

import errno
import select
from typing import Any

from wqfs.abi import filters
from wqfs.abi.errors import Malformed
from wqfs.queue import BufferTooSmall
from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.key_views import keys_text
from wqfs.sim.system import System
from wqfs.watch import Watch
from wqfs.watches import Watches, WatchRefused

Step = dict[str, Any]

ACTOR = Actor(0, 0)
COMPARED = frozenset("open close set_size set_filter watch post read readv poll pause request".split())
POLL_NAMES = tuple(
    (name, getattr(select, f"POLL{name}")) for name in ("IN", "RDNORM", "OUT", "WRNORM", "ERR", "HUP", "NVAL")
)
PADDING = b"\0" * 1024
"""Zero bytes follow the rules in the memory that SET_FILTER points at."""


U32 = 0xFFFFFFFF


def as_int(value: int) -> int:
    """What a C int keeps of a number."""
    return ((value & U32) ^ 0x80000000) - 0x80000000


def filter_bytes(step: Step) -> bytes:
    """struct watch_notification_filter as a step describes it."""
    rules = step["filters"]
    data = filters.FILTER_HEADER.pack(step.get("nr", len(rules)), step.get("reserved", 0))
    for rule in rules:
        subtypes = rule.get("subtypes", [0xFFFFFFFF] * 8)
        data += filters.FILTER_RULE.pack(rule["type"], rule.get("info_filter", 0), rule.get("info_mask", 0), *subtypes)
    return data + PADDING


def post_line(step: Step, key: int, aux: int | None) -> str:
    """A step's operation on a key, in the command language."""
    return {
        "updated": f"key update {key} y",
        "linked": f"key link {aux} {key}",
        "unlinked": f"key unlink {aux} {key}",
        "cleared": f"key clear {key}",
        "setattr": f"key setperm {key} 0x3f3f3f3f",
        "revoked": f"key revoke {key}",
        "restricted": f"key restrict_keyring {key}",
        "invalidated": f"key invalidate {key}",
    }[str(step["event"])]


def make_key_line(name: str, description: str) -> str:
    """How the key that a case calls `name` is made: names that start with `r` are keyrings."""
    return f"key newring {description} @s" if name.startswith("r") else f"key add user {description} x @s"


def request_line(step: Step, description: str, ring: int | None) -> str:
    """request_key(2); with a helper there is callout text, and it is the helper that completes the key."""
    words = ["key", "request2" if "helper" in step else "request", "user", description]
    words += ["callout"] if "helper" in step else []
    return " ".join([*words, *([] if ring is None else [str(ring)])])


def helper_line(words: list[str], key: int, ring: str) -> str:
    """What /sbin/request-key did, in the command language. @requestor is what any special keyring means."""
    ring = "@s" if ring == "@requestor" else ring
    payload = "''" if words[1] == "-" else words[1]
    return " ".join(["key", words[0], str(key), payload, *words[2:-1], ring])


class CoreFace:
    """One case, in memory."""

    def __init__(self) -> None:
        self._watches = Watches(strict=True)
        self._system = System(self._watches, now_ns=0)
        self._queues: dict[str, Watch] = {}
        self._open_ends: set[tuple[str, str]] = set()
        self._keys: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def compared(self, step: Step) -> bool:
        if step["op"] not in COMPARED or "fd" in step:
            return False
        if step["op"] in ("read", "readv", "poll") and step.get("end") == "write":
            return False
        return isinstance(self._queues.get(step.get("q", "q")), Watch) or step["op"] in (
            "open",
            "post",
            "pause",
            "request",
        )

    def key_name(self, serial: int) -> str | None:
        return self._names.get(serial)

    def close(self) -> None:
        """Everything is garbage now."""

    def answer(self, step: Step) -> Any:
        operation = getattr(self, f"_{step['op']}", None)
        if operation is None or (not self.compared(step) and step["op"] != "open_plain"):
            return None
        if step["op"] in ("close", "set_size", "set_filter", "read", "readv", "poll") and self._closed(step):
            return ["NVAL"] if step["op"] == "poll" else "EBADF"
        try:
            return operation(step)
        except Malformed:
            return "EINVAL"
        except BufferTooSmall:
            return "ENOBUFS"
        except OSError as error:
            return errno.errorcode[error.errno or errno.EIO]

    def _closed(self, step: Step) -> bool:
        return (step.get("q", "q"), step.get("end", "read")) not in self._open_ends

    def _key(self, name: str) -> int:
        if name not in self._keys:
            self._system.run(make_key_line(name, name), ACTOR, 0)
            key, _ = self._system.keys.resolve(ACTOR, f"%{'keyring' if name.startswith('r') else 'user'}:{name}", 0)
            self._keys[name] = key.serial
            self._names[key.serial] = name
        return self._keys[name]

    def _pause(self, step: Step) -> int:
        return 0  # keys are collected at once here

    def _watch_of(self, step: Step) -> Watch:
        return self._queues[step.get("q", "q")]

    def _open(self, step: Step) -> int:
        name = step.get("q", "q")
        self._queues[name] = self._watches.make("", 0, 0, 0)
        self._open_ends |= {(name, "read"), (name, "write")}
        return 0

    def _open_plain(self, step: Step) -> int:
        self._queues.pop(step.get("q", "q"), None)
        return 0

    def _close(self, step: Step) -> int:
        name, end = step.get("q", "q"), step.get("end", "read")
        self._open_ends.discard((name, end))
        watch = self._watch_of(step)
        if end == "write":
            watch.let_go()
        if not self._open_ends & {(name, "read"), (name, "write")}:
            self._watches.forget(watch)
        return 0

    def _set_size(self, step: Step) -> int:
        self._watch_of(step).queue.set_size(step["n"] & U32)
        return 0

    def _set_filter(self, step: Step) -> Any:
        queue = self._watch_of(step).queue
        if step["filters"] is None:
            queue.filter = None
        elif step["filters"] == "bad-pointer":
            return "EFAULT"
        else:
            queue.filter = filters.decode(filter_bytes(step))
        return 0

    def _watch(self, step: Step) -> int:
        serial = self._key(step["key"])
        id_ = as_int(step["id"])
        if not -1 <= id_ <= 255:
            raise WatchRefused(errno.EINVAL, "ID")
        target, place, label = self._system.resolve(("key", str(serial)), ACTOR, 0)
        if self._closed(step):
            raise WatchRefused(errno.EINVAL, "no notification pipe")
        if id_ < 0:
            self._watches.remove(self._watch_of(step), target, 0, label=label, place=place)
        else:
            self._watches.add(self._watch_of(step), target, id_, label=label, place=place)
        return 0

    def _post(self, step: Step) -> Any:
        key = self._key(step["key"])
        for _ in range(step.get("times", 1)):
            aux = self._key(step["aux"]) if step["event"] in ("linked", "unlinked") else None
            try:
                self._system.run(post_line(step, key, aux), ACTOR, 0)
            except Refused as refused:
                return errno.errorcode[refused.errno or errno.EIO]
        return 0

    def _request(self, step: Step) -> dict[str, Any]:
        name = step["key"]
        ring = self._key(step["ring"]) if "ring" in step else None
        result = self._line(request_line(step, name, ring))
        helped: list[Any] = []
        made = next((key for key in self._system.keys.by_serial.values() if key.destination is not None), None)
        if made is not None:
            self._keys[name] = made.serial
            self._names[made.serial] = name
            for words in map(str.split, step["helper"]):
                if words[0] == "flags":
                    helped.append(self._flags(made.serial))
                elif words[0] == "watch":
                    helped.append(self._line_watch(made.serial))
                else:
                    named = str(self._key(words[-1])) if words[-1][0] == "r" else words[-1]
                    helped.append(self._line(helper_line(words, made.serial, named)))
            result = self._line(f"key request user {name}")
        return {"result": result, "helper": helped}

    def _line(self, line: str) -> int | str:
        try:
            self._system.run(line, ACTOR, 0)
        except Refused as refused:
            return errno.errorcode[refused.errno or errno.EIO]
        return 0

    def _flags(self, serial: int) -> str:
        lines = keys_text(self._system.keys, None, 0).splitlines()
        return next(line.split()[1] for line in lines if line.startswith(f"{serial:08x} "))

    def _line_watch(self, serial: int) -> str:
        """A watch on a key under construction: where the kernel waits, until a signal, wqfs says so."""
        try:
            self._system.resolve(("key", str(serial)), ACTOR, 0)
        except Refused as refused:
            name = errno.errorcode[refused.errno or errno.EIO]
            return "EINTR" if name == "EINPROGRESS" else name
        return "0"

    def _read(self, step: Step) -> Any:
        data = self._watch_of(step).queue.read(step["size"])
        return "EAGAIN" if data is None else data

    def _readv(self, step: Step) -> Any:
        data = self._watch_of(step).queue.read(sum(step["sizes"]))
        return "EAGAIN" if data is None else data

    def _poll(self, step: Step) -> list[str]:
        mask = self._watch_of(step).queue.poll()
        return [name for name, bit in POLL_NAMES if mask & bit]
