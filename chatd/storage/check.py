"""Check and export of a message store from another process, while chatd runs or not.

The functions write nothing and hold no lock that delays the chat.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd.model import (
    MAX_KEY,
    MAX_NAME,
    MAX_TEXT,
    Kind,
    direct_authors,
    is_author,
    is_room_name,
)
from chatd.storage.sqlite_file import schema_version
from chatd.storage.store import StoreError

# RFC 3339 in UTC with milliseconds, as `format_time` writes it.
_TIME = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z")

# Columns that an earlier version of the schema does not have, with their value there.
_LATER_COLUMNS = {"author": "''", "kind": "0", "ref": "NULL", "edited": "NULL", "reactions": "''"}

_AUDIT = ("time", "actor", "action", "room", "name", "author", "details")
SELECT_AUDIT = f"SELECT {', '.join(_AUDIT)} FROM audit ORDER BY number"

Row = tuple[str, int, str, str, str, str | None, str, int, int | None, int | None, str]
"""Room, id, time, name, text, key, author, kind, ref, edited, reactions."""


@contextmanager
def open_read_only(path: str) -> Iterator[sqlite3.Connection]:
    """Open a message store for reading. The block sees one consistent snapshot.

    Raises:
        StoreError: The file is missing, damaged, or not a message store.
    """
    file = Path(os.path.realpath(path))
    # A running chatd has a write-ahead log. Without one no process uses the file, and
    # "immutable" keeps SQLite from creating a log, which would belong to this user.
    in_use = Path(f"{file}-wal").exists()
    mode = "mode=ro" if in_use else "immutable=1"
    try:
        file.open("rb").close()  # gives a more precise error than SQLite
    except OSError as error:
        raise StoreError(
            f"message store {path}: cannot read: {error.strerror}; choose another file with --db"
        ) from error
    database = sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True)
    try:
        # Invalid UTF-8 must reach `check_store`, which reports it.
        database.text_factory = lambda data: data.decode(errors="surrogateescape")
        database.execute("BEGIN")
        if schema_version(database, path) == 0:
            raise StoreError(f"message store {path}: empty file; choose another file with --db")
        yield database
    except sqlite3.Error as error:
        raise StoreError(
            f"message store {path}: cannot read: {error}; restore a backup or choose another"
            " file with --db"
        ) from error
    finally:
        database.close()


def check_store(database: sqlite3.Connection) -> Iterator[str]:
    """Iterate over the problems of a message store, one line for each."""
    report = [line for (line,) in database.execute("PRAGMA integrity_check(100)")]
    if report != ["ok"]:  # the rows of a damaged file prove nothing
        yield from (f"SQLite integrity check: {line}" for line in report)
        return
    yield from check_entries(database.execute(f"{_select(database)} ORDER BY room, id"))
    for number, count in database.execute(
        "SELECT id, count(*) FROM messages GROUP BY id HAVING count(*) > 1"
    ):
        yield f"message {number}: {count} messages have this id"
    for room, last in database.execute("SELECT room, id FROM trimmed ORDER BY room"):
        if not is_room_name(room) or last < 1:
            yield f"room {room!a}: invalid record of removed messages, up to id {last}"
    for room, number in database.execute(
        "SELECT room, messages.id FROM messages JOIN trimmed USING (room)"
        " WHERE messages.id <= trimmed.id ORDER BY room, messages.id"
    ):
        yield f"message {number} in room {room!a}: recorded as removed"


def check_entries(rows: Iterable[Row]) -> Iterator[str]:
    """Iterate over the problems of entries."""
    for row in rows:
        for problem in _check_message(row):
            yield f"message {row[1]} in room {row[0]!a}: {problem}"


def _select(database: sqlite3.Connection) -> str:
    """Return the query for all columns of an entry, in any version of the schema."""
    present = {name for _, name, *_ in database.execute("PRAGMA table_info(messages)")}
    later = [
        name if name in present else f"{value} AS {name}" for name, value in _LATER_COLUMNS.items()
    ]
    return f"SELECT room, id, time, name, text, key, {', '.join(later)} FROM messages"


def _check_message(row: Row) -> Iterator[str]:
    room, number, time, name, text, key, author, kind, ref, _, reactions = row
    if not is_room_name(room) and direct_authors(room) is None:
        yield "invalid room name"
    if author and not is_author(author):
        yield f"the author is {author!a}"
    if kind not in set(Kind):
        yield f"the kind is {kind}, not 0 to {max(Kind):d}"
    if kind in (Kind.EDIT, Kind.DELETE, Kind.REACT) and ref is None:
        yield "the change refers to no message"
    if reactions and not _are_reactions(reactions):
        yield "the reactions are not a JSON object with lists of authors"
    if number < 1:
        yield "the id is below 1"
    if not _TIME.fullmatch(time):
        yield f"the time is {time!a}, not RFC 3339 in UTC with milliseconds"
    if not 1 <= len(name) <= MAX_NAME:
        yield f"the name has {len(name)} characters, not 1 to {MAX_NAME}"
    if len(text) > MAX_TEXT:
        yield f"the text has {len(text)} characters, not up to {MAX_TEXT}"
    if key is not None and len(key) > MAX_KEY:
        yield f"the key has {len(key)} characters, not up to {MAX_KEY}"
    for field, stored in (("name", name), ("text", text), ("key", key or "")):
        try:
            stored.encode()
        except UnicodeEncodeError:
            yield f"the {field} is not UTF-8"


def _are_reactions(text: str) -> bool:
    try:
        reactions = json.loads(text)
    except ValueError:
        return False
    return isinstance(reactions, dict) and all(
        isinstance(authors, list) and all(map(is_author, authors)) for authors in reactions.values()
    )


def count_messages(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of messages and the number of rooms that have messages."""
    kind = " WHERE kind = 0" if _has_kinds(database) else ""
    row: tuple[int, int] = database.execute(
        f"SELECT count(*), count(DISTINCT room) FROM messages{kind}"
    ).fetchone()
    return row


