"""What the system calls of wqfs.sim.calls are given and give.

Numbers are as they came, texts and payloads bytes, None is a null pointer. In a call's kinds a letter stands for each
argument: i a number, t a text or payload, n one of these or a null pointer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wqfs.sim.command import Actor

if TYPE_CHECKING:
    from wqfs.sim.system import System

Argument = int | bytes | None
Arguments = Sequence[Argument]


@dataclass(frozen=True, slots=True)
class Constructing:
    """A key that a request made, and that somebody has to complete."""

    serial: int


Answer = int | bytes | Constructing
Run = Callable[["System", Actor, Arguments, int], Answer]


def is_of_kind(kind: str, argument: Argument) -> bool:
    """Whether an argument is what the letter says."""
    if kind == "i":
        return isinstance(argument, int) and not isinstance(argument, bool)
    return isinstance(argument, bytes) or (kind == "n" and argument is None)


def number(argument: Argument) -> int:
    """An argument that is a number."""
    assert isinstance(argument, int)
    return argument


def payload(argument: Argument) -> bytes:
    """An argument that is bytes."""
    assert isinstance(argument, bytes)
    return argument


def text(argument: Argument) -> str:
    """A text of the kernel's: bytes that are not UTF-8 stand in it as os.fsdecode() has them."""
    return payload(argument).decode("utf-8", "surrogateescape")


def optional(argument: Argument) -> str | None:
    """A text, or None for a null pointer."""
    return None if argument is None else text(argument)
