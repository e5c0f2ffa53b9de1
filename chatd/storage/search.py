"""Search in the stored messages: an index of trigrams in a file of its own, or a bounded scan.

The index is FTS5 with the tokenizer `trigram` (SQLite 3.34). It has a copy of each message in
folded case, so that "STRASSE" finds "Straße". It grows in the thread of the reader, from the
first search on: before each search, and in small steps after it. So a message costs the event
loop nothing, and a chat without searches has no index.

The index may be removed at any time: it only repeats what the store has. A build without
FTS5, words of one or two characters, and messages that are not indexed yet are served by a scan
from the newest message on, which ends after SCAN_STEP.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress

from chatd.model import Kind, Message
from chatd.storage.rows import SELECT_ENTRY, to_message
from chatd.storage.store import Found

# Messages in one result, and seconds that one search and one step of indexing take.
MAX_FOUND = 50
SEARCH_STEP = 0.03
INDEX_STEP = 0.005
# Entries that the index reads at once.
INDEX_UNIT = 50
# Trigrams of one query. More of them make the query slower and hardly more precise.
MAX_TRIGRAMS = 24
_MAX_ID = (1 << 63) - 1

_SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS entries USING
    fts5(text, room UNINDEXED, tokenize = 'trigram', detail = none);
CREATE TABLE IF NOT EXISTS ids (room TEXT, id INTEGER, PRIMARY KEY (room, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexed (room TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
"""

logger = logging.getLogger("chatd")


class SearchIndex:
    """Search in one database. All methods belong to one thread.

    Args:
        path: File of the index, None for searches without an index.
        step: Seconds that one search takes at most.
    """

    def __init__(self, path: str | None, step: float | None = None) -> None:
        self._path = path
        self._step = step
        self._index: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None  # of the file, which may be removed
        self._rooms: list[str] | None = None  # rooms that the present pass has not visited
        self._restart = False

    @property
    def is_enabled(self) -> bool:
        """True unless searches only scan."""
        return self._path is not None

    @property
    def is_in_use(self) -> bool:
        """True once the index is open, so that it has copies of texts."""
        return self._index is not None

    def visit_all_rooms(self) -> None:
        """Let the next steps of indexing visit all rooms again."""
        self._restart = True  # read in the other thread

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            with suppress(sqlite3.Error):
                self._index.close()
        self._index = None

    def search(
        self, rooms: Sequence[str], text: str, before: int | None, database: sqlite3.Connection
    ) -> Found:
        """Find the newest messages with all words of a text.

        Args:
            rooms: Rooms to search.
            text: Words separated by spaces.
            before: Id below which to search, None for no bound.
            database: Connection to the message store.
        """
        words = fold(text).split()
        end = time.monotonic() + (SEARCH_STEP if self._step is None else self._step)
        before = _MAX_ID if before is None else before
        query = _match(words)
        if query and self.grow(rooms, database):
            try:
                assert self._index is not None
                return self._find(self._index, rooms, words, query, before, database, end)
            except sqlite3.Error as error:
                self._discard(error)
        return _scan(rooms, words, before, database, end)

    def grow(self, rooms: Sequence[str] | None, database: sqlite3.Connection) -> bool:
        """Index new entries, for INDEX_STEP seconds.

        Args:
            rooms: Rooms with new entries; None continues the pass through all rooms.
            database: Connection to the message store.

        Returns:
            True if the index has all entries of the rooms.
        """
        end = time.monotonic() + INDEX_STEP
        try:
            if not self._open():
                return False
            if rooms is None:
                rooms = self._rooms_to_visit(database)
            assert self._index is not None
            with self._index:
                self._index.execute("BEGIN")
                for room in rooms:
                    if not self._index_room(self._index, room, database, end):
                        return False
                    if self._rooms and self._rooms[-1] == room:
                        self._rooms.pop()
        except (sqlite3.Error, OSError) as error:
            self._discard(error)
            return False
        return True

    def _rooms_to_visit(self, database: sqlite3.Connection) -> list[str]:
        if self._rooms is None or self._restart:
            self._restart = False
            rows = database.execute(
                "SELECT room FROM trimmed UNION SELECT DISTINCT room FROM messages"
            )
            self._rooms = [room for (room,) in rows]
        return self._rooms[::-1]

    def _index_room(
        self, index: sqlite3.Connection, room: str, database: sqlite3.Connection, end: float
    ) -> bool:
        """Index the new entries of a room; return False at the end of the time."""
        row = index.execute("SELECT id FROM indexed WHERE room = ?", (room,)).fetchone()
        last = 0 if row is None else row[0]
        row = database.execute("SELECT id FROM trimmed WHERE room = ?", (room,)).fetchone()
        if row is not None and last:
            _remove(index, "SELECT id FROM ids WHERE room = ? AND id <= ?", (room, row[0]))
            index.execute("DELETE FROM ids WHERE room = ? AND id <= ?", (room, row[0]))
        while True:
            entries = database.execute(
                "SELECT id, kind, ref FROM messages WHERE room = ? AND id > ? ORDER BY id LIMIT ?",
                (room, last, INDEX_UNIT),
            ).fetchall()
            if not entries:
                return True
            # An edit or a deletion indexes its message again.
            changed = {number if kind == 0 else ref for number, kind, ref in entries if kind < 3}
            marks = json.dumps(sorted(changed))
            _remove(index, "SELECT value FROM json_each(?)", (marks,))
            texts = database.execute(
                "SELECT id, text FROM messages WHERE room = ? AND text <> ''"
                " AND id IN (SELECT value FROM json_each(?))",
                (room, marks),
            )
            for number, text in texts:
                values = (number, fold(text), room)
                index.execute("INSERT INTO entries (rowid, text, room) VALUES (?, ?, ?)", values)
                index.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (room, number))
            last = entries[-1][0]
            index.execute("INSERT OR REPLACE INTO indexed VALUES (?, ?)", (room, last))
            if time.monotonic() >= end:
                return len(entries) < INDEX_UNIT

    def _find(
        self,
        index: sqlite3.Connection,
        rooms: Sequence[str],
        words: Sequence[str],
        query: str,
        before: int,
        database: sqlite3.Connection,
        end: float,
    ) -> Found:
        wanted = set(rooms)
        found: list[tuple[str, Message]] = []
        rows = index.execute(
            "SELECT rowid, room, text FROM entries WHERE entries MATCH ? AND rowid < ?"
            " ORDER BY rowid DESC",
            (query, before),
        )
        for number, room, text in rows:
            if room in wanted and all(word in text for word in words):
                row = database.execute(
                    f"{SELECT_ENTRY} WHERE room = ? AND id = ? AND text <> ''", (room, number)
                ).fetchone()
                if row is not None:  # else retention has removed the message
                    found.append((room, to_message(row)))
            if len(found) == MAX_FOUND or time.monotonic() >= end:
                rows.close()
                return _found(found, before=number)
        return _found(found, before=None)

    def _open(self) -> bool:
        """Open the index, again if its file was removed; return False without an index."""
        if self._path is None:
            return False
        if self._index is not None and self._identity != _identity(self._path):
            self.close()
        if self._index is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(descriptor)
            self._index = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._identity = _identity(self._path)
            self._rooms = None
            # A damaged index is made again, so it need not survive a power failure.
            self._index.executescript(
                "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;"
                f" PRAGMA secure_delete = ON; {_SCHEMA}"
            )
        return True

    def _discard(self, error: sqlite3.Error | OSError) -> None:
        """Remove a damaged index; the next step begins another. Do without if none is possible."""
        self.close()
        if self._path is None:
            return
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            logger.warning("search index %s: %s; chatd makes another", self._path, error)
            with suppress(OSError):
                os.unlink(self._path)
        else:  # for example a SQLite without FTS5, or a full disk
            logger.warning("search index %s: cannot use: %s; searches scan", self._path, error)
            self._path = None


