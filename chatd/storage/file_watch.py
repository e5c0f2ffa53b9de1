"""The file watch: detects that another program removes, replaces or changes a store's files.

SQLite does not notice: it goes on writing to the removed file, which nobody can open.

`problem` is exact before each append, because an append to a lost file acknowledges
messages that nobody can read. It needs one system call for the names of the files: a
directory has a new change time if a file in it was removed, renamed or replaced. The
sizes come from open descriptors. `problem(thorough=True)` looks at each file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress

WAL_HEADER, FRAME_HEADER = 32, 24  # bytes; https://sqlite.org/fileformat2.html#walformat
# Bytes of the database header, and the number of pages in it:
# https://sqlite.org/fileformat2.html#the_database_header
_HEADER, _PAGES = 100, slice(28, 32)
# Bytes of the -shm file that each checkpoint changes (https://sqlite.org/walformat.html#walidxfmt):
# the salt of the log, the number of copied frames, and the number that a checkpoint will copy.
_INDEX, _SALT, _COPIED, _COPYING = 132, slice(32, 40), slice(96, 100), slice(128, 132)
# Nanoseconds within which a second change may leave the change time of a directory as it is.
# Some file systems count whole seconds, or two. The others use the clock of the kernel, which
# advances every 1 to 10 ms.
COARSE_CLOCK, FINE_CLOCK = 3_000_000_000, 100_000_000
_SECOND = 1_000_000_000


class FileWatch:
    """Identity and sizes of the files of a database.

    Args:
        path: Database file.
    """

    def __init__(self, path: str) -> None:
        real = os.path.realpath(path)
        # `path` itself, because another program can redirect a symbolic link.
        self._paths = (path, f"{real}-wal", f"{real}-shm")
        # Another directory than that of the link has the database itself.
        self._directory = None if os.path.islink(path) else os.path.dirname(path) or "."
        self._directory_state: tuple[int, ...] | None = None
        self._descriptors: list[int] = []
        self.log_size = 0
        """Bytes of the write-ahead log at the last update."""
        self._damage = ""

    def start(self, database: sqlite3.Connection) -> None:
        """Record the files, which `database` has open after its first transaction."""
        self._database = database
        for path in self._paths:
            self._descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self._database_file, self._log_file, self._index_file = self._descriptors
        self._files = [_identity(os.fstat(each)) for each in self._descriptors]
        self._page_size: int = database.execute("PRAGMA page_size").fetchone()[0]
        self._size = _size_of(self._database_file)
        self._record_content(os.fstat(self._database_file).st_mtime_ns)
        self.update()

    def close(self) -> None:
        """Close the descriptors, after the last connection.

        A close() releases the locks of this process on the file (fcntl(2)), also SQLite's.
        """
        for descriptor in self._descriptors:
            os.close(descriptor)

    def update(self) -> None:
        """Record the size of the log after a transaction of this process."""
        self.log_size = _size_of(self._log_file)

    def update_after_checkpoint(self) -> None:
        """Record the sizes after a checkpoint of this process, which may lengthen the database."""
        self.update()
        self._size = max(self._size, _size_of(self._database_file))

    def problem(self, *, thorough: bool) -> str | None:
        """Return the problem of the files, for example "chat.db-wal was removed", or None."""
        if thorough or not self._has_same_names():
            problem = self._find_name_problem()
            if problem is not None:
                return problem
        size = _size_of(self._database_file)
        if size < self._size:
            self._check_content()
            if size < self._expected_size():
                self._damage = f"{self._paths[0]} was truncated"
        if self._damage:
            return self._damage
        self._size = size
        # Another program may checkpoint the log and then truncate it. It then sets the number
        # of frames to 0.
        size = _size_of(self._log_file)
        if size < self.log_size and size < self._expected_log_size():
            return f"{self._paths[1]} was truncated"
        return None

    @property
    def is_damaged(self) -> bool:
        """True once the content of the database file is lost."""
        return bool(self._damage)

    def is_detached(self) -> bool:
        """Return True if the path does not lead to the open database."""
        try:
            return _identity(os.stat(self._paths[0])) != self._files[0]
        except OSError:
            return True

    def _has_same_names(self) -> bool:
        """Return True if no name in the directory has changed since the last thorough look."""
        if self._directory is None or self._directory_state is None:
            return False
        try:
            return _directory_state(os.stat(self._directory)) == self._directory_state
        except OSError:
            return False

    def _find_name_problem(self) -> str | None:
        self._directory_state = None
        directory = None
        if self._directory is not None:
            now = time.time_ns()
            with suppress(OSError):
                directory = os.stat(self._directory)  # first, so that no later change is missed
        for path, file in zip(self._paths, self._files, strict=True):
            try:
                status = os.stat(path)
            except OSError as error:
                removed = isinstance(error, FileNotFoundError)
                return f"{path} was removed" if removed else f"{path}: {error.strerror}"
            if _identity(status) != file:
                return f"{path} was replaced by another file"
        self._check_content()
        if directory is not None:
            changed = directory.st_ctime_ns
            clock = FINE_CLOCK if changed % _SECOND else COARSE_CLOCK
            if changed < now - clock:
                self._directory_state = _directory_state(directory)
        return None

    def _check_content(self) -> None:
        """Detect that another program has overwritten the database file in place.

        In write-ahead mode only a checkpoint writes to the file, also one of another
        program. A checkpoint changes the -shm file first.
        """
        modified = os.fstat(self._database_file).st_mtime_ns
        if modified == self._modified:
            return
        index, header = self._index, self._header
        self._record_content(modified)
        is_checkpoint = self._index != index or self._index[0] != self._index[1]
        # An equal header: a program has set the time of the file only.
        if not is_checkpoint and self._header != header:
            self._damage = f"{self._paths[0]} was overwritten by another program"

    def _record_content(self, modified: int) -> None:
        """Record the time of the last write, the header, and the state of the checkpoints."""
        self._modified = modified
        self._header = os.pread(self._database_file, _HEADER, 0)
        index = os.pread(self._index_file, _INDEX, 0)
        self._index = index[_COPYING], index[_COPIED], index[_SALT]

    def _expected_size(self) -> int:
        """Return the size that the header of the database file announces."""
        header = os.pread(self._database_file, _HEADER, 0)
        return max(int.from_bytes(header[_PAGES]), 1) * self._page_size

    def _expected_log_size(self) -> int:
        """Return the size of a log with the frames that the database file still needs."""
        try:
            row: tuple[int, int, int] = self._database.execute(
                "PRAGMA wal_checkpoint(PASSIVE)"
            ).fetchone()
        except sqlite3.Error:
            return self.log_size  # unreadable frames
        _, frames, copied = row
        if frames == copied:
            return 0
        return WAL_HEADER + frames * (FRAME_HEADER + self._page_size)


def _size_of(descriptor: int) -> int:
    return os.lseek(descriptor, 0, os.SEEK_END)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _directory_state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_ctime_ns
