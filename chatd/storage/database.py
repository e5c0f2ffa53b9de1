"""A database connection, as the statements that both engines share use it.

`sqlite3.Connection` is one in autocommit mode, and so is `postgres.connection.Connection`. The
statements mark parameters with "?". A `with` block ends the transaction that a BEGIN in it has
started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self


class Cursor(Protocol):
    """Result of a statement."""

    @property
    def rowcount(self) -> int:
        """Number of changed rows."""

    def fetchone(self) -> Any:
        """Return the next row, None without one."""

    def fetchall(self) -> list[Any]:
        """Return all rows."""

    def close(self) -> None:
        """End the statement."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows."""


class Database(Protocol):
    """A connection in autocommit mode."""

    def execute(self, statement: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Execute a statement."""

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Execute a statement for each of the parameters."""

    def __enter__(self) -> Self:
        """Begin a block with one transaction."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Commit the transaction, or roll it back after an exception."""
