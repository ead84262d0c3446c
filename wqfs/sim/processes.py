"""Simulated processes: who has which session, process and thread keyrings.

A process has a session keyring, which its children share until they join another; a process
keyring, which its threads share and its children do not get; and a keyring for each thread that
uses one. exec keeps the session alone (keyrings(7); kernel/cred.c and security/keys/process_keys.c
of Linux 6.12). Each user has a login process, `login.UID`, made when first used: it is who acts
when a command names no process.

A process is named by a word; for a real one that is its pid. Nothing here says anything to a watch:
a keyring that a process lets go of is handed to `let_go`, which ends it if nothing else holds it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator

from wqfs.sim.command import Actor
from wqfs.sim.errors import Refused
from wqfs.sim.keys import Keyring

LetGo = Callable[[list[Keyring], int], None]

LOGIN = "login."
REQKEY_DEFAULT, REQKEY_THREAD, REQKEY_PROCESS, REQKEY_SESSION, REQKEY_USER, REQKEY_USER_SESSION = range(6)
REQKEY_REQUESTOR = 7
REQKEY_SETTINGS = frozenset((*range(6), REQKEY_REQUESTOR))
"""Where a thread's requested keys go: KEY_REQKEY_DEFL_* of linux/keyctl.h, of which group keyrings (6) do not exist."""
_NAME = re.compile(r"[A-Za-z0-9_.+:-]{1,64}")


class Process:
    """One process.

    session: its session keyring, None before it has one: then the user-session keyring is searched
    in its place; ring: its process keyring, or None; threads: the keyrings of threads by name, None
    for a thread that has used none; the first thread is "". reqkey: the settings of threads that have one.
    """

    __slots__ = ("gid", "groups", "name", "reqkey", "ring", "session", "threads", "uid")

    def __init__(self, name: str, uid: int, gid: int, groups: tuple[int, ...] = ()) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.session: Keyring | None = None
        self.ring: Keyring | None = None
        self.threads: dict[str, Keyring | None] = {}
        self.reqkey: dict[str, int] = {}

    def reqkey_of(self, thread: str) -> int:
        """Where the requested keys of a thread go, one of REQKEY_SETTINGS; as its first thread's unless it said."""
        return self.reqkey.get(thread, self.reqkey.get("", REQKEY_DEFAULT))

    def __repr__(self) -> str:
        return f"<process {self.name!r} of {self.uid}>"


