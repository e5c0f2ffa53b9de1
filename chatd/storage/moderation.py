"""Sanctions and the audit log in the database, for the server and for the operator's commands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from chatd.model import Sanction, format_time, name_author, name_key
from chatd.storage.database import Database
from chatd.storage.store import Act

# Messages that one transaction erases, so that the server waits for milliseconds only.
ERASE_UNIT = 200
_SANCTIONS = ("ban", "mute")


def write_act(database: Database, act: Act) -> None:
    """Apply an act and add it to the audit log, in one transaction."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        if act.action in _SANCTIONS:
            database.execute(
                "INSERT INTO sanctions (author, room, action, name, until) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (author, room, action)"
                " DO UPDATE SET name = excluded.name, until = excluded.until",
                (act.author, act.room, act.action, act.name, act.until),
            )
        elif act.action.removeprefix("un") in _SANCTIONS:
            database.execute(
                "DELETE FROM sanctions WHERE author = ? AND room = ? AND action = ?",
                (act.author, act.room, act.action.removeprefix("un")),
            )
        end = "" if act.until is None else format_time(datetime.fromtimestamp(act.until, UTC))
        add_to_audit(database, act, f"until {end}" if end else "")


def add_to_audit(database: Database, act: Act, details: str) -> None:
    """Add an act to the audit log."""
    database.execute(
        "INSERT INTO audit (time, actor, action, room, name, author, details)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            format_time(datetime.now(UTC)),
            act.actor,
            act.action,
            act.room,
            act.name,
            act.author,
            details,
        ),
    )


def read_sanctions(database: Database) -> list[Sanction]:
    """Read all sanctions, also those that have ended."""
    rows = database.execute("SELECT author, room, action, name, until FROM sanctions ORDER BY name")
    return [Sanction(*row) for row in rows]


def find_authors(database: Database, name: str) -> set[str]:
    """Return the authors that have used a name, and the one that its invitation has."""
    rows = database.execute("SELECT DISTINCT name, author FROM messages WHERE author <> ''")
    found = {author for used, author in rows if name_key(used) == name_key(name)}
    return found | {name_author(name)}


def erase_messages(database: Database, name: str) -> Iterator[int]:
    """Remove the texts of all messages of a person, ERASE_UNIT in a transaction.

    A message of an earlier version has no author, so its name decides.

    Yields:
        The number of messages that each transaction has erased.
    """
    authors = find_authors(database, name)
    names = {used for (used,) in database.execute("SELECT DISTINCT name FROM messages")}
    names = {used for used in names if name_key(used) == name_key(name)}
    own = [("author = ?", author) for author in authors]
    own += [("author = '' AND name = ?", used) for used in names]
    for condition, value in own:
        while True:
            with database:
                database.execute("BEGIN IMMEDIATE")
                rows = database.execute(
                    f"SELECT room, id FROM messages WHERE {condition} AND kind = 0 AND text <> ''"
                    " LIMIT ?",
                    (value, ERASE_UNIT),
                ).fetchall()
                database.executemany(
                    "UPDATE messages SET text = '', reactions = '' WHERE room = ? AND id = ?", rows
                )
            if not rows:
                break
            yield len(rows)
