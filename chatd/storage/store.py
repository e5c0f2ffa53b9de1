"""The message log, which decides: what it has not stored is not delivered.

`Log` is what the chat asks of an engine. Every answer goes to a callback,
called in the server's loop at once or later, so that a distributed engine fits
as well as the embedded one, `SQLiteStore`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from chatd.protocol import Message


class StoreError(Exception):
    """The log cannot be opened, or could not store or find what it was asked to."""


class NewMessage(NamedTuple):
    """A message to be stored."""

    room: str
    name: str
    text: str
    key: str | None


class StoredMessage(NamedTuple):
    """A message that is in the log; `repeated` if it was before, by its key."""

    message: Message
    repeated: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Messages in ascending order; `more` if there are older ones beyond the limit.

    `gap` says that some that were asked for are not there: retention has removed
    them, or the id is none of this log's.
    """

    messages: Sequence[Message]
    more: bool
    gap: bool


class MessageStore(Protocol):
    """An engine that keeps the messages of all rooms in order."""

    def append(
        self,
        entries: Sequence[NewMessage],
        done: Callable[[Sequence[StoredMessage] | StoreError], None],
    ) -> None:
        """Store entries in this order, all or none; give `done` what became of each."""

    def read_after(
        self, room: str, seen: int, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        """Give `done` a room's messages after the id `seen`, the newest if over the limit."""

    def read_before(
        self, room: str, end: int | None, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        """Give `done` the newest messages before the id `end`, or of all if it is None."""

    def apply_retention(self) -> bool:
        """Remove some of what retention no longer keeps; return whether there is more.

        Raises `StoreError`.
        """

    def close(self) -> None:
        """Write out what is left to write, and let go of the file."""
