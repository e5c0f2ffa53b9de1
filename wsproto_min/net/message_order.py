"""The order of one peer's frames while it is sent a message in fragments.

RFC 6455, section 5.4: the fragments of one message must not be interleaved with those of another.
So a message that is sent after the beginning of the fragmented one leaves after its last fragment,
whether it was sent to the peer or to a group. Frames are numbered in the order in which they were
sent. A message with a number between the beginning and the end is moved behind the last fragment,
and is held here until then. Control frames keep their place.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Protocol

from wsproto_min.net.write_buffer import WriteBudget

NumberedFrames = list[tuple[int, bytes]]
"""Encoded frames with their sequence numbers."""


class OrderOwner(Protocol):
    """The session of the peer."""

    def on_order_flushed(self, order: MessageOrder) -> None:
        """Check the size of the held messages and of the write buffer after a write."""

    def on_too_slow(self, reason: str) -> None:
        """End the connection at once: the buffers of all peers are too large."""


class MessageOrder:
    """Frames of a peer that is sent a message in fragments.

    Args:
        owner: The peer's session.
        budget: Counts the held messages beside the write buffers.

    Attributes:
        owner: As above.
        is_open: True from the beginning of the message to its end.
        held_size: Bytes of the held messages.
        pending_size: Bytes of the fragments of this iteration.
        needs_flush: True if the next flush must check the held messages, or is the last one.
        awaits_drain: True if the application waits for `on_drained`.

    """

    __slots__ = (
        "_begun_at",
        "_budget",
        "_ended",
        "_held",
        "_messages",
        "awaits_drain",
        "held_size",
        "is_cancelled",
        "is_open",
        "needs_flush",
        "owner",
        "pending_size",
    )

    def __init__(self, owner: OrderOwner, budget: WriteBudget) -> None:
        self.owner: OrderOwner = owner
        self.is_open: bool = False
        self.is_cancelled: bool = False
        self.held_size: int = 0
        self.pending_size: int = 0
        self.awaits_drain: bool = False
        self.needs_flush: bool = False
        self._budget = budget
        self._begun_at = 0
        self._ended: list[tuple[int, int]] = []  # numbers of the beginning and the end
        self._messages: NumberedFrames = []  # to be placed in this iteration
        self._held: NumberedFrames = []

    def begin(self, number: int) -> None:
        """Hold messages with a greater number."""
        self.is_open = True
        self._begun_at = number
        self._budget.add_holder(self, self)

    def end(self, number: int) -> None:
        """Place the held messages behind `number`, which follows the last fragment."""
        self.is_open = False
        self.needs_flush = True
        self._ended.append((self._begun_at, number))
        self._messages = self._held + self._messages
        self._budget.close_buffer(self)

    def cancel(self) -> None:
        """Drop the messages behind a last fragment that is never sent."""
        self.is_open = False
        self.is_cancelled = True
        self.needs_flush = True
        self._budget.close_buffer(self)

    def clear(self) -> None:
        """Hold nothing more."""
        for _, frame in self._held:
            self.release(frame)
        self._held = []

    def hold(self, data: bytes) -> None:
        """Count bytes that wait for the last fragment."""
        self.held_size += len(data)
        self.needs_flush = True
        self._budget.hold(data)

    def release(self, data: bytes) -> None:
        """Count bytes that wait no longer."""
        self.held_size -= len(data)
        self._budget.release(data)

    def on_write_budget_exceeded(self) -> None:
        """End the connection, because it has held messages for the longest time."""
        self.owner.on_too_slow("too slow: the write buffers of all peers are full")

    def add(self, messages: NumberedFrames) -> None:
        """Add messages that were sent to the peer or to its groups."""
        self._messages += messages

    def arrange(self, frames: NumberedFrames) -> list[bytes]:
        """Return the frames to write now, in order; hold the messages that must wait.

        Args:
            frames: The other frames of this iteration: fragments, control frames, and messages
                from before the beginning.

        """
        placed = [((number, 0), frame) for number, frame in frames]
        for number, frame in self._messages:
            place = self._place(number)
            if place is not None:
                placed.append((place, frame))
            elif self.is_open:
                self._held.append((number, frame))
                self.hold(frame)
        self._messages = []
        self.pending_size = 0
        self.needs_flush = False
        placed.sort(key=itemgetter(0))
        return [frame for _, frame in placed]

    def _place(self, number: int) -> tuple[int, int] | None:
        """Return the sort key of a message, or None if it waits or is dropped."""
        for begun_at, ended_at in self._ended:
            if begun_at < number < ended_at:
                return ended_at, number
        waits = (self.is_open or self.is_cancelled) and number > self._begun_at
        return None if waits else (number, 0)
