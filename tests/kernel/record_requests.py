"""Runs case scripts with key requests against the kernel it runs on, and writes down every answer.

    python3 record_requests.py CASES ANSWERS

CASES: a JSON list of cases as in tests/conformance, with or without `want`; ANSWERS: the same with
the kernel's `want`. Operations: open, set_size, watch, post, pause, read, and

    {"op": "request", "key": K, "ring": R or absent, "helper": LINES or absent}

request_key(2) for a user key, with callout text if there is `helper`: what /sbin/request-key then
does, a list of `instantiate PAYLOAD RING`, `negate SECONDS RING`, `reject SECONDS ERRNO RING`, `watch`
(a signal ends it after a second), `flags`; RING is a keyring's name, @requestor, or 0. `want` is
{"result": 0 or an errno, "helper": an answer each}. Needs request_key_helper.py in the place of
/sbin/request-key (run_recorder.sh). Needs nothing but the standard library: the guest has no more.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import struct
import sys
import time
from typing import Any

RESULTS = "/dev/wqfs-request-key"
ADD_KEY, REQUEST_KEY, KEYCTL = 248, 249, 250
SET_SIZE = 0x5760
SESSION = -3
Step = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    return -ctypes.get_errno() if result < 0 else result


def answer(result: int) -> int | str:
    return errno.errorcode[-result] if result < 0 else result


class Case:
    """One case, in a process of its own with a session keyring of its own."""

    def __init__(self) -> None:
        syscall(KEYCTL, 1, None)
        self.queues: dict[str, int] = {}
        self.keys: dict[str, int] = {}
        self.names: dict[int, str] = {}

    def key(self, name: str) -> int:
        if name not in self.keys:
            if name.startswith("r"):
                self.enter(name, syscall(ADD_KEY, b"keyring", name.encode(), None, 0, SESSION))
            else:
                self.enter(name, syscall(ADD_KEY, b"user", name.encode(), b"x", 1, SESSION))
        return self.keys[name]

    def enter(self, name: str, serial: int) -> None:
        assert serial > 0, (name, serial)
        self.keys[name] = serial
        self.names[serial] = name

    def do_open(self, step: Step) -> int:
        self.queues[step.get("q", "q")] = os.pipe2(os.O_EXCL | os.O_NONBLOCK)[0]
        return 0

    def do_set_size(self, step: Step) -> int:
        return fcntl.ioctl(self.queues[step.get("q", "q")], SET_SIZE, step["n"])

    def do_watch(self, step: Step) -> int | str:
        return answer(syscall(KEYCTL, 32, self.key(step["key"]), self.queues[step.get("q", "q")], step["id"]))

    def do_pause(self, step: Step) -> int:
        time.sleep(1)  # for the key collector
        return 0

    def do_post(self, step: Step) -> int | str:
        key = self.key(step["key"])
        if step["event"] == "restricted":
            return answer(syscall(KEYCTL, 29, key, None, None))
        if step["event"] == "updated":
            return answer(syscall(KEYCTL, 2, key, b"y", 1))
        number = {"linked": 8, "unlinked": 9, "cleared": 7, "revoked": 3, "invalidated": 21}[step["event"]]
        return answer(syscall(KEYCTL, number, *([self.key(step["aux"])] if "aux" in step else []), key))

    def do_read(self, step: Step) -> Any:
        data = os.read(self.queues[step.get("q", "q")], step["size"])
        records: list[Step] = []
        at = 0
        while at < len(data):
            word, info = struct.unpack_from("<II", data, at)
            record: Step = {"type": word & 0xFFFFFF, "subtype": word >> 24, "info": info}
            body = data[at + 8 : at + (info & 0x7F)]
            if record["type"] == 1:
                key, aux = struct.unpack("<II", body)
                record["key"], record["aux"] = self.names.get(key, hex(key)), self.names.get(aux, aux)
            elif body:
                (key,) = struct.unpack("<Q", body)
                record["id"] = self.names.get(key, hex(key))
            if records and {n: v for n, v in records[-1].items() if n != "times"} == record:
                records[-1]["times"] = records[-1].get("times", 1) + 1
            else:
                records.append(record)
            at += info & 0x7F
        return {"bytes": len(data), "records": records}

    def do_request(self, step: Step) -> Any:
        ring = self.key(step["ring"]) if "ring" in step else 0
        callout = None
        if "helper" in step:
            words = [line.split() for line in step["helper"]]
            lines = [" ".join(str(self.key(word)) if word[0] == "r" and at else word for at, word in enumerate(line))
                     for line in words]  # fmt: skip
            callout = ";".join(lines).encode()
        result = syscall(REQUEST_KEY, b"user", step["key"].encode(), callout, ring)
        helped: list[Any] = []
        if os.path.exists(RESULTS):
            with open(RESULTS) as file:
                serial, *helped = json.load(file)
            os.unlink(RESULTS)
            self.enter(step["key"], serial)
        return {"result": errno.errorcode[-result] if result < 0 else 0, "helper": helped}

    def run(self, steps: list[Step]) -> list[Step]:
        done = []
        for step in steps:
            try:
                want = getattr(self, f"do_{step['op']}")(step)
            except OSError as error:
                want = errno.errorcode[error.errno or 0]
            done.append({**step, "want": want})
        return done


def main() -> None:
    with open(sys.argv[1]) as file:
        cases = json.load(file)
    answers = []
    for case in cases:
        read_end, write_end = os.pipe()
        if not os.fork():
            with os.fdopen(write_end, "w") as out:
                json.dump(Case().run(case["steps"]), out)
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as result:
            steps = json.load(result)
        os.wait()
        answers.append({"name": case["name"], "why": case["why"], "steps": steps})
    with open(sys.argv[2], "w") as file:
        json.dump(answers, file, indent=1)
        file.write("\n")


main()
