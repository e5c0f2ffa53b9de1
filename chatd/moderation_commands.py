"""Commands of moderation for the operator, beside a running server or without one.

`ban`, `unban`, `bans` and `erase` write to the message store. A running server notices a ban
within a second.
"""

from __future__ import annotations

import os
import sqlite3
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime

from chatd.commands import CommandError, find_default_store, flushed_output, need_psycopg
from chatd.model import ALL_ROOMS, format_time, name_key
from chatd.storage.database import Database
from chatd.storage.moderation import (
    add_to_audit,
    erase_messages,
    find_authors,
    read_sanctions,
    write_act,
)
from chatd.storage.sqlite_file import SCHEMA_VERSION, connect, schema_version
from chatd.storage.store import Act, StoreError

OPERATOR = "operator"
# Seconds for which a command waits for the server's transactions, which take milliseconds.
COMMAND_LOCK_TIMEOUT = 10.0


def ban(options: Namespace) -> int:
    """Ban a person from a room, or from all rooms."""
    until = None if options.duration is None else time.time() + options.duration
    room = options.room or ALL_ROOMS
    with _open_for_writing(options) as database:
        for author in sorted(find_authors(database, options.name)):
            write_act(database, Act("ban", room, options.name, author, OPERATOR, until))
    with flushed_output():
        print(f"{options.name} is banned from {options.room or 'all rooms'}{_describe_end(until)}")
    return 0


def unban(options: Namespace) -> int:
    """End the bans and mutes of a person."""
    ended = 0
    with _open_for_writing(options) as database:
        for each in read_sanctions(database):
            is_wanted = options.room is None or each.room == options.room
            if name_key(each.name) == name_key(options.name) and is_wanted:
                act = Act(f"un{each.action}", each.room, each.name, each.author, OPERATOR)
                write_act(database, act)
                ended += 1
    if not ended:
        where = "" if options.room is None else f" from the room {options.room}"
        raise CommandError(f"{options.name}: not banned{where}; see `chatd bans`")
    with flushed_output():
        print(f"{options.name} is no longer banned or muted")
    return 0


def bans(options: Namespace) -> int:
    """Print the bans and mutes in force, a line each."""
    with _open_for_writing(options) as database:
        sanctions = read_sanctions(database)
    now = time.time()
    lines = {
        f"{each.action} {each.name} in {each.room or 'all rooms'}{_describe_end(each.until)}"
        for each in sanctions
        if each.until is None or now < each.until
    }
    with flushed_output():
        for line in sorted(lines):
            print(line)
    return 0


def erase(options: Namespace) -> int:
    """Remove the texts of a person's messages."""
    with _open_for_writing(options) as database:
        count = sum(erase_messages(database, options.name))
        with database:
            database.execute("BEGIN IMMEDIATE")
            act = Act("erase", ALL_ROOMS, options.name, "", OPERATOR)
            add_to_audit(database, act, f"{count} messages")
    if options.store is None:
        with suppress(FileNotFoundError):
            # The server makes another without the texts.
            os.unlink(f"{_store_path(options)}-search")
    with flushed_output():
        print(f"{count} messages of {options.name} are erased; open pages show them until a reload")
    return 0


def _describe_end(until: float | None) -> str:
    if until is None:
        return ""
    return f" until {format_time(datetime.fromtimestamp(int(until), UTC))}"


@contextmanager
def _open_shared(url: str) -> Iterator[Database]:
    need_psycopg()
    from chatd.storage.postgres.connection import open_for_command
    from chatd.storage.postgres.store import touch_sanctions

    try:
        with open_for_command(url) as database:
            yield database
            touch_sanctions(database)
    except StoreError as error:
        raise CommandError(str(error)) from None


def _store_path(options: Namespace) -> str:
    return os.path.realpath(str(options.db or find_default_store()))


@contextmanager
def _open_for_writing(options: Namespace) -> Iterator[Database]:
    """Open the message store, and let the servers notice new sanctions.

    Raises:
        CommandError: The store does not exist, or cannot be written.
    """
    if options.store is not None:
        with _open_shared(options.store) as shared:
            yield shared
        return
    path = _store_path(options)
    try:
        with closing(connect(path)) as database:
            database.execute(f"PRAGMA busy_timeout = {COMMAND_LOCK_TIMEOUT * 1000:.0f}")
            database.execute("PRAGMA secure_delete = FAST")
            version = schema_version(database, path)
            if version != SCHEMA_VERSION:
                raise CommandError(
                    f"message store {path}: schema version {version} instead of {SCHEMA_VERSION};"
                    " start the server once"
                )
            yield database
    except StoreError as error:
        raise CommandError(str(error)) from None
    except sqlite3.Error as error:
        raise CommandError(
            f"message store {path}: {error}; start the server once with this --db, and run the"
            " command as its user"
        ) from None