class Processes:
    """All processes by name, and the login process of each user.

    let_go(keyrings, now_ns) is told which keyrings lost a hold, after it is gone.
    """

    def __init__(self, let_go: LetGo, *, limit: int = 32_768, max_threads: int | None = None) -> None:
        """limit: processes and their further threads, together; max_threads: of one process, None for three
        quarters, which leaves some to others; one more is ENOMEM, as fork(2) has it."""
        self._limit = limit
        self._max_threads = limit * 3 // 4 if max_threads is None else max_threads
        self._threads = 0
        self.by_name: dict[str, Process] = {}
        self.logins: dict[int, Process] = {}
        self._let_go = let_go

    def __iter__(self) -> Iterator[Process]:
        return iter(self.by_name.values())

    def of(self, actor: Actor) -> Process:
        """The process that `actor` acts as; a user's login process if it names none. Raises ESRCH."""
        if actor.process:
            return self.find(actor.process)
        login = self.logins.get(actor.uid)
        if login is None:
            self._check_room()
            login = Process(f"{LOGIN}{actor.uid}", actor.uid, actor.gid, actor.groups)
            self.logins[actor.uid] = self.by_name[login.name] = login
        return login

    def known(self, actor: Actor) -> Process | None:
        """As `of`, but a login process is not made for the question."""
        return self.by_name.get(actor.process) if actor.process else self.logins.get(actor.uid)

    def find(self, name: str) -> Process:
        """The process called `name`. Raises ESRCH."""
        process = self.by_name.get(name)
        if process is None:
            raise Refused(errno.ESRCH, f"there is no process {name!r}")
        return process

    def actor(self, caller: Actor, name: str, thread: str = "") -> Actor:
        """Who acts as a thread of the process called `name`: a thread that was not heard of begins.

        Raises ESRCH; EPERM if the process belongs to another user than `caller`, who is not root;
        EINVAL for a thread's name that is none.
        """
        process = self._own(caller, name)
        if thread:
            _check_name(thread, "thread")
            self.hear_of(process, thread)
        return Actor(process.uid, process.gid, process.groups, process.name, thread)

    def hear_of(self, process: Process, thread: str) -> None:
        """A thread that was not heard of begins. Raises ENOMEM."""
        if thread in process.threads:
            return
        self._check_room()
        if len(process.threads) >= self._max_threads:
            raise Refused(errno.ENOMEM, f"{process.name} has {self._max_threads} threads, the limit max_threads")
        self._threads += 1
        process.threads[thread] = None

    def new(self, caller: Actor, name: str, uid: int, gid: int, groups: tuple[int, ...] = ()) -> Process:
        """A process without keyrings, as the first of a login is before pam_keyinit(8).

        Raises EINVAL for the name, EEXIST, EPERM for another user's uid or a group of others.
        """
        _check_name(name, "process")
        if name in self.by_name or name.startswith(LOGIN):
            raise Refused(errno.EEXIST, f"there is a process {name!r} already, or will be when its user logs in")
        foreign = [group for group in (gid, *groups) if not caller.in_group(group)]
        if not caller.is_admin and (uid != caller.uid or foreign):
            raise Refused(errno.EPERM, f"only root starts processes of user {uid} and group {gid} for others")
        self._check_room()
        process = self.by_name[name] = Process(name, uid, gid, groups)
        return process

    def _check_room(self) -> None:
        if len(self.by_name) + self._threads >= self._limit:
            raise Refused(errno.ENOMEM, f"there are {self._limit} processes and threads, the limit max_processes")

    def fork(self, caller: Actor, name: str, child: str) -> Process:
        """fork(2): a process with the same session keyring, and none of its own."""
        parent = self._own(caller, name)
        process = self.new(Actor(parent.uid, parent.gid, parent.groups), child, parent.uid, parent.gid, parent.groups)
        process.session = parent.session
        if process.session is not None:
            process.session.pins += 1
        process.reqkey = {"": setting} if (setting := parent.reqkey_of("")) else {}
        return process

    def exec(self, caller: Actor, name: str, now_ns: int) -> Process:
        """execve(2): the process keyring goes, all threads but one end, and with them their keyrings."""
        process = self._own(caller, name)
        self._drop(process, now_ns, session=False)
        return process

    def exit(self, caller: Actor, name: str, now_ns: int) -> None:
        """exit_group(2): the process goes, and what only it held. A login process begins anew when
        its user is next heard of."""
        process = self._own(caller, name)
        del self.by_name[name]
        if self.logins.get(process.uid) is process:
            del self.logins[process.uid]
        self._drop(process, now_ns, session=True)

    def exit_thread(self, caller: Actor, name: str, thread: str, now_ns: int) -> None:
        """A thread ends, and its keyring with it. Raises ESRCH if it was never heard of."""
        process = self._own(caller, name)
        if thread not in process.threads:
            raise Refused(errno.ESRCH, f"process {name} has no thread {thread!r}")
        ring = process.threads.pop(thread)
        self._threads -= bool(thread)
        self._release([] if ring is None else [ring], now_ns)

    def _own(self, caller: Actor, name: str) -> Process:
        process = self.find(name)
        if process.uid != caller.uid and not caller.is_admin:
            raise Refused(errno.EPERM, f"process {name} belongs to user {process.uid}")
        return process

    def _drop(self, process: Process, now_ns: int, *, session: bool) -> None:
        held = [*process.threads.values(), process.ring]
        self._threads -= len(process.threads) - ("" in process.threads)
        process.threads = {}
        process.ring = None
        process.reqkey = {"": setting} if (setting := process.reqkey_of("")) else {}
        if session:
            held.append(process.session)
            process.session = None
        self._release([ring for ring in held if ring is not None], now_ns)

    def _release(self, rings: list[Keyring], now_ns: int) -> None:
        for ring in rings:
            ring.pins -= 1
        self._let_go(rings, now_ns)


def _check_name(name: str, of: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(errno.EINVAL, f"expected a name of 1..64 letters, digits and _.+:- for a {of}, not {name!r}")
