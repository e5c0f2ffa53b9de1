"""Retention: deletes the messages beyond a number or an age, in bounded steps.

A large deletion would block the event loop, so each step deletes up to DELETE_LIMIT
messages per room. Other requests run between two steps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from chatd.model import format_time
from chatd.storage.sqlite_file import ROOMS

DELETE_LIMIT = 500  # messages

# The rooms with messages from before a time.
_ROOMS_WITH_OLDER_MESSAGES = f"""{ROOMS}
SELECT room FROM rooms WHERE ? >
    (SELECT time FROM messages WHERE messages.room = rooms.room ORDER BY id LIMIT 1)
"""


class Retention:
    """Retention of one database.

    Args:
        database: Connection to the database.
        rooms: Rooms that have messages.
        keep_messages: Number of messages to keep in each room, None for all.
        keep_days: Age in days up to which to keep messages, None for any.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        rooms: Iterable[str],
        *,
        keep_messages: int | None,
        keep_days: float | None,
    ) -> None:
        self._database = database
        self._keep_messages = keep_messages
        self._keep_days = keep_days
        # Rooms that may exceed `keep_messages`. The store adds each room that it appends to.
        self.changed_rooms = set(rooms)

    def apply(self) -> bool:
        """Delete messages in one transaction.

        Returns:
            True if more messages remain to be deleted.
        """
        rooms, self.changed_rooms = self.changed_rooms, set()
        unfinished: set[str] = set()
        try:
            with self._database:
                if self._keep_days is not None:
                    unfinished |= self._delete_by_age(self._keep_days)
                if self._keep_messages is not None:
                    unfinished |= self._delete_by_count(rooms, self._keep_messages)
        except sqlite3.Error:
            self.changed_rooms |= rooms
            raise
        self.changed_rooms |= unfinished
        return bool(unfinished)

    def _delete_by_age(self, days: float) -> set[str]:
        """Delete messages older than `days`; return the rooms that still have some."""
        limit = format_time(datetime.now(UTC) - timedelta(days=days))
        oldest = "SELECT id, time FROM messages WHERE room = ? ORDER BY id LIMIT ?"
        unfinished = set()
        rooms = self._database.execute(_ROOMS_WITH_OLDER_MESSAGES, (limit,)).fetchall()
        for (room,) in rooms:
            (last,) = self._database.execute(
                f"SELECT max(id) FROM ({oldest}) WHERE time < ?", (room, DELETE_LIMIT + 1, limit)
            ).fetchone()
            if self._delete(room, last):
                unfinished.add(room)
        return unfinished

    def _delete_by_count(self, rooms: set[str], count: int) -> set[str]:
        """Delete all but the newest `count` messages; return the rooms that still have more."""
        unfinished = set()
        for room in rooms:
            row = self._database.execute(
                "SELECT id FROM messages WHERE room = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
                (room, count),
            ).fetchone()
            if row is not None and self._delete(room, row[0]):
                unfinished.add(room)
        return unfinished

    def _delete(self, room: str, last: int) -> bool:
        """Delete the oldest messages up to the id `last`; return True if some are left."""
        row = self._database.execute(
            "SELECT id FROM messages WHERE room = ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?",
            (room, last, DELETE_LIMIT - 1),
        ).fetchone()
        end: int = last if row is None else row[0]
        self._database.execute("DELETE FROM messages WHERE room = ? AND id <= ?", (room, end))
        self._database.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", (room, end))
        return end < last
