#!/usr/bin/env python3
"""Mount wqfs: `mount_wqfs.py MOUNTPOINT [-f] [-d] [-o OPTIONS]`; `--help` has the rest."""

import importlib.util
import os
import sys
from pathlib import Path

from wqfs.fs.daemon import main

if __name__ == "__main__":
    # Any python3 will do to call it: what `make setup` made has what it needs.
    python = Path(__file__).resolve().parent / ".venv/bin/python"
    if importlib.util.find_spec("pyfuse3") is None and python.exists() and Path(sys.executable) != python:
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    sys.exit(main())
