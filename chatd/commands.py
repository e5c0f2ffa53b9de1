"""Commands that work on files, beside a running server or without one.

`invite` and `revoke` manage invitations, `check` and `export` read the message store.
The module `serve` shares the errors, the output and the invitations with this module.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from chatd.access.invitation_files import SECRET_FILE
from chatd.access.invitations import Invitations
from chatd.addresses import is_loopback
from chatd.ops.log_handler import escape_control_characters
from chatd.storage.check import (
    check_store,
    count_messages,
    export_audit,
    export_store,
    open_read_only,
)
from chatd.storage.sqlite import MEMORY, default_path
from chatd.storage.store import StoreError

# Problems that `check` prints.
MAX_PROBLEMS = 100


class CommandError(Exception):
    """A failed command; the message is one line with the problem and its remedy."""


def need_psycopg() -> None:
    """Raise `CommandError` unless the package for PostgreSQL is installed."""
    if importlib.util.find_spec("psycopg") is None:
        raise CommandError(
            "--store: the package psycopg is not installed; pip install 'psycopg[binary]>=3.2'"
        )


def invite(options: Namespace) -> int:
    """Print an invitation link."""
    invitations = _find_invitations(options)
    token = invitations.issue(options.name, options.room, options.days, time.time(), options.role)
    if options.role == "bot":
        with flushed_output():
            print(token)
        return 0
    path = f"r/{options.room[0]}" if options.room else ""
    with flushed_output():
        print(f"{options.url.rstrip('/')}/{path}#invite={token}")
    if is_loopback(urlsplit(options.url).hostname or ""):
        print(
            f"chatd: link for {options.name}: works on this machine only; for other machines, give"
            " the address of the page with --url",
            file=sys.stderr,
        )
    return 0


def revoke(options: Namespace) -> int:
    """Revoke all invitations that were issued for a name."""
    try:
        _find_invitations(options).revoke(options.name, time.time())
    except OSError as error:
        raise CommandError(f"invitations for {options.name}: not revoked: {error}") from None
    if sys.stdout is not None:
        with flushed_output():
            print(f"all invitations for {options.name} are revoked")
    return 0


def check(options: Namespace) -> int:
    """Check the message store; return 1 if there is a problem."""
    path = _place(options)
    try:
        with _open_report(options) as report, flushed_output():
            problems = list(itertools.islice(report.problems(), MAX_PROBLEMS + 1))
            for problem in problems[:MAX_PROBLEMS]:
                print(problem)
            if not problems:
                messages, rooms = report.totals()
                print(f"{path} is sound: {messages} messages in {rooms} rooms")
                return 0
    except StoreError as error:
        print(f"chatd: {escape_control_characters(str(error))}", file=sys.stderr)
        return 1
    more = "at least " if len(problems) > MAX_PROBLEMS else ""
    print(
        f"chatd: message store {path}: problems found: {more}{len(problems[:MAX_PROBLEMS])}; stop"
        " its chatd, then restore a backup, or save the readable messages with export",
        file=sys.stderr,
    )
    return 1


def export(options: Namespace) -> int:
    """Print the messages as JSON lines."""
    try:
        with _open_report(options) as report, flushed_output():
            for line in report.audit() if options.audit else report.entries(options.room):
                print(line)
    except StoreError as error:
        raise CommandError(escape_control_characters(str(error))) from None
    return 0


class _Report(NamedTuple):
    """Reads of the commands, from a store of either engine."""

    problems: Callable[[], Iterator[str]]
    totals: Callable[[], tuple[int, int]]
    entries: Callable[[str | None], Iterator[str]]
    audit: Callable[[], Iterator[str]]


@contextmanager
def _open_report(options: Namespace) -> Iterator[_Report]:
    """Open the message store for reading. Raises `StoreError`."""
    if options.store is None:
        with open_read_only(_place(options)) as database:
            yield _Report(
                partial(check_store, database),
                partial(count_messages, database),
                partial(export_store, database),
                partial(export_audit, database),
            )
        return
    need_psycopg()
    from chatd.storage.postgres import check as shared
    from chatd.storage.postgres.connection import open_for_command

    with open_for_command(options.store) as connection:
        yield _Report(
            partial(shared.check_shared_store, connection),
            partial(shared.count_shared_messages, connection),
            partial(shared.export_shared_store, connection),
            partial(shared.export_shared_audit, connection),
        )


def _place(options: Namespace) -> str:
    """Return the file or the URL of the message store."""
    return str(options.store or options.db or find_default_store())


@contextmanager
def flushed_output() -> Iterator[None]:
    """Flush standard output after the block.

    Raises:
        CommandError: The output is closed, or cannot be written.
        BrokenPipeError: The reader has closed the pipe.
    """
    if sys.stdout is None:
        raise CommandError("standard output: closed; redirect it to a file or to /dev/null")
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes the rest of the buffer at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(f"standard output: cannot write: {error.strerror}") from None


def find_default_store() -> Path:
    """Return the path of the message store without `--db`.

    Raises:
        CommandError: The environment does not determine a path.
    """
    try:
        return default_path()
    except StoreError as error:
        raise CommandError(str(error)) from None


def open_invitations(options: Namespace) -> Invitations:
    """Return the invitations in the directory of the message store.

    Raises:
        CommandError: The secret or the revocation list cannot be used.
    """
    if options.db is None or options.db == MEMORY:
        directory = find_default_store().parent
    else:
        directory = Path(options.db).absolute().parent
    try:
        return Invitations(directory)
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"invitations in {directory}: cannot use: {reason}") from None


def _find_invitations(options: Namespace) -> Invitations:
    """Return the invitations of an existing server, because a secret is useless without one."""
    if options.store is not None:
        need_psycopg()
        from chatd.storage.postgres.invitations import StoredInvitations

        try:
            return Invitations(StoredInvitations(options.store))
        except OSError as error:
            raise CommandError(str(error)) from None
    if options.db is not None and options.db != MEMORY:
        database = Path(options.db).absolute()
        if not database.exists():
            raise CommandError(
                f"message store {database}: no such file; start the server once with this --db"
            )
        if not database.with_name(SECRET_FILE).exists():
            raise CommandError(
                f"secret {database.with_name(SECRET_FILE)}: no such file; start the server of this"
                " message store once with --invite-only"
            )
    return open_invitations(options)
