"""The state of the connections to the shared engine, for the log, `/readyz` and the metrics."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from chatd.storage.shared import MetricValue

logger = logging.getLogger("chatd")

# Seconds without contact, or without the own notifications, after which a node is not ready.
READY_TIMEOUT = 10.0
# Seconds without the own notifications after which the listener is deaf.
DEAF_TIMEOUT = 5.0
# Seconds without contact after which the peers must go to another node.
LOST_TIMEOUT = 30.0

_PARTS = ("writer", "reader", "notifier", "listener")


class EngineState:
    """The state of the connections. All methods belong to the event loop.

    Args:
        place: The engine, for the log.

    Attributes:
        waiting_messages: Messages given to the writer, without a result.
        gaps_read: Reads of entries that no notification had.
        poll_repairs: Polls that found unreported changes.
        failovers: Changes of the engine's timeline.
        nodes: Nodes with a lease.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._errors: dict[str, str] = {}  # by part that is not connected
        self._lost_at = 0.0
        self._contact_at = time.monotonic()
        # Numbers of the last notification that was written and heard, and the time of the first
        # one that is not heard yet.
        self._sequence = self._written = self._heard = 0
        self._unheard_since: float | None = None
        self._was_deaf_at = 0.0
        self._was_lost = False
        self._connects: Counter[str] = Counter()
        self._notifications: Counter[str] = Counter()
        self.waiting_messages = 0
        self.gaps_read = 0
        self.poll_repairs = 0
        self.failovers = 0
        self.nodes = 1
        self._engine: str | None = None

    def of(self, part: str) -> Callable[[Exception | None], None]:
        """Return the function that receives the state of a part."""
        return partial(self._on_state, part)

    def _on_state(self, part: str, error: Exception | None) -> None:
        """Log the first lost part, and the return of the last one."""
        if error is None:
            self._connects[part] += 1
            if self._errors.pop(part, None) is not None and not self._errors:
                seconds = time.monotonic() - self._lost_at
                logger.warning(
                    "message store %s: connected again after %.1f s", self._place, seconds
                )
            return
        if not self._errors:
            self._lost_at = time.monotonic()
            reason = " ".join(str(error).split())
            logger.error(
                "message store %s: connection of the %s lost: %s; messages wait, and chatd"
                " connects again",
                self._place,
                part,
                reason,
            )
        self._errors[part] = str(error)

    def on_engine(self, engine: str) -> None:
        """Record the cluster and timeline of a new connection; log a change."""
        if self._engine not in (None, engine):
            self.failovers += 1
            logger.warning("message store %s: failover; the engine is another one", self._place)
        self._engine = engine

    def on_contact(self) -> None:
        """Record an answer of the engine."""
        self._contact_at = time.monotonic()
        self._was_lost = False

    def next_sequence(self) -> int:
        """Return a number for a notification of this node."""
        self._sequence += 1
        return self._sequence

    def on_written(self, sequence: int) -> None:
        """Record a write with a notification, which this node must hear too."""
        self._written = max(self._written, sequence)
        if self._unheard_since is None and self._heard < sequence:
            self._unheard_since = time.monotonic()

    def on_notification(self, kind: str, sequence: int) -> None:
        """Record a notification; `sequence` is 0 for one of another node."""
        self._notifications[kind] += 1
        self._heard = max(self._heard, sequence)
        if self._heard >= self._written:
            self._unheard_since = None

    def is_deaf(self) -> bool:
        """Return True if the listener must connect again; at most once in DEAF_TIMEOUT."""
        now = time.monotonic()
        if self._unheard_since is None or now < self._unheard_since + DEAF_TIMEOUT:
            return False
        if now < self._was_deaf_at + DEAF_TIMEOUT:
            return False
        self._was_deaf_at = now
        return True

    def is_long_lost(self) -> bool:
        """Return True once if the engine has not answered for LOST_TIMEOUT."""
        if self._was_lost or time.monotonic() < self._contact_at + LOST_TIMEOUT:
            return False
        self._was_lost = True
        return True

    def problem(self) -> str | None:
        """Return the reason why the node is not ready, None if it is."""
        now = time.monotonic()
        if now > self._contact_at + READY_TIMEOUT:
            return "message store does not answer"
        if self._unheard_since is not None and now > self._unheard_since + READY_TIMEOUT:
            return "notifications of the message store do not arrive"
        return None

    def metrics(self) -> Mapping[tuple[str, ...], tuple[str, MetricValue]]:
        """Return the metrics, as `ops.metrics.format_exposition` takes them."""
        connected: dict[tuple[str, ...], float] = {
            (part,): int(part not in self._errors and self._connects[part] > 0) for part in _PARTS
        }
        return {
            ("chatd_store_connected", "part"): (
                "1 for each part with a connection to the engine.",
                connected,
            ),
            ("chatd_store_waiting_messages",): (
                "Messages that wait for the engine.",
                self.waiting_messages,
            ),
            ("chatd_store_connects_total", "part"): (
                "Connections to the engine, the first one included.",
                {(part,): self._connects[part] for part in _PARTS},
            ),
            ("chatd_store_notifications_total", "kind"): (
                "Notifications of the nodes, this one included.",
                {(kind,): number for kind, number in self._notifications.items()},
            ),
            ("chatd_store_gaps_total",): (
                "Reads of entries that no notification had.",
                self.gaps_read,
            ),
            ("chatd_store_poll_repairs_total",): (
                "Polls that found changes without a notification.",
                self.poll_repairs,
            ),
            ("chatd_store_failovers_total",): (
                "Changes of the engine's timeline, since this node has started.",
                self.failovers,
            ),
            ("chatd_store_nodes",): ("Nodes that share the store.", self.nodes),
        }
