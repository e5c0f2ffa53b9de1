"""The transport of one peer: a non-blocking socket with its write buffer.

A transport reads and writes without blocking, and buffers the bytes that the socket does not
take. It asks the event loop for just the events that it needs. The transport calls the session
when bytes arrive, the buffer is full, or the socket is closed. It does not interpret the bytes.

How a connection ends: close() with unread input sends RST, and the RST may overtake the last
bytes. So after the last bytes the transport half-closes the socket and waits for the other
side's FIN. After a complete closing handshake it closes the socket, because no input can
follow (RFC 6455, section 7.1.1).
"""

from __future__ import annotations

import socket
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.tls import TLSSocket
from wsproto_min.net.write_buffer import WriteBudget, WriteBuffer

# Largest read, in bytes, so that no peer keeps the others waiting.
RECEIVE_SIZE = 1 << 16


class Owner(Protocol):
    """The session of a transport."""

    def on_data(self, data: bytes) -> None:
        """Process received bytes."""

    def on_read_error(self, error: OSError) -> None:
        """Record why reading failed. The transport then closes the socket."""

    def on_write_progress(self) -> None:
        """Record that the socket took bytes from the write buffer."""

    def on_write_buffer_full(self) -> None:
        """End the connection: the write buffer has outgrown its limit."""

    def on_drained(self) -> None:
        """Record that the write buffer has come down to its low mark."""

    def on_too_slow(self, reason: str) -> None:
        """End the connection at once: the peer takes too few bytes."""

    def on_socket_closed(self) -> None:
        """Record that the socket is closed. The transport makes this call once, as its last."""


