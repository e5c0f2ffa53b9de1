"""The embedded engine of the message store: one SQLite file, one transaction per batch.

The database is in write-ahead mode with `synchronous=NORMAL`. A commit survives the end
of the process at any moment. A power failure may lose the last commits, but leaves the
database intact.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from chatd.model import Message, format_time
from chatd.storage.checkpointer import Checkpointer
from chatd.storage.file_watch import FileWatch
from chatd.storage.retention import Retention
from chatd.storage.sqlite_file import MEMORY as MEMORY  # part of this module's interface
from chatd.storage.sqlite_file import create_file, lock_file, open_database
from chatd.storage.store import (
    AppendCallback,
    CallLater,
    NewMessage,
    Page,
    ReadCallback,
    StoredMessage,
    StoreError,
)

logger = logging.getLogger("chatd")

# Bytes of the write-ahead log that start a checkpoint, and the least number on a small disk.
CHECKPOINT_SIZE = 4 << 20
MIN_CHECKPOINT_SIZE = 64 << 10
# Characters of text in one page. A page of long messages would block the event loop.
MAX_PAGE_TEXT = 1 << 19
# Ids that one update of the database reserves.
RESERVED_IDS = 1000
# Ids that a start may skip if the clock is behind the ids, about 17 minutes.
SKIPPED_IDS = 1 << 20
# Seconds for which an append waits until another program releases its lock, and seconds
# between two attempts. The event loop runs in between.
LOCK_TIMEOUT = 5.0
LOCK_RETRY = 0.02

# Characters of a key that is certainly random: two senders never choose the same one.
RANDOM_KEY = 16
# Keys in one query.
_KEYS_IN_QUERY = 500

_SELECT = "SELECT id, time, name, text FROM messages"
_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)"


def default_path() -> Path:
    """Return the default database file.

    A service manager sets `STATE_DIRECTORY` (systemd.exec(5), StateDirectory=). Without it, the
    file is in the XDG state directory. Both specifications require absolute paths, so a relative
    path is ignored.

    Raises:
        StoreError: The user has no home directory, and no variable replaces it.
    """
    own = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # the first of several
    if os.path.isabs(own):
        return Path(own) / "chat.db"
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return Path(state) / "chatd" / "chat.db"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # no HOME, and no entry in the password database
        raise StoreError(
            "message store: this user has no home directory; choose a file with --db, or a"
            " directory with STATE_DIRECTORY"
        )
    return Path(home) / ".local" / "state" / "chatd" / "chat.db"


class SQLiteStore:
    """Message store in an SQLite file.

    The methods call their callbacks before they return, except an append that waits.

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
        try:
            with ExitStack() as stack:
                if path != MEMORY:
                    stack.callback(os.close, lock_file(path))
                    create_file(path)
                self._database = open_database(path)
                stack.callback(self._database.close)
                self._last_id, self._reserved = 0, -1
                self._reserve_ids_at_start()
                self._watch = None if path == MEMORY else FileWatch(path, self._database)
                # From here on a lock must not stop the event loop.
                self._database.execute("PRAGMA busy_timeout = 0")
                self._remembers_keys = self._has_removed_keys()
                self._checkpointer = None if path == MEMORY else Checkpointer(path)
                self._resources = stack.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise _open_error(path, error) from error
        self._retention = Retention(
            self._database, keep_messages=keep_messages, keep_days=keep_days
        )
        self._checkpoint_size = self._checkpoint_at = self._choose_checkpoint_size()
        self._call_later: CallLater | None = None
        self._waiting: Sequence[NewMessage] = ()  # the batch that waits for another attempt
        self._is_closed = False
        self._failure: StoreError | None = None

    def start(self, call_later: CallLater) -> None:
        """Use the timers of the event loop."""
        self._call_later = call_later

    def _has_removed_keys(self) -> bool:
        return bool(
            self._database.execute("SELECT EXISTS (SELECT 1 FROM removed_keys)").fetchone()[0]
        )

    # Ids.

    def _reserve_ids_at_start(self) -> None:
        """Begin above all ids that this store, or a lost version of it, has assigned.

        A backup does not know which ids the lost version has assigned later. So the first id
        is the time in milliseconds. If the clock is behind the ids, a random number of ids
        remains unused. Therefore a message with an id of the lost version does not exist,
        and `read_after` recognizes this id.
        """
        (reserved,) = self._database.execute("SELECT reserved FROM ids").fetchone()
        self._last_id = first_id()
        if self._last_id < reserved:
            self._last_id = reserved + secrets.randbelow(SKIPPED_IDS)
        with self._database:
            self._reserve_ids(self._last_id)
        self._reserved = self._last_id + RESERVED_IDS

    def _reserve_ids(self, number: int) -> None:
        """Reserve ids in the transaction in progress, unless `number` is reserved."""
        if number > self._reserved:
            self._database.execute("UPDATE ids SET reserved = ?", (number + RESERVED_IDS,))

    # Append.

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        """Append messages in one transaction.

        While another program holds the lock, or the disk is slow with a checkpoint, attempts
        repeat for up to LOCK_TIMEOUT seconds.
        """
        self._append_until(time.monotonic() + LOCK_TIMEOUT, messages, callback)

    def _append_until(
        self, end: float, messages: Sequence[NewMessage], callback: AppendCallback
    ) -> None:
        if self._is_closed:
            return
        self._waiting = ()
        retry = partial(self._append_until, end, messages, callback)
        if not self._has_room() and self._call_later and time.monotonic() < end:
            self._waiting = messages
            self._call_later(LOCK_RETRY, retry)
            return
        result: Sequence[StoredMessage] | StoreError
        try:
            result = self._append_or_recover(messages)
        except sqlite3.Error as error:
            if _is_locked(error) and self._call_later and time.monotonic() < end:
                self._waiting = messages
                self._call_later(LOCK_RETRY, retry)
                return
            result = self._error("append", error)
        except StoreError as error:
            result = error
        callback(result)

    def _append_or_recover(self, messages: Sequence[NewMessage]) -> list[StoredMessage]:
        self.check()
        now = format_time(datetime.now(UTC))
        try:
            return self._append(messages, now)
        except sqlite3.OperationalError as error:
            # On a full disk, a checkpoint frees the space of the write-ahead log.
            if _is_locked(error) or not self._truncate_log():
                raise
            return self._append(messages, now)

    def _append(self, messages: Sequence[NewMessage], time: str) -> list[StoredMessage]:
        rows = [
            (each.room, number, time, each.name, each.text, each.key)
            for number, each in enumerate(messages, self._last_id + 1)
        ]
        last = self._last_id + len(rows)
        try:
            if self._remembers_keys or self._has_key_of(messages):
                raise sqlite3.IntegrityError
            with self._database:
                self._reserve_ids(last)
                self._database.executemany(_INSERT, rows)
        except sqlite3.IntegrityError:
            # At least one message repeats a key that its room already has. This is rare, so look
            # up each message.
            with self._database:
                self._reserve_ids(last)
                stored = self._append_one_by_one(messages, time)
        else:
            stored = [
                StoredMessage(Message(number, time, name, text), repeated=False)
                for _, number, time, name, text, _ in rows
            ]
        if last > self._reserved:
            self._reserved = last + RESERVED_IDS
        self._last_id = last
        for each in messages:
            self._retention.room_changed(each.room)
        self._after_write()
        return stored

    def _append_one_by_one(self, messages: Sequence[NewMessage], time: str) -> list[StoredMessage]:
        stored = []
        for number, each in enumerate(messages, self._last_id + 1):
            message = None if each.key is None else self._find_key(each)
            if message is not None:
                stored.append(StoredMessage(message, repeated=True))
                continue
            self._database.execute(
                _INSERT, (each.room, number, time, each.name, each.text, each.key)
            )
            stored.append(
                StoredMessage(Message(number, time, each.name, each.text), repeated=False)
            )
        return stored

    def _has_key_of(self, messages: Sequence[NewMessage]) -> bool:
        """Return True if a key of the messages occurs twice, under any name."""
        keys = [(each.room, each.key) for each in messages if each.key is not None]
        if len(set(keys)) < len(keys):
            return True
        for start in range(0, len(keys), _KEYS_IN_QUERY):
            part = keys[start : start + _KEYS_IN_QUERY]
            query = (
                f"WITH new (room, key) AS (VALUES {', '.join(['(?, ?)'] * len(part))})"
                " SELECT 1 FROM new CROSS JOIN messages USING (room, key)"
                " WHERE messages.key IS NOT NULL"
            )
            if self._database.execute(query, [each for pair in part for each in pair]).fetchone():
                return True
        return False

    def _find_key(self, new: NewMessage) -> Message | None:
        """Return the message that the sender has stored with this key, also a removed one.

        A sender may have lost its name with its connection. So a message with the same text
        and the same random key is a repetition under any name.
        """
        rows = self._database.execute(
            f"{_SELECT} WHERE room = ? AND key = ? ORDER BY name = ? DESC",
            (new.room, new.key, new.name),
        )
        for row in rows:
            message = Message(*row)
            is_random = len(new.key or "") >= RANDOM_KEY
            if message.name == new.name or (is_random and message.text == new.text):
                return message
        row = self._database.execute(
            "SELECT id, time FROM removed_keys WHERE room = ? AND key = ? AND name = ?",
            (new.room, new.key, new.name),
        ).fetchone()
        return None if row is None else Message(row[0], row[1], new.name, new.text)

    # Read.

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's messages after an id."""
        result: Page | StoreError
        try:
            # Another version of this store has assigned an unknown id, so the client has none
            # of this store's messages.
            is_unknown = not self._has_assigned(room, after)
            if is_unknown:
                after = 0
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id > ? ORDER BY id DESC LIMIT ?",
                (room, after, limit + 1),
            )
            page = _read_page(rows, limit)
            removed = self._database.execute(
                "SELECT 1 FROM trimmed WHERE room = ? AND id > ?", (room, after)
            ).fetchone()
            result = page._replace(gap=is_unknown or removed is not None)
        except sqlite3.Error as error:
            result = self._error("read", error)
        callback(result)

    def _has_assigned(self, room: str, number: int) -> bool:
        """Return True for 0, and for the id of a message of a room, also of a removed one."""
        row = self._database.execute(
            "SELECT ? = 0 OR EXISTS (SELECT 1 FROM messages WHERE room = ? AND id = ?)"
            " OR EXISTS (SELECT 1 FROM trimmed WHERE room = ? AND id >= ?)",
            (number, room, number, room, number),
        ).fetchone()
        return bool(row[0])

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        """Read a room's newest messages before an id."""
        end = self._last_id + 1 if before is None else before
        result: Page | StoreError
        try:
            rows = self._database.execute(
                f"{_SELECT} WHERE room = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (room, end, limit + 1),
            )
            result = _read_page(rows, limit)
        except sqlite3.Error as error:
            result = self._error("read", error)
        callback(result)

    # Maintenance.

    def apply_retention(self) -> bool:
        """Delete up to DELETE_LIMIT messages in one transaction."""
        self.check()
        before = self._database.total_changes
        try:
            more = self._retention.apply()
        except sqlite3.Error as error:
            if _is_locked(error):
                return False  # the next run visits all rooms
            raise self._error("apply retention", error) from error
        if self._database.total_changes != before or not more:
            self._remembers_keys = self._has_removed_keys()
            self._after_write()
        return more

    def check(self) -> None:
        """Check the files of the store."""
        if self._watch is None:
            return
        problem = self._watch.problem()
        if problem is None:
            self._failure = None
            return
        if self._failure is None or problem not in str(self._failure):
            self._failure = StoreError(
                f"message store {self._path}: {problem}; chatd stores no messages until the file"
                " is back: put it back, or stop chatd and restore a backup"
            )
            # Move the frames into the file that they belong to. A log without its database
            # would damage the file that replaces the database.
            self._truncate_log()
        raise self._failure

    @property
    def log_size(self) -> int:
        """Bytes of the write-ahead log."""
        return 0 if self._watch is None else self._watch.log_size

    def close(self) -> None:
        """Close the database; SQLite then copies the write-ahead log into it."""
        self._is_closed = True
        if self._checkpointer is not None:
            self._checkpointer.stop()
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

    def _after_write(self) -> None:
        """Keep the write-ahead log short.

        The Checkpointer copies the log, which takes long. It cannot make the log start
        anew, because appends go on meanwhile. So a short second checkpoint, between two
        appends, copies the remaining frames and truncates the log.
        """
        if self._watch is None or self._checkpointer is None:
            return
        with suppress(OSError):  # the next check reports it
            self._watch.update()
        if self._checkpointer.take_finished():
            self._truncate_log()
            # Behind a reader with an old snapshot, try again after as many bytes.
            self._checkpoint_size = self._choose_checkpoint_size()
            self._checkpoint_at = self.log_size + self._checkpoint_size
        elif self.log_size >= self._checkpoint_at:
            self._checkpointer.request()

    def _has_room(self) -> bool:
        """Return False if appends must wait, because the disk is slower than they are."""
        if self._checkpointer is None:
            return True
        if self.log_size >= self._checkpoint_at + self._checkpoint_size:
            if self._call_later is None:
                self._checkpointer.wait()
            if self._checkpointer.is_busy:
                return False
            self._after_write()
        return True

    def _truncate_log(self) -> bool:
        """Copy the write-ahead log into the database; return True if it is empty then."""
        if self._watch is None:
            return False
        with suppress(sqlite3.Error, OSError):
            (busy, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._watch.update()
            return not busy
        return False

    def _choose_checkpoint_size(self) -> int:
        """Return the bytes of log before a checkpoint; on a small disk, a part of the free space.

        The log can become twice as long, and its copy needs as much space again.
        """
        if self._path == MEMORY:
            return CHECKPOINT_SIZE
        try:
            disk = os.statvfs(self._path)
        except OSError:
            return CHECKPOINT_SIZE
        free = disk.f_bavail * disk.f_frsize
        return max(MIN_CHECKPOINT_SIZE, min(CHECKPOINT_SIZE, free // 4))

    def _error(self, action: str, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"message store {self._path}: cannot {action}: {error};"
            " check the free disk space and run `chatd check`"
        )


def first_id() -> int:
    """Return the time in milliseconds, which is above the ids of an earlier store."""
    return time.time_ns() // 1_000_000


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


def _read_page(cursor: sqlite3.Cursor, limit: int) -> Page:
    """Read up to `limit` rows, the newest first, within MAX_PAGE_TEXT characters."""
    messages: list[Message] = []
    size = 0
    more = False
    with closing(cursor):  # an open query would keep the log from its new start
        for row in cursor:
            message = Message(*row)
            size += len(message.text)
            more = len(messages) == limit or (bool(messages) and size > MAX_PAGE_TEXT)
            if more:
                break
            messages.append(message)
    messages.reverse()
    return Page(messages, more=more, gap=False)
