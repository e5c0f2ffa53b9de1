"""Notifications between nodes: their encoding, and the sender.

A notification is a hint: it may be lost, and it repeats what the store has. The poll of the
store finds what no notification has reported.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from chatd.model import Kind, Message
from chatd.storage.postgres.connection import Connection
from chatd.storage.postgres.worker import Worker
from chatd.storage.store import Appended, NewMessage, StoredMessage

CHANNEL = "chatd"
# PostgreSQL's limit is 8,000 bytes, with the zero at the end.
MAX_PAYLOAD = 7900

Payloads = Callable[[], Sequence[str]]
"""Encodes payloads, in the thread of the sender."""


class Notifier:
    """Sends notifications, those of a moment together.

    Args:
        worker: Worker with a connection for them.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: list[tuple[Payloads, Callable[[], None]]] = []
        self._is_sending = False

    def send(self, payloads: Payloads, then: Callable[[], None] = lambda: None) -> None:
        """Send notifications to all nodes, and call back once they are sent."""
        self._waiting.append((payloads, then))
        self._send_next()

    def _send_next(self) -> None:
        if self._is_sending or not self._waiting:
            return
        self._is_sending = True
        batch, self._waiting = self._waiting, []

        def finish(result: object) -> None:
            self._is_sending = False
            self._send_next()
            if result is None:  # else an error; the polls of the other nodes find the changes
                for _, then in batch:
                    then()

        self._worker.submit(partial(_send, [payloads for payloads, _ in batch]), finish)


def _send(batch: Sequence[Payloads], database: Connection) -> None:
    notify([each for payloads in batch for each in payloads()], database)


def notify(payloads: Sequence[str], database: Connection) -> None:
    """Send notifications to all nodes, this one included."""
    if payloads:
        database.raw.execute(
            f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest(%s::text[]) AS payload",
            (list(payloads),),
        )


class Notification(NamedTuple):
    """A notification: its kind, the node that sent it, the number there, and the content."""

    kind: str
    node: str
    sequence: int
    fields: dict[str, Any]


def format_payload(kind: str, node: str, sequence: int, content: str = "{}") -> str:
    """Return the payload of a notification.

    Args:
        kind: Its kind.
        node: Name of this node.
        sequence: Number that shows the node itself which of its notifications arrive; 0 for none.
        content: JSON object.
    """
    return f"{kind} {node} {sequence} {content}"


def parse_payload(payload: str, own_node: str) -> Notification:
    """Return the notification of a payload; one of this node without the content.

    Raises:
        ValueError: The payload is one of another program.
    """
    kind, node, sequence, content = payload.split(" ", 3)
    fields = {} if node == own_node else json.loads(content)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return Notification(kind, node, int(sequence), fields)


def encode_batch(
    node: str, sequence: int, messages: Sequence[NewMessage], result: Sequence[Appended]
) -> list[str]:
    """Return the payloads of a batch, in the order of each room's ids."""
    new_entries: dict[str, list[Message]] = defaultdict(list)
    for new, appended in zip(messages, result, strict=True):
        if isinstance(appended, StoredMessage) and not appended.repeated:
            new_entries[new.room].append(appended.message)
    return [
        payload
        for room, entries in new_entries.items()
        for payload in encode_entries(node, sequence, room, entries)
    ]


encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
"""Return a value as JSON, as in the payload of a notification."""


def encode_entries(
    node: str, sequence: int, room: str, entries: Sequence[Message]
) -> Iterator[str]:
    """Iterate over the payloads of a room's new entries, which have successive ids.

    A payload has the entries if they fit, else only their ids.
    """
    first = 0
    while first < len(entries):
        end, rows, size = first, [], 200
        while end < len(entries):
            row = encode(encode_entry(entries[end]))
            size += (len(row) if row.isascii() else len(row.encode())) + 1
            if size > MAX_PAYLOAD and end > first:
                break
            rows.append(row)
            end += 1
        content = encode({"room": room, "last": entries[end - 1].id})
        if size <= MAX_PAYLOAD:
            content = f'{content[:-1]},"entries":[{",".join(rows)}]}}'
        yield format_payload("entries", node, sequence, content)
        first = end


def encode_entry(message: Message) -> list[Any]:
    """Return the values of a new entry."""
    return [*message[:5], int(message.kind), message.ref]


def decode_entry(row: Sequence[Any]) -> Message:
    """Return the entry of `encode_entry`."""
    number, time, name, text, author, kind, ref = row
    return Message(number, time, name, text, author, Kind(kind), ref)
