"""Message ids: they increase across all rooms and never repeat, also not after a backup."""

from __future__ import annotations

import secrets
import sqlite3
import time

# Ids that one update of the database reserves.
RESERVED_IDS = 1000
# Ids that a start may skip if the clock is behind the ids, about 17 minutes.
SKIPPED_IDS = 1 << 20


class IdAllocator:
    """The ids of one database. `last` is the last id that a message has.

    A backup does not know which ids the lost version has assigned later. So the first id
    is the time in milliseconds. If the clock is behind the ids, a random number of ids
    remains unused. Therefore a message with an id of the lost version does not exist,
    and `read_after` recognizes this id.

    Args:
        database: Connection in autocommit mode.

    Raises:
        sqlite3.Error: The ids cannot be reserved.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        (reserved,) = database.execute("SELECT reserved FROM ids").fetchone()
        self.last = first_id()
        if self.last < reserved:
            self.last = reserved + secrets.randbelow(SKIPPED_IDS)
        self._reserved = -1
        self.reserve(self.last)

    def reserve(self, number: int) -> None:
        """Reserve the ids up to `number` and more, in a transaction of its own."""
        if number > self._reserved:
            reserved = number + RESERVED_IDS
            self._database.execute("UPDATE ids SET reserved = ?", (reserved,))
            self._reserved = reserved


def first_id() -> int:
    """Return the time in milliseconds, which is above the ids of an earlier store."""
    return time.time_ns() // 1_000_000
