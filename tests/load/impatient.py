"""`python -m tests.load.impatient` is chatd that pings more often, to be waited for less."""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from chatd import app
from chatd.__main__ import main
from wsproto_min import Server

PING_INTERVAL = PING_TIMEOUT = 2.0

if __name__ == "__main__":
    hasty = partial(Server, ping_interval=PING_INTERVAL, ping_timeout=PING_TIMEOUT)
    with patch.object(app, "Server", hasty):
        sys.exit(main())
