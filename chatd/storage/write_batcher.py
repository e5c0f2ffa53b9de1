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
from collections.abc import Callable, Sequence
from functools import partial

from chatd.storage.room_reads import RoomRead, RoomReads
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

# Limits of one append to an engine that answers later: messages, and characters of their texts.
MAX_BATCH = 512
MAX_BATCH_SIZE = 256 << 10
# Messages and characters that may wait for the engine before senders must wait.
MAX_PENDING = 10_000
MAX_PENDING_SIZE = 16 << 20

Batch = Sequence[tuple[Peer, NewMessage]]
"""Messages of one append, each with its sender."""


class WriteBatcher:
    """Queue of messages for the store, flushed once per iteration.

    Args:
        store: Message store to append to.
        deliver: Called with each batch and its result, in the order of the batches.
        observe_append: Called with the seconds that each successful append took.
        is_bounded: True for an engine that answers later: limits one append and the queue.

    Attributes:
        on_full: Called with each sender of a message while the queue is full.
    """

    def __init__(
        self,
        store: MessageStore,
        deliver: Callable[[Batch, Sequence[Appended] | StoreError], None],
        observe_append: Callable[[float], None],
        *,
        is_bounded: bool = False,
    ) -> None:
        self.on_full: Callable[[Peer], None] = lambda peer: None
        self._is_bounded = is_bounded
        self._pending_size = 0  # characters, if the queue is bounded
        self._store = store
        self._deliver = deliver
        self._observe_append = observe_append
        self._pending: list[tuple[Peer, NewMessage]] = []  # messages of the next batch
        self._appending = False  # until the delivery is complete
        self._append_started: float  # time of the append in progress
        self._reads = RoomReads()
        # Results that wait for the delivery of the append in progress.
        self._results: list[tuple[RoomRead, Page | StoreError]] = []

    def add(self, sender: Peer, message: NewMessage) -> None:
        """Add a message to a later batch."""
        self._pending.append((sender, message))
        if self._is_bounded:
            self._pending_size += len(message.text)
            if self.is_full:
                self.on_full(sender)

    @property
    def is_full(self) -> bool:
        """True if senders must wait, because the store is slower than they are."""
        return len(self._pending) >= MAX_PENDING or self._pending_size >= MAX_PENDING_SIZE

    def _take_bounded(self) -> list[tuple[Peer, NewMessage]]:
        """Return the messages of the next append, and leave the others in the queue."""
        size = number = 0
        for _, message in self._pending[:MAX_BATCH]:
            size += len(message.text)
            if number and size > MAX_BATCH_SIZE:
                break
            number += 1
            self._pending_size -= len(message.text)
        batch, self._pending = self._pending[:number], self._pending[number:]
        return batch

    def drain(self) -> None:
        """Append all pending messages, whose senders have gone, at the end of the loop."""
        while self._pending:
            self._appending = False
            self.flush()

    def flush(self) -> int:
        """Append the pending messages, unless an append is in progress.

        Returns:
            Number of messages passed to the store.
        """
        if not self._pending or self._appending:
            return 0
        if self._is_bounded:
            batch = self._take_bounded()
        else:
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
        room_read = self._reads.begin(room, limit, callback)
        is_active = True

        def on_read(result: Page | StoreError) -> None:
            nonlocal is_active
            is_active = False
            if self._appending:
                self._results.append((room_read, result))
            else:
                self._reads.complete(room_read, result)

        try:
            read(on_read)
        except Exception:
            if not is_active:  # the exception comes from the callback
                raise
            on_read(_unexpected("read"))

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
                    self._reads.complete(room_read, page)
                except Exception:  # the other reads must end too
                    logger.exception("message store: the callback of a read raised an exception")

    def _record(self, batch: Batch, result: Sequence[Appended]) -> None:
        """Record delivered messages for the reads in progress."""
        for (_, new), stored in zip(batch, result, strict=True):
            if isinstance(stored, StoredMessage) and not stored.repeated:
                self._reads.record(new.room, stored.message)


def _unexpected(action: str) -> StoreError:
    """Log the exception in progress; return the error that replaces it."""
    problem = f"message store: cannot {action}: unexpected exception"
    logger.exception("%s; report this bug", problem)
    return StoreError(f"{problem}; see the traceback in the log")
