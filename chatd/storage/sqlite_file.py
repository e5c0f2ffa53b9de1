"""The SQLite file of a message store: its lock, its permissions and its schema."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import suppress

from chatd.storage.store import StoreError

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE messages (
    room TEXT NOT NULL,
    id INTEGER NOT NULL, -- increases across all rooms; never assigned twice
    time TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    key TEXT, -- the sender's own id; other clients never receive it
    PRIMARY KEY (room, id)
) STRICT, WITHOUT ROWID; -- an append changes one page, or two if the message has a key
CREATE UNIQUE INDEX messages_by_key ON messages (room, key) WHERE key IS NOT NULL;
CREATE TABLE trimmed (
    room TEXT PRIMARY KEY,
    id INTEGER NOT NULL -- the last id that retention removed
) STRICT, WITHOUT ROWID;
"""

# The rooms that have messages. Steps from room to room in the index, because a scan would
# read every message.
ROOMS = """
WITH RECURSIVE rooms (room) AS (
    SELECT min(room) FROM messages
    UNION ALL
    SELECT (SELECT min(room) FROM messages WHERE room > rooms.room) FROM rooms
    WHERE room IS NOT NULL
)
"""


def lock_file(path: str) -> int:
    """Lock a database for this process; return the descriptor that holds the lock.

    The lock is on a file beside the database. A lock on the database itself would keep
    backups and exports out, because SQLite uses locks there for each access.

    Raises:
        StoreError: Another process holds the lock.
        OSError: The lock file cannot be created or locked.
    """
    # realpath(), so that symbolic links to one database share one lock.
    name = f"{os.path.realpath(path)}.lock"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"message store {path}: in use by another chatd; stop that process or choose"
            " another file with --db"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def create_file(path: str) -> None:
    """Create a database file that only its owner can read, unless the file exists.

    SQLite itself would create the file with the permissions of the umask.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def open_database(path: str) -> sqlite3.Connection:
    """Open a database for writing, and create the schema if the database is empty.

    Raises:
        StoreError: The database belongs to another program or has another version.
        sqlite3.Error: The file is damaged or not writable.
    """
    database = sqlite3.connect(path, timeout=5.0)
    try:
        # This check comes first: the file of another program must stay unchanged.
        is_empty = not has_schema(database, path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")  # the Checkpointer does it
        if is_empty:
            database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        # This write fails now, rather than at the first message, if the file is read-only.
        database.executescript("BEGIN IMMEDIATE; UPDATE trimmed SET id = id; COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.close()
        raise
    return database


def has_schema(database: sqlite3.Connection, path: str) -> bool:
    """Return True if a database has the schema of a message store, False if it is empty.

    Raises:
        StoreError: The database belongs to another program or has another version.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    if tables and not {"messages", "trimmed"} <= tables:
        raise StoreError(
            f"message store {path}: database of another program; choose another file with --db"
        )
    if version != (SCHEMA_VERSION if tables else 0):
        raise StoreError(
            f"message store {path}: schema version {version} instead of {SCHEMA_VERSION};"
            " choose another file with --db"
        )
    return bool(tables)
