"""A socket of a connection through the tap: it reads, buffers writes, and ends its stream.

`net.transport` ends both directions together, as a WebSocket server must. A tap must pass on a
half-close and a reset, so it has a stream of its own.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from enum import Enum
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.transport import RECEIVE_SIZE
from wsproto_min.tap.upstream import ClientTLSSocket


class End(Enum):
    """The end of a stream, once its write buffer is empty."""

    HALF_CLOSE = "send FIN; reading continues"
    RESET = "close the socket with RST"


class Owner(Protocol):
    """The connection of a stream."""

    def on_data(self, stream: Stream, data: bytes) -> None:
        """Process received bytes."""

    def on_eof(self, stream: Stream) -> None:
        """Record the end of the received bytes."""

    def on_lost(self, stream: Stream) -> None:
        """Record that the socket failed and is closed."""

    def on_written(self, stream: Stream) -> None:
        """Record that the socket took bytes from the write buffer."""


class Stream:
    """A non-blocking socket in the event loop.

    Args:
        sock: A connected non-blocking socket; the stream closes it.
        loop: The event loop.
        owner: Receives the events.

    Attributes:
        buffer_size: Number of bytes that the socket has not taken yet.
        eof: True after the end of the received bytes.
        half_closed: True once FIN is sent.
        closed: True once the socket is closed.

    """

    def __init__(self, sock: socket.socket, loop: EventLoop, owner: Owner) -> None:
        self.buffer_size: int = 0
        self.eof: bool = False
        self.half_closed: bool = False
        self.closed: bool = False
        self._raw = sock
        self._tls = ClientTLSSocket(sock) if isinstance(sock, ssl.SSLSocket) else None
        self._socket = self._tls or sock
        self._loop = loop
        self._owner = owner
        self._chunks: deque[memoryview] = deque()
        self._end: End | None = None
        self._paused = False
        self._watched = 0
        self._update_interest()

    def on_ready(self, events: int) -> None:
        """Write and read, as far as the socket is ready."""
        # With TLS a read may wait for EVENT_WRITE, and a write for EVENT_READ.
        if self._chunks and (events & EVENT_WRITE or self._tls):
            self._flush()
            self._owner.on_written(self)
        if events & EVENT_READ or self._tls:
            self._read()
        self._update_interest()

    def _read(self) -> None:
        if self._paused or self.eof or self.closed:
            return
        try:
            # A record of TLS has at most 16 KiB, so no decrypted bytes stay behind unseen.
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        if data:
            self._owner.on_data(self, data)
        else:
            self.eof = True
            self._owner.on_eof(self)

    def write(self, data: bytes) -> None:
        """Send bytes, and buffer the rest; drop all bytes after `end`."""
        if self.closed or self._end is not None or not data:
            return
        self._chunks.append(memoryview(data))
        self.buffer_size += len(data)
        if len(self._chunks) == 1:
            self._flush()
        self._update_interest()

    def _flush(self) -> None:
        while self._chunks:
            chunk = self._chunks[0]
            try:
                sent = self._socket.send(chunk)
            except BlockingIOError:
                return
            except OSError:
                self._lose()
                return
            self.buffer_size -= sent
            if sent == len(chunk):
                self._chunks.popleft()
            else:
                self._chunks[0] = chunk[sent:]
        self._finish()

    def end(self, how: End) -> None:
        """End the stream once the write buffer is empty. RESET replaces an earlier HALF_CLOSE."""
        self._end = how
        if how is End.RESET:
            self.pause()
        if not self._chunks:
            self._finish()

    def _finish(self) -> None:
        """End the stream as `end` asked, once everything is written."""
        if self.closed or self._end is None:
            return
        if self._end is End.RESET:
            linger = struct.pack("ii", 1, 0)  # on, for 0 s
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close()
            return
        try:
            if self._tls:
                self._tls.half_close()
            else:
                self._raw.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose()
            return
        self.half_closed = True

    def pause(self) -> None:
        """Stop reading until `resume`: the kernel and then the sender buffer the bytes."""
        self._paused = True
        self._update_interest()

    def resume(self) -> None:
        """Read again, if the stream is paused."""
        if self._paused and self._end is not End.RESET:
            self._paused = False
            self._update_interest()

    def _lose(self) -> None:
        """Close the failed socket. The owner hears of it later, because it may be the caller."""
        self.close()
        self._loop.call_later(0, partial(self._owner.on_lost, self))

    def close(self) -> None:
        """Close the socket at once; buffered bytes are lost."""
        if not self.closed:
            self.closed = True
            self._chunks.clear()
            self.buffer_size = 0
            if self._watched:
                self._loop.unregister(self._socket)
            self._socket.close()

    def _update_interest(self) -> None:
        """Watch the socket for the events that the next read and the next write need."""
        if self.closed:
            return
        read = self._tls.read_waits_for if self._tls else EVENT_READ
        write = self._tls.write_waits_for if self._tls else EVENT_WRITE
        reads = not (self._paused or self.eof)
        events = (read if reads else 0) | (write if self._chunks else 0)
        if events != self._watched:
            self._loop.modify(self._socket, self._watched, events, self)
            self._watched = events
