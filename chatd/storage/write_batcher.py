"""The write batcher: one append for all messages of an event-loop iteration.

A join reads the stored messages, then receives every later one. The client would miss a
batch stored during that read, or receive it twice. The batcher therefore never lets an
append overlap the read of a join, however late the store calls back. Pages of history
bypass the batcher. An exception of the store or of a callback does not stop the batcher.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from chatd.storage.store import (
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
        deliver: Callable[[Batch, Sequence[StoredMessage] | StoreError], None],
        observe_append: Callable[[float], None],
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._observe_append = observe_append
        self._pending: list[tuple[Peer, NewMessage]] = []  # messages of the next batch
        self._appending = False
        self._append_started = 0.0
        self._active_reads = 0
        self._waiting_reads: list[Callable[[], None]] = []

    def add(self, sender: Peer, message: NewMessage) -> None:
        """Add a message to the next batch."""
        self._pending.append((sender, message))

    def flush(self) -> int:
        """Append the pending messages, unless an append or a read is in progress.

        Returns:
            Number of messages passed to the store.
        """
        if not self._pending or self._appending or self._active_reads:
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

    def read(self, read: Callable[[ReadCallback], None], callback: ReadCallback) -> None:
        """Read from the store while no append is in progress.

        Args:
            read: Starts the read; called with the callback for its result.
            callback: Receives the result. The next append starts after it returns.
        """
        # A read also waits if messages are pending behind another read. Otherwise a
        # stream of joins would delay those messages forever.
        if self._appending or (self._active_reads and self._pending):
            self._waiting_reads.append(partial(self._start_read, read, callback))
        else:
            self._start_read(read, callback)

    def _start_read(self, read: Callable[[ReadCallback], None], callback: ReadCallback) -> None:
        is_active = True

        def on_read(result: Page | StoreError) -> None:
            nonlocal is_active
            is_active = False
            self._active_reads -= 1
            callback(result)

        self._active_reads += 1
        try:
            read(on_read)
        except Exception:
            if not is_active:  # the exception comes from the callback
                raise
            on_read(_unexpected("read"))

    def _on_append(self, batch: Batch, result: Sequence[StoredMessage] | StoreError) -> None:
        self._appending = False
        if not isinstance(result, StoreError):
            self._observe_append(time.monotonic() - self._append_started)
        try:
            self._deliver(batch, result)
        finally:
            waiting_reads, self._waiting_reads = self._waiting_reads, []
            for start in waiting_reads:
                try:
                    start()
                except Exception:  # the other reads must start too
                    logger.exception("message store: the callback of a read raised an exception")


def _unexpected(action: str) -> StoreError:
    """Log the exception in progress; return the error that replaces it."""
    problem = f"message store: cannot {action}: unexpected exception"
    logger.exception("%s; report this bug", problem)
    return StoreError(f"{problem}; see the traceback in the log")
