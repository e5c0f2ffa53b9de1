"""Messages on their way through the log, and what is read from it in between.

All that is said in one turn of the server's loop goes to the log together. Whoever
joins gets what the log has, then what comes after: a batch that the log is about to
store would be missed or seen twice. So batches and such reads take turns, however
long the log takes to answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from chatd.ops.metrics import Metrics
from chatd.storage.store import MessageStore, NewMessage, Page, StoredMessage, StoreError
from wsproto_min import Peer

Said = Sequence[tuple[Peer, NewMessage]]
Answer = Callable[[Page | StoreError], None]


class WriteBatcher:
    """Calls `deliver` with each batch, once the log has stored it or failed to."""

    def __init__(
        self,
        log: Log,
        metrics: Metrics,
        deliver: Callable[[Said, Sequence[StoredMessage] | StoreError], None],
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._deliver = deliver
        self._said: list[tuple[Peer, NewMessage]] = []  # since the last batch
        self._storing = False  # the log has not answered the last batch yet
        self._given_at = 0.0  # when it was given that batch
        self._reading = 0  # reads that the log has not answered yet
        self._waiting: list[Callable[[], None]] = []  # reads, for the batch's answer

    def add(self, peer: Peer, entry: NewMessage) -> None:
        """Put what a peer said into the next batch."""
        self._said.append((peer, entry))

    def flush(self) -> None:
        """Give the log the next batch, unless it is still at something."""
        if self._said and not self._storing and not self._reading:
            said, self._said = self._said, []
            self._storing = True
            self._metrics.received += len(said)
            self._given_at = time.monotonic()
            self._log.append([entry for _, entry in said], partial(self._stored, said))

    def read(self, read: Callable[[Answer], None], answer: Answer) -> None:
        """Call `read` with a function that passes its result on to `answer`.

        No batch is being stored then, nor will be before the answer.
        """
        if self._storing or (self._reading and self._said):
            self._waiting.append(partial(self._read, read, answer))
        else:
            self._read(read, answer)

    def _read(self, read: Callable[[Answer], None], answer: Answer) -> None:
        def answered(result: Page | StoreError) -> None:
            self._reading -= 1
            answer(result)

        self._reading += 1
        read(answered)

    def _stored(self, said: Said, result: Sequence[StoredMessage] | StoreError) -> None:
        self._storing = False
        if not isinstance(result, StoreError):
            self._metrics.commits.observe(time.monotonic() - self._given_at)
        self._deliver(said, result)
        waiting, self._waiting = self._waiting, []
        for read in waiting:
            read()
