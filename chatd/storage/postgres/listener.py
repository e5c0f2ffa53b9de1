"""The thread that hears the notifications of the other nodes."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from functools import partial

import psycopg

from chatd.storage.postgres.connection import Connect, Connection
from chatd.storage.postgres.notifications import CHANNEL, Notification, parse_payload
from chatd.storage.postgres.worker import MAX_BACKOFF, MIN_BACKOFF
from chatd.storage.store import CallSoon, StoreError

logger = logging.getLogger("chatd")


class Listener:
    """Listens on the channel of the store.

    Args:
        connect: Opens a connection.
        node: Name of this node.
        on_notification: Receives each notification in the event loop.
        on_state: Called with None once the listener listens, and with the error once it is lost.
    """

    def __init__(
        self,
        connect: Connect,
        node: str,
        on_notification: Callable[[Notification], None],
        on_state: Callable[[Exception | None], None],
    ) -> None:
        self._connect = connect
        self._node = node
        self._on_notification = on_notification
        self._on_state = on_state
        self._call_soon: CallSoon | None = None
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self, call_soon: CallSoon) -> None:
        """Start the thread."""
        self._call_soon = call_soon
        self._thread.start()

    def reconnect(self) -> None:
        """Listen on another connection, because this one is deaf."""
        if self._connection is not None:
            self._connection.abort()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self.reconnect()
        self._thread.join(1.0)

    def _run(self) -> None:
        assert self._call_soon is not None
        backoff = MIN_BACKOFF
        while not self._stopping.is_set():
            try:
                self._connection = self._connect()
                if self._stopping.is_set():  # `stop` has not seen this connection
                    break
                self._connection.raw.execute(f"LISTEN {CHANNEL}")
                self._call_soon(partial(self._on_state, None))
                backoff = MIN_BACKOFF
                for notification in self._connection.raw.notifies():
                    self._receive(notification.payload)
            except (psycopg.Error, StoreError) as error:
                if not self._stopping.is_set():
                    self._call_soon(partial(self._on_state, error))
            finally:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            self._stopping.wait(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, MAX_BACKOFF)

    def _receive(self, payload: str) -> None:
        assert self._call_soon is not None
        try:
            notification = parse_payload(payload, self._node)
        except ValueError:
            logger.warning("notification: unreadable; another program uses the channel %s", CHANNEL)
        else:
            self._call_soon(partial(self._on_notification, notification))
