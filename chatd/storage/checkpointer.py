"""The checkpointer: a thread that copies SQLite's write-ahead log into the database file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing

from chatd.storage.sqlite_file import connect

logger = logging.getLogger("chatd")


class Checkpointer:
    """Thread that checkpoints a database on request.

    A checkpoint waits for the disk, so the event loop must not run it. The thread keeps
    one connection: a new connection would create a second write-ahead log if someone has
    removed the first one.

    Args:
        path: Database file in write-ahead mode.

    Raises:
        sqlite3.Error: The thread cannot open the database.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._requested = threading.Event()
        self._finished = threading.Event()
        self._opened = threading.Event()
        self._open_error: sqlite3.Error | None = None
        self._stopping = False
        self._is_active = False  # from the request until take_finished()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._open_error is not None:
            raise self._open_error

    def request(self) -> None:
        """Start a checkpoint, unless one is in progress."""
        if not self._is_active:
            self._is_active = True
            self._requested.set()

    @property
    def is_busy(self) -> bool:
        """True while a checkpoint is in progress."""
        return self._is_active and not self._finished.is_set()

    def wait(self) -> None:
        """Wait for the checkpoint in progress."""
        if self._is_active:
            self._finished.wait()

    @property
    def has_finished(self) -> bool:
        """True from the end of a checkpoint until take_finished()."""
        return self._finished.is_set()

    def take_finished(self) -> bool:
        """Return True once for each finished checkpoint."""
        if not self._finished.is_set():
            return False
        self._finished.clear()
        self._is_active = False
        return True

    def stop(self) -> None:
        """Wait for the checkpoint in progress and end the thread."""
        self._stopping = True
        self._requested.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            database = connect(self._path)
            with closing(database):
                database.execute("SELECT 1 FROM ids").fetchone()  # opens the write-ahead log
                self._opened.set()
                self._serve(database)
        except sqlite3.Error as error:
            self._open_error = error
            self._opened.set()

    def _serve(self, database: sqlite3.Connection) -> None:
        while True:
            self._requested.wait()
            self._requested.clear()
            # Test this after clear(): stop() sets the flag first, so no wake-up is lost.
            if self._stopping:
                return
            try:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                logger.warning(
                    "message store %s: checkpoint failed: %s; chatd tries again later",
                    self._path,
                    error,
                )
            self._finished.set()
