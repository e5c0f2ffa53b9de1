"""Stored messages for peers in chat mode: catch-up after a join, and pages of history.

Every response is bounded, by a number of messages and by the size of their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from json.encoder import encode_basestring
from typing import NamedTuple

from chatd import protocol
from chatd.access import costs
from chatd.model import Message
from chatd.protocol import ChatError
from chatd.storage.store import MessageStore, Page, StoreError
from chatd.storage.write_batcher import WriteBatcher
from wsproto_min import Peer

# Messages in `joined` for a `join` without and with the id of the last message seen.
MAX_NEWEST = 50
MAX_MISSED = 1000
# Bytes of text in one response. Encoding and compressing this size takes 1 to 2 ms, in which
# the server does nothing else.
MAX_RESPONSE_TEXT = 1 << 17


class CatchUp(NamedTuple):
    """Messages for a peer that joins.

    `gap` is True if the peer also missed messages that are not in `messages`.
    """

    messages: Sequence[Message]
    gap: bool


class HistoryReader:
    """Reads messages from the store.

    Args:
        store: Store that keeps the messages.
        batcher: Writer of the same store.
        on_error: Callback for every failed read.
    """

    def __init__(
        self, store: MessageStore, batcher: WriteBatcher, on_error: Callable[[StoreError], None]
    ) -> None:
        self._store = store
        self._batcher = batcher
        self._on_error = on_error

    def send_page(
        self, peer: Peer, request: protocol.History, done: Callable[[float], None]
    ) -> None:
        """Send a peer the page of history that it requests; call `done` with the cost."""

        def respond(result: Page | StoreError) -> None:
            if isinstance(result, StoreError):
                self.report_failure(peer, request.room, result)
                done(0.0)
            else:
                messages, truncated = _truncate(result.messages)
                more = result.more or truncated
                response = protocol.history(request.room, messages, more=more)
                peer.send(response)
                done(costs.response_cost(len(result.messages), len(response)))

        self._store.read_before(request.room, request.before, request.limit, respond)

    def catch_up(
        self, room: str, after: int | None, callback: Callable[[CatchUp | StoreError], None]
    ) -> None:
        """Read the messages that a peer needs when it joins.

        A peer that gets live messages from the callback on gets each message once.

        Args:
            room: Name of the room.
            after: Id of the last message that the peer has; None reads the newest.
            callback: Receives the result, at once or later in the server's loop.
        """

        def respond(result: Page | StoreError) -> None:
            if isinstance(result, StoreError):
                callback(result)
            else:
                messages, truncated = _truncate(result.messages)
                incomplete = result.gap or result.more or truncated
                callback(CatchUp(messages, gap=after is not None and incomplete))

        if after is None:
            limit = MAX_NEWEST
            read = partial(self._store.read_before, room, None, limit)
        else:
            limit = MAX_MISSED
            read = partial(self._store.read_after, room, after, limit)
        self._batcher.read_newest(room, limit, read, respond)

    def report_failure(self, peer: Peer, room: str, error: StoreError) -> None:
        """Report a failed read to the operator and to the peer."""
        self._on_error(error)
        reason = "stored messages cannot be read; try again later"
        peer.send(protocol.error(ChatError("log_failed", reason, room=room)))


def _truncate(messages: Sequence[Message]) -> tuple[Sequence[Message], bool]:
    """Return the newest messages within MAX_RESPONSE_TEXT, and whether older ones are left out."""
    size = 0
    for index in range(len(messages) - 1, -1, -1):
        size += len(encode_basestring(messages[index].text).encode())
        if size > MAX_RESPONSE_TEXT:
            return messages[index + 1 :], True
    return messages, False
