"""Run the command given, in the foreground of the terminal but not of make, and end as it ends.

make(1) takes a Ctrl-C as its own: it would end with "Interrupt" and a status of 2 however well the mount
went away. So the command gets a process group of its own, which holds the terminal while it runs; signals
sent to this process are handed on.
"""

import contextlib
import os
import signal
import subprocess
import sys
from types import FrameType


def send(pid: int, signum: int) -> None:
    # Not Popen.send_signal, which may reap the child under the waitpid below.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def main() -> int:
    pending: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(signum: int, _frame: FrameType | None) -> None:
        if child is None:
            pending.append(signum)
        else:
            send(child.pid, signum)

    # Before the start, so that the command does not inherit an ignored SIGINT from `make run &`.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, hand_on)
    # A background job must not take the terminal from whoever has it.
    terminal = os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    child = subprocess.Popen(sys.argv[1:], process_group=0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else handing the terminal over and back stops us
    if terminal:
        os.tcsetpgrp(0, child.pid)
    for early in pending:
        send(child.pid, early)
    try:
        while True:
            _pid, status = os.waitpid(child.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                child.returncode = os.waitstatus_to_exitcode(status)
                return child.returncode if child.returncode >= 0 else 128 - child.returncode
            # Ctrl-Z: give the terminal back, stop with make, and go on when `fg` or `bg` says so.
            if terminal:
                os.tcsetpgrp(0, os.getpgrp())
            os.killpg(0, signal.SIGTSTP)
            terminal = os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
            if terminal:
                os.tcsetpgrp(0, child.pid)
            os.killpg(child.pid, signal.SIGCONT)
    finally:
        if terminal:
            os.tcsetpgrp(0, os.getpgrp())


if __name__ == "__main__":
    sys.exit(main())
