"""The SQLite file of a message store: its lock, its permissions and its schema."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from chatd.storage.store import StoreError

logger = logging.getLogger("chatd")

MEMORY = ":memory:"
SCHEMA_VERSION = 3

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
CREATE TABLE trimmed (
    room TEXT PRIMARY KEY,
    id INTEGER NOT NULL -- the last id that retention removed
) STRICT, WITHOUT ROWID;
"""
_INDEX_1 = "CREATE UNIQUE INDEX messages_by_key ON messages (room, key) WHERE key IS NOT NULL;"
# Version 2: a key belongs to its sender and outlives its message; ids are reserved.
_ADDED_IN_2 = """
CREATE UNIQUE INDEX messages_by_key ON messages (room, key, name) WHERE key IS NOT NULL;
CREATE TABLE removed_keys (
    number INTEGER PRIMARY KEY, -- increases with each removed message
    removed TEXT NOT NULL, -- time of the removal
    room TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    id INTEGER NOT NULL,
    time TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX removed_keys_by_key ON removed_keys (room, key, name);
CREATE TABLE ids (reserved INTEGER NOT NULL) STRICT; -- no message has a higher id
"""
# Version 3: entries that refer to messages, and the state that they leave in the message. A key
# belongs to an author, which the writer checks.
_ADDED_IN_3 = """
ALTER TABLE messages ADD COLUMN author TEXT NOT NULL DEFAULT '';
ALTER TABLE messages ADD COLUMN kind INTEGER NOT NULL DEFAULT 0; -- see model.Kind
ALTER TABLE messages ADD COLUMN ref INTEGER; -- id of the message that the entry refers to
ALTER TABLE messages ADD COLUMN edited INTEGER; -- id of the last edit
ALTER TABLE messages ADD COLUMN reactions TEXT NOT NULL DEFAULT ''; -- JSON: authors by emoji
ALTER TABLE removed_keys ADD COLUMN author TEXT NOT NULL DEFAULT '';
DROP INDEX messages_by_key;
DROP INDEX removed_keys_by_key;
CREATE INDEX messages_by_key ON messages (room, key) WHERE key IS NOT NULL;
CREATE INDEX removed_keys_by_key ON removed_keys (room, key);
CREATE TABLE topics (room TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE direct_rooms (
    author TEXT NOT NULL,
    room TEXT NOT NULL,
    PRIMARY KEY (author, room)
) STRICT, WITHOUT ROWID;
CREATE TABLE sanctions (
    author TEXT NOT NULL,
    room TEXT NOT NULL, -- empty for all rooms
    action TEXT NOT NULL, -- ban or mute
    name TEXT NOT NULL, -- name of the person at that time
    until REAL, -- Unix time in seconds, NULL for no end
    PRIMARY KEY (author, room, action)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    actor TEXT NOT NULL, -- name of the moderator, or "operator"
    action TEXT NOT NULL,
    room TEXT NOT NULL,
    name TEXT NOT NULL,
    author TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
"""
# The last id in the tables of version 1.
_LAST_ID = """
SELECT max(coalesce((SELECT max(id) FROM messages), 0), coalesce((SELECT max(id) FROM trimmed), 0))
"""
# Statements that make each version from the one before it.
_STEPS = {
    1: _SCHEMA + _INDEX_1,
    2: f"DROP INDEX messages_by_key; {_ADDED_IN_2} INSERT INTO ids {_LAST_ID};",
    3: _ADDED_IN_3,
}


def schema(version: int, *, after: int = 0) -> str:
    """Return the statements that make a version of the schema from an earlier one."""
    return "".join(_STEPS[each] for each in range(after + 1, version + 1))


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
    """Open a database for writing. Create the schema, or migrate an earlier version.

    Raises:
        StoreError: The schema is not that of a message store, or has another version.
        sqlite3.Error: The file is damaged or not writable.
    """
    database = connect(path)
    try:
        # This check comes first: the file of another program must stay unchanged.
        version = schema_version(database, path)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")  # the Checkpointer does it
        # Overwrite deleted text. FAST does so in the pages that change anyway.
        database.execute("PRAGMA secure_delete = FAST")
        if version < SCHEMA_VERSION:
            database.executescript(
                f"BEGIN IMMEDIATE; {schema(SCHEMA_VERSION, after=version)}"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        if 0 < version < SCHEMA_VERSION:
            logger.info(
                "message store %s: migrated from schema version %d to %d; an earlier chatd cannot"
                " open it now",
                path,
                version,
                SCHEMA_VERSION,
            )
        # This write fails now, rather than at the first message, if the file is read-only.
        database.executescript("BEGIN IMMEDIATE; UPDATE trimmed SET id = id; COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.close()
        raise
    return database


def connect(path: str, **options: bool) -> sqlite3.Connection:
    """Connect in autocommit mode to an existing database, or to a new one in memory.

    The mode `rw` never creates a file, because SQLite would use the umask for it.

    Args:
        path: Database file, or MEMORY.
        options: Further arguments of `sqlite3.connect`.
    """
    if path == MEMORY:
        return sqlite3.connect(path, isolation_level=None, **options)
    uri = f"{Path(os.path.realpath(path)).as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, **options)


def schema_version(database: sqlite3.Connection, path: str) -> int:
    """Return the version of a message store's schema, 0 for an empty database.

    The schema must be exactly that of its version. With a missing index, for example,
    the store would take a key twice. Tables that other programs add have no effect.

    Raises:
        StoreError: The database belongs to another program, or has an unknown version
            or a changed schema.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    present = _schema_of(database)
    tables = {name for name, _ in present}
    if present and not {"messages", "trimmed"} <= tables:
        raise StoreError(
            f"message store {path}: database of another program; choose another file with --db"
        )
    if not present and version == 0:
        return 0
    if version not in _STEPS:
        raise StoreError(
            f"message store {path}: schema version {version} instead of {SCHEMA_VERSION};"
            " use the chatd that wrote it, or choose another file with --db"
        )
    expected = _expected_schema(version)
    own_tables = {table for _, table in expected}
    found = {each: sql for each, sql in present.items() if each[1] in own_tables}
    wrong = [
        name
        for name, table in expected.keys() | found.keys()
        if found.get((name, table)) != expected.get((name, table))
    ]
    if wrong:
        raise StoreError(
            f"message store {path}: {', '.join(sorted(wrong))!a} differs from schema version"
            f" {version}; restore a backup, or choose another file with --db"
        )
    return int(version)


def _expected_schema(version: int) -> dict[tuple[str, str], str]:
    with closing(sqlite3.connect(MEMORY)) as database:
        database.executescript(schema(version))
        return _schema_of(database)


def _schema_of(database: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Return the SQL of each table, index and trigger, by its name and its table."""
    rows = database.execute("SELECT name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {
        (name, table): " ".join(re.sub(r"--.*", "", sql).split())
        for name, table, sql in rows
        if not table.startswith("sqlite_")  # SQLite's own, for example after ANALYZE
    }
