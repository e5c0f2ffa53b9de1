"""Appends to the shared store: a batch is one transaction, and one round trip if it is plain.

The transaction does not notify the other nodes, because a NOTIFY within it would serialize the
commits of all nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import psycopg

from chatd.model import Kind, Message
from chatd.storage.message_writer import append_one
from chatd.storage.postgres.connection import Connection
from chatd.storage.postgres.schema import REPEATED_KEY
from chatd.storage.store import Appended, NewMessage, StoredMessage


def append(node: str, messages: Sequence[NewMessage], database: Connection) -> list[Appended]:
    """Store entries, all or none. A repetition stores nothing twice, because each has a key.

    Args:
        node: Name of this node.
        messages: The batch.
        database: Connection of the writer.
    """
    if _are_plain(messages):
        try:
            return _append_plain(node, messages, database)
        except psycopg.Error as error:
            if error.sqlstate != REPEATED_KEY:
                raise
    return _append_one_by_one(node, messages, database)


def _are_plain(messages: Sequence[NewMessage]) -> bool:
    """Return True for plain messages, each with another key, and none in a direct room."""
    keys = {(each.room, each.key) for each in messages}
    return len(keys) == len(messages) and all(
        each.kind is Kind.MESSAGE and each.ref is None and each.room[0] != "@" for each in messages
    )


def _append_plain(
    node: str, messages: Sequence[NewMessage], database: Connection
) -> list[Appended]:
    """Store messages that are new, with no changes among them."""
    counts: Counter[str] = Counter()
    ordinals = []
    for each in messages:
        ordinals.append(counts[each.room])
        counts[each.room] += 1
    own = sorted(counts)
    index = {room: place for place, room in enumerate(own)}
    columns = [list(each) for each in zip(*messages, strict=True)]
    rooms, names, texts, keys, authors = columns[:5]
    firsts, now = database.execute(
        "SELECT * FROM append(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            node,
            own,
            [counts[room] for room in own],
            rooms,
            [index[room] + 1 for room in rooms],
            ordinals,
            names,
            texts,
            keys,
            authors,
        ),
    ).fetchone()
    first = dict(zip(own, firsts, strict=True))
    return [
        StoredMessage(Message(first[room] + ordinal, now, name, text, author), False)
        for room, ordinal, name, text, author in zip(
            rooms, ordinals, names, texts, authors, strict=True
        )
    ]


def _append_one_by_one(
    node: str, messages: Sequence[NewMessage], database: Connection
) -> list[Appended]:
    """Store entries of any kind, except repetitions of stored or earlier ones."""
    rooms = sorted({each.room for each in messages})
    with database:
        database.execute("BEGIN")
        database.execute("SELECT check_node(?)", (node,))
        database.execute(
            "INSERT INTO rooms SELECT room, 0 FROM unnest(?::text[]) AS room ORDER BY room"
            " ON CONFLICT DO NOTHING",
            (rooms,),
        )
        lasts: dict[str, int] = dict(
            database.execute(
                "SELECT room, last FROM rooms WHERE room = ANY (?) ORDER BY room FOR UPDATE",
                (rooms,),
            )
        )
        (now,) = database.execute("SELECT present()", ()).fetchone()
        result = []
        for new in messages:
            number = lasts[new.room] + 1
            appended = append_one(database, new, number, now)
            if isinstance(appended, StoredMessage) and not appended.repeated:
                lasts[new.room] = number
            result.append(appended)
        database.executemany(
            "UPDATE rooms SET last = ? WHERE room = ?",
            [(last, room) for room, last in lasts.items()],
        )
    return result
