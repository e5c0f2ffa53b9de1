"""Limit for the unfinished messages of all peers together.

`max_message_size` limits the message of one peer. Thousands of peers that each send most of a
message would still fill the memory.
"""

from __future__ import annotations

from typing import Protocol


class MessageOwner(Protocol):
    """The session of a peer."""

    def on_message_budget_exceeded(self) -> None:
        """End the connection, and call `MessageBudget.update` with a size of 0."""


class MessageBudget:
    """Memory of the messages that have begun and not ended.

    Args:
        limit: Bytes for all unfinished messages.

    Attributes:
        total: Bytes of all unfinished messages.

    """

    __slots__ = ("_limit", "_sizes", "total")

    def __init__(self, limit: int) -> None:
        self.total: int = 0
        self._limit = limit
        self._sizes: dict[MessageOwner, int] = {}  # the oldest message first

    def update(self, owner: MessageOwner, size: int) -> None:
        """Set the size of an owner's unfinished message; end the oldest ones over the limit.

        Args:
            owner: Session whose message it is.
            size: Bytes of memory; 0 without a message.

        """
        before = self._sizes.get(owner, 0)
        if size:
            self._sizes[owner] = size
        elif before:
            del self._sizes[owner]
        self.total += size - before
        while self.total > self._limit:
            next(iter(self._sizes)).on_message_budget_exceeded()
