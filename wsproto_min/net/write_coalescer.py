"""The write coalescer: all frames of one loop iteration, in one write for each peer.

A small write costs the kernel as much as a large one. So M messages to a group of N peers
must cost N writes, not M x N.

Each frame gets a sequence number. A peer that must receive something other than its group's
shared bytes gets its own frames, sorted by that number. So every peer receives its frames in
the order in which they were sent. Module `message_order` states the exception: messages that are
sent while a message in fragments is under way.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import count
from threading import get_ident
from typing import Any, Protocol

from wsproto_min.net.message_order import MessageOrder, NumberedFrames


class Writer(Protocol):
    """The transport of a peer."""

    def write(self, data: bytes) -> None:
        """Send `data`, or buffer the bytes that the socket does not take."""


class Recipient(Protocol):
    """A peer, as far as the write coalescer uses it."""

    @property
    def _transport(self) -> Writer:
        """The object that takes the peer's bytes."""


class PendingGroup(Protocol):
    """A group with frames of this iteration; `broadcast.Group` documents the methods."""

    def flush(self, pending: dict[Any, NumberedFrames], ordered: Container[Any]) -> int:
        """Write this iteration's frames to the members; return the number of bytes."""


class WriteCoalescer:
    """Frames that wait for the end of the loop iteration.

    Attributes:
        bytes_sent: Number of bytes passed to the transports.
        thread: Identifier of the thread of `Server.run`; 0 while the server does not run.

    """

    __slots__ = ("_groups", "_numbers", "_orders", "_pending", "bytes_sent", "thread")

    def __init__(self) -> None:
        self.bytes_sent: int = 0
        self.thread: int = 0
        self._numbers = count()
        self._pending: dict[Recipient, NumberedFrames] = {}
        self._groups: dict[PendingGroup, None] = {}  # groups with pending frames, in order
        # Peers that are sent a message in fragments, or were in this iteration.
        self._orders: dict[Recipient, MessageOrder] = {}

    def __bool__(self) -> bool:
        """Return True if any frame is pending."""
        return bool(self._pending or self._groups)

    def check_thread(self) -> None:
        """Check that the caller is in the server's thread, if the server runs.

        Frames of another thread would wait for the next event, and could break the order.

        Raises:
            RuntimeError: The caller is in another thread.

        """
        if self.thread and self.thread != get_ident():
            raise RuntimeError(
                "call from another thread: peers, groups and timers belong to the thread of"
                " Server.run; pass a function to Server.call_soon_threadsafe"
            )

    def enqueue(self, member: Recipient, data: bytes) -> None:
        """Send encoded frames to one peer, after everything that it was sent before."""
        self._pending.setdefault(member, []).append((next(self._numbers), data))

    def enqueue_numbered(self, member: Recipient, frames: NumberedFrames) -> None:
        """Send messages to one peer, in the place that their numbers give them."""
        order = self._orders.get(member)
        if order is None:
            self._pending.setdefault(member, []).extend(frames)
        else:
            order.add(frames)

    def next_number(self) -> int:
        """Return the sequence number for a message that `enqueue_numbered` gets later."""
        return next(self._numbers)

    def begin_message(self, member: Recipient, order: MessageOrder) -> MessageOrder:
        """Hold the messages to one peer until `end_message`, because fragments follow.

        Returns:
            `order`, or the order of an earlier message that ended in this iteration.

        """
        order = self._orders.setdefault(member, order)
        order.begin(next(self._numbers))
        return order

    def end_message(self, order: MessageOrder) -> None:
        """Send the held messages, because the last fragment is enqueued."""
        order.end(next(self._numbers))

    def mark_group(self, group: PendingGroup) -> int:
        """Mark a group for the next flush; return a new sequence number."""
        self._groups[group] = None
        return next(self._numbers)

    def flush_member(self, member: Recipient) -> None:
        """Write one peer's frames at once, unless their order depends on messages of groups."""
        if not self._groups and member not in self._orders:
            self._write(member, self._pending.pop(member, []))

    def write_now(self, member: Recipient, data: bytes) -> None:
        """Write bytes to one peer at once, before its pending frames."""
        self.bytes_sent += len(data)
        member._transport.write(data)

    def discard(self, member: Recipient) -> None:
        """Drop the pending frames of a peer with a closed socket."""
        self._pending.pop(member, None)
        self._orders.pop(member, None)

    def flush(self) -> None:
        """Write all pending frames, in one write for each peer."""
        merged, self._pending = self._pending, {}
        groups, self._groups = self._groups, {}
        orders = self._take_orders(merged, has_groups=bool(groups)) if self._orders else ()
        for group in groups:
            self.bytes_sent += group.flush(merged, self._orders)
        for member, order, frames in orders:
            order.add(merged.pop(member))
            self._flush_order(member, order, frames)
        for member, frames in merged.items():
            self._write(member, frames)

    def _take_orders(
        self, merged: dict[Recipient, NumberedFrames], *, has_groups: bool
    ) -> list[tuple[Recipient, MessageOrder, NumberedFrames]]:
        """Return the peers with a fragmented message, and their frames except those of groups.

        Groups add their frames to `merged`, so the frames of these peers are replaced there.
        """
        orders = [
            (member, order, merged.get(member, []))
            for member, order in self._orders.items()
            if has_groups or member in merged or order.needs_flush
        ]
        for member, _, _ in orders:
            merged[member] = []
        return orders

    def _flush_order(self, member: Recipient, order: MessageOrder, frames: NumberedFrames) -> None:
        """Write the frames of a peer that is sent a message in fragments."""
        data = b"".join(order.arrange(frames))
        if data:
            self.bytes_sent += len(data)
            member._transport.write(data)
        if not order.is_open:
            self._orders.pop(member, None)
        order.owner.on_order_flushed(order)

    def _write(self, member: Recipient, frames: NumberedFrames) -> None:
        if len(frames) == 1:
            data = frames[0][1]
        elif frames:
            frames.sort()  # numbers are unique, so sort() never compares frames
            data = b"".join([frame for _, frame in frames])
        else:  # no frames: the groups sent only this peer's messages
            return
        self.bytes_sent += len(data)
        member._transport.write(data)
