"""chatd with a shorter interval for rechecks: `python -m tests.chatd.short_recheck`."""

from __future__ import annotations

import sys

from chatd import app
from chatd.__main__ import main

if __name__ == "__main__":
    app.RECHECK_INTERVAL = 0.05
    sys.exit(main())
