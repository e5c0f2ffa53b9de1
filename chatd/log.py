"""The message log, which decides: what it has not stored is not delivered.

`Log` is what the chat asks of an engine. Every answer goes to a callback,
called in the server's loop at once or later, so that a distributed engine fits
as well as the embedded one: `SQLiteLog`, a file in write-ahead mode with one
transaction for all the messages of a turn.

With `synchronous=NORMAL` a commit survives the end of the process at any
moment; a power failure may take the last moments with it, never the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from chatd.wire import Message

MEMORY = ":memory:"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- in all rooms together; never used again
    room TEXT NOT NULL,
    time TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    key TEXT -- the sender's own id, shown to nobody else
) STRICT;
CREATE INDEX messages_by_room ON messages (room, id);
CREATE UNIQUE INDEX messages_by_key ON messages (room, key) WHERE key IS NOT NULL;
CREATE TABLE trimmed (
    room TEXT PRIMARY KEY,
    id INTEGER NOT NULL -- the last one that retention removed
) STRICT, WITHOUT ROWID;
"""

_SELECT = "SELECT id, time, name, text FROM messages"


class LogError(Exception):
    """The log cannot be opened, or could not store or find what it was asked to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message to be stored."""

    room: str
    name: str
    text: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that is in the log; `repeated` if it was before, by its key."""

    message: Message
    repeated: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """Messages in ascending order; `more` if there are older ones beyond the limit.

    `gap` says that retention has removed some that were asked for.
    """

    messages: Sequence[Message]
    more: bool
    gap: bool


class Log(Protocol):
    """An engine that keeps the messages of all rooms in order."""

    def append(
        self,
        entries: Sequence[Entry],
        done: Callable[[Sequence[Stored] | LogError], None],
    ) -> None:
        """Store entries in this order, all or none; give `done` what became of each."""

    def after(
        self, room: str, seen: int, limit: int, done: Callable[[Slice | LogError], None]
    ) -> None:
        """Give `done` a room's messages after the id `seen`, the newest if over the limit."""

    def before(
        self, room: str, end: int | None, limit: int, done: Callable[[Slice | LogError], None]
    ) -> None:
        """Give `done` the newest messages before the id `end`, or of all if it is None."""

    def trim(self) -> None:
        """Remove what retention no longer keeps. Raises `LogError`."""

    def close(self) -> None:
        """Write out what is left to write, and let go of the file."""


