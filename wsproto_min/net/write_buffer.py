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


class SlowReader(Target, Protocol):
    """A transport with a write buffer. `on_timer` ends it after `write_timeout`."""

    def on_write_budget_exceeded(self) -> None:
        """End the connection at once: all write buffers together are too large."""


class WriteBudget:
    """Limits for all write buffers of a server.

    Args:
        limit: Bytes of memory for all buffers.
        timeout: Seconds that a buffer may keep its bytes without any progress.
        timers: The server's timers.

    Attributes:
        total: Bytes of memory in all buffers.

    """

    __slots__ = ("_holders", "_limit", "_readers", "_timeout", "_timers", "total")

    def __init__(self, limit: int, timeout: float, timers: CoarseTimers) -> None:
        self.total: int = 0
        self._limit = limit
        self._timeout = timeout
        self._timers = timers
        # Identity of each chunk, with the number of buffers that hold it.
        self._holders: dict[int, int] = {}
        # Owners of a buffer that is not empty; the first has had one for the longest time.
        self._readers: dict[SlowReader, WriteBuffer] = {}

    def open_buffer(self, reader: SlowReader) -> WriteBuffer:
        """Return an empty buffer, which its owner fills at once and closes in the end."""
        buffer = self._readers[reader] = WriteBuffer(self, self._timers, reader, self._timeout)
        return buffer

    def close_buffer(self, reader: SlowReader) -> None:
        """Forget the buffer of `reader`, which is empty or has a closed socket."""
        self._readers.pop(reader).clear()

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
    """Bytes that wait until a socket is writable; `size` is their number.

    Args:
        budget: Counts the chunks.
        timers: Call `reader.on_timer` when the socket has taken nothing for `timeout` seconds.
        reader: Owner of the buffer.
        timeout: In seconds.

    """

    __slots__ = ("_budget", "_chunks", "_reader", "_sent", "_timeout", "_timer", "_timers", "size")

    def __init__(
        self, budget: WriteBudget, timers: CoarseTimers, reader: SlowReader, timeout: float
    ) -> None:
        self.size: int = 0
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
