"""Retention: deletes the messages beyond a number or an age, in bounded steps.

A run visits the rooms one by one. It works in small units, each about a millisecond
long. A step ends after STEP_SECONDS or DELETE_LIMIT deletions, because a longer one
would block the event loop. Other requests run between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from chatd.model import format_time
from chatd.storage.database import Database
from chatd.storage.store import NewMessage

# Limits of one step: messages to delete, and seconds after which no further unit begins.
DELETE_LIMIT = 500
STEP_SECONDS = 0.004
# Limits of one unit: messages to delete, messages to count, and rooms to visit.
DELETE_UNIT = 25
COUNT_UNIT = 2000
ROOM_UNIT = 200
# Rooms in order, each with the time of its first message. Steps from room to room in the
# index, because a scan would read every message.
_ROOMS = """
WITH RECURSIVE rooms (room) AS (
    SELECT min(room) FROM messages WHERE room > ?
    UNION ALL
    SELECT (SELECT min(room) FROM messages WHERE room > rooms.room) FROM rooms
    WHERE room IS NOT NULL
)
SELECT room, (SELECT time FROM messages WHERE messages.room = rooms.room ORDER BY id LIMIT 1)
FROM rooms WHERE room IS NOT NULL LIMIT ?
"""
# Seconds for which the store remembers the keys of removed messages.
KEY_MEMORY = 24 * 3600.0


class Retention:
    """Retention of one database.

    Args:
        database: Connection to the database.
        keep_messages: Number of messages to keep in each room, None for all.
        keep_days: Age in days up to which to keep messages, None for any.

    Attributes:
        has_deleted: True if the last step has deleted messages.
    """

    def __init__(
        self,
        database: Database,
        *,
        keep_messages: int | None,
        keep_days: float | None,
    ) -> None:
        self._database = database
        self._keep_messages = keep_messages
        self._keep_days = keep_days
        # Rooms that may exceed `keep_messages`. The store adds each room that it appends
        # to. None stands for all rooms, in the first run and after a failure.
        self._changed_rooms: set[str] | None = None
        self._run: Iterator[None] | None = None  # the run in progress
        self._remaining = 0  # deletions that the present step may still make
        self.has_deleted = False

    def add_rooms_of(self, messages: Sequence[NewMessage]) -> None:
        """Include the rooms of new messages in the next run."""
        if self._changed_rooms is not None and self._keep_messages is not None:
            self._changed_rooms.update([each.room for each in messages])

    def apply(self) -> bool:
        """Execute one step in one transaction.

        Returns:
            True if the run has more steps.
        """
        end = time.perf_counter() + STEP_SECONDS
        self._remaining = DELETE_LIMIT
        self.has_deleted = False
        if self._run is None:
            rooms, self._changed_rooms = self._changed_rooms, set()
            self._run = self._visit(rooms)
        try:
            with self._database:
                self._database.execute("BEGIN")
                for _ in self._run:
                    if not self._remaining or time.perf_counter() >= end:
                        return True
        except BaseException:
            self._run, self._changed_rooms = None, None
            raise
        self._run = None
        return False

    def _visit(self, rooms: set[str] | None) -> Iterator[None]:
        """Iterate over the units of a run."""
        yield from self._forget_keys()
        if self._keep_days is None and self._keep_messages is None:
            return
        if rooms is not None and self._keep_days is None:
            for room in rooms:
                yield
                yield from self._delete_by_count(room)
            return
        last = ""
        while True:
            unit = self._database.execute(_ROOMS, (last, ROOM_UNIT)).fetchall()
            yield
            if not unit:
                return
            oldest, present = self._valid_times()
            for last, first in unit:
                if not oldest <= first <= present:
                    yield
                    yield from self._delete_by_age(last, oldest, present)
                if rooms is None or last in rooms:
                    yield
                    yield from self._delete_by_count(last)

    def _valid_times(self) -> tuple[str, str]:
        """Return the oldest time to keep, and the present."""
        now = datetime.now(UTC)
        if self._keep_days is None:
            return "", "~"  # above all times
        return format_time(now - timedelta(days=self._keep_days)), format_time(now)

    def _delete_by_age(self, room: str, oldest: str, present: str) -> Iterator[None]:
        """Delete the oldest messages of a room from before the time `oldest`.

        The clock may have been wrong for some messages. The deletion stops at the first
        message with a valid time. A message from the future is deleted only with an old
        message after it.
        """
        last, seen, limit = 0, 0, 1
        while True:
            rows = self._database.execute(
                "SELECT id, time FROM messages WHERE room = ? AND id > ? ORDER BY id LIMIT ?",
                (room, seen, limit),
            ).fetchall()
            for seen, stored in rows:
                if oldest <= stored <= present:
                    break
                if stored < oldest:
                    last = seen
            else:
                if len(rows) == limit:
                    limit = COUNT_UNIT // 10
                    yield
                    continue
            break
        yield from self._delete(room, last)

    def _delete_by_count(self, room: str) -> Iterator[None]:
        """Delete the messages of a room except the newest `keep_messages`."""
        count = self._keep_messages
        if count is None:
            return
        end = 1 << 62
        while True:
            step = min(count, COUNT_UNIT)
            # `step` messages before `end`, and the one before them.
            row = self._database.execute(
                "SELECT id FROM messages WHERE room = ? AND id < ? ORDER BY id DESC"
                " LIMIT 1 OFFSET ?",
                (room, end, step),
            ).fetchone()
            if row is None:
                return
            count -= step
            if not count:
                break
            end = row[0] + 1
            yield
        yield from self._delete(room, row[0])

    def _delete(self, room: str, last: int) -> Iterator[None]:
        """Delete the messages of a room up to the id `last`; some deletions must be left."""
        while last:
            limit = min(DELETE_UNIT, self._remaining)
            row = self._database.execute(
                "SELECT id FROM messages WHERE room = ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?",
                (room, last, limit - 1),
            ).fetchone()
            end: int = last if row is None else row[0]
            self._database.execute(
                "INSERT INTO removed_keys (removed, room, name, key, id, time, author)"
                " SELECT ?, room, name, key, id, time, author FROM messages"
                " WHERE room = ? AND id <= ? AND key IS NOT NULL",
                (format_time(datetime.now(UTC)), room, end),
            )
            self._remaining -= self._database.execute(
                "DELETE FROM messages WHERE room = ? AND id <= ?", (room, end)
            ).rowcount
            self._database.execute(
                "INSERT INTO trimmed VALUES (?, ?)"
                " ON CONFLICT (room) DO UPDATE SET id = excluded.id",
                (room, end),
            )
            self.has_deleted = True
            if end == last:
                return
            yield

    def _forget_keys(self) -> Iterator[None]:
        """Delete the keys of messages removed over KEY_MEMORY seconds ago."""
        now = datetime.now(UTC)
        oldest, present = format_time(now - timedelta(seconds=KEY_MEMORY)), format_time(now)
        while True:
            row = self._database.execute(
                "SELECT max(number) FROM (SELECT number, removed FROM removed_keys"
                " ORDER BY number LIMIT ?) AS oldest WHERE removed NOT BETWEEN ? AND ?",
                (DELETE_UNIT, oldest, present),
            ).fetchone()
            if row[0] is None:
                return
            self._database.execute("DELETE FROM removed_keys WHERE number <= ?", row)
            yield
