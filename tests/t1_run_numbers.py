"""The numbers of system calls, against the kernel's headers where they are installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from wqfs.run import numbers, trap
from wqfs.run.numbers import machine

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}


@pytest.mark.parametrize("name", HEADERS)
def test_numbers_are_those_of_the_headers(name: str) -> None:
    header = next((path for path in HEADERS[name] if path.exists()), None)
    if header is None:
        pytest.skip(f"no header of {name} is installed (Debian package linux-libc-dev)")
    text = header.read_text()
    known = machine(name)
    assert known is not None
    for call, number in known.numbers.items():
        # fcntl is __NR3264_fcntl in the generic table.
        found = re.search(rf"#define __NR(?:3264)?_{call}\s+(\d+)", text)
        assert found is not None, call
        assert int(found[1]) == number, call


def test_names_are_the_reverse_of_numbers() -> None:
    for name in HEADERS:
        known = machine(name)
        assert known is not None
        assert {known.names[number]: number for number in known.names} == known.numbers


def test_machine_that_is_not_known_is_none() -> None:
    assert machine("vax") is None


def test_constants_are_the_kernels() -> None:
    assert numbers.O_NOTIFICATION_PIPE == os.O_EXCL == 0o200
    assert (numbers.F_SETPIPE_SZ, numbers.F_GETPIPE_SZ) == (1031, 1032)


def test_filter_is_made_for_both_machines() -> None:
    for name in HEADERS:
        known = machine(name)
        assert known is not None
        program = trap.program(trap.Traps(known))
        assert len(program) % 8 == 0 and len(program) < 8 * 64
        assert trap.Traps(known).by_number() == [known.numbers[call] for call in trap.KEY_CALLS]
