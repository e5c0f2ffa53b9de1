"""chatd with a shorter ping interval and timeout: `python -m tests.load.short_ping`."""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from chatd import app
from chatd.__main__ import main
from wsproto_min import Server

PING_INTERVAL = PING_TIMEOUT = 2.0

if __name__ == "__main__":
    server = partial(Server, ping_interval=PING_INTERVAL, ping_timeout=PING_TIMEOUT)
    with patch.object(app, "Server", server):
        sys.exit(main())
