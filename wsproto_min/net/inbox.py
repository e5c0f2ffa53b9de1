"""Messages that have arrived at a client and wait for `recv` or `recv_streaming`.

`Connection` returns whole messages until `next_chunk` finds the inbox empty. Then the next message
comes in chunks, or the rest of the message under way. A message of which a part was read can only
be read on in chunks: if the program asks for a whole message instead, the rest is skipped.
"""

from __future__ import annotations

import sys
from collections import deque

from wsproto_min.connection import Connection
from wsproto_min.messages import MessageChunk


class Inbox:
    """Messages in the order of arrival, some of them in chunks.

    Args:
        connection: The client's connection.
        limit: Size in bytes from which `is_full` is True.

    Attributes:
        size: Bytes of memory.

    """

    def __init__(self, connection: Connection, limit: int) -> None:
        self.size: int = 0
        self._connection = connection
        self._limit = limit
        self._items: deque[str | bytes | MessageChunk] = deque()
        self._reader: object | None = None  # the caller of `next_chunk`
        self._begun = False  # True if the reader has got a part of its message
        self._skips = False  # True while the rest of a message is skipped
        self._parts: list[str | bytes] = []  # chunks of a message that is asked for as a whole

    @property
    def is_full(self) -> bool:
        """True if the messages have reached the limit."""
        return self.size >= self._limit

    def add(self, item: str | bytes | MessageChunk) -> None:
        """Add a received message or chunk; a full inbox drops it, because the client closes."""
        if not self.is_full:
            self._items.append(item)
            self.size += _size_of(item)
        if isinstance(item, MessageChunk) and item.message_finished:
            self._connection.receive_chunks = False

    def _take(self) -> str | bytes | MessageChunk | None:
        """Return the next item that is not skipped, or None."""
        while self._items:
            item = self._items.popleft()
            self.size -= _size_of(item)
            if not self._skips:
                return item
            self._skips = isinstance(item, MessageChunk) and not item.message_finished
        return None

    def next_message(self) -> str | bytes | None:
        """Return the next whole message, or None if more data is needed."""
        self._abandon()
        while (item := self._take()) is not None:
            if not isinstance(item, MessageChunk):
                return item
            self._parts.append(item.data)
            if item.message_finished:
                return self._join_parts()
        return None

    def _join_parts(self) -> str | bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts) if isinstance(parts[0], bytes) else "".join(parts)  # type: ignore[arg-type]

    def begin(self, reader: object) -> None:
        """Let `reader` have the next message in chunks; skip the rest of an earlier one."""
        self._abandon()
        self._reader = reader

    def _abandon(self) -> None:
        """Skip the rest of a message of which a part was read."""
        if self._reader is not None:
            self._reader = None
            if self._begun:
                self._begun = False
                self._skips = True

    def next_chunk(self, reader: object) -> MessageChunk | None:
        """Return the reader's next chunk, or None if more data is needed.

        Raises:
            RuntimeError: A later call has skipped the rest of the message.

        """
        if self._reader is not reader:
            raise RuntimeError("recv_streaming: a later call has skipped the rest of the message")
        if self._parts:
            self._begun = True
            return MessageChunk(self._join_parts(), False, False)
        item = self._take()
        if item is None:
            self._connection.receive_chunks = True
            return None
        if not isinstance(item, MessageChunk):
            item = MessageChunk(item)
        self._begun = not item.message_finished
        if item.message_finished:
            self._reader = None
        return item


def _size_of(item: str | bytes | MessageChunk) -> int:
    return sys.getsizeof(item.data if isinstance(item, MessageChunk) else item)
