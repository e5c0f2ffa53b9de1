"""Connections to the shared engine, with the interface of `database.Database`."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo

from chatd.storage.postgres.schema import SCHEMA, check_schema, create_schema
from chatd.storage.store import StoreError

# Seconds for each address of the engine. libpq's minimum is 2.
CONNECT_TIMEOUT = 3
# Text of PostgreSQL has no NUL, so a private character and a digit stand for it.
_ESCAPE = "\uf8f0"
_TO_ESCAPE = re.compile(f"[\0{_ESCAPE}]")
_ESCAPED = re.compile(f"{_ESCAPE}([01])")


class Connection:
    """A connection in autocommit mode.

    Args:
        url: URL of the database, `postgresql://...`.

    Attributes:
        engine: Cluster and timeline of the engine, which change with a failover.

    Raises:
        psycopg.Error: The engine refuses the connection, or does not answer.
    """

    def __init__(self, url: str) -> None:
        parameters: dict[str, Any] = {
            "application_name": "chatd",
            "connect_timeout": CONNECT_TIMEOUT,
            # A vanished engine must not block a statement for the minutes of TCP's own limit.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            **conninfo.conninfo_to_dict(url),
        }
        self.raw = psycopg.connect(**parameters, autocommit=True)
        # A prepared statement would keep the plan of a table that was empty.
        self.raw.prepare_threshold = None
        self._lock = threading.Lock()  # `abort` and `close` come from different threads
        self._in_transaction = False
        self.engine = ""

    def execute(self, statement: str, parameters: Sequence[Any] | None = None, /) -> Any:
        """Execute a statement with "?" for each parameter; return its rows."""
        if statement.startswith("BEGIN"):
            self._in_transaction = True
            return self.raw.execute(statement.removesuffix(" IMMEDIATE").encode())
        if parameters is None:
            return self.raw.execute(statement.encode())
        cursor = self.raw.execute(
            statement.replace("?", "%s").encode(), [escape(each) for each in parameters]
        )
        return _Rows(cursor)

    def stream(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows of a query, which may be too many for the memory."""
        with self.raw.transaction(), self.raw.cursor(name="stream") as cursor:
            cursor.itersize = 2000
            cursor.execute(
                statement.replace("?", "%s").encode(), [escape(each) for each in parameters]
            )
            yield from map(unescape, cursor)

    def executemany(
        self, statement: str, parameters: Iterable[Sequence[Any]], /
    ) -> psycopg.Cursor[Any]:
        """Execute a statement for each of the parameters, in one round trip."""
        cursor = self.raw.cursor()
        rows = [[escape(each) for each in row] for row in parameters]
        cursor.executemany(statement.replace("?", "%s").encode(), rows)
        return cursor

    def __enter__(self) -> Self:
        """Begin a block with one transaction."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit the transaction, or roll it back after an exception."""
        if self._in_transaction:
            self._in_transaction = False
            if error is None:
                self.raw.execute("COMMIT")
            else:
                with suppress(psycopg.Error):  # the connection may be lost
                    self.raw.execute("ROLLBACK")

    def abort(self) -> None:
        """Make the statement in progress fail at once; any thread may call this."""
        with self._lock, suppress(psycopg.Error, OSError):
            descriptor = self.raw.fileno()
            with socket.socket(fileno=socket.dup(descriptor)) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        with self._lock, suppress(psycopg.Error):
            self.raw.close()


class _Rows:
    """Rows of a statement, with the characters that PostgreSQL cannot store."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        return None if row is None else unescape(row)

    def fetchall(self) -> list[Any]:
        return list(self)

    def close(self) -> None:
        self._cursor.close()

    def __iter__(self) -> Iterator[Any]:
        return map(unescape, self._cursor)


def escape(value: Any) -> Any:
    """Return a parameter without NUL, also in a list of texts."""
    if isinstance(value, str):
        if "\0" in value or _ESCAPE in value:
            return _TO_ESCAPE.sub(lambda match: f"{_ESCAPE}{int(match[0] != chr(0))}", value)
    elif isinstance(value, list):
        return [escape(each) for each in value]
    return value


def unescape(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a row as it was before `escape`."""
    return tuple(
        _ESCAPED.sub(lambda match: "\0" if match[1] == "0" else _ESCAPE, value)
        if isinstance(value, str) and _ESCAPE in value
        else value
        for value in row
    )


Connect = Callable[[], Connection]


def place_of(url: str) -> str:
    """Return the engine's hosts and database, for messages: without user and password."""
    if "://" in url:
        parts = urlsplit(url)
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
    fields = conninfo.conninfo_to_dict(url)
    return f"postgresql://{fields.get('host', '')}/{fields.get('dbname', '')}"


def connect(url: str) -> Connection:
    """Connect to an existing store, and announce the connection to it.

    Raises:
        StoreError: The database has no store, or one of another version.
        psycopg.Error: The engine refuses the connection, or does not answer.
    """
    connection = Connection(url)
    try:
        check_schema(connection, place_of(url))
        # The statements look up keys and pages. A plan that scans a table would be one of an
        # empty table, kept after it has grown.
        connection.execute(
            f"SET search_path TO {SCHEMA}; SET enable_seqscan = off; SET enable_hashjoin = off;"
            " SET enable_mergejoin = off; SET idle_in_transaction_session_timeout = '60s'"
        )
        # Otherwise a crash of the engine could lose acknowledged entries, and give their ids again.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.execute("SELECT hello()")
        (connection.engine,) = connection.execute("SELECT engine FROM meta", ()).fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def create(url: str, secret: bytes) -> None:
    """Create the store's schema in a database, unless it has one.

    Raises:
        StoreError: The engine refuses it.
    """
    try:
        connection = Connection(url)
        try:
            create_schema(connection, secret)
        finally:
            connection.close()
    except psycopg.Error as error:
        raise describe(url, "open", error) from None


@contextmanager
def open_for_command(url: str) -> Iterator[Connection]:
    """Open an existing store for an operator's command.

    Raises:
        StoreError: The database has no store, or the engine fails.
    """
    try:
        connection = connect(url)
        try:
            yield connection
        finally:
            connection.close()
    except psycopg.Error as error:
        raise describe(url, "use", error) from None


def describe(url: str, action: str, error: Exception) -> StoreError:
    """Return the error for a failed action."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return StoreError(f"message store {place_of(url)}: cannot {action}: {reason}")
