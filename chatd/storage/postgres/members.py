"""Members of rooms on all nodes: claims and releases of names."""

from __future__ import annotations

from collections.abc import Sequence

from chatd.storage.postgres.connection import Connection, escape, unescape
from chatd.storage.postgres.notifications import encode, format_payload
from chatd.storage.shared import Changed, Claim, NameHeld, Release, Roster, RosterEntry

_CLAIM = "SELECT * FROM claim(%s, %s, %s, %s, %s, %s, %s, %s)"
_RELEASE = "SELECT * FROM release(%s, %s, %s, %s)"


def change_members(
    node: str, changes: Sequence[Claim | Release], database: Connection
) -> list[Changed | NameHeld]:
    """Apply changes in one transaction and one round trip."""
    # In the order of rooms, so that the transactions of two nodes never wait for each other.
    places = sorted(range(len(changes)), key=lambda place: changes[place].room)
    with database:
        database.execute("BEGIN")
        with database.raw.pipeline():
            cursors = [database.raw.execute(*_statement(node, changes[place])) for place in places]
        rows = dict(zip(places, (cursor.fetchone() for cursor in cursors), strict=True))
    return [_result(changes[place], rows[place]) for place in range(len(changes))]


def encode_changes(
    node: str, changes: Sequence[Claim | Release], results: Sequence[Changed | NameHeld]
) -> list[str]:
    """Return the payloads that tell the other nodes of changes."""
    return [
        format_payload(
            "member",
            node,
            0,
            encode({"room": change.room, "version": changed.version, "member": [*changed.entry]}),
        )
        for change, changed in zip(changes, results, strict=True)
        if isinstance(changed, Changed)
    ]


def _statement(node: str, change: Claim | Release) -> tuple[str, list[object]]:
    if isinstance(change, Claim):
        return _CLAIM, [escape(each) for each in (node, *change)]
    place = None if change.everywhere else node
    return _RELEASE, [place, change.room, change.author, float(change.reserve)]


def _result(change: Claim | Release, row: tuple[object, ...] | None) -> Changed | NameHeld:
    assert row is not None
    holder, version, name, nodes, moderates = unescape(row)
    if version is None:
        return NameHeld(holder)
    return Changed(version, RosterEntry(change.author, name, nodes, moderates))


def read_roster(node: str, room: str, database: Connection) -> Roster:
    """Read the members of a room that have connections, from one snapshot.

    Fails if this node is removed, because its members then are not in the store.
    """
    with database:
        database.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        database.execute("SELECT check_node(?)", (node,))
        row = database.execute("SELECT version FROM rosters WHERE room = ?", (room,)).fetchone()
        entries = database.execute(
            "SELECT author, name, nodes, moderates FROM members WHERE room = ? AND nodes <> '{}'",
            (room,),
        ).fetchall()
    return Roster(0 if row is None else row[0], [RosterEntry(*each) for each in entries])
