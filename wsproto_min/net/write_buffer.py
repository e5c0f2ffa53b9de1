"""Bytes that a socket has not taken yet, in order."""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Sender(Protocol):
    """A non-blocking socket, reduced to the method that a write buffer needs."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Send as many bytes as fit without blocking; return their number."""


class WriteBuffer:
    """Bytes that wait until a socket is writable; `size` is their number.

    The buffer keeps the chunks as they are: the write buffers of many peers share most of them.
    """

    __slots__ = ("_chunks", "size")

    def __init__(self, data: bytes | memoryview) -> None:
        self._chunks = deque((data,))
        self.size: int = len(data)

    def append(self, data: bytes) -> None:
        """Add `data` at the end."""
        self._chunks.append(data)
        self.size += len(data)

    def send_to(self, sock: Sender) -> int:
        """Send as many bytes as the socket takes; return their number.

        Raises:
            OSError: The connection failed.
        """
        before = self.size
        try:
            while self._chunks:
                chunk = self._chunks[0]
                sent = sock.send(chunk)
                self.size -= sent
                if sent < len(chunk):
                    self._chunks[0] = memoryview(chunk)[sent:]
                    break
                self._chunks.popleft()
        except BlockingIOError:
            pass
        return before - self.size
