"""The message writer: stores a batch in one transaction, each sender's key once.

Most batches have only new messages, and one statement stores them all. Changes of messages,
replies and repeated keys need the stored entries, so such a batch is stored one by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from time import gmtime, strftime, time_ns

from chatd.model import Kind, Message, direct_authors
from chatd.storage.changes import apply_change
from chatd.storage.database import Database
from chatd.storage.ids import IdAllocator
from chatd.storage.rows import SELECT_WITH_EDITS, to_message
from chatd.storage.store import Appended, NewMessage, StoredMessage

# Characters of a key that is certainly random: two senders never choose the same one.
RANDOM_KEY = 16

_COLUMNS = "(room, id, time, name, text, key, author, kind, ref)"
_INSERT = f"INSERT INTO messages {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Fails with NOT NULL if the room has or had the key under any name. The condition is not in a
# WHERE clause, because SQLite would then copy each row to a temporary table.
_INSERT_NEW_KEY = f"""
INSERT INTO messages {_COLUMNS} VALUES (
    CASE WHEN EXISTS (SELECT 1 FROM messages WHERE room = ?1 AND key = ?6)
        OR EXISTS (SELECT 1 FROM removed_keys WHERE room = ?1 AND key = ?6)
    THEN NULL ELSE ?1 END,
    ?2, ?3, ?4, ?5, ?6, ?7, 0, NULL
)
"""


_Row = tuple[str, int, str, str, str, str | None, str]
"""Room, id, time, name, text, key, author."""


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

    def append(self, messages: Sequence[NewMessage]) -> list[Appended]:
        """Store entries, all or none; an invalid change is refused alone.

        Raises:
            sqlite3.Error: The database failed; it has none of the messages.
        """
        first = self._ids.last + 1
        last = self._ids.last + len(messages)
        self._ids.reserve(last)
        now = self._format_now()
        rows: list[_Row] = []
        is_plain = True
        for number, (room, name, text, key, author, kind, ref, _) in enumerate(messages, first):
            rows.append((room, number, now, name, text, key, author))
            if kind or ref is not None or room[0] == "@":
                is_plain = False
        stored: list[Appended]
        try:
            if is_plain:
                self._insert(rows)
                stored = [
                    StoredMessage(Message(number, now, name, text, author), False)
                    for _, number, _, name, text, _, author in rows
                ]
            else:
                stored = self._append_one_by_one(messages, rows)
        except sqlite3.IntegrityError:
            # At least one message repeats a key. This is rare, so look up each message.
            stored = self._append_one_by_one(messages, rows)
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
    ) -> list[Appended]:
        """Store entries, except repetitions of stored, removed or earlier ones."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            return [
                append_one(self._database, new, number, now)
                for new, (_, number, now, *_) in zip(messages, rows, strict=True)
            ]

    def _format_now(self) -> str:
        """Return the present as `model.format_time` does; formats each second once."""
        second, nanoseconds = divmod(time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = strftime("%Y-%m-%dT%H:%M:%S.", gmtime(second))
        return f"{self._prefix}{nanoseconds // 1_000_000:03d}Z"


def append_one(database: Database, new: NewMessage, number: int, now: str) -> Appended:
    """Store an entry, unless it repeats a stored or removed one.

    Args:
        database: Connection with a transaction for writing.
        new: The entry.
        number: Its id.
        now: Its time.
    """
    earlier = None if new.key is None else _find_key(database, new)
    if earlier is not None:
        return StoredMessage(earlier, True)
    room, name, text, key, author, kind, ref, _ = new
    if kind is not Kind.MESSAGE or ref is not None:
        refused = apply_change(database, new, number)
        if refused is not None:
            return refused
    # The message has the text of an edit, so that an entry never keeps a deleted text.
    kept = "" if kind is Kind.EDIT else text
    database.execute(_INSERT, (room, number, now, name, kept, key, author, int(kind), ref))
    for each in direct_authors(room) or ():
        database.execute(
            "INSERT INTO direct_rooms VALUES (?, ?) ON CONFLICT DO NOTHING", (each, room)
        )
    return StoredMessage(Message(number, now, name, text, author, kind, ref), False)


def _find_key(database: Database, new: NewMessage) -> Message | None:
    """Return the entry that the sender has stored with this key, also a removed one.

    A sender may have lost its session with its connection. So an entry with the same text
    and the same name is a repetition, and with a random key under any name. Entries of an
    earlier version have no author, so their name decides.
    """
    rows = database.execute(
        f"{SELECT_WITH_EDITS} WHERE room = ? AND key = ? ORDER BY author = ? DESC",
        (new.room, new.key, new.author),
    ).fetchall()
    is_random = len(new.key or "") >= RANDOM_KEY
    for row in rows:
        message = to_message(row)
        if message.author and message.author == new.author:
            return message
        has_name = message.name == new.name
        if has_name and not message.author:
            return message
        if (has_name or is_random) and message.text == new.text:
            return message
    found = database.execute(
        "SELECT id, time FROM removed_keys WHERE room = ? AND key = ?"
        " AND ((author = ? AND author <> '') OR (author = '' AND name = ?))",
        (new.room, new.key, new.author, new.name),
    ).fetchone()
    if found is None:
        return None
    return Message(found[0], found[1], new.name, new.text, new.author, new.kind, new.ref)
