"""The seccomp filter: which calls of the program stop for the supervisor, decided in the kernel.

By number alone: add_key, request_key, keyctl (with simulated keys; with the kernel's too), watch_mount and
watch_sb where their numbers were given, and with simulated mounts the calls of `MOUNT_CALLS`. By an argument:
pipe2 with O_NOTIFICATION_PIPE, ioctl FIONREAD and those of type 'W', fcntl F_SETPIPE_SZ and F_GETPIPE_SZ, a write of
nothing. A call of another instruction set than this machine's own stops too: it could not be told apart, and the
supervisor ends the program. All else goes on in the kernel, which remembers for numbers that no argument counts
for that they need no filter at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from seccompy import Filter, FilterFlag, bpf, flag_supported
from seccompy.notify import Listener

from wqfs.abi import ioctls
from wqfs.run.numbers import F_GETPIPE_SZ, F_SETPIPE_SZ, FIONREAD, O_NOTIFICATION_PIPE, Machine

KEY_CALLS: Final = ("add_key", "request_key", "keyctl")
MOUNT_CALLS: Final = (
    "mount", "umount2", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
)  # fmt: skip

_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000  # SECCOMP_RET_USER_NOTIF, SECCOMP_RET_ALLOW
_IOCTL_TYPE = 0xFF00  # _IOC_TYPE()
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # struct seccomp_data


@dataclass(frozen=True, slots=True)
class Traps:
    """What stops. numbers: further calls by number; mounts: the calls of mounts too."""

    machine: Machine
    numbers: tuple[int, ...] = ()
    mounts: bool = False

    def by_number(self) -> list[int]:
        """The numbers of all calls that stop whatever their arguments."""
        names = (*KEY_CALLS, *(MOUNT_CALLS if self.mounts else ()))
        return [*(self.machine.numbers[name] for name in names), *self.numbers]


def program(traps: Traps) -> bytes:
    """The filter, as struct sock_filter."""
    numbers = traps.machine.numbers
    by_argument: dict[int, list[bpf.Insn]] = {
        numbers["pipe2"]: [_argument(1), bpf.Jump(bpf.BPF_JSET, O_NOTIFICATION_PIPE, "notify", "allow")],
        numbers["ioctl"]: [
            _argument(1),
            bpf.Jump(bpf.BPF_JEQ, FIONREAD, "notify", None),
            bpf.And(_IOCTL_TYPE),
            bpf.Jump(bpf.BPF_JEQ, ioctls.IOC_WATCH_QUEUE_SET_SIZE & _IOCTL_TYPE, "notify", "allow"),
        ],
        numbers["fcntl"]: _one_of(1, (F_SETPIPE_SZ, F_GETPIPE_SZ)),
        numbers["write"]: [
            _argument(2),
            bpf.Jump(bpf.BPF_JEQ, 0, None, "allow"),
            bpf.Load(_ARGUMENTS + 2 * 8 + 4),
            bpf.Jump(bpf.BPF_JEQ, 0, "notify", "allow"),
        ],
    }
    code: list[bpf.Insn] = [
        bpf.Load(_ARCH),
        bpf.Jump(bpf.BPF_JEQ, traps.machine.audit_arch, None, "notify"),
        bpf.Load(_NR),
    ]
    code += [bpf.Jump(bpf.BPF_JEQ, number, f"call {number}", None) for number in by_argument]
    code += [bpf.Jump(bpf.BPF_JEQ, number, "notify", None) for number in traps.by_number()]
    code.append(bpf.Ja("allow"))
    labels = {}
    for number, instructions in by_argument.items():
        labels[f"call {number}"] = len(code)
        code += instructions
    labels["notify"] = len(code)
    code.append(bpf.Ret(_NOTIFY))
    labels["allow"] = len(code)
    code.append(bpf.Ret(_ALLOW))
    return bpf.assemble(code, labels)


def _argument(index: int) -> bpf.Insn:
    """Load the low half of an argument: the kernel takes a command or flags as 32 bits."""
    return bpf.Load(_ARGUMENTS + 8 * index)


def _one_of(index: int, values: Iterable[int]) -> list[bpf.Insn]:
    tests: list[bpf.Insn] = [bpf.Jump(bpf.BPF_JEQ, value, "notify", None) for value in values]
    return [_argument(index), *tests, bpf.Ja("allow")]


class _Made(Filter):
    """seccompy's filter with a program of ours: its own kills what calls by another instruction set."""

    def __init__(self, made: bytes, flags: FilterFlag) -> None:
        super().__init__(flags=flags)
        self._made = made

    __slots__ = ("_made",)

    @property
    def program(self) -> bytes:
        return self._made


def install(made: bytes) -> Listener:
    """Let this thread, and all that it starts, stop at what `made` names; gives up new privileges for good.

    A stopped call waits for its answer through all signals but those that kill, where the kernel can (5.19):
    so a signal never parts what the supervisor did from its answer. Raises OSError: EBUSY where a listener is
    there already, ENOSYS and EINVAL where the kernel is too old.
    """
    flags = FilterFlag.NEW_LISTENER
    if flag_supported(FilterFlag.WAIT_KILLABLE_RECV | FilterFlag.NEW_LISTENER):
        flags |= FilterFlag.WAIT_KILLABLE_RECV
    listener = _Made(made, flags).load()
    assert listener is not None
    return listener
