"""chatd with a shorter reservation of names: `python -m tests.chatd.short_reservation`."""

from __future__ import annotations

import sys
from unittest.mock import patch

from chatd import registry, rooms
from chatd.__main__ import main

if __name__ == "__main__":
    with patch.object(registry, "RESERVED_FOR", 1.0), patch.object(rooms, "RESERVED_FOR", 1.0):
        sys.exit(main())
