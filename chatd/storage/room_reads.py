"""Reads of a room's newest messages, each completed by what is delivered during the read.

A peer that gets live messages from the end of the read on gets each message once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from chatd.model import Kind, Message
from chatd.storage.store import Page, ReadCallback, StoreError


class RoomRead:
    """A read in progress of the newest messages of a room."""

    def __init__(self, room: str, limit: int, callback: ReadCallback) -> None:
        self.room = room
        self.callback = callback
        self._limit = limit
        # Messages delivered since the start; one over the limit shows that others are missing.
        self.delivered: deque[Message] = deque(maxlen=limit + 1)

    def complete(self, result: Page | StoreError) -> None:
        """Call back with the page and the newer messages, the newest of all."""
        if self.delivered and not isinstance(result, StoreError):
            newer = self._newer_than(result)
            messages = [*result.messages, *newer]
            more = result.more or len(messages) > self._limit
            result = result._replace(messages=messages[-self._limit :], more=more)
        self.callback(result)

    def _newer_than(self, page: Page) -> list[Message]:
        """Return the delivered messages that were stored after a page was read."""
        if page.last is not None:
            return [each for each in self.delivered if each.id > page.last]
        last = page.messages[-1].id if page.messages else 0
        present = {each.id for each in page.messages}
        # A page of messages alone lacks the changes, which may be older than its last message.
        return [
            each
            for each in self.delivered
            if each.id > last or (each.kind is not Kind.MESSAGE and each.id not in present)
        ]


class NewestReader(Protocol):
    """Reads the newest messages of a room for a peer that gets live messages afterwards."""

    def read_newest(
        self,
        room: str,
        limit: int,
        read: Callable[[ReadCallback], None],
        callback: ReadCallback,
    ) -> None:
        """Read the newest messages up to the moment of the callback.

        Args:
            room: Name of the room.
            limit: Limit of messages in the page.
            read: Starts the read; called with the callback for its result.
            callback: Receives the page, at once or later.
        """


class RoomReads:
    """The reads in progress, by room. False if there are none."""

    def __init__(self) -> None:
        self._reads: dict[str, list[RoomRead]] = {}

    def __bool__(self) -> bool:
        """Return True if a read is in progress."""
        return bool(self._reads)

    def begin(self, room: str, limit: int, callback: ReadCallback) -> RoomRead:
        """Record the messages that are delivered from now on.

        Args:
            room: Name of the room.
            limit: Limit of messages in the page.
            callback: Receives the page from `complete`.
        """
        room_read = RoomRead(room, limit, callback)
        self._reads.setdefault(room, []).append(room_read)
        return room_read

    def record(self, room: str, message: Message) -> None:
        """Record a message at its delivery."""
        for room_read in self._reads.get(room, ()):
            room_read.delivered.append(message)

    def complete(self, room_read: RoomRead, result: Page | StoreError) -> None:
        """End a read with the page of the store."""
        reads = self._reads[room_read.room]
        reads.remove(room_read)
        if not reads:
            del self._reads[room_read.room]
        room_read.complete(result)
