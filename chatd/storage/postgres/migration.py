"""Migration of a SQLite store to the shared engine: copies everything, then compares it.

The copy proceeds in transactions, in the order of the keys, so an interrupted one continues
where it stopped. Until the comparison has succeeded, no server starts on the target.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from chatd.storage.postgres.connection import Connection, escape
from chatd.storage.store import StoreError

# Rows of one transaction.
UNIT = 5000

# Tables with their columns; the first ones are the key, in which the rows are ordered. The order
# of messages across rooms is that of their ids in the SQLite store.
_MESSAGES = "room, id, number, time, name, text, key, author, kind, ref, edited, reactions"
_TABLES = {
    "messages": (_MESSAGES, 2),
    "trimmed": ("room, id", 1),
    "removed_keys": ("number, removed, room, name, key, id, time, author", 1),
    "topics": ("room, text", 1),
    "direct_rooms": ("author, room", 2),
    "sanctions": ("author, room, action, name, until", 3),
    "audit": ("number, time, actor, action, room, name, author, details", 1),
}
_SEQUENCES = ("messages", "removed_keys", "audit")


def migrate(
    source: sqlite3.Connection,
    name: str,
    target: Connection,
    revocations: Mapping[str, float],
    secret: bytes | None,
    report: Callable[[str], None],
) -> None:
    """Copy a SQLite store to an empty shared one, or continue to.

    Args:
        source: The SQLite store, which no server uses.
        name: Its file, to recognize it in a repetition.
        target: Connection to the shared store.
        revocations: The revocation list beside the SQLite store.
        secret: The secret there, None for none.
        report: Receives lines about the progress.

    Raises:
        StoreError: The target has other messages, or differs at the end.
    """
    (importing,) = target.execute("SELECT importing FROM meta", ()).fetchone()
    (is_used,) = target.execute("SELECT EXISTS (SELECT 1 FROM rooms)", ()).fetchone()
    if importing not in ("", name) or (is_used and not importing):
        what = f"an incomplete migration of {importing}" if importing else "messages already"
        raise StoreError(f"migration: the shared store has {what}; use an empty database")
    target.execute("UPDATE meta SET importing = ?", (name,))
    for table, (columns, key_size) in _TABLES.items():
        count = 0
        for unit in _units(_rows(source, target, table, columns, key_size)):
            _copy(target, table, columns, unit)
            count += len(unit)
            report(f"{table}: {count:,} rows copied")
    _copy_rest(target, revocations, secret)
    for table, (columns, key_size) in _TABLES.items():
        report(f"{table}: comparing")
        if _digest(_source_rows(source, table, columns, key_size, None)) != _digest(
            _target_rows(target, table, columns, key_size)
        ):
            raise StoreError(f"migration: {table} differs; remove the schema, and migrate again")
    target.execute("UPDATE meta SET importing = ''", ())


def _rows(
    source: sqlite3.Connection, target: Connection, table: str, columns: str, key_size: int
) -> Iterator[tuple[Any, ...]]:
    """Iterate over the rows that the target does not have yet."""
    key = ", ".join(columns.split(", ")[:key_size])
    descending = key.replace(",", " DESC,") + " DESC"
    last = target.execute(f"SELECT {key} FROM {table} ORDER BY {descending} LIMIT 1", ()).fetchone()
    return _source_rows(source, table, columns, key_size, last)


def _source_rows(
    source: sqlite3.Connection,
    table: str,
    columns: str,
    key_size: int,
    last: tuple[Any, ...] | None,
) -> Iterator[tuple[Any, ...]]:
    key = ", ".join(columns.split(", ")[:key_size])
    found = columns if table != "messages" else columns.replace("number", "id AS number")
    where = "" if last is None else f" WHERE ({key}) > ({', '.join('?' * key_size)})"
    statement = f"SELECT {found} FROM {table}{where} ORDER BY {key}"
    yield from source.execute(statement, last or ())


def _target_rows(
    target: Connection, table: str, columns: str, key_size: int
) -> Iterator[tuple[Any, ...]]:
    key = ", ".join(columns.split(", ")[:key_size])
    yield from target.stream(f"SELECT {columns} FROM {table} ORDER BY {key}")


def _units(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while unit := list(islice(rows, UNIT)):
        yield unit


def _copy(target: Connection, table: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
    cursor = target.raw.cursor()
    with cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row([escape(each) for each in row])


def _copy_rest(target: Connection, revocations: Mapping[str, float], secret: bytes | None) -> None:
    """Derive the last ids and the sequences, and copy what is not in the database."""
    with target:
        target.execute("BEGIN")
        target.execute(
            "INSERT INTO rooms SELECT room, max(id) FROM (SELECT room, id FROM messages"
            " UNION ALL SELECT room, id FROM trimmed) AS ids GROUP BY room"
            " ON CONFLICT (room) DO UPDATE SET last = excluded.last"
        )
        for table in _SEQUENCES:
            target.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'number'),"
                f" (SELECT coalesce(max(number), 0) + 1 FROM {table}), false)"
            )
        for revoked, moment in revocations.items():
            target.execute(
                "INSERT INTO revocations VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET at = excluded.at",
                (revoked, moment),
            )
        if secret is not None:
            target.execute("UPDATE meta SET secret = ?", (secret,))


def _digest(rows: Iterator[tuple[Any, ...]]) -> bytes:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(tuple(row)).encode(errors="surrogatepass"))
    return digest.digest()
