"""Pages of a room: bounded reads of its entries, each from one snapshot of the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from chatd.model import Message, direct_authors
from chatd.storage.database import Cursor, Database
from chatd.storage.rows import SELECT_ENTRY, SELECT_WITH_EDITS, to_message
from chatd.storage.store import Page

# Characters of text in one page, so that the chat can encode it in milliseconds.
MAX_PAGE_TEXT = 1 << 19
_MAX_ID = (1 << 63) - 1
# Rooms of the directory, and seconds for which a read looks for them.
MAX_LISTED_ROOMS = 1000
LISTING_STEP = 0.008

Read = Callable[[Database], Any]
"""A read, in one transaction."""


def read_after(room: str, after: int, limit: int, database: Database) -> Page:
    """Read the entries of a room after an id, the newest `limit` of them."""
    # Another version of this store has assigned an unknown id, so the client has none of
    # this store's messages.
    is_unknown = not _has_assigned(database, room, after)
    if is_unknown:
        after = 0
    rows = database.execute(
        f"{SELECT_WITH_EDITS} WHERE room = ? AND id > ? ORDER BY id DESC LIMIT ?",
        (room, after, limit + 1),
    )
    messages, more = _read_rows(rows, limit)
    messages.reverse()
    removed = database.execute(
        "SELECT 1 FROM trimmed WHERE room = ? AND id > ?", (room, after)
    ).fetchone()
    gap = is_unknown or removed is not None
    return Page(messages, more, gap, topic=_topic(database, room))


def read_before(room: str, before: int | None, limit: int, database: Database) -> Page:
    """Read the newest `limit` messages of a room before an id, None for no bound."""
    messages, more = _older(database, room, _MAX_ID if before is None else before, limit)
    newer = before is not None and bool(_newer(database, room, before - 1, 1)[0])
    return Page(messages, more, False, newer, _topic(database, room))


def read_following(room: str, after: int, limit: int, database: Database) -> Page:
    """Read the oldest `limit` messages of a room after an id."""
    messages, more_after = _newer(database, room, after, limit)
    more = bool(_older(database, room, after + 1, 1)[0])
    return Page(messages, more, False, more_after)


def read_around(room: str, number: int, limit: int, database: Database) -> Page:
    """Read `limit` messages of a room, half of them before the id `number`."""
    older, more = _older(database, room, number, limit // 2)
    newer, more_after = _newer(database, room, number - 1, limit - limit // 2)
    return Page([*older, *newer], more, False, more_after)


def read_from(room: str, moment: str, limit: int, database: Database) -> Page:
    """Read the oldest `limit` messages of a room from a time on.

    The times of a room increase with its ids, except for errors of the clock. So a binary search
    finds the place, in a few steps for any number of messages.
    """
    bounds = "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM messages WHERE room = ?"
    low, high = database.execute(bounds, (room,)).fetchone()
    while low < high:
        middle = (low + high) // 2
        found = database.execute(
            "SELECT id, time FROM messages WHERE room = ? AND id > ? ORDER BY id LIMIT 1",
            (room, middle),
        ).fetchone()
        if found is None or found[1] >= moment:
            high = middle
        else:
            low = found[0]
    last = low if _is_before(database, room, low, moment) else low - 1
    return read_following(room, last, limit, database)


def read_activity(database: Database) -> list[tuple[str, str, str, int]]:
    """Read rooms by name, each with the time of its last entry and its topic."""
    end = time.monotonic() + LISTING_STEP
    listed: list[tuple[str, str, str, int]] = []
    name = ""
    while len(listed) < MAX_LISTED_ROOMS and time.monotonic() < end:
        # Steps from room to room in the index, because a scan would read every message.
        (name,) = database.execute(
            "SELECT min(room) FROM messages WHERE room > ?", (name,)
        ).fetchone()
        if name is None:
            break
        if name.startswith("@"):
            name = "@~"  # above the names of direct rooms
            continue
        (last,) = database.execute(
            "SELECT time FROM messages WHERE room = ? ORDER BY id DESC LIMIT 1", (name,)
        ).fetchone()
        listed.append((name, last, _topic(database, name), 0))
    return listed


def read_direct_rooms(author: str, database: Database) -> list[tuple[str, str, str]]:
    """Read the direct rooms of an author, each with the other member's name and author.

    A member that has said nothing yet has no name here, so its name is "".
    """
    listed = []
    rows = database.execute(
        "SELECT room FROM direct_rooms WHERE author = ? LIMIT ?", (author, MAX_LISTED_ROOMS)
    ).fetchall()
    for (room,) in rows:
        other = next((each for each in direct_authors(room) or () if each != author), author)
        row = database.execute(
            "SELECT name FROM messages WHERE room = ? AND author = ? ORDER BY id DESC LIMIT 1",
            (room, other),
        ).fetchone()
        listed.append((room, "" if row is None else row[0], other))
    return listed


def _is_before(database: Database, room: str, number: int, moment: str) -> bool:
    found = database.execute(
        "SELECT 1 FROM messages WHERE room = ? AND id = ? AND time < ?", (room, number, moment)
    ).fetchone()
    return found is not None


def _older(database: Database, room: str, before: int, limit: int) -> tuple[list[Message], bool]:
    rows = database.execute(
        f"{SELECT_ENTRY} WHERE room = ? AND id < ? AND kind = 0 ORDER BY id DESC LIMIT ?",
        (room, before, limit + 1),
    )
    messages, more = _read_rows(rows, limit)
    messages.reverse()
    return messages, more


def _newer(database: Database, room: str, after: int, limit: int) -> tuple[list[Message], bool]:
    rows = database.execute(
        f"{SELECT_ENTRY} WHERE room = ? AND id > ? AND kind = 0 ORDER BY id LIMIT ?",
        (room, after, limit + 1),
    )
    return _read_rows(rows, limit)


def _topic(database: Database, room: str) -> str:
    row = database.execute("SELECT text FROM topics WHERE room = ?", (room,)).fetchone()
    return "" if row is None else str(row[0])


def _has_assigned(database: Database, room: str, number: int) -> bool:
    """Return True for 0, and for the id of an entry of a room, also of a removed one."""
    row = database.execute(
        "SELECT ? = 0 OR EXISTS (SELECT 1 FROM messages WHERE room = ? AND id = ?)"
        " OR EXISTS (SELECT 1 FROM trimmed WHERE room = ? AND id >= ?)",
        (number, room, number, room, number),
    ).fetchone()
    return bool(row[0])


def _read_rows(cursor: Cursor, limit: int) -> tuple[list[Message], bool]:
    """Read up to `limit` rows within MAX_PAGE_TEXT characters; return whether there are more."""
    messages: list[Message] = []
    size = 0
    with closing(cursor):  # an open query would keep the log from its new start
        for row in cursor:
            message = to_message(row)
            size += len(message.text)
            if len(messages) == limit or (messages and size > MAX_PAGE_TEXT):
                return messages, True
            messages.append(message)
    return messages, False
