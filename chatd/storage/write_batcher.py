"""The write batcher: one append for all messages of an event-loop iteration.

A join reads the stored messages, then receives every later one. The store answers at any
time, and messages are stored during the read. So the batcher adds the messages that it
has delivered since the start of the read to the page, unless the page has them. The
page ends between two deliveries: an append in progress is delivered first, because the page
may have its messages. Pages of history bypass the batcher. An exception of the store or of
a callback does not stop the batcher.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from chatd.model import Kind, Message
from chatd.storage.store import (
    Appended,
    MessageStore,
    NewMessage,
    Page,
    ReadCallback,
    StoredMessage,
    StoreError,
)
from wsproto_min import Peer

logger = logging.getLogger("chatd")

Batch = Sequence[tuple[Peer, NewMessage]]
"""Messages of one append, each with its sender."""


class _RoomRead:
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
            last = result.messages[-1].id if result.messages else 0
            present = {each.id for each in result.messages}
            # A page of messages alone lacks the changes, which may be older than its last message.
            newer = [
                each
                for each in self.delivered
                if each.id > last or (each.kind is not Kind.MESSAGE and each.id not in present)
            ]
            messages = [*result.messages, *newer]
            more = result.more or len(messages) > self._limit
            result = result._replace(messages=messages[-self._limit :], more=more)
        self.callback(result)


class WriteBatcher:
    """Queue of messages for the store, flushed once per iteration.

    Args:
        store: Message store to append to.
        deliver: Called with each batch and its result, in the order of the batches.
        observe_append: Called with the seconds that each successful append took.
    """

    def __init__(
        self,
        store: MessageStore,
        deliver: Callable[[Batch, Sequence[Appended] | StoreError], None],
        observe_append: Callable[[float], None],
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._observe_append = observe_append
        self._pending: list[tuple[Peer, NewMessage]] = []  # messages of the next batch
        self._appending = False  # until the delivery is complete
        self._append_started = 0.0
        self._reads: dict[str, list[_RoomRead]] = {}  # in progress, by room
        # Results that wait for the delivery of the append in progress.
        self._results: list[tuple[_RoomRead, Page | StoreError]] = []

    def add(self, sender: Peer, message: NewMessage) -> None:
        """Add a message to the next batch."""
        self._pending.append((sender, message))

    def flush(self) -> int:
        """Append the pending messages, unless an append is in progress.

        Returns:
            Number of messages passed to the store.
        """
        if not self._pending or self._appending:
            return 0
        batch, self._pending = self._pending, []
        self._appending = True
        self._append_started = time.monotonic()
        messages = [message for _, message in batch]
        try:
            self._store.append(messages, partial(self._on_append, batch))
        except Exception:
            if not self._appending:  # the exception comes from the callback
                raise
            self._on_append(batch, _unexpected("append"))
        return len(batch)

    def read_newest(
        self,
        room: str,
        limit: int,
        read: Callable[[ReadCallback], None],
        callback: ReadCallback,
    ) -> None:
        """Read the newest messages of a room up to the moment of the callback.

        A peer that gets live messages from the callback on gets each message once.

        Args:
            room: Name of the room.
            limit: Limit of messages in the page.
            read: Starts the read; called with the callback for its result.
            callback: Receives the page, at once or later.
        """
        room_read = _RoomRead(room, limit, callback)
        self._reads.setdefault(room, []).append(room_read)
        is_active = True

        def on_read(result: Page | StoreError) -> None:
            nonlocal is_active
            is_active = False
            if self._appending:
                self._results.append((room_read, result))
            else:
                self._complete(room_read, result)

        try:
            read(on_read)
        except Exception:
            if not is_active:  # the exception comes from the callback
                raise
            on_read(_unexpected("read"))

    def _complete(self, room_read: _RoomRead, result: Page | StoreError) -> None:
        reads = self._reads[room_read.room]
        reads.remove(room_read)
        if not reads:
            del self._reads[room_read.room]
        room_read.complete(result)

    def _on_append(self, batch: Batch, result: Sequence[Appended] | StoreError) -> None:
        if not isinstance(result, StoreError):
            self._observe_append(time.monotonic() - self._append_started)
            if self._reads:
                self._record(batch, result)
        try:
            self._deliver(batch, result)
        finally:
            self._appending = False
            results, self._results = self._results, []
            for room_read, page in results:
                try:
                    self._complete(room_read, page)
                except Exception:  # the other reads must end too
                    logger.exception("message store: the callback of a read raised an exception")

    def _record(self, batch: Batch, result: Sequence[Appended]) -> None:
        """Record delivered messages for the reads in progress."""
        for (_, new), stored in zip(batch, result, strict=True):
            if isinstance(stored, StoredMessage) and not stored.repeated:
                for room_read in self._reads.get(new.room, ()):
                    room_read.delivered.append(stored.message)


def _unexpected(action: str) -> StoreError:
    """Log the exception in progress; return the error that replaces it."""
    problem = f"message store: cannot {action}: unexpected exception"
    logger.exception("%s; report this bug", problem)
    return StoreError(f"{problem}; see the traceback in the log")
