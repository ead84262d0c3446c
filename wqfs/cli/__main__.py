"""`python -m wqfs.cli`: the command without its script."""

import sys

from wqfs.cli import main

sys.exit(main())
