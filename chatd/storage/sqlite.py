"""The embedded engine of the log: an SQLite file, one transaction for all messages of a turn.

The file is in write-ahead mode. With `synchronous=NORMAL` a commit survives the
end of the process at any moment; a power failure may take the last moments with
it, never the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from chatd.protocol import Message
from chatd.storage.store import NewMessage, Page, StoredMessage, StoreError

MEMORY = ":memory:"
SCHEMA_VERSION = 1
CHECKPOINT_AFTER = 1000  # messages, about a quarter of a megabyte
# Messages of a room that are removed at once, which takes 1 ms: the chat waits for it.
TRIM_AT_ONCE = 500

logger = logging.getLogger("chatd")

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE messages (
    room TEXT NOT NULL,
    id INTEGER NOT NULL, -- increasing over all rooms together, never used again
    time TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    key TEXT, -- the sender's own id, shown to nobody else
    PRIMARY KEY (room, id)
) STRICT, WITHOUT ROWID; -- so that storing a message changes one page, two with a key
CREATE UNIQUE INDEX messages_by_key ON messages (room, key) WHERE key IS NOT NULL;
CREATE TABLE trimmed (
    room TEXT PRIMARY KEY,
    id INTEGER NOT NULL -- the last one that retention removed
) STRICT, WITHOUT ROWID;
"""

_SELECT = "SELECT id, time, name, text FROM messages"

# The rooms, from one to the next: a scan of all messages would take longer with every
# one of them.
_ROOMS = """
WITH RECURSIVE rooms (room) AS (
    SELECT min(room) FROM messages
    UNION ALL
    SELECT (SELECT min(room) FROM messages WHERE room > rooms.room) FROM rooms
    WHERE room IS NOT NULL
)
"""
# The last id that each has used.
_LAST_IDS = f"""{_ROOMS}
SELECT room, (SELECT max(id) FROM messages WHERE messages.room = rooms.room) FROM rooms
WHERE room IS NOT NULL
UNION
SELECT room, id FROM trimmed WHERE room NOT IN (SELECT room FROM rooms WHERE room IS NOT NULL)
"""


# Those whose first message is older than a time.
_OLD = f"""{_ROOMS}
SELECT room FROM rooms WHERE ? >
    (SELECT time FROM messages WHERE messages.room = rooms.room ORDER BY id LIMIT 1)
"""


