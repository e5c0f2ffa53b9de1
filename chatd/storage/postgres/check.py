"""Check and export of a shared store, beside its servers."""

from __future__ import annotations

from collections.abc import Iterator

from chatd.storage.check import SELECT_AUDIT, check_entries, export_act, export_entries
from chatd.storage.postgres.connection import Connection

_SELECT = (
    "SELECT room, id, time, name, text, key, author, kind, ref, edited, reactions FROM messages"
)


def check_shared_store(database: Connection) -> Iterator[str]:
    """Iterate over the problems of a shared store, one line for each."""
    (importing,) = database.execute("SELECT importing FROM meta", ()).fetchone()
    if importing:
        yield f"the migration of {importing} is not complete; run chatd migrate again"
    yield from check_entries(database.stream(f"{_SELECT} ORDER BY room, id"))
    for room, last, highest in database.stream(
        "SELECT m.room, r.last, max(m.id) FROM messages m LEFT JOIN rooms r ON r.room = m.room"
        " GROUP BY m.room, r.last HAVING max(m.id) > coalesce(r.last, 0) ORDER BY m.room"
    ):
        yield f"room {room!a}: the last id is {last}, but there is a message {highest}"
    for room, number in database.stream(
        "SELECT m.room, m.id FROM messages m JOIN trimmed t ON t.room = m.room"
        " WHERE m.id <= t.id ORDER BY m.room, m.id"
    ):
        yield f"message {number} in room {room!a}: recorded as removed"


def count_shared_messages(database: Connection) -> tuple[int, int]:
    """Return the number of messages and the number of rooms that have messages."""
    row: tuple[int, int] = database.execute(
        "SELECT count(*), count(DISTINCT room) FROM messages WHERE kind = 0", ()
    ).fetchone()
    return row


def export_shared_store(database: Connection, room: str | None) -> Iterator[str]:
    """Iterate over the entries of a room, or of all rooms, as JSON objects."""
    where, values = ("", ()) if room is None else (" WHERE room = ?", (room,))
    return export_entries(database.stream(f"{_SELECT}{where} ORDER BY room, id", values))


def export_shared_audit(database: Connection) -> Iterator[str]:
    """Iterate over the audit log as JSON objects, in ascending order."""
    return map(export_act, database.stream(SELECT_AUDIT))