def _remove(index: sqlite3.Connection, ids: str, values: tuple[object, ...]) -> None:
    """Remove the texts with the ids that a query returns."""
    index.execute(f"DELETE FROM entries WHERE rowid IN ({ids})", values)


def fold(text: str) -> str:
    """Return a text in folded case, as the index has it."""
    return text.casefold().replace("\0", " ")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _match(words: Sequence[str]) -> str:
    """Return the query of the trigrams of words, "" if no word has one.

    An index without positions has no phrases, so the query asks for each trigram. The search
    then compares the words themselves.
    """
    trigrams = {word[i : i + 3] for word in words for i in range(len(word) - 2)}
    chosen = sorted(trigrams)[:: max(1, len(trigrams) // MAX_TRIGRAMS)]
    return " AND ".join('"{}"'.format(each.replace('"', '""')) for each in chosen)


def _scan(
    rooms: Sequence[str],
    words: Sequence[str],
    before: int,
    database: sqlite3.Connection,
    end: float,
) -> Found:
    """Compare the messages of all rooms from the newest on, INDEX_UNIT of a room at a time."""
    found: list[tuple[str, Message]] = []
    below = dict.fromkeys(rooms, before)  # ids below which a room is not compared yet
    newest = {room: _newest(database, room, before) for room in rooms}
    while any(newest.values()) and time.monotonic() < end:
        room = max(newest, key=lambda each: newest[each])
        unit = database.execute(
            f"{SELECT_ENTRY} WHERE room = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (room, below[room], INDEX_UNIT),
        ).fetchall()
        for message in map(to_message, unit):
            folded = fold(message.text)
            is_shown = message.kind is Kind.MESSAGE and message.text
            if is_shown and all(word in folded for word in words):
                found.append((room, message))
        below[room] = unit[-1][0]
        newest[room] = _newest(database, room, below[room])
    # Ids up to the bound are not compared in every room, so they belong to the next page.
    bound = max(newest.values(), default=0)
    found = [each for each in found if each[1].id > bound]
    found.sort(key=lambda each: -each[1].id)
    if len(found) > MAX_FOUND:
        return _found(found[:MAX_FOUND], before=found[MAX_FOUND - 1][1].id)
    return _found(found, before=bound + 1 if bound else None)


def _found(messages: list[tuple[str, Message]], *, before: int | None) -> Found:
    return Found(messages, before, [message.id for _, message in messages])


def _newest(database: sqlite3.Connection, room: str, before: int) -> int:
    """Return the last id of a room below another one, 0 if there is none."""
    row = database.execute(
        "SELECT id FROM messages WHERE room = ? AND id < ? ORDER BY id DESC LIMIT 1", (room, before)
    ).fetchone()
    return 0 if row is None else int(row[0])
