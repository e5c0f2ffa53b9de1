"""The message writer: stores a batch in one transaction, each sender's key once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from time import gmtime, strftime, time_ns

from chatd.model import Message
from chatd.storage.ids import IdAllocator
from chatd.storage.store import NewMessage, StoredMessage

# Characters of a key that is certainly random: two senders never choose the same one.
RANDOM_KEY = 16

_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)"
# Fails with NOT NULL if the room has or had the key under any name. The condition is not in a
# WHERE clause, because SQLite would then copy each row to a temporary table.
_INSERT_NEW_KEY = """
INSERT INTO messages VALUES (
    CASE WHEN EXISTS (SELECT 1 FROM messages WHERE room = ?1 AND key = ?6)
        OR EXISTS (SELECT 1 FROM removed_keys WHERE room = ?1 AND key = ?6)
    THEN NULL ELSE ?1 END,
    ?2, ?3, ?4, ?5, ?6
)
"""


_Row = tuple[str, int, str, str, str, str | None]
"""Room, id, time, name, text, key."""


class MessageWriter:
    """Writer of the messages of one database.

    Args:
        database: Connection in autocommit mode.
        ids: Ids of the database.
    """

    def __init__(self, database: sqlite3.Connection, ids: IdAllocator) -> None:
        self._database = database
        self._ids = ids
        self._second, self._prefix = -1, ""

    def append(self, messages: Sequence[NewMessage]) -> list[StoredMessage]:
        """Store messages, all or none.

        Raises:
            sqlite3.Error: The database failed; it has none of the messages.
        """
        first = self._ids.last + 1
        last = self._ids.last + len(messages)
        self._ids.reserve(last)
        now = self._format_now()
        rows = [
            (room, number, now, name, text, key)
            for number, (room, name, text, key) in enumerate(messages, first)
        ]
        try:
            self._insert(rows)
        except sqlite3.IntegrityError:
            # At least one message repeats a key. This is rare, so look up each message.
            stored = self._append_one_by_one(messages, rows)
        else:
            stored = [
                StoredMessage(Message(number, now, name, text), False)
                for _, number, _, name, text, _ in rows
            ]
        self._ids.last = last
        return stored

    def _insert(self, rows: Sequence[_Row]) -> None:
        if len(rows) == 1:
            self._database.execute(_INSERT_NEW_KEY, rows[0])  # a transaction of its own
            return
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_INSERT_NEW_KEY, rows)

    def _append_one_by_one(
        self, messages: Sequence[NewMessage], rows: Sequence[_Row]
    ) -> list[StoredMessage]:
        """Store messages, except repetitions of stored, removed or earlier ones."""
        stored = []
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for new, row in zip(messages, rows, strict=True):
                message = None if new.key is None else self._find_key(new)
                repeated = message is not None
                if message is None:
                    self._database.execute(_INSERT, row)
                    _, number, now, name, text, _ = row
                    message = Message(number, now, name, text)
                stored.append(StoredMessage(message, repeated))
        return stored

    def _find_key(self, new: NewMessage) -> Message | None:
        """Return the message that the sender has stored with this key, also a removed one.

        A sender may have lost its name with its connection. So a message with the same text
        and the same random key is a repetition under any name.
        """
        rows = self._database.execute(
            "SELECT id, time, name, text FROM messages WHERE room = ? AND key = ?"
            " ORDER BY name = ? DESC",
            (new.room, new.key, new.name),
        )
        for row in rows:
            message = Message(*row)
            is_random = len(new.key or "") >= RANDOM_KEY
            if message.name == new.name or (is_random and message.text == new.text):
                return message
        row = self._database.execute(
            "SELECT id, time FROM removed_keys WHERE room = ? AND key = ? AND name = ?",
            (new.room, new.key, new.name),
        ).fetchone()
        return None if row is None else Message(row[0], row[1], new.name, new.text)

    def _format_now(self) -> str:
        """Return the present as `model.format_time` does; formats each second once."""
        second, nanoseconds = divmod(time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = strftime("%Y-%m-%dT%H:%M:%S.", gmtime(second))
        return f"{self._prefix}{nanoseconds // 1_000_000:03d}Z"