def _has_kinds(database: sqlite3.Connection) -> bool:
    return any(name == "kind" for _, name, *_ in database.execute("PRAGMA table_info(messages)"))


def export_store(database: sqlite3.Connection, room: str | None) -> Iterator[str]:
    """Iterate over the entries of a room, or of all rooms, as JSON objects.

    Entries of a room come in ascending order, messages in their current state. The sender's key
    is private to its client, so the export omits it.
    """
    where, values = ("", ()) if room is None else (" WHERE room = ?", (room,))
    return export_entries(database.execute(f"{_select(database)}{where} ORDER BY room, id", values))


def export_entries(rows: Iterable[Row]) -> Iterator[str]:
    """Iterate over entries as JSON objects."""
    for place, number, time, name, text, _, author, kind, ref, edited, reactions in rows:
        fields = {"room": place, "id": number, "time": time, "name": name, "text": text}
        if kind:
            fields["type"] = Kind(kind).name.lower()
        fields |= {"author": author} if author else {}
        fields |= {} if ref is None else {"ref": ref}
        fields |= {} if edited is None else {"edited": edited}
        fields |= {"reactions": json.loads(reactions)} if reactions else {}
        if not text and not kind:
            fields["deleted"] = True
        yield json.dumps(fields)


def export_audit(database: sqlite3.Connection) -> Iterator[str]:
    """Iterate over the audit log as JSON objects, in ascending order."""
    if not _has_kinds(database):
        return  # a schema before the audit log
    for row in database.execute(SELECT_AUDIT):
        yield export_act(row)


def export_act(row: tuple[str, ...]) -> str:
    """Return an act of moderation as a JSON object."""
    return json.dumps(dict(zip(_AUDIT, row, strict=True)))
