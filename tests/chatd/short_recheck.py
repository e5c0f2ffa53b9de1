"""chatd with a shorter interval for rechecks: `python -m tests.chatd.short_recheck`."""

from __future__ import annotations

import sys

from chatd import recheck
from chatd.__main__ import main

if __name__ == "__main__":
    recheck.RECHECK_INTERVAL = 0.05
    sys.exit(main())
