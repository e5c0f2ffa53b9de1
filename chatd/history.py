"""Stored messages for peers in chat mode: catch-up after a join, pages of history, and searches.

Every response is bounded, by a number of messages and by the size of their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from json.encoder import encode_basestring
from typing import NamedTuple

from chatd import protocol
from chatd.access import costs
from chatd.model import Kind, Message
from chatd.protocol import ChatError
from chatd.storage.room_reads import NewestReader
from chatd.storage.store import Found, MessageStore, Page, ReadCallback, StoreError
from wsproto_min import Peer

# Messages in `joined` for a `join` without and with the id of the last message seen.
MAX_NEWEST = 50
MAX_MISSED = 1000
# Bytes of text in one response. Encoding and compressing this size takes 1 to 2 ms, in which
# the server does nothing else.
MAX_RESPONSE_TEXT = 1 << 17

Done = Callable[[float], None]
"""Called once the response is sent, with its cost."""


class CatchUp(NamedTuple):
    """Messages and changes for a peer that joins.

    `gap` is True if the peer also missed entries that are in neither of the two.
    """

    messages: Sequence[Message]
    changes: Sequence[Message]
    topic: str
    gap: bool


class HistoryReader:
    """Reads messages from the store.

    Args:
        store: Store that keeps the messages.
        reads: Completes pages with the live messages of the same store.
        on_error: Callback for every failed read.
    """

    def __init__(
        self,
        store: MessageStore,
        reads: NewestReader,
        on_error: Callable[[StoreError], None],
    ) -> None:
        self._store = store
        self._reads = reads
        self._on_error = on_error

    def send_page(self, peer: Peer, request: protocol.History, done: Done) -> None:
        """Send a peer the page of history that it requests; call `done` with the cost."""
        room, limit = request.room, request.limit
        read: Callable[[ReadCallback], None]
        place = 1.0  # of the wanted message in the page: 0 the first, 1 the last
        if request.after is not None:
            read, place = partial(self._store.read_following, room, request.after, limit), 0.0
        elif request.around is not None:
            read, place = partial(self._store.read_around, room, request.around, limit), 0.5
        elif request.date is not None:
            read, place = partial(self._store.read_from, room, request.date, limit), 0.0
        else:
            read = partial(self._store.read_before, room, request.before, limit)

        def respond(result: Page | StoreError) -> None:
            if isinstance(result, StoreError):
                self.report_failure(peer, room, result)
                done(0.0)
                return
            first, end = _fit(result.messages, place)
            response = protocol.history(
                room,
                result.messages[first:end],
                more=result.more or first > 0,
                more_after=result.more_after or end < len(result.messages),
            )
            peer.send(response)
            done(costs.response_cost(len(result.messages), len(response)))

        read(respond)

    def catch_up(
        self, room: str, after: int | None, callback: Callable[[CatchUp | StoreError], None]
    ) -> None:
        """Read the entries that a peer needs when it joins.

        A peer that gets live entries from the callback on gets each entry once.

        Args:
            room: Name of the room.
            after: Id of the last entry that the peer has; None reads the newest messages.
            callback: Receives the result, at once or later in the server's loop.
        """

        def respond(result: Page | StoreError) -> None:
            if isinstance(result, StoreError):
                callback(result)
                return
            first, _ = _fit(result.messages, 1.0)
            entries = result.messages[first:]
            messages = [each for each in entries if each.kind is Kind.MESSAGE]
            changes = [each for each in entries if each.kind is not Kind.MESSAGE]
            gap = after is not None and (result.gap or result.more or first > 0)
            callback(CatchUp(messages, changes, result.topic, gap))

        if after is None:
            limit = MAX_NEWEST
            read = partial(self._store.read_before, room, None, limit)
        else:
            limit = MAX_MISSED
            read = partial(self._store.read_after, room, after, limit)
        self._reads.read_newest(room, limit, read, respond)

    def search(
        self, peer: Peer, rooms: Sequence[str], request: protocol.Search, done: Done
    ) -> None:
        """Send a peer the messages that it searches in `rooms`."""

        def respond(result: Found | StoreError) -> None:
            if isinstance(result, StoreError):
                self.report_failure(peer, request.room, result)
                done(0.0)
                return
            _, end = _fit([message for _, message in result.messages], 0.0)
            before = result.before if end == len(result.messages) else result.cursors[end - 1]
            response = protocol.results(request.text, result.messages[:end], before=before)
            peer.send(response)
            done(costs.SEARCH_COST + costs.response_cost(end, len(response)))

        self._store.search(rooms, request.text, request.before, respond)

    def report_failure(self, peer: Peer, room: str | None, error: StoreError) -> None:
        """Report a failed read to the operator and to the peer."""
        self._on_error(error)
        reason = "stored messages cannot be read; try again later"
        peer.send(protocol.error(ChatError("log_failed", reason, room=room)))


def _fit(messages: Sequence[Message], place: float) -> tuple[int, int]:
    """Return the part of a page within MAX_RESPONSE_TEXT, as indexes of its first and its end.

    Args:
        messages: The page.
        place: Place of the message that must be in the part: 0 the first, 1 the last.
    """
    first = middle = end = round(place * len(messages))
    size = 0
    while first > 0 or end < len(messages):
        # Grows towards both sides in turn.
        is_behind = middle - first <= end - middle
        takes_older = first > 0 and (end == len(messages) or is_behind)
        message = messages[first - 1] if takes_older else messages[end]
        size += len(encode_basestring(message.text).encode()) + len(message.reactions.encode())
        if size > MAX_RESPONSE_TEXT and first < end:
            break
        if takes_older:
            first -= 1
        else:
            end += 1
    return first, end