def default_path() -> Path:
    """Return the file used unless told otherwise, by the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "chatd" / "chat.db"


class SQLiteLog:
    """A log in an SQLite file, or in memory for `:memory:`.

    `keep_messages` is how many to keep in each room and `keep_days` for how
    long, None for ever. Raises `LogError` if the file cannot be used.
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
        self._grown: set[str] = set()  # rooms since the last trim
        self._lock: int | None = None
        try:
            if path != MEMORY:
                self._lock = _lock(path)
            self._database = _open(path)
            self._last_id = self._query_last_id()
            self._grown.update(
                room for (room,) in self._database.execute("SELECT DISTINCT room FROM messages")
            )
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            raise LogError(f"the log {path} cannot be used: {error}") from error

    def append(
        self,
        entries: Sequence[Entry],
        done: Callable[[Sequence[Stored] | LogError], None],
    ) -> None:
        """Store entries in one transaction."""
        time = _timestamp(datetime.now(UTC))
        try:
            stored = self._append(entries, time)
        except sqlite3.Error as error:
            done(LogError(f"the log failed: {error}"))
            return
        done(stored)

    def _append(self, entries: Sequence[Entry], time: str) -> list[Stored]:
        first = self._last_id + 1
        rows = [
            (number, each.room, time, each.name, each.text, each.key)
            for number, each in enumerate(entries, first)
        ]
        try:
            with self._database:
                self._database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError:
            # Some key is there already, which is rare: go through them one by one.
            with self._database:
                stored = [self._append_one(each, time) for each in entries]
            self._last_id = self._query_last_id()
        else:
            self._last_id += len(rows)
            stored = [
                Stored(Message(number, time, name, text), repeated=False)
                for number, _, time, name, text, _ in rows
            ]
        self._grown.update(each.room for each in entries)
        return stored

    def _append_one(self, entry: Entry, time: str) -> Stored:
        if entry.key is not None:
            row = self._database.execute(
                f"{_SELECT} WHERE room = ? AND key = ?", (entry.room, entry.key)
            ).fetchone()
            if row is not None:
                return Stored(Message(*row), repeated=True)
        cursor = self._database.execute(
            "INSERT INTO messages (room, time, name, text, key) VALUES (?, ?, ?, ?, ?)",
            (entry.room, time, entry.name, entry.text, entry.key),
        )
        assert cursor.lastrowid is not None
        return Stored(Message(cursor.lastrowid, time, entry.name, entry.text), repeated=False)

    def after(
        self, room: str, seen: int, limit: int, done: Callable[[Slice | LogError], None]
    ) -> None:
        """Read a room's messages after an id."""
        try:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id > ? ORDER BY id DESC LIMIT ?",
                (room, seen, limit + 1),
            ).fetchall()
            trimmed = self._database.execute(
                "SELECT 1 FROM trimmed WHERE room = ? AND id > ?", (room, seen)
            ).fetchone()
        except sqlite3.Error as error:
            done(LogError(f"the log failed: {error}"))
            return
        done(_slice(rows, limit, trimmed=trimmed is not None))

    def before(
        self, room: str, end: int | None, limit: int, done: Callable[[Slice | LogError], None]
    ) -> None:
        """Read a room's newest messages before an id."""
        try:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (room, self._last_id + 1 if end is None else end, limit + 1),
            ).fetchall()
        except sqlite3.Error as error:
            done(LogError(f"the log failed: {error}"))
            return
        done(_slice(rows, limit, trimmed=False))

    def trim(self) -> None:
        """Remove what is over its number or its days, in the rooms that have grown."""
        rooms, self._grown = self._grown, set()
        try:
            self._trim(rooms)
        except sqlite3.Error as error:
            self._grown |= rooms
            raise LogError(f"the log cannot be trimmed: {error}") from error

    def _trim(self, rooms: set[str]) -> None:
        with self._database:
            if self._keep_days is not None:
                oldest = _timestamp(datetime.now(UTC) - timedelta(days=self._keep_days))
                for room, last in self._database.execute(
                    "SELECT room, max(id) FROM messages WHERE time < ? GROUP BY room", (oldest,)
                ).fetchall():
                    self._remove(room, last)
            if self._keep_messages is not None:
                for room in rooms:
                    row = self._database.execute(
                        "SELECT id FROM messages WHERE room = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
                        (room, self._keep_messages),
                    ).fetchone()
                    if row is not None:
                        self._remove(room, row[0])

    def _remove(self, room: str, last: int) -> None:
        self._database.execute("DELETE FROM messages WHERE room = ? AND id <= ?", (room, last))
        self._database.execute("INSERT OR REPLACE INTO trimmed VALUES (?, ?)", (room, last))

    def close(self) -> None:
        """Close the file; SQLite moves the write-ahead log into it."""
        self._database.close()
        self._unlock()

    def _query_last_id(self) -> int:
        row = self._database.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
        ).fetchone()
        return 0 if row is None else int(row[0])

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: str) -> int:
    """Return a descriptor that holds the file for this process alone.

    A file beside it is locked: SQLite's own locks are for the moments of access,
    and a backup or an export must be able to read while the chat runs.
    """
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LogError(
            f"the log {path} is in use by another chatd; stop that or choose another with --db"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: str) -> sqlite3.Connection:
    """Open the file, making it if it is new, and see that it can be written."""
    database = sqlite3.connect(path, timeout=5.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        elif version != SCHEMA_VERSION:
            raise LogError(f"the log {path} is of version {version}, not {SCHEMA_VERSION}")
        database.executescript("BEGIN IMMEDIATE; UPDATE trimmed SET id = id; COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.close()
        raise
    return database


def _slice(rows: list[tuple[int, str, str, str]], limit: int, *, trimmed: bool) -> Slice:
    """Return rows, which are the newest first and may be one too many, as a slice."""
    more = len(rows) > limit
    messages = [Message(*row) for row in reversed(rows[:limit])]
    return Slice(messages, more=more, gap=trimmed)


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
