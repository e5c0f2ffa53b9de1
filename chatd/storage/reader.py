"""The thread that reads pages.

A page can take long: its rows may be on a slow disk, and a page has up to MAX_PAGE_TEXT
characters. So the event loop must not read it.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from chatd.storage.pages import Read
from chatd.storage.sqlite_file import connect
from chatd.storage.store import CallSoon, StoreError

logger = logging.getLogger("chatd")

Callback = Callable[[Any], None]
"""Receives the result of a read, or a `StoreError`."""


def try_read(path: str, database: sqlite3.Connection, read: Read) -> object:
    """Read from one snapshot of the database.

    Returns:
        The result, or a `StoreError`; an unexpected exception is logged, too.
    """
    try:
        with database:
            database.execute("BEGIN")
            return read(database)
    except sqlite3.Error as error:
        problem = str(error)
    except Exception:
        logger.exception("message store %s: unexpected exception in a read; report this bug", path)
        problem = "unexpected exception; see the traceback in the log"
    return StoreError(f"message store {path}: cannot read: {problem}; run `chatd check`")


class Reader:
    """Thread with a connection of its own, which reads one page at a time.

    The methods belong to the thread of the event loop. The queue is there too: between two
    reads, `on_idle` finds no snapshot open.

    Args:
        path: Database file in write-ahead mode.
        on_idle: Called after each read, before the next one starts.

    Raises:
        sqlite3.Error: The database cannot be opened.
    """

    def __init__(self, path: str, on_idle: Callable[[], None]) -> None:
        self._path = path
        self._on_idle = on_idle
        self._database = connect(path, check_same_thread=False)
        try:
            self._database.execute("PRAGMA query_only = 1")
            self._database.execute("SELECT 1 FROM ids").fetchone()  # opens the write-ahead log
        except sqlite3.Error:
            self._database.close()
            raise
        self._waiting: deque[tuple[Read, Callback]] = deque()
        self._callback: Callback | None = None  # of the read in progress
        self._reads: queue.SimpleQueue[Read | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._call_soon: CallSoon | None = None

    def start(self, call_soon: CallSoon) -> None:
        """Start the thread; results arrive through `call_soon`, which any thread may call."""
        self._call_soon = call_soon
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def submit(self, read: Read, callback: Callback) -> None:
        """Read when the earlier reads are complete; without a thread, at once."""
        if self._thread is None:
            callback(try_read(self._path, self._database, read))
        else:
            self._waiting.append((read, callback))
            self._start_next()

    def stop(self) -> None:
        """Interrupt the read in progress, drop the results, and close the connection."""
        self._waiting.clear()
        self._callback = None
        if self._thread is not None:
            self._database.interrupt()
            self._reads.put(None)
            self._thread.join()
        self._database.close()

    def _start_next(self) -> None:
        if self._waiting and self._callback is None:
            read, self._callback = self._waiting.popleft()
            self._reads.put(read)

    def _finish(self, result: object) -> None:
        callback, self._callback = self._callback, None
        if callback is None:  # stopped
            return
        self._on_idle()
        self._start_next()
        callback(result)

    def _run(self) -> None:
        """Read in the thread until `stop`."""
        assert self._call_soon is not None
        while (read := self._reads.get()) is not None:
            result = try_read(self._path, self._database, read)
            self._call_soon(partial(self._finish, result))
