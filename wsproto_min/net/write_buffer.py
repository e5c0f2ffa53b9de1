"""Bytes that sockets have not taken yet: one buffer for each slow peer, and limits for all.

A `WriteBuffer` keeps the chunks as they are, because the buffers of many peers share most of them.
`WriteBudget` therefore counts the memory of each chunk once, however many buffers hold it.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from wsproto_min.net.timers import CoarseTimers, Target


class Sender(Protocol):
    """A non-blocking socket, reduced to the method that a write buffer needs."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Send as many bytes as fit without blocking; return their number."""


class Holder(Protocol):
    """The owner of bytes that wait."""

    def on_write_budget_exceeded(self) -> None:
        """End the connection at once: all write buffers together are too large."""


class SlowReader(Holder, Target, Protocol):
    """A transport with a write buffer. `on_timer` ends it after `write_timeout`."""


class Held(Protocol):
    """Bytes that wait."""

    def clear(self) -> None:
        """Drop all bytes."""


DEFAULT_HIGH_MARK = 256 << 10
DEFAULT_LOW_MARK = 64 << 10


def check_marks(high: int, low: int, limit: int) -> tuple[int, int]:
    """Return the high mark and the low mark of a write buffer, both at most `limit`.

    Raises:
        ValueError: `low` is negative or above `high`.

    """
    if not 0 <= low <= high:
        raise ValueError(f"write marks: high is {high}, low is {low}; pass 0 <= low <= high")
    return min(high, limit), min(low, limit)


class WriteBudget:
    """Limits for all write buffers of a server.

    Args:
        limit: Bytes of memory for all buffers.
        timeout: Seconds that a buffer may keep its bytes without any progress.
        timers: The server's timers.
        marks: High mark and low mark of a write buffer: the bytes above which the application
            should wait, and the bytes at which it should continue.

    Attributes:
        total: Bytes of memory in all buffers.

    """

    __slots__ = (
        "_holders",
        "_limit",
        "_marks",
        "_own_marks",
        "_readers",
        "_timeout",
        "_timers",
        "total",
    )

    def __init__(
        self,
        limit: int,
        timeout: float,
        timers: CoarseTimers,
        marks: tuple[int, int] = (DEFAULT_HIGH_MARK, DEFAULT_LOW_MARK),
    ) -> None:
        self.total: int = 0
        self._marks = marks
        self._own_marks: dict[Holder, tuple[int, int]] = {}
        self._limit = limit
        self._timeout = timeout
        self._timers = timers
        # Identity of each chunk, with the number of buffers that hold it.
        self._holders: dict[int, int] = {}
        # Owners of a buffer that is not empty; the first has had one for the longest time.
        self._readers: dict[Holder, Held] = {}

    def open_buffer(self, reader: SlowReader) -> WriteBuffer:
        """Return an empty buffer, which its owner fills at once and closes in the end."""
        buffer = WriteBuffer(self, self._timers, reader, self._timeout, self.marks(reader))
        self._readers[reader] = buffer
        return buffer

    def add_holder(self, holder: Holder, held: Held) -> None:
        """Add other bytes that wait; `close_buffer` ends this."""
        self._readers[holder] = held

    def close_buffer(self, holder: Holder) -> None:
        """Forget the bytes of `holder`: they were written, or their socket is closed."""
        self._readers.pop(holder).clear()

    def marks(self, reader: Holder) -> tuple[int, int]:
        """Return the high mark and the low mark for the write buffer of `reader`."""
        return self._own_marks.get(reader, self._marks) if self._own_marks else self._marks

    def set_marks(self, reader: Holder, marks: tuple[int, int] | None) -> None:
        """Replace the high mark and the low mark of `reader`; None restores the default."""
        if marks is not None:
            self._own_marks[reader] = marks
        else:
            self._own_marks.pop(reader, None)

    def enforce_limit(self) -> None:
        """End the slowest connections until the buffers are within the limit.

        The slowest peer had an empty buffer the longest time ago. So a peer cannot save itself
        by a few bytes now and then, and a large message does not end a quick peer.
        """
        while self.total > self._limit:
            next(iter(self._readers)).on_write_budget_exceeded()

    def hold(self, chunk: bytes) -> None:
        """Count a chunk that a buffer holds."""
        holders = self._holders.get(id(chunk), 0)
        self._holders[id(chunk)] = holders + 1
        if not holders:
            self.total += len(chunk)

    def release(self, chunk: bytes) -> None:
        """Count a chunk that a buffer no longer holds."""
        holders = self._holders.pop(id(chunk)) - 1
        if holders:
            self._holders[id(chunk)] = holders
        else:
            self.total -= len(chunk)


class WriteBuffer:
    """Bytes that wait until a socket is writable.

    Args:
        budget: Counts the chunks.
        timers: Call `reader.on_timer` when the socket has taken nothing for `timeout` seconds.
        reader: Owner of the buffer.
        timeout: In seconds.
        marks: High mark and low mark.

    Attributes:
        size: Number of the bytes.
        awaits_drain: True if the owner is to be told when the buffer is at its low mark.

    """

    __slots__ = (
        "_budget",
        "_chunks",
        "_marks",
        "_reader",
        "_sent",
        "_timeout",
        "_timer",
        "_timers",
        "awaits_drain",
        "size",
    )

    def __init__(
        self,
        budget: WriteBudget,
        timers: CoarseTimers,
        reader: SlowReader,
        timeout: float,
        marks: tuple[int, int],
    ) -> None:
        self.size: int = 0
        self.awaits_drain: bool = False
        self._marks = marks
        self._chunks: deque[bytes] = deque()
        self._sent = 0  # bytes of the first chunk that the socket has taken
        self._budget = budget
        self._reader = reader
        self._timers = timers
        self._timeout = timeout
        self._timer = timers.start(reader, timeout)

    def append(self, data: bytes, sent: int = 0) -> None:
        """Add `data` at the end; the socket has taken its first `sent` bytes (first chunk only)."""
        self._budget.hold(data)
        self._chunks.append(data)
        self.size += len(data) - sent
        self._sent += sent
        if self.size > self._marks[0]:
            self.awaits_drain = True

    def take_drain(self) -> bool:
        """Return True once when the buffer has come down to its low mark."""
        if self.awaits_drain and self.size <= self._marks[1]:
            self.awaits_drain = False
            return True
        return False

    def send_to(self, sock: Sender) -> int:
        """Send as many bytes as the socket takes; return their number.

        Raises:
            OSError: The connection failed.
        """
        before = self.size
        try:
            while self._chunks:
                chunk = self._chunks[0]
                sent = sock.send(memoryview(chunk)[self._sent :] if self._sent else chunk)
                self.size -= sent
                self._sent += sent
                if self._sent < len(chunk):
                    break
                self._sent = 0
                self._budget.release(self._chunks.popleft())
        except BlockingIOError:
            pass
        if self.size < before:
            self._timer.pop(self._reader, None)
            self._timer = self._timers.start(self._reader, self._timeout)
        return before - self.size

    def clear(self) -> None:
        """Drop all bytes and stop the timer."""
        self._timer.pop(self._reader, None)
        for chunk in self._chunks:
            self._budget.release(chunk)
        self._chunks.clear()
        self.size = 0
