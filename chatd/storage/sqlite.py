"""The embedded engine of the message store: one SQLite file, one transaction per batch.

The database is in write-ahead mode with `synchronous=NORMAL`. A commit survives the end
of the process at any moment. A power failure may lose the last commits, but leaves the
database intact.

Appends run in the thread of the event loop, because a commit only copies to the operating
system. Reads and checkpoints may wait for the disk, so each has a thread of its own.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from chatd.model import Sanction
from chatd.storage import pages
from chatd.storage.file_watch import FileWatch
from chatd.storage.ids import IdAllocator, first_id
from chatd.storage.indexer import Indexer
from chatd.storage.message_writer import MessageWriter
from chatd.storage.moderation import read_sanctions, write_act
from chatd.storage.reader import Callback, Reader, try_read
from chatd.storage.retention import Retention
from chatd.storage.search import SearchIndex
from chatd.storage.sqlite_file import MEMORY as MEMORY  # part of this module's interface
from chatd.storage.sqlite_file import create_file, lock_file, open_database
from chatd.storage.sqlite_file import default_path as default_path
from chatd.storage.store import (
    Act,
    ActCallback,
    ActivityCallback,
    AppendCallback,
    Appended,
    CallLater,
    CallSoon,
    DirectCallback,
    NewMessage,
    ReadCallback,
    SearchCallback,
    StoreError,
)
from chatd.storage.write_ahead_log import WriteAheadLog

logger = logging.getLogger("chatd")

# Seconds for which an append waits until another program releases its lock, and seconds
# between two attempts. The event loop runs in between.
LOCK_TIMEOUT = 5.0
LOCK_RETRY = 0.02
# Seconds that a search in a store in memory takes.
MEMORY_STEP = 0.005


class SQLiteStore:
    """Message store in an SQLite file.

    An append calls its callback before it returns, unless it waits. The reads of a file
    call it in a later iteration. A store in memory, and one before `start`, answer at once.

    Args:
        path: Database file, or ":memory:" for a store that ends with the process.
        keep_messages: Number of messages to keep in each room, None for all.
        keep_days: Delete messages older than this many days; None deletes none by age.

    Raises:
        StoreError: The file cannot be used.
    """

    def __init__(
        self,
        path: str,
        *,
        keep_messages: int | None = None,
        keep_days: float | None = None,
    ) -> None:
        self._path = path
        self._watch: FileWatch | None = None
        self._log: WriteAheadLog | None = None
        self._reader: Reader | None = None
        try:
            with ExitStack() as stack:
                if path != MEMORY:
                    stack.callback(os.close, lock_file(path))
                    create_file(path)
                    self._watch = FileWatch(path)
                    stack.callback(self._watch.close)  # after the last connection
                self._database = open_database(path)
                stack.callback(self._database.close)
                ids = IdAllocator(self._database)
                self._writer = MessageWriter(self._database, ids)
                # From here on a lock must not stop the event loop.
                self._database.execute("PRAGMA busy_timeout = 0")
                if self._watch is not None:
                    self._watch.start(self._database)
                    self._log = WriteAheadLog(path, self._database, self._watch)
                    stack.callback(self._log.stop)
                    self._reader = Reader(path, self._log.after_read)
                    stack.callback(self._reader.stop)
                self._resources = stack.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise _open_error(path, error) from error
        self._retention = Retention(
            self._database, keep_messages=keep_messages, keep_days=keep_days
        )
        # Without a file there is no reader's thread, so a search must not stop the event loop.
        in_memory = path == MEMORY
        index = SearchIndex(None, MEMORY_STEP) if in_memory else SearchIndex(f"{path}-search")
        self._indexer = Indexer(index, self._read)
        self._sanctions_version: int | None = None
        self._call_later: CallLater | None = None
        self._waiting: Sequence[NewMessage] = ()  # the batch that waits for another attempt
        self._is_closed = False
        self._failure: StoreError | None = None

    def start(self, call_later: CallLater, call_soon: CallSoon) -> None:
        """Use the event loop, and read in a thread from now on."""
        self._call_later = call_later
        if self._reader is not None:
            self._reader.start(call_soon)
            self._indexer.start(call_later)

    # Append.

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        """Append messages in one transaction.

        While another program holds the lock, or the disk is slow with a checkpoint, attempts
        repeat for up to LOCK_TIMEOUT seconds.
        """
        self._append_until(None, messages, callback)

    def _append_until(
        self, end: float | None, messages: Sequence[NewMessage], callback: AppendCallback
    ) -> None:
        """Append, or try again until the time `end`; None is the first attempt."""
        if self._is_closed:
            return
        self._waiting = ()
        if not self._has_room() and self._try_again(end, messages, callback):
            return
        result: Sequence[Appended] | StoreError
        try:
            result = self._append_or_recover(messages)
        except sqlite3.Error as error:
            if _is_locked(error) and self._try_again(end, messages, callback):
                return
            result = self._error("append", error)
        except StoreError as error:
            result = error
        callback(result)

    def _try_again(
        self, end: float | None, messages: Sequence[NewMessage], callback: AppendCallback
    ) -> bool:
        """Schedule another attempt; return False if the time is over."""
        now = time.monotonic()
        if end is None:
            end = now + LOCK_TIMEOUT
        if self._call_later is None or now >= end:
            return False
        self._waiting = messages
        self._call_later(LOCK_RETRY, partial(self._append_until, end, messages, callback))
        return True

    def _has_room(self) -> bool:
        return self._log is None or self._log.has_room(wait=self._call_later is None)

    def _append_or_recover(self, messages: Sequence[NewMessage]) -> list[Appended]:
        self._check_files(thorough=False)
        try:
            stored = self._writer.append(messages)
        except sqlite3.OperationalError as error:
            # On a full disk, a checkpoint frees the space of the write-ahead log.
            if _is_locked(error) or self._log is None or not self._log.truncate():
                raise
            stored = self._writer.append(messages)
        self._retention.add_rooms_of(messages)
        self._indexer.after_append(messages)
        if self._log is not None:
            self._log.after_write()
        return stored

    # Read.

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's entries after an id."""
        self._read(partial(pages.read_after, room, after, limit), callback)

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        """Read a room's newest messages before an id."""
        self._read(partial(pages.read_before, room, before, limit), callback)

    def read_following(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's oldest messages after an id."""
        self._read(partial(pages.read_following, room, after, limit), callback)

    def read_around(self, room: str, number: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's messages on both sides of an id."""
        self._read(partial(pages.read_around, room, number, limit), callback)

    def read_from(self, room: str, time: str, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's oldest messages from a time on."""
        self._read(partial(pages.read_from, room, time, limit), callback)

    def read_activity(self, callback: ActivityCallback, /) -> None:
        """Read the rooms with stored messages."""
        self._read(pages.read_activity, callback)

    def read_direct_rooms(self, author: str, callback: DirectCallback, /) -> None:
        """Read the direct rooms of an author."""
        self._read(partial(pages.read_direct_rooms, author), callback)

    def search(
        self, rooms: Sequence[str], text: str, before: int | None, callback: SearchCallback, /
    ) -> None:
        """Find messages in the index, or by a bounded scan."""
        self._indexer.search(rooms, text, before, callback)

    def _read(self, read: pages.Read, callback: Callback) -> None:
        if self._reader is None:
            callback(try_read(self._path, self._database, read))
        else:
            self._reader.submit(read, callback)

    # Moderation.

    def moderate(self, act: Act, callback: ActCallback, /) -> None:
        """Store an act of moderation."""
        try:
            self._check_files(thorough=False)
            write_act(self._database, act)
        except StoreError as error:
            callback(error)
        except sqlite3.Error as error:
            callback(self._error("store an act of moderation", error))
        else:
            self._sanctions_version = None
            callback(None)

    def changed_sanctions(self) -> list[Sanction] | None:
        """Return all sanctions after a change by this process or by an operator's command."""
        try:
            (version,) = self._database.execute("PRAGMA data_version").fetchone()
            if version == self._sanctions_version:
                return None
            self._sanctions_version = version
            return read_sanctions(self._database)
        except sqlite3.Error as error:
            raise self._error("read the sanctions", error) from error

    # Maintenance.

    def apply_retention(self) -> bool:
        """Delete up to DELETE_LIMIT messages in one transaction."""
        self.check()
        try:
            more = self._retention.apply()
        except sqlite3.Error as error:
            if _is_locked(error):
                return False  # the next run visits all rooms
            raise self._error("apply retention", error) from error
        if self._log is not None:
            self._log.after_write()
        if self._retention.has_deleted:
            self._indexer.after_retention()
        return more

    def check(self) -> None:
        """Check the files of the store."""
        self._check_files(thorough=True)

    def _check_files(self, *, thorough: bool) -> None:
        if self._watch is None or self._log is None:
            return
        problem = self._watch.problem(thorough=thorough)
        if problem is None:
            self._failure = None
            return
        if self._failure is None or problem not in str(self._failure):
            advice = "until the file is back: put it back, or stop chatd and restore a backup"
            if self._watch.is_damaged:
                advice = "in it: stop chatd, then restore a backup"
            self._failure = StoreError(
                f"message store {self._path}: {problem}; chatd stores no messages {advice}"
            )
            # Move the frames into the file that they belong to. A log without its database
            # would damage the file that replaces the database.
            if not self._watch.is_damaged:
                self._log.truncate()
        raise self._failure

    @property
    def log_size(self) -> int:
        """Bytes of the write-ahead log."""
        return 0 if self._watch is None else self._watch.log_size

    def close(self) -> None:
        """Close the database; SQLite then copies the write-ahead log into it."""
        self._is_closed = True
        if self._waiting:
            try:
                self._append_or_recover(self._waiting)
            except (sqlite3.Error, StoreError) as error:
                logger.error(
                    "message store %s: cannot append the last %d messages: %s; their senders"
                    " have no acknowledgement",
                    self._path,
                    len(self._waiting),
                    error,
                )
        if self._watch is not None and self._watch.is_detached():
            self._save_detached()
        self._resources.close()
        self._indexer.index.close()

    def _save_detached(self) -> None:
        """Copy the database, which has no name since its removal, to a file beside it."""
        target = f"{self._path}.saved-{first_id()}"
        try:
            create_file(target)
            self._database.execute("VACUUM INTO ?", (target,))
        except (sqlite3.Error, OSError) as error:
            logger.error(
                "message store %s: cannot save the removed database: %s", self._path, error
            )
        else:
            logger.warning(
                "message store %s: saved the removed database as %s; move it to %s to use it",
                self._path,
                target,
                self._path,
            )

    def _error(self, action: str, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"message store {self._path}: cannot {action}: {error};"
            " check the free disk space and run `chatd check`"
        )


def _is_locked(error: sqlite3.Error) -> bool:
    """Return True if another connection holds the lock."""
    # The low byte is the primary code; the others make it more precise.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _open_error(path: str, error: sqlite3.Error | OSError) -> StoreError:
    """Return the error for a file that cannot be opened."""
    reason = getattr(error, "strerror", None) or error
    # SQLite reports every failed system call as "unable to open database file".
    if isinstance(error, OSError) or "unable to open" in str(error):
        advice = "create its directory and make it writable"
    else:
        advice = "run `chatd check`, restore a backup"
    return StoreError(
        f"message store {path}: cannot open: {reason}; {advice}, or choose another file with --db"
    )
