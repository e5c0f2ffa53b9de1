"""The write-ahead log: keeps it short while appends go on.

The Checkpointer copies the log, which takes long. It cannot make the log start anew,
because appends go on meanwhile. So a short second checkpoint, between two appends,
copies the remaining frames and truncates the log.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

from chatd.storage.checkpointer import Checkpointer
from chatd.storage.file_watch import FileWatch

# Bytes of the write-ahead log that start a checkpoint, and the least number on a small disk.
CHECKPOINT_SIZE = 4 << 20
MIN_CHECKPOINT_SIZE = 64 << 10


class WriteAheadLog:
    """The write-ahead log of one database.

    Args:
        path: Database file.
        database: Connection that appends.
        watch: Watch of the files, which measures the log.

    Raises:
        sqlite3.Error: The checkpointer cannot open the database.
    """

    def __init__(self, path: str, database: sqlite3.Connection, watch: FileWatch) -> None:
        self._path = path
        self._database = database
        self._watch = watch
        self._checkpointer = Checkpointer(path)
        self._checkpoint_size = self._checkpoint_at = self._choose_checkpoint_size()
        self._reader_delays_truncation = False
        self.stop = self._checkpointer.stop

    def after_write(self) -> None:
        """Start or finish a checkpoint if necessary, after a transaction."""
        with suppress(OSError):  # the next check reports it
            self._watch.update()
        if self._watch.log_size >= self._checkpoint_at or self._checkpointer.has_finished:
            self._advance()

    def _advance(self) -> None:
        if self._checkpointer.take_finished():
            self._reader_delays_truncation = not self.truncate()
            self._schedule_checkpoint()
        else:
            self._checkpointer.request()

    def _schedule_checkpoint(self) -> None:
        """Start the next checkpoint after as many bytes, also behind a reader's old snapshot."""
        self._checkpoint_size = self._choose_checkpoint_size()
        self._checkpoint_at = self._watch.log_size + self._checkpoint_size

    def after_read(self) -> None:
        """Truncate the log if a snapshot has delayed it; no read of this process is open."""
        if self._reader_delays_truncation:
            self._reader_delays_truncation = False
            if self.truncate():
                self._schedule_checkpoint()

    def has_room(self, *, wait: bool) -> bool:
        """Return False if appends must wait, because the disk is slower than they are.

        Args:
            wait: Wait here, rather than return False.
        """
        if self._watch.log_size >= self._checkpoint_at + self._checkpoint_size:
            if wait:
                self._checkpointer.wait()
            if self._checkpointer.is_busy:
                return False
            self.after_write()
        return True

    def truncate(self) -> bool:
        """Copy the write-ahead log into the database; return True if it is empty then."""
        with suppress(sqlite3.Error, OSError):
            (busy, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._watch.update_after_checkpoint()
            return not busy
        return False

    def _choose_checkpoint_size(self) -> int:
        """Return the bytes of log before a checkpoint; on a small disk, a part of the free space.

        The log can become twice as long, and its copy needs as much space again.
        """
        try:
            disk = os.statvfs(self._path)
        except OSError:
            return CHECKPOINT_SIZE
        free = disk.f_bavail * disk.f_frsize
        return max(MIN_CHECKPOINT_SIZE, min(CHECKPOINT_SIZE, free // 4))
