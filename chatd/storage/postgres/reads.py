"""Reads of the shared store beside pages: new entries, the directory, and the poll."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatd.model import Message, Sanction
from chatd.storage import pages
from chatd.storage.database import Database
from chatd.storage.moderation import read_sanctions
from chatd.storage.pages import MAX_LISTED_ROOMS, Read
from chatd.storage.postgres.connection import Connection
from chatd.storage.rows import SELECT_WITH_EDITS, to_message
from chatd.storage.shared import Position
from chatd.storage.store import Page

# Beats of a node that has ended on purpose.
ENDED = -1

_WITH_KEY = SELECT_WITH_EDITS.replace("SELECT ", "SELECT key, ", 1)


def snapshot(read: Read, database: Connection) -> object:
    """Read from one snapshot of the database."""
    with database:
        database.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return read(database)


def read_last(room: str, database: Database) -> int:
    """Read the last id that an entry of a room has, 0 without entries."""
    row = database.execute("SELECT last FROM rooms WHERE room = ?", (room,)).fetchone()
    return 0 if row is None else int(row[0])


def with_last(room: str, read: Read, database: Database) -> Page:
    """Read a page of a room, with the last id of the room."""
    page: Page = read(database)
    return page._replace(last=read_last(room, database))


def read_after(room: str, after: int, limit: int, database: Database) -> Page:
    """Read the entries of a room after an id, which a failover may have lost.

    The ids after a failover are above all lost ones. So a client with a lost id misses the
    entries after it, like each client, and no earlier ones.
    """
    row = database.execute(
        "SELECT max(id) FROM messages WHERE room = ? AND id <= ?", (room, after)
    ).fetchone()
    is_lost = 0 < after <= read_last(room, database) and row[0] is not None and row[0] != after
    page = pages.read_after(room, row[0] if is_lost else after, limit, database)
    return page._replace(gap=page.gap or is_lost)


def read_entries(
    room: str, after: int, limit: int, database: Database
) -> list[tuple[Message, str | None]]:
    """Read the oldest entries of a room after an id, each with its key."""
    rows = database.execute(
        f"{_WITH_KEY} WHERE room = ? AND id > ? ORDER BY id LIMIT ?", (room, after, limit)
    )
    return [(to_message(tuple(row)), key) for key, *row in rows]


def read_activity(database: Database) -> list[tuple[str, str, str, int]]:
    """Read rooms by name, each with the time of its last entry, its topic and its members."""
    rows = database.execute(
        "SELECT room, (SELECT time FROM messages m WHERE m.room = r.room ORDER BY id DESC LIMIT 1),"
        " coalesce((SELECT text FROM topics t WHERE t.room = r.room), ''),"
        " (SELECT count(*) FROM members m WHERE m.room = r.room AND nodes <> '{}')"
        " FROM rooms r WHERE left(room, 1) <> '@' ORDER BY room LIMIT ?",
        (MAX_LISTED_ROOMS,),
    )
    return [(room, time, topic, count) for room, time, topic, count in rows if time is not None]


class Poll(NamedTuple):
    """Result of a poll: changed rooms, and the versions of what all nodes share.

    `rooms` has the last id and the version of the roster of each room with a change. `sanctions`
    and `revocations` are None without a change. `nodes` has the beats of each node.
    """

    rooms: Sequence[tuple[str, int, int]]
    sanctions: tuple[int, Sequence[Sanction]] | None
    revocations: tuple[int, dict[str, float]] | None
    nodes: dict[str, int]


def poll(
    positions: Sequence[Position], sanctions: int, revocations: int, database: Connection
) -> Poll:
    """Read the changes since earlier positions and versions."""
    rooms = database.execute(
        "SELECT g.room, coalesce(r.last, 0), coalesce(s.version, 0)"
        " FROM unnest(?::text[], ?::bigint[], ?::bigint[]) AS g(room, last, version)"
        " LEFT JOIN rooms r ON r.room = g.room LEFT JOIN rosters s ON s.room = g.room"
        " WHERE r.last > g.last OR s.version <> g.version",
        tuple(list(each) for each in zip(*positions, strict=True)) or ([], [], []),
    ).fetchall()
    versions = database.execute("SELECT sanctions, revocations FROM meta", ()).fetchone()
    nodes = dict(database.execute("SELECT node, beats FROM nodes", ()))
    new_sanctions = new_revocations = None
    if versions[0] != sanctions:
        new_sanctions = (versions[0], read_sanctions(database))
    if versions[1] != revocations:
        rows = database.execute("SELECT name, at FROM revocations", ())
        new_revocations = (versions[1], dict(rows))
    return Poll(rooms, new_sanctions, new_revocations, nodes)


def say_goodbye(node: str, database: Connection) -> None:
    """Record that a node ends; its lease runs on."""
    database.execute("UPDATE nodes SET beats = ? WHERE node = ?", (ENDED, node))


def beat(node: str, database: Connection) -> bool:
    """Report that a node lives; return False if another node has removed it."""
    return bool(
        database.execute("UPDATE nodes SET beats = beats + 1 WHERE node = ?", (node,)).rowcount
    )
