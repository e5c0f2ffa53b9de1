"""The checkpointer: a thread that copies SQLite's write-ahead log into the database file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing

logger = logging.getLogger("chatd")


class Checkpointer:
    """Thread that checkpoints a database on request.

    A checkpoint waits for the disk, so the event loop must not run it.

    Args:
        path: Database file in write-ahead mode.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._requested = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Start a checkpoint, or another one after the checkpoint in progress."""
        self._requested.set()

    def stop(self) -> None:
        """Wait for the checkpoint in progress and end the thread."""
        self._stopping = True
        self._requested.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._requested.wait()
            self._requested.clear()
            # Test this after clear(): stop() sets the flag first, so no wake-up is lost.
            if self._stopping:
                return
            try:
                with closing(sqlite3.connect(self._path)) as database:
                    database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                logger.warning(
                    "message store %s: checkpoint failed: %s; chatd tries again later",
                    self._path,
                    error,
                )
