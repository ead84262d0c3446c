"""The face `run`: the very system calls, in a process under `wqfs run`.

`open` is pipe2(O_NOTIFICATION_PIPE), keys are made and changed by add_key, request_key and keyctl. Everything is
compared. What the helper of a request did is done here by the same process, in a thread of its own, while the
request waits (`--wait-for-keys`); only a key's flags are read from the mount, for /proc/keys is the kernel's.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.mount_face import MountFace, Step
from wqfs.run.numbers import O_NOTIFICATION_PIPE, machine

_INSIDE = "WQFS_REPLAY_INSIDE"
_SESSION = -3
_REQUESTOR = -8
_COLLECTOR = 0.1
"""Seconds after which what ended has been told of (wqfs.fs.filesystem.COLLECTOR_DELAY_NS)."""
_WAITS_AT_LEAST = 0.3
"""Seconds after which a watch that waits for a key's construction is interrupted, as the recorder did."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

UPDATE, REVOKE, SETPERM, CLEAR, LINK, UNLINK = 2, 3, 5, 7, 8, 9
INSTANTIATE, NEGATE, REJECT, INVALIDATE, RESTRICT, WATCH_KEY = 12, 13, 19, 21, 29, 32


def is_inside() -> bool:
    """Whether this process is under `wqfs run` already."""
    return _INSIDE in os.environ


def again_inside(arguments: list[str]) -> int:
    """The replay with these arguments, in a process under `wqfs run`; returns its exit status."""
    command = [sys.executable, "-m", "wqfs.cli", "run", "--wait-for-keys", "--"]
    command += [sys.executable, "-m", "tests.conformance.replay", *arguments]
    return subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode


@contextmanager
def run_face() -> Iterator[Callable[[], RunFace]]:
    """A function that makes the face of one case; all cases of a run share a mount, each with keys of its own."""
    cases = itertools.count(1)
    mount = Path(os.environ["WQFS_MOUNT"])
    yield lambda: RunFace(mount, next(cases))


def call(name: str, *arguments: int | bytes | None) -> int:
    """A system call by name. Raises OSError."""
    known = machine()
    assert known is not None
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(known.numbers[name]), *words))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def keyctl(*arguments: int | bytes | None) -> int:
    return call("keyctl", *arguments)


class RunFace(MountFace):
    """One case, by system calls."""

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)
        keyctl(CLEAR, _SESSION)

    def compared(self, step: Step) -> bool:
        return True

    def _key(self, name: str) -> int:
        if name not in self._keys:
            description = f"case{self._number}-{name}".encode()
            if name.startswith("r"):
                serial = call("add_key", b"keyring", description, None, 0, _SESSION)
            else:
                serial = call("add_key", b"user", description, b"x", 1, _SESSION)
            self._enter(name, serial)
        return self._keys[name]

    def _enter(self, name: str, serial: int) -> None:
        self._keys[name] = serial
        self._names[serial] = name

    def _do_open(self, step: Step) -> int:
        self._keep(step, *os.pipe2(O_NOTIFICATION_PIPE | os.O_NONBLOCK))
        self._plain.discard(step.get("q", "q"))
        return 0

    def _do_pause(self, step: Step) -> int:
        time.sleep(_COLLECTOR)
        return 0

    def _do_watch(self, step: Step) -> int:
        fd = step["fd"] if "fd" in step else self._fd(step)
        return keyctl(WATCH_KEY, self._key(step["key"]), fd, step["id"])

    def _do_post(self, step: Step) -> int:
        key, event = self._key(step["key"]), step["event"]
        for _ in range(step.get("times", 1)):
            if event in ("linked", "unlinked"):
                keyctl(LINK if event == "linked" else UNLINK, self._key(step["aux"]), key)
            elif event == "updated":
                keyctl(UPDATE, key, b"y", 1)
            elif event == "setattr":
                keyctl(SETPERM, key, 0x3F3F3F3F)
            elif event == "restricted":
                keyctl(RESTRICT, key, None, None)
            else:
                keyctl({"cleared": CLEAR, "revoked": REVOKE, "invalidated": INVALIDATE}[event], key)
        return 0

    # -- requests

    def _do_request(self, step: Step) -> dict[str, Any]:
        description = f"case{self._number}-{step['key']}".encode()
        ring = self._key(step["ring"]) if "ring" in step else 0
        callout = b"callout" if "helper" in step else None
        result: list[int | str] = []
        asking = threading.Thread(
            target=lambda: result.append(_answer(lambda: call("request_key", b"user", description, callout, ring)))
        )
        asking.start()
        helped = self._help(step, asking) if callout else []
        asking.join(20)
        assert result, "the request was never answered"
        return {"result": 0 if isinstance(result[0], int) else result[0], "helper": helped}

    def _help(self, step: Step, asking: threading.Thread) -> list[Any]:
        """Do what the helper did, once there is a key under construction; nothing if the request made none."""
        while asking.is_alive():
            made = next((key["serial"] for key in self._snapshot_keys() if key["state"] == "EINPROGRESS"), None)
            if made is not None:
                self._enter(step["key"], made)
                return [self._helped(line.split(), made) for line in step["helper"]]
            time.sleep(0.005)
        return []

    def _helped(self, words: list[str], key: int) -> Any:
        if words[0] == "flags":
            lines = (self._mount / "sim/keys").read_text().splitlines()
            return next(line.split()[1] for line in lines if line.startswith(f"{key:08x} "))
        if words[0] == "watch":
            return _answer(lambda: self._interrupted_watch(key))
        to = {"0": 0, "@requestor": _REQUESTOR}.get(words[-1]) if words[-1][0] != "r" else self._key(words[-1])
        assert to is not None
        if words[0] == "instantiate":
            payload = b"" if words[1] == "-" else words[1].encode()
            return _answer(lambda: keyctl(INSTANTIATE, key, payload, len(payload), to) and 0)
        numbers = [int(word) if word.isdecimal() else getattr(errno, word) for word in words[1:-1]]
        return _answer(lambda: keyctl(NEGATE if words[0] == "negate" else REJECT, key, *numbers, to) and 0)

    def _interrupted_watch(self, key: int) -> int:
        """Watch a key under construction, which waits until a signal ends it."""
        reader, writer = os.pipe2(O_NOTIFICATION_PIPE | os.O_NONBLOCK)
        old = signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, _WAITS_AT_LEAST)
        try:
            return keyctl(WATCH_KEY, key, reader, 200)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
            os.close(reader)
            os.close(writer)


def _answer(ask: Callable[[], int]) -> int | str:
    try:
        return ask()
    except OSError as error:
        return errno.errorcode[error.errno or errno.EIO]
