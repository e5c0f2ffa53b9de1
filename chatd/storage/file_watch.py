"""The file watch: detects that another program removes, replaces or truncates a store's files.

SQLite does not notice: it goes on writing to the removed file, which nobody can open.
"""

from __future__ import annotations

import os
import sqlite3

WAL_HEADER, FRAME_HEADER = 32, 24  # bytes; https://sqlite.org/fileformat2.html#walformat


class FileWatch:
    """Identity and sizes of the files of an open database.

    Args:
        path: Database file, which `database` has opened in write-ahead mode.
        database: Connection to the database, after its first transaction.
    """

    def __init__(self, path: str, database: sqlite3.Connection) -> None:
        self._database = database
        real = os.path.realpath(path)
        # `path` itself, because another program can redirect a symbolic link.
        self._paths = (path, f"{real}-wal", f"{real}-shm")
        self._files = [_identity(os.stat(each)) for each in self._paths]
        self._sizes = [0, 0]
        self._page_size: int = database.execute("PRAGMA page_size").fetchone()[0]
        self.update()

    def update(self) -> None:
        """Record the sizes after a transaction or a checkpoint of this process."""
        self._sizes = [os.stat(each).st_size for each in self._paths[:2]]

    @property
    def log_size(self) -> int:
        """Bytes of the write-ahead log at the last update."""
        return self._sizes[1]

    def problem(self) -> str | None:
        """Return the problem of the files, for example "chat.db-wal was removed", or None."""
        found = []
        for path, file in zip(self._paths, self._files, strict=True):
            try:
                status = os.stat(path)
            except OSError as error:
                removed = isinstance(error, FileNotFoundError)
                return f"{path} was removed" if removed else f"{path}: {error.strerror}"
            if _identity(status) != file:
                return f"{path} was replaced by another file"
            found.append(status.st_size)
        if found[0] < self._sizes[0] and found[0] < self._expected_size():
            return f"{self._paths[0]} was truncated"
        # Another program may checkpoint the log and then truncate it. It then sets the number
        # of frames to 0.
        if found[1] < self._sizes[1] and found[1] < self._expected_log_size():
            return f"{self._paths[1]} was truncated"
        return None

    def is_detached(self) -> bool:
        """Return True if the path does not lead to the open database."""
        try:
            return _identity(os.stat(self._paths[0])) != self._files[0]
        except OSError:
            return True

    def _expected_size(self) -> int:
        try:
            pages: int = self._database.execute("PRAGMA page_count").fetchone()[0]
        except sqlite3.Error:
            return self._sizes[0]
        return max(pages, 1) * self._page_size

    def _expected_log_size(self) -> int:
        """Return the size of a log with the frames that the database file still needs."""
        try:
            row: tuple[int, int, int] = self._database.execute(
                "PRAGMA wal_checkpoint(PASSIVE)"
            ).fetchone()
        except sqlite3.Error:
            return self._sizes[1]  # unreadable frames
        _, frames, copied = row
        if frames == copied:
            return 0
        return WAL_HEADER + frames * (FRAME_HEADER + self._page_size)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
