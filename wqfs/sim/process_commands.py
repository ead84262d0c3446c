"""The `process` commands, and `as`, which lets a process give any command."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wqfs.sim.arguments import Count
from wqfs.sim.command import Actor, Command
from wqfs.sim.errors import Refused

if TYPE_CHECKING:
    from wqfs.sim.system import System

Arguments = Sequence[str]
Body = Callable[["System", Actor, Arguments, int], object]

_WORDS = 2  # "process" and the verb, before the arguments
_ID_MAX = 0xFFFFFFFE
_NOT_YOURS = "ESRCH: there is none of that name; EPERM: it is another user's"


def _command(usage: str, summary: str, events: str, body: Body, errors: str) -> Command:
    words = usage.split()
    count = Count(usage, _WORDS)

    def run(system: System, actor: Actor, arguments: Arguments, now_ns: int) -> None:
        count.check(arguments)
        try:
            body(system, actor, arguments, now_ns)
        except Refused as refused:
            refused.word = refused.word or _WORDS + 1
            raise

    return Command((words[0], words[1]), usage, summary, events, run, errors)


def _ids(arguments: Arguments, actor: Actor) -> tuple[int, int]:
    """The `uid=N` and `gid=N` after the name; a gid that is not said is the uid, for another user."""
    said: dict[str, int] = {}
    for at, argument in enumerate(arguments[1:], _WORDS + 2):
        name, equals, digits = argument.partition("=")
        if name not in ("uid", "gid") or not equals or name in said:
            raise Refused(errno.EINVAL, f"expected uid=N or gid=N, each once, not {argument!r}", at)
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 11 and int(digits) <= _ID_MAX):
            raise Refused(errno.EINVAL, f"expected {name}= and a number 0..{_ID_MAX}, not {digits!r}", at)
        said[name] = int(digits)
    uid = said.get("uid", actor.uid)
    return uid, said.get("gid", actor.gid if uid == actor.uid else uid)


def _new(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    uid, gid = _ids(a, actor)
    system.processes.new(actor, a[0], uid, gid, actor.groups if uid == actor.uid else ())


def _exit(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    name, slash, thread = a[0].partition("/")
    if slash:
        system.processes.exit_thread(actor, name, thread, now_ns)
    else:
        system.processes.exit(actor, name, now_ns)


def _as(system: System, actor: Actor, a: Arguments, now_ns: int) -> None:
    if len(a) < 2:
        what = "the name of a process" if not a else "a command"
        raise Refused(errno.EINVAL, f"expected {what}: as NAME[/THREAD] COMMAND...", 2 + len(a))
    name, slash, thread = a[0].partition("/")
    try:
        if slash and not thread:
            raise Refused(errno.EINVAL, f"expected a thread's name after the slash of {a[0]!r}")
        process = system.processes.actor(actor, name, thread)
    except Refused as refused:
        refused.word = 2
        raise
    try:
        system.run_words(a[1:], process, now_ns)
    except Refused as refused:
        if refused.word is not None:
            refused.word += 2
        raise


COMMANDS: tuple[Command, ...] = (
    _command(
        "process new NAME [uid=N] [gid=N]",
        "Start a process, of another user by root alone; it has no keyrings yet.",
        "none",
        _new,
        "EEXIST: there is one of that name; EPERM: another user's, by root alone; EINVAL: no such name or number; "
        "ENOMEM: too many processes",
    ),
    _command(
        "process fork NAME NEW",
        "Start a child: it shares the session keyring and has no others. `login.UID` is a user's login process.",
        "none",
        lambda system, actor, a, now_ns: system.processes.fork(actor, a[0], a[1]),
        f"EEXIST: there is one called NEW; {_NOT_YOURS}; EINVAL: no such name; ENOMEM: too many processes",
    ),
    _command(
        "process exec NAME",
        "Let a process run another program: its process and thread keyrings go.",
        "META removal on watches of keys that go",
        lambda system, actor, a, now_ns: system.processes.exec(actor, a[0], now_ns),
        _NOT_YOURS,
    ),
    _command(
        "process exit NAME[/THREAD]",
        "End a process, or one thread of it, and the keyrings that only it held.",
        "META removal on watches of keys that go",
        _exit,
        _NOT_YOURS,
    ),
    Command(
        ("as",),
        "as NAME[/THREAD] COMMAND...",
        "Run any command as a process, or as a thread of it: `@t`, `@p` and `@s` are then its keyrings.",
        "those of the command",
        _as,
        f"{_NOT_YOURS}; EINVAL: no command; ENOMEM: too many threads; and those of the command",
    ),
)
