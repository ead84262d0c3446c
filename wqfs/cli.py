"""The command `wqfs`.

mount.fuse3(8), for `mount -t fuse.wqfs SOURCE DIR`, runs it as `wqfs SOURCE DIR -o ...`; the same
as `wqfs mount [SOURCE] DIR ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wqfs.fs import daemon


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, without the program's name (sys.argv's by default); returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["mount"]:
        del words[0]
    return daemon.main(words, program="wqfs")


if __name__ == "__main__":
    sys.exit(main())
