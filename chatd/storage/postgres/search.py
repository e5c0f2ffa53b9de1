"""Search in the shared store: a bounded scan from the newest message on."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence

from chatd.model import Message
from chatd.storage.database import Database
from chatd.storage.rows import SELECT_ENTRY, to_message
from chatd.storage.search import MAX_FOUND, SEARCH_STEP, fold
from chatd.storage.store import Found

# Messages that one statement reads.
_UNIT = 500
_WITH_NUMBER = SELECT_ENTRY.replace("SELECT ", "SELECT number, ", 1)


def search(rooms: Sequence[str], text: str, before: int | None, database: Database) -> Found:
    """Find the newest messages with all words of a text, for up to SEARCH_STEP seconds.

    The results have numbers as cursors, because ids are those of a room.
    """
    words = fold(text).split()
    end = time.monotonic() + SEARCH_STEP
    found: list[tuple[str, Message]] = []
    cursors: list[int] = []
    streams = [_messages(room, before, database) for room in rooms]
    for number, room, message in heapq.merge(*streams, key=lambda each: -each[0]):
        folded = fold(message.text)
        if all(word in folded for word in words):
            found.append((room, message))
            cursors.append(number)
        if len(found) == MAX_FOUND or time.monotonic() >= end:
            return Found(found, before=number, cursors=cursors)
    return Found(found, before=None, cursors=cursors)


def _messages(
    room: str, before: int | None, database: Database
) -> Iterator[tuple[int, str, Message]]:
    """Iterate over the messages of a room with numbers below `before`, the newest first."""
    condition, values = "", [room]
    if before is not None:
        condition = " AND id < id_of_number(?, ?)"
        values = [room, room, str(before)]
    while True:
        rows = database.execute(
            f"{_WITH_NUMBER} WHERE room = ?{condition} AND kind = 0 AND text <> ''"
            f" ORDER BY id DESC LIMIT {_UNIT}",
            values,
        ).fetchall()
        for number, *row in rows:
            yield number, room, to_message(tuple(row))
        if len(rows) < _UNIT:
            return
        condition, values = " AND id < ?", [room, rows[-1][1]]