class Transport:
    """A socket in the event loop, for one peer.

    Args:
        sock: A connected non-blocking socket; the transport closes it.
        owner: The session.
        loop: The server's event loop.
        write_buffer_limit: Number of bytes in the write buffer that ends the connection.
        write_budget: Limits for all write buffers of the server.

    Attributes:
        closed: The socket is closed.
        close_after_flush: True after the last write; the transport ends the stream when the
            buffer is empty.

    Raises:
        OSError: The event loop cannot watch the socket.

    """

    __slots__ = (
        "_ending",
        "_eof_received",
        "_half_close",
        "_loop",
        "_owner",
        "_reading_paused",
        "_socket",
        "_watched_events",
        "_write_budget",
        "_write_buffer",
        "_write_buffer_limit",
        "close_after_flush",
        "closed",
    )

    def __init__(
        self,
        sock: socket.socket | TLSSocket,
        owner: Owner,
        loop: EventLoop,
        write_buffer_limit: int,
        write_budget: WriteBudget,
    ) -> None:
        self.closed: bool = False
        self.close_after_flush: bool = False
        self._socket = sock
        self._loop = loop
        self._write_buffer_limit = write_buffer_limit
        self._write_budget = write_budget
        self._owner = owner
        self._write_buffer: WriteBuffer | None = None  # None while empty: most peers need none
        self._ending = False  # True after `end_after_next_write`
        self._half_close = True
        self._eof_received = False
        self._reading_paused = False
        self._watched_events = EVENT_READ
        loop.register(sock, EVENT_READ, self)

    @property
    def write_buffer_size(self) -> int:
        """Number of bytes that the socket has not taken yet."""
        return 0 if self._write_buffer is None else self._write_buffer.size

    @property
    def can_write(self) -> bool:
        """True if application data can be sent: with TLS, only after the TLS handshake."""
        return not isinstance(self._socket, TLSSocket) or self._socket.is_established

    def on_ready(self, events: int) -> None:
        """Flush the write buffer and read once, as far as the socket is ready."""
        # With TLS a read may wait for EVENT_WRITE, and a write for EVENT_READ.
        is_tls = isinstance(self._socket, TLSSocket)
        if events & EVENT_WRITE or is_tls:
            self._flush()
        if (events & EVENT_READ or is_tls) and not self._reading_paused:
            self._read()
        if is_tls:
            self._update_interest()

    def _read(self) -> None:
        """Read once and pass the bytes on; close the socket at the end of the stream."""
        if self.closed:  # another peer's callback closed it earlier in this iteration
            return
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._owner.on_read_error(error)
            self.close()
            return
        if data:
            self._owner.on_data(data)
        elif self._ending and self._write_buffer:
            # The peer has half-closed, but can still receive the write buffer.
            self._eof_received = True
            self._update_interest()
        else:
            self.close()

    def pause_reading(self) -> None:
        """Stop reading until `resume_reading`; the kernel and then the sender buffer the bytes."""
        self._reading_paused = True
        self._update_interest()

    def resume_reading(self) -> None:
        """Read again."""
        self._reading_paused = False
        self._update_interest()

    def write(self, data: bytes) -> None:
        """Send bytes after all earlier ones, and buffer the part that the socket does not take.

        Drops all bytes after the write that `end_after_next_write` announced.
        """
        if self.close_after_flush or self.closed:
            return
        if self._ending:
            self.close_after_flush = True
        if self._write_buffer is None:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent == len(data):
                if self.close_after_flush:
                    self._finish()
                return
            self._write_buffer = self._write_budget.open_buffer(self)
            self._write_buffer.append(data, sent)
            self._update_interest()
        else:
            self._write_buffer.append(data)
        if self._write_buffer.size > self._write_buffer_limit and not self.close_after_flush:
            self._owner.on_write_buffer_full()
        self._write_budget.enforce_limit()

    def on_write_budget_exceeded(self) -> None:
        """End the connection, because all write buffers together exceed their limit."""
        self._owner.on_too_slow("too slow: the write buffers of all peers are full")

    def on_timer(self) -> None:
        """End the connection, because the socket has taken nothing for `write_timeout`."""
        self._owner.on_too_slow("too slow: no bytes were taken within the write timeout")

    def await_drain(self) -> None:
        """Call `on_drained` of the owner once the write buffer is at its low mark."""
        if self._write_buffer is None:
            self._owner.on_drained()
            return
        self._write_buffer.awaits_drain = True
        if self._write_buffer.take_drain():
            self._owner.on_drained()

    def end_after_next_write(self, *, half_close: bool) -> None:
        """Make the next write the last one.

        Args:
            half_close: After the last byte, half-close the socket and wait for the other
                side's FIN. Otherwise close it.

        """
        self._ending = True
        self._half_close = half_close

    def _flush(self) -> None:
        """Send buffered bytes; end the stream after the last one."""
        if self._write_buffer is None:
            return
        try:
            sent = self._write_buffer.send_to(self._socket)
        except OSError:
            self.close()
            return
        if sent:
            self._owner.on_write_progress()
            if self._write_buffer.take_drain():
                self._owner.on_drained()
        if self._write_buffer.size:
            return
        self._close_write_buffer()
        self._eof_received = False  # watch for reading again: the next read closes the socket
        self._update_interest()
        if self.close_after_flush:
            self._finish()

    def _finish(self) -> None:
        """Half-close or close the socket: everything is written."""
        if self._half_close:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.close()
        else:
            self.close()

    def close(self) -> None:
        """Close the socket at once, unless it is closed; buffered bytes are lost."""
        if self.closed:
            return
        try:
            self.closed = True
            self._close_write_buffer()
            self._write_budget.set_marks(self, None)
            if self._watched_events:
                self._loop.unregister(self._socket)
            owner = self._owner
            del self._owner  # ends the reference cycle, so that a closed peer is freed at once
            owner.on_socket_closed()
        finally:  # KeyboardInterrupt can come at any line
            self._socket.close()

    def _close_write_buffer(self) -> None:
        if self._write_buffer is not None:
            self._write_buffer = None
            self._write_budget.close_buffer(self)

    def _update_interest(self) -> None:
        """Watch the socket for the events that the next read and the next write need."""
        if self.closed:
            return
        read, write = EVENT_READ, EVENT_WRITE
        if isinstance(self._socket, TLSSocket):
            read, write = self._socket.read_waits_for, self._socket.write_waits_for
        reads = not (self._eof_received or self._reading_paused)
        events = (read if reads else 0) | (write if self._write_buffer else 0)
        if events != self._watched_events:
            self._loop.modify(self._socket, self._watched_events, events, self)
            self._watched_events = events
