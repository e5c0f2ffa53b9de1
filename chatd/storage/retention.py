"""Retention: deletes the messages beyond a number or an age, in bounded steps.

A large deletion would block the event loop. So each step deletes up to DELETE_LIMIT
messages in all rooms together. Other requests run between two steps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice

from chatd.model import format_time
from chatd.storage.sqlite_file import ROOMS

# Limits of one step: messages to delete, and rooms to check for `keep_messages`.
DELETE_LIMIT = 500
ROOM_LIMIT = 5000

# The rooms with messages from before a time.
_ROOMS_WITH_OLDER_MESSAGES = f"""{ROOMS}
SELECT room FROM rooms WHERE ? >
    (SELECT time FROM messages WHERE messages.room = rooms.room ORDER BY id LIMIT 1)
LIMIT ?
"""


class Retention:
    """Retention of one database.

    Args:
        database: Connection to the database.
        rooms: Rooms to check in the first run.
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
        """Delete up to DELETE_LIMIT messages in one transaction.

        Returns:
            True if more messages may remain to be deleted.
        """
        limit = DELETE_LIMIT
        checked: set[str] = set()
        with self._database:
            if self._keep_days is not None:
                limit -= self._delete_by_age(self._keep_days, limit)
            if self._keep_messages is None:
                checked |= self.changed_rooms
            else:
                limit -= self._delete_by_count(self._keep_messages, limit, checked)
        self.changed_rooms -= checked  # after the commit, so that a failed step runs again
        return not limit or bool(self.changed_rooms)

    def _delete_by_age(self, days: float, limit: int) -> int:
        """Delete up to `limit` messages older than `days`; return their number."""
        time = format_time(datetime.now(UTC) - timedelta(days=days))
        oldest = "SELECT id, time FROM messages WHERE room = ? ORDER BY id LIMIT ?"
        # Each of these rooms has a message to delete.
        rooms = self._database.execute(_ROOMS_WITH_OLDER_MESSAGES, (time, limit)).fetchall()
        deleted = 0
        for (room,) in rooms:
            if deleted == limit:
                break
            (last,) = self._database.execute(
                f"SELECT max(id) FROM ({oldest}) WHERE time < ?", (room, limit - deleted, time)
            ).fetchone()
            deleted += self._delete(room, last, limit - deleted)
        return deleted

    def _delete_by_count(self, count: int, limit: int, checked: set[str]) -> int:
        """Delete up to `limit` messages, and keep the newest `count` of each room.

        Args:
            count: Number of messages to keep in each room.
            limit: Maximum number of messages to delete.
            checked: Receives the rooms with no more messages to delete.

        Returns:
            Number of deleted messages.
        """
        deleted = 0
        for room in islice(self.changed_rooms, ROOM_LIMIT):
            if deleted == limit:
                break
            row = self._database.execute(
                "SELECT id FROM messages WHERE room = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
                (room, count),
            ).fetchone()
            if row is not None:
                deleted += self._delete(room, row[0], limit - deleted)
            if deleted < limit:
                checked.add(room)
        return deleted

    def _delete(self, room: str, last: int, limit: int) -> int:
        """Delete up to `limit` messages, the oldest up to the id `last`; return their number."""
        row = self._database.execute(
            "SELECT id FROM messages WHERE room = ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?",
            (room, last, limit - 1),
        ).fetchone()
        end: int = last if row is None else row[0]
        deleted = self._database.execute(
            "DELETE FROM messages WHERE room = ? AND id <= ?", (room, end)
        ).rowcount
        self._database.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", (room, end))
        return deleted
