"""The embedded engine of the message store: one SQLite file, one transaction per batch.

The database is in write-ahead mode with `synchronous=NORMAL`. A commit survives the end
of the process at any moment. A power failure may lose the last commits, but leaves the
database intact.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from chatd.model import Message, format_time
from chatd.storage.checkpointer import Checkpointer
from chatd.storage.retention import Retention
from chatd.storage.sqlite_file import ROOMS, create_file, lock_file, open_database
from chatd.storage.store import (
    AppendCallback,
    NewMessage,
    Page,
    ReadCallback,
    StoredMessage,
    StoreError,
)

MEMORY = ":memory:"
CHECKPOINT_INTERVAL = 1000  # messages, about 250 KiB of write-ahead log

_SELECT = "SELECT id, time, name, text FROM messages"
_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)"

# The last id of each room, also of rooms that retention has emptied.
_LAST_IDS = f"""{ROOMS}
SELECT room, (SELECT max(id) FROM messages WHERE messages.room = rooms.room) FROM rooms
WHERE room IS NOT NULL
UNION
SELECT room, id FROM trimmed WHERE room NOT IN (SELECT room FROM rooms WHERE room IS NOT NULL)
"""


def default_path() -> Path:
    """Return the default database file.

    A service manager sets `STATE_DIRECTORY` (systemd.exec(5), StateDirectory=). Without it, the
    file is in the XDG state directory. Both specifications require absolute paths, so a relative
    path is ignored.

    Raises:
        StoreError: The user has no home directory, and no variable replaces it.
    """
    own = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # the first of several
    if os.path.isabs(own):
        return Path(own) / "chat.db"
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return Path(state) / "chatd" / "chat.db"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # no HOME, and no entry in the password database
        raise StoreError(
            "message store: this user has no home directory; choose a file with --db, or a"
            " directory with STATE_DIRECTORY"
        )
    return Path(home) / ".local" / "state" / "chatd" / "chat.db"


class SQLiteStore:
    """Message store in an SQLite file. Calls each callback before the method returns.

    Args:
        path: Database file, or ":memory:" for a store that ends with the process.
        keep_messages: Number of messages to keep in each room, None for all.
        keep_days: Delete messages older than this many days; None deletes none by age.

    Raises:
        StoreError: The file cannot be used.
    """

    def __init__(
        self,
        path: str,
        *,
        keep_messages: int | None = None,
        keep_days: float | None = None,
    ) -> None:
        self._path = path
        try:
            with ExitStack() as stack:
                if path != MEMORY:
                    stack.callback(os.close, lock_file(path))
                    create_file(path)
                self._database = open_database(path)
                stack.callback(self._database.close)
                last_ids: dict[str, int] = dict(self._database.execute(_LAST_IDS))
                self._resources = stack.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise _open_error(path, error) from error
        self._last_id = max(last_ids.values(), default=0)
        self._retention = Retention(
            self._database, last_ids, keep_messages=keep_messages, keep_days=keep_days
        )
        self._checkpointer = None if path == MEMORY else Checkpointer(path)
        self._rows_since_checkpoint = 0

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        """Append messages in one transaction."""
        result: Sequence[StoredMessage] | StoreError
        try:
            result = self._append(messages, format_time(datetime.now(UTC)))
        except sqlite3.Error as error:
            result = self._error("append", error)
        callback(result)

    def _append(self, messages: Sequence[NewMessage], time: str) -> list[StoredMessage]:
        rows = [
            (each.room, number, time, each.name, each.text, each.key)
            for number, each in enumerate(messages, self._last_id + 1)
        ]
        try:
            with self._database:
                self._database.executemany(_INSERT, rows)
        except sqlite3.IntegrityError:
            # At least one message repeats a key that its room already has. This is rare, so look
            # up each message.
            with self._database:
                stored = self._append_one_by_one(messages, time)
            self._last_id = max(self._last_id, *(each.message.id for each in stored))
        else:
            self._last_id += len(rows)
            stored = [
                StoredMessage(Message(number, time, name, text), repeated=False)
                for _, number, time, name, text, _ in rows
            ]
        self._retention.changed_rooms.update(each.room for each in messages)
        self._count_written(len(messages))
        return stored

    def _append_one_by_one(self, messages: Sequence[NewMessage], time: str) -> list[StoredMessage]:
        stored = []
        number = self._last_id
        for each in messages:
            row = self._database.execute(
                f"{_SELECT} WHERE room = ? AND key = ?", (each.room, each.key)
            ).fetchone()
            if row is not None:
                stored.append(StoredMessage(Message(*row), repeated=True))
                continue
            number += 1
            self._database.execute(
                _INSERT, (each.room, number, time, each.name, each.text, each.key)
            )
            stored.append(
                StoredMessage(Message(number, time, each.name, each.text), repeated=False)
            )
        return stored

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's messages after an id."""
        # An id above the last one comes from another store, so the client has none of
        # this store's messages.
        is_unknown = after > self._last_id
        if is_unknown:
            after = 0
        result: Page | StoreError
        try:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id > ? ORDER BY id DESC LIMIT ?",
                (room, after, limit + 1),
            ).fetchall()
            removed = self._database.execute(
                "SELECT 1 FROM trimmed WHERE room = ? AND id > ?", (room, after)
            ).fetchone()
            result = _page(rows, limit, gap=is_unknown or removed is not None)
        except sqlite3.Error as error:
            result = self._error("read", error)
        callback(result)

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        """Read a room's newest messages before an id."""
        end = self._last_id + 1 if before is None else before
        result: Page | StoreError
        try:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (room, end, limit + 1),
            ).fetchall()
            result = _page(rows, limit, gap=False)
        except sqlite3.Error as error:
            result = self._error("read", error)
        callback(result)

    def apply_retention(self) -> bool:
        """Delete up to DELETE_LIMIT messages in one transaction."""
        before = self._database.total_changes
        try:
            more = self._retention.apply()
        except sqlite3.Error as error:
            raise self._error("apply retention", error) from error
        self._count_written(self._database.total_changes - before)
        return more

    def close(self) -> None:
        """Close the database; SQLite then copies the write-ahead log into it."""
        if self._checkpointer is not None:
            self._checkpointer.stop()
        self._resources.close()

    def _count_written(self, rows: int) -> None:
        """Request a checkpoint after every CHECKPOINT_INTERVAL rows."""
        self._rows_since_checkpoint += rows
        if self._checkpointer is not None and self._rows_since_checkpoint >= CHECKPOINT_INTERVAL:
            self._rows_since_checkpoint = 0
            self._checkpointer.request()

    def _error(self, action: str, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"message store {self._path}: cannot {action}: {error};"
            " check the free disk space and run `chatd check`"
        )


def _open_error(path: str, error: sqlite3.Error | OSError) -> StoreError:
    """Return the error for a file that cannot be opened."""
    reason = getattr(error, "strerror", None) or error
    # SQLite reports every failed system call as "unable to open database file".
    if isinstance(error, OSError) or "unable to open" in str(error):
        advice = "create its directory and make it writable"
    else:
        advice = "run `chatd check`, restore a backup"
    return StoreError(
        f"message store {path}: cannot open: {reason}; {advice}, or choose another file with --db"
    )


def _page(rows: list[tuple[int, str, str, str]], limit: int, *, gap: bool) -> Page:
    """Return up to `limit` rows as a page; `rows` has up to `limit` + 1, the newest first."""
    messages = [Message(*row) for row in reversed(rows[:limit])]
    return Page(messages, more=len(rows) > limit, gap=gap)
