"""A wqfs for one process: mounted in a temporary folder, and gone with the process, however that ends."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from wqfs.fs import mounting

_START = 30.0
_END = 5.0
"""Seconds that a daemon has to mount, and to end before it is killed."""
# Ends the daemon when its starter is gone, even by SIGKILL: standard input is a pipe whose other end it held.
# Standard output is the descriptor that says that the mount answers; nobody but the daemon may hold it.
_GUARD = """\
trap '' INT TERM HUP
"$@" --ready-fd 3 3>&1 1>&2 0</dev/null &
exec 1>&2
while read -r _; do :; done
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
fusermount3 -quz -- "$MOUNTPOINT"
kill -TERM $! 2>/dev/null
sleep 1
kill -KILL $! 2>/dev/null
"""


class PrivateServer:
    """A daemon and its mount. path: the mountpoint."""

    def __init__(self, options: str = "", *, prefix: str = "wqfs-test-") -> None:
        """Mount in a new temporary folder whose name begins with prefix; options: as after -o. Returns when the
        mount answers. Raises RuntimeError with what the daemon said when it does not mount."""
        self._folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.path = self._folder / "mnt"
        self.path.mkdir()
        self._log = self._folder / "log"
        mounting = [sys.executable, "-m", "wqfs.cli", "mount", str(self.path), "-f"]
        mounting += ["-o", options] if options else []
        with open(self._log, "wb") as log:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "wqfs-guard", *mounting],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MOUNTPOINT": str(self.path), "NOTIFY_SOCKET": ""},
            )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        assert self._guard.stdout is not None
        with self._guard.stdout as ready:
            poll = select.poll()
            poll.register(ready, select.POLLIN)
            # The end of the file, without a word, is the daemon's end.
            if not poll.poll(_START * 1000) or not os.read(ready.fileno(), 64):
                raise RuntimeError(f"wqfs cannot be mounted: {self.log.strip() or f'no answer within {_START:g} s'}")

    @property
    def log(self) -> str:
        """What the daemon has logged so far."""
        try:
            return self._log.read_text(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Unmount, end the daemon, remove the folder; again: nothing."""
        with suppress(mounting.MountFailed, subprocess.TimeoutExpired):
            mounting.try_unmount(str(self.path), lazy=True)
        for stream in (self._guard.stdin, self._guard.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            self._guard.wait(_END)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait(_END)
        shutil.rmtree(self._folder, ignore_errors=True)