def default_path() -> Path:
    """Return the file used unless told otherwise, by the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "chatd" / "chat.db"


class SQLiteStore:
    """A log in an SQLite file, or in memory for `:memory:`.

    `keep_messages` is how many to keep in each room and `keep_days` for how
    long, None for ever. Raises `StoreError` if the file cannot be used.
    """

    def __init__(
        self,
        path: str,
        *,
        keep_messages: int | None = None,
        keep_days: float | None = None,
    ) -> None:
        self._keep_messages = keep_messages
        self._keep_days = keep_days
        self._path = path
        self._lock: int | None = None
        try:
            if path != MEMORY:
                self._lock = _lock(path)
            self._database = _open(path)
            last = dict(self._database.execute(_LAST_IDS))
        except StoreError:
            self._unlock()
            raise
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            reason = getattr(error, "strerror", None) or error
            # SQLite's word for whatever the system has refused.
            if isinstance(error, OSError) or "unable to open" in str(error):
                advice = "its directory must exist and be writable"
            else:
                advice = "see what `chatd check` says of it, or put a backup in its place"
            raise StoreError(
                f"the log {path} cannot be used: {reason}; {advice}; or choose another with --db"
            ) from error
        self._grown = set(last)  # rooms that have had messages since the last trim
        self._last_id = max(last.values(), default=0)
        self._since_checkpoint = 0
        self._removed = 0  # in a transaction that is not committed yet
        self._checkpointer = None if path == MEMORY else _Checkpointer(path)

    def append(
        self,
        entries: Sequence[NewMessage],
        done: Callable[[Sequence[StoredMessage] | StoreError], None],
    ) -> None:
        """Store entries in one transaction."""
        time = _timestamp(datetime.now(UTC))
        done(self._attempt(lambda: self._append(entries, time)))

    def _append(self, entries: Sequence[NewMessage], time: str) -> list[StoredMessage]:
        first = self._last_id + 1
        rows = [
            (each.room, number, time, each.name, each.text, each.key)
            for number, each in enumerate(entries, first)
        ]
        try:
            with self._database:
                self._database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError:
            # Some key is there already, which is rare: go through them one by one.
            with self._database:
                stored = self._append_one_by_one(entries, time)
            self._last_id = max(first - 1, *(each.message.id for each in stored))
        else:
            self._last_id += len(rows)
            stored = [
                StoredMessage(Message(number, time, name, text), repeated=False)
                for _, number, time, name, text, _ in rows
            ]
        self._grown.update(each.room for each in entries)
        self._note_written(len(entries))
        return stored

    def _note_written(self, number: int) -> None:
        """Have the file checkpointed after so many messages more."""
        self._since_checkpoint += number
        if self._checkpointer is not None and self._since_checkpoint >= CHECKPOINT_AFTER:
            self._since_checkpoint = 0
            self._checkpointer.wanted.set()

    def _append_one_by_one(self, entries: Sequence[NewMessage], time: str) -> list[StoredMessage]:
        stored = []
        number = self._last_id
        for each in entries:
            row = self._database.execute(
                f"{_SELECT} WHERE room = ? AND key = ?", (each.room, each.key)
            ).fetchone()
            if row is not None:
                stored.append(StoredMessage(Message(*row), repeated=True))
                continue
            number += 1
            self._database.execute(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)",
                (each.room, number, time, each.name, each.text, each.key),
            )
            stored.append(
                StoredMessage(Message(number, time, each.name, each.text), repeated=False)
            )
        return stored

    def read_after(
        self, room: str, seen: int, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        """Read a room's messages after an id."""
        # An id that was never given is another log's, in which much else was said.
        is_foreign = seen > self._last_id
        if is_foreign:
            seen = 0

        def read() -> Page:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id > ? ORDER BY id DESC LIMIT ?",
                (room, seen, limit + 1),
            ).fetchall()
            trimmed = self._database.execute(
                "SELECT 1 FROM trimmed WHERE room = ? AND id > ?", (room, seen)
            ).fetchone()
            return _slice(rows, limit, gap=is_foreign or trimmed is not None)

        done(self._attempt(read))

    def read_before(
        self, room: str, end: int | None, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        """Read a room's newest messages before an id."""

        def read() -> Page:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (room, self._last_id + 1 if end is None else end, limit + 1),
            ).fetchall()
            return _slice(rows, limit, gap=False)

        done(self._attempt(read))

    def _attempt(self, action: Callable[[], T]) -> T | StoreError:
        """Return what an action on the file returns, or what has gone wrong there."""
        try:
            return action()
        except sqlite3.Error as error:
            return StoreError(f"the log failed: {error} ({self._path})")

    def apply_retention(self) -> bool:
        """Remove some of what is over its number, in the rooms that have grown, or its days.

        Returns whether there is more to remove.
        """
        rooms, self._grown = self._grown, set()
        left: set[str] = set()
        try:
            with self._database:
                if self._keep_days is not None:
                    left |= self._trim_by_days(self._keep_days)
                if self._keep_messages is not None:
                    left |= self._trim_by_number(rooms, self._keep_messages)
        except sqlite3.Error as error:
            self._grown |= rooms
            raise StoreError(f"the log cannot be trimmed: {error}") from error
        self._grown |= left
        self._note_written(self._removed)
        self._removed = 0
        return bool(left)

    def _trim_by_days(self, days: float) -> set[str]:
        """Remove what is older; return the rooms in which more is."""
        oldest = _timestamp(datetime.now(UTC) - timedelta(days=days))
        first = "SELECT id, time FROM messages WHERE room = ? ORDER BY id LIMIT ?"
        left = set()
        for (room,) in self._database.execute(_OLD, (oldest,)).fetchall():
            (last,) = self._database.execute(
                f"SELECT max(id) FROM ({first}) WHERE time < ?", (room, TRIM_AT_ONCE + 1, oldest)
            ).fetchone()
            if self._remove(room, last):
                left.add(room)
        return left

    def _trim_by_number(self, rooms: set[str], number: int) -> set[str]:
        """Remove what is over a number in some rooms; return those in which more is."""
        left = set()
        for room in rooms:
            row = self._database.execute(
                "SELECT id FROM messages WHERE room = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
                (room, number),
            ).fetchone()
            if row is not None and self._remove(room, row[0]):
                left.add(room)
        return left

    def _remove(self, room: str, last: int) -> bool:
        """Remove a room's messages up to an id, or the first; return whether some are left."""
        row = self._database.execute(
            "SELECT id FROM messages WHERE room = ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?",
            (room, last, TRIM_AT_ONCE - 1),
        ).fetchone()
        end = last if row is None else row[0]
        removed = self._database.execute(
            "DELETE FROM messages WHERE room = ? AND id <= ?", (room, end)
        )
        self._database.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", (room, end))
        self._removed += removed.rowcount
        return end < last

    def close(self) -> None:
        """Close the file; SQLite moves the write-ahead log into it."""
        if self._checkpointer is not None:
            self._checkpointer.stop()
        self._database.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Checkpointer:
    """Moves the write-ahead log into the file, in a thread of its own.

    It waits for the disk, several milliseconds each time: measured in the
    server's loop, that was the longest wait of all.
    """

    def __init__(self, path: str) -> None:
        self.wanted = threading.Event()
        self._path = path
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after what it is at."""
        self._stopping = True
        self.wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.wanted.wait()
            self.wanted.clear()
            if self._stopping:  # looked at after the clearing, which may undo that of `stop`
                return
            try:
                with closing(sqlite3.connect(self._path)) as database:
                    database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                logger.warning("the log could not be checkpointed, but later may be: %s", error)


def _lock(path: str) -> int:
    """Return a descriptor that holds the file for this process alone.

    A file beside it is locked: SQLite's own locks are for the moments of access,
    and a backup or an export must be able to read while the chat runs.
    """
    # Under a link's name, too, it is the same file.
    name = f"{os.path.realpath(path)}.lock"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"the log {path} is in use by another chatd; stop that or choose another with --db"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: str) -> sqlite3.Connection:
    """Open the file, making it if it is new, and see that it can be written."""
    if path != MEMORY:  # left to itself, SQLite would let everybody read a new one
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=5.0)
    try:
        # First of all: nothing may be changed in what is another program's.
        is_new = not has_log(database, path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")  # see _Checkpointer
        if is_new:
            database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        database.executescript("BEGIN IMMEDIATE; UPDATE trimmed SET id = id; COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.close()
        raise
    return database


def has_log(database: sqlite3.Connection, path: str) -> bool:
    """Return whether a database has a log, False if it is empty. Raises `StoreError` for others."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    if tables and not {"messages", "trimmed"} <= tables:
        raise StoreError(f"{path} is a database of something else; choose another with --db")
    if version != (SCHEMA_VERSION if tables else 0):
        raise StoreError(f"the log {path} is of version {version}, not {SCHEMA_VERSION}")
    return bool(tables)


def _slice(rows: list[tuple[int, str, str, str]], limit: int, *, gap: bool) -> Page:
    """Return rows, which are the newest first and may be one too many, as a slice."""
    more = len(rows) > limit
    messages = [Message(*row) for row in reversed(rows[:limit])]
    return Page(messages, more=more, gap=gap)


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
