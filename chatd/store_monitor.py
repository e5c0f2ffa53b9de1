"""Upkeep of the message store: retention, checks of its files, and its failures.

The monitor counts each failure, and logs it unless the last one was the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from chatd.model import Sanction
from chatd.ops.metrics import Metrics
from chatd.storage.store import MessageStore, StoreError

# Seconds between two runs of retention, and between its steps while more is to be removed.
RETENTION_INTERVAL = 60.0
RETENTION_PAUSE = 0.02
# Seconds between two checks of the files of the message store.
STORE_CHECK_INTERVAL = 0.5

logger = logging.getLogger("chatd")


class StoreMonitor:
    """Runs the store's periodic work, and records its failures.

    Args:
        store: The message store.
        metrics: Counts the failures.
        call_later: Calls a function after some seconds, like `Server.call_later`.
        on_sanctions: Called with all sanctions at the start, and after each change.

    Attributes:
        store_is_available: False while a file of the store is missing.
    """

    def __init__(
        self,
        store: MessageStore,
        metrics: Metrics,
        call_later: Callable[[float, Callable[[], None]], None],
        on_sanctions: Callable[[Sequence[Sanction]], None],
    ) -> None:
        self._on_sanctions = on_sanctions
        self.store_is_available = True
        self._store = store
        self._metrics = metrics
        self._call_later = call_later
        self._last_error = ""  # the last error in the log, until an append succeeds

    def start(self) -> None:
        """Start the checks and retention."""
        self._load_sanctions()
        self._call_later(STORE_CHECK_INTERVAL, self._check_store)
        self._call_later(0, self._apply_retention)

    def on_error(self, error: StoreError) -> None:
        """Count a failure, and log it unless the last one was the same."""
        self._metrics.store_failures += 1
        if str(error) != self._last_error:
            self._last_error = str(error)
            logger.error("%s", error)

    def on_success(self) -> None:
        """Log the next failure, even if it is the last one again."""
        self._last_error = ""

    def _apply_retention(self) -> None:
        """Delete the messages of one step, and schedule the next step."""
        more = False
        try:
            more = self._store.apply_retention()
        except StoreError as error:
            self.on_error(error)
        finally:  # also after an exception
            # Pauses between the steps keep the chat responsive while much is removed.
            pause = RETENTION_PAUSE if more else RETENTION_INTERVAL
            self._call_later(pause, self._apply_retention)

    def _load_sanctions(self) -> None:
        """Load the sanctions if the operator or a moderator has changed them."""
        sanctions = self._store.changed_sanctions()
        if sanctions is not None:
            self._on_sanctions(sanctions)

    def _check_store(self) -> None:
        """Check the files of the store, and schedule the next check."""
        try:
            self._store.check()
            self._load_sanctions()
        except StoreError as error:
            if self.store_is_available:
                self.on_error(error)
            self.store_is_available = False
        else:
            if not self.store_is_available:
                logger.warning("message store: its files are back; chatd stores messages again")
                self.on_success()
            self.store_is_available = True
        finally:  # also after an exception
            self._call_later(STORE_CHECK_INTERVAL, self._check_store)
