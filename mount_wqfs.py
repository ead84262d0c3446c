#!/usr/bin/env python3
"""Mount wqfs: `mount_wqfs.py MOUNTPOINT [-f] [-d] [-o OPTIONS]`; `--help` has the rest."""

import sys

from wqfs.fs.daemon import main

if __name__ == "__main__":
    sys.exit(main())
