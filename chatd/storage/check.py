"""Reading a log from outside the chat, running or not: is it sound, and what is in it.

Nothing is written, and no other process is kept waiting.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd.protocol import MAX_KEY, MAX_NAME, MAX_TEXT
from chatd.rooms import is_room_name
from chatd.storage.sqlite import has_log
from chatd.storage.store import StoreError

# As the log writes it: RFC 3339 in UTC, with milliseconds.
_TIME = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z")

_MESSAGES = "SELECT room, id, time, name, text, key FROM messages ORDER BY room, id"

Row = tuple[str, int, str, str, str, str | None]


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """Open a log for reading alone. Raises `StoreError` if it cannot be read."""
    file = Path(os.path.realpath(path))
    # Without the write-ahead log that a running chat has, nobody is using the file.
    # Left to itself, SQLite would make one here, and not remove it: in the name of
    # whoever reads, who may be another user than the chat's.
    in_use = Path(f"{file}-wal").exists()
    how = "mode=ro" if in_use else "immutable=1"
    try:
        file.open("rb").close()  # says best what is wrong with a path
    except OSError as error:
        raise StoreError(f"the log {path} cannot be read: {error.strerror}") from error
    database = sqlite3.connect(f"{file.as_uri()}?{how}", uri=True)
    try:
        # A byte that is not UTF-8 is for `check` to find.
        database.text_factory = lambda data: data.decode(errors="surrogateescape")
        database.execute("BEGIN")  # what is read is of one moment
        if not has_log(database, path):
            raise StoreError(f"{path} is empty; choose another with --db")
        yield database
    except sqlite3.Error as error:
        raise StoreError(
            f"the log {path} cannot be read: {error}; if it was a log, put a backup in its place"
        ) from error
    finally:
        database.close()


def check_log(database: sqlite3.Connection) -> Iterator[str]:
    """Iterate over what is wrong with a log, in words: none if it is sound."""
    said = [line for (line,) in database.execute("PRAGMA integrity_check(100)")]
    if said != ["ok"]:  # what else is read may make no sense
        yield from (f"SQLite says: {line}" for line in said)
        return
    rows: Iterator[Row] = database.execute(_MESSAGES)
    for row in rows:
        for wrong in _check_message(row):
            yield f"message {row[1]} in room {row[0]!a}: {wrong}"
    for number, times in database.execute(
        "SELECT id, count(*) FROM messages GROUP BY id HAVING count(*) > 1"
    ):
        yield f"message {number}: the id was given {times} times"
    for room, last in database.execute("SELECT room, id FROM trimmed ORDER BY room"):
        if not is_room_name(room) or last < 1:
            yield f"what is noted as removed from room {room!a} makes no sense"
    for room, number in database.execute(
        "SELECT room, messages.id FROM messages JOIN trimmed USING (room)"
        " WHERE messages.id <= trimmed.id ORDER BY room, messages.id"
    ):
        yield f"message {number} in room {room!a}: it is noted as removed"


def _check_message(row: Row) -> Iterator[str]:
    room, number, time, name, text, key = row
    if not is_room_name(room):
        yield "there is no room of that name"
    if number < 1:
        yield "ids begin at 1"
    if not _TIME.fullmatch(time):
        yield f"the time is {time!a}, not in RFC 3339 in UTC with milliseconds"
    for field, value, limit in (("name", name, MAX_NAME), ("text", text, MAX_TEXT)):
        if not 1 <= len(value) <= limit:
            yield f"the {field} has {len(value)} characters, not 1 to {limit}"
    if key is not None and len(key) > MAX_KEY:
        yield f"the key has {len(key)} characters, not up to {MAX_KEY}"
    for field, stored in (("name", name), ("text", text), ("key", key or "")):
        try:
            stored.encode()
        except UnicodeEncodeError:
            yield f"the {field} is not UTF-8"


def count(database: sqlite3.Connection) -> tuple[int, int]:
    """Return how many messages there are, and in how many rooms."""
    row: tuple[int, int] = database.execute(
        "SELECT count(*), count(DISTINCT room) FROM messages"
    ).fetchone()
    return row


def export_log(database: sqlite3.Connection, room: str | None) -> Iterator[str]:
    """Iterate over the messages of a room, or of all, as JSON objects: oldest first in each room.

    The sender's key is left out: it is shown to nobody.
    """
    where, values = ("", ()) if room is None else (" WHERE room = ?", (room,))
    rows = database.execute(
        f"SELECT room, id, time, name, text FROM messages{where} ORDER BY room, id", values
    )
    for row in rows:
        yield json.dumps(dict(zip(("room", "id", "time", "name", "text"), row, strict=True)))
