"""What a socket has not taken yet, kept in order until it does."""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Sender(Protocol):
    """A non-blocking socket, as far as a backlog needs one."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Send what goes without blocking; return how many bytes that were."""


class WriteBuffer:
    """Bytes that wait for a socket to be writable; `size` is their number.

    Chunks are kept as they came: most are shared with the backlogs of others.
    """

    __slots__ = ("_chunks", "size")

    def __init__(self, data: bytes | memoryview) -> None:
        self._chunks = deque((data,))
        self.size = len(data)

    def append(self, data: bytes) -> None:
        """Put `data` at the end."""
        self._chunks.append(data)
        self.size += len(data)

    def send_to(self, sock: Sender) -> int:
        """Send what the socket takes; return how many bytes. Raises `OSError` if it is gone."""
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
