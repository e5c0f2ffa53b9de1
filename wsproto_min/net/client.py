"""A blocking WebSocket client (RFC 6455, section 4.1).

    with connect("ws://127.0.0.1:9001/") as client:
        client.send("Hello")
        print(client.recv())

Use a `Client` in one thread only. A client reads from its socket only inside a call of `recv`,
`ping`, `close` or an iteration, and answers the server's Pings there.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Close, Connection, Event, Pong, Role, State
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.handshake import ClientHandshake
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.net.connector import RECEIVE_SIZE, Trace, open_socket, perform_handshake
from wsproto_min.net.url import parse_url

_LOST = "the server is gone"
_NO_DATA = "no data arrived within the time limit"
_NOT_READ = "the server did not read within the time limit"


def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    compression: DeflateParameters | None = DeflateParameters.DEFAULT,
    compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
    ssl_context: ssl.SSLContext | None = None,
    open_timeout: float = 10.0,
    close_timeout: float = 10.0,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_fragments: int | None = None,
    trace: Trace | None = None,
) -> Client:
    """Open a connection to a WebSocket server.

    Args:
        url: `ws://HOST[:PORT]/PATH`, `wss://HOST[:PORT]/PATH` or `ws+unix:FILE:/PATH`.
        subprotocols: Subprotocols to offer, the preferred one first.
        headers: Further headers of the request as (name, value), such as Authorization.
        origin: Value of the Origin header.
        compression: Parameters of permessage-deflate to offer; None offers no compression.
        compression_threshold: Minimum size of a message that is compressed, in bytes.
        ssl_context: TLS configuration for `wss`. By default, the client verifies the
            certificate by the system's CAs.
        open_timeout: Time limit for everything until the connection is open, in seconds.
        close_timeout: Time limit for the closing handshake, in seconds.
        max_message_size: Maximum size of a received message, in bytes.
        max_fragments: Maximum number of fragments of a received message.
        trace: Function to call with the sender of bytes and the bytes, for each read and
            write. Each head of the handshake comes in a call of its own.

    Raises:
        ValueError: The URL or an argument is invalid.
        HandshakeError: The server refused the handshake or broke a rule of section 4.1.
        OSError: The server cannot be reached; `TimeoutError` after `open_timeout`.
    """
    address = parse_url(url)
    handshake = ClientHandshake(
        address.host_header,
        address.target,
        subprotocols=subprotocols,
        compression=compression,
        headers=[*([] if origin is None else [("Origin", origin)]), *headers],
        max_message_size=max_message_size,
        max_fragments=max_fragments,
        compression_threshold=compression_threshold,
    )
    deadline = time.monotonic() + open_timeout
    sock = open_socket(address, deadline, ssl_context)
    try:
        result = perform_handshake(sock, handshake, deadline, trace)
        assert result.connection is not None
        return Client(
            sock,
            result.connection,
            subprotocol=result.subprotocol,
            received=result.trailing_data,
            close_timeout=close_timeout,
            trace=trace,
        )
    except BaseException:
        sock.close()
        raise


class Client:
    """An open connection to a server; `connect` creates it.

    Args:
        sock: Connected socket, which the client owns from now on.
        connection: State of the protocol, after the opening handshake.
        subprotocol: Negotiated subprotocol.
        received: Bytes received after the head of the server's response.
        close_timeout: Time limit for the closing handshake, in seconds.
        trace: As for `connect`.

    Attributes:
        connection: State of the protocol.
        subprotocol: Subprotocol that the server chose, or None.
    """

    connection: Connection
    subprotocol: str | None

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        *,
        subprotocol: str | None = None,
        received: bytes = b"",
        close_timeout: float = 10.0,
        trace: Trace | None = None,
    ) -> None:
        self.connection = connection
        self.subprotocol = subprotocol
        self._socket = sock
        self._close_timeout = close_timeout
        self._trace = trace
        self._messages: deque[str | bytes] = deque()  # received, for `recv`
        self._write_buffer = b""
        self._awaited_pong: bytes | None = None
        self._close: Close | None = None
        self._receive_data(received)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000, or with 1011 after an exception in the block."""
        self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over messages until the server closes with 1000 or 1001.

        Raises:
            ConnectionClosed: The connection ended with another code.
            ProtocolError: The server broke a rule.
        """
        try:
            while True:
                yield self.recv()
        except ConnectionClosed as closed:
            if closed.code not in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY):
                raise

    @property
    def close_code(self) -> int | None:
        """Close code that ended the connection (section 7.1.5); None while it is open.

        The code of the server's Close frame, or 1005 if the frame had none. Without a Close
        frame: 1006, or the code of the rule that the server broke.
        """
        return None if self._close is None else self._close.code

    @property
    def close_reason(self) -> str:
        """Reason that belongs to `close_code`; empty while the connection is open."""
        return "" if self._close is None else self._close.reason

    def fileno(self) -> int:
        """Return the socket's file descriptor for a selector, or -1 if it is closed.

        Before each wait, call `recv(timeout=0)` until it raises `TimeoutError`: received
        messages may be in the client already.
        """
        return self._socket.fileno()

    def send(self, message: str | bytes) -> None:
        """Send a text (`str`) or binary (`bytes`) message; wait while the server does not read.

        Raises:
            ConnectionClosed: The connection is closing, closed or lost.
            TypeError: The message is neither `str` nor `bytes`.
        """
        self.connection.send(message)
        self._flush_or_raise(None)

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message.

        Args:
            timeout: Time limit in seconds; None for no limit, 0 to read without waiting.

        Raises:
            TimeoutError: No message arrived within `timeout` seconds.
            ConnectionClosed: The connection is closed, with 1006 if it was lost.
            ProtocolError: The server broke a rule.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        has_read = False
        while not self._messages:
            has_read = self._advance(deadline, has_read=has_read)
        return self._messages.popleft()

    def ping(self, timeout: float | None = 10.0) -> float:
        """Send a Ping; return the round-trip time in seconds once its Pong has arrived.

        Keeps the messages that arrive before the Pong for `recv`. Raises as `recv` does.
        """
        self._awaited_pong = os.urandom(8)
        sent_at = time.monotonic()
        deadline = None if timeout is None else sent_at + timeout
        self.connection.ping(self._awaited_pong)
        self._flush_or_raise(deadline)
        has_read = False
        while self._awaited_pong is not None:
            has_read = self._advance(deadline, has_read=has_read)
        return time.monotonic() - sent_at

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Perform the closing handshake within `close_timeout`, then close the socket.

        Keeps the messages that arrive before the server's Close frame for `recv`. Does nothing
        if the connection is closed.

        Raises:
            ValueError: A Close frame must not carry `code` (section 7.4).
        """
        deadline = time.monotonic() + self._close_timeout
        self.connection.close(code, reason)
        try:
            with suppress(OSError):
                self._flush(deadline)
                self._handle_received(deadline)
                # Section 7.1.1: wait, because the server closes TCP first. Check the clock too:
                # bytes of a server that sends without a pause arrive after the deadline as well.
                while time.monotonic() < deadline and self._read(deadline):
                    self._handle_received(deadline)
        finally:
            self._disconnect()

    def _advance(self, deadline: float | None, *, has_read: bool) -> bool:
        """Handle the next event or, without one, read once. Return True after a read.

        Args:
            deadline: Time limit, or None.
            has_read: True if the caller's loop has read before. The first read is always tried.
                Later ones check the clock, because a server that sends without a pause always
                has bytes ready.

        Raises:
            TimeoutError: The deadline has passed.
            ConnectionClosed: There are no more events.
            ProtocolError: There are no more events, because the server broke a rule.
        """
        event = self.connection.next_event()
        if event is not None:
            self._handle_event(event)
            self._flush(deadline)
            return has_read
        self._flush(deadline)
        if self.connection.state >= State.FLUSHING:
            self._disconnect()
            if self.connection.error is not None:
                raise self.connection.error
            close = self.connection.close_received
            if close is None:
                raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, _LOST)
            raise ConnectionClosed(close.code, close.reason)
        if has_read and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(_NO_DATA)
        self._read(deadline)
        return True

    def _handle_received(self, deadline: float) -> None:
        """Handle all events that have arrived, and send the replies."""
        while (event := self.connection.next_event()) is not None:
            self._handle_event(event)
            self._flush(deadline)

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, (str, bytes)):
            self._messages.append(event)
        elif isinstance(event, Close):
            self._close = event
        elif isinstance(event, Pong) and event.payload == self._awaited_pong:
            self._awaited_pong = None

    def _disconnect(self) -> None:
        """Close the socket, then handle the events of the data received before."""
        self._socket.close()
        self.connection.receive_eof()
        while (event := self.connection.next_event()) is not None:
            self._handle_event(event)

    def _read(self, deadline: float | None) -> bool:
        """Read once; return False at the end of the stream. Raises `TimeoutError`."""
        try:
            _set_timeout(self._socket, deadline)
            data = self._socket.recv(RECEIVE_SIZE)
        except OSError as error:
            if _is_timeout(error):
                raise TimeoutError(_NO_DATA) from None
            data = b""
        if data:
            self._receive_data(data)
        else:
            self.connection.receive_eof()
        return bool(data)

    def _receive_data(self, data: bytes) -> None:
        if self._trace is not None and data:
            self._trace(Role.SERVER, data)
        self.connection.receive_data(data)

    def _flush_or_raise(self, deadline: float | None) -> None:
        """Send the connection's bytes. Raises `ConnectionClosed` or `TimeoutError`."""
        if not self._flush(deadline):
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, _LOST)

    def _flush(self, deadline: float | None) -> bool:
        """Send the connection's bytes.

        After a timeout, the unsent rest stays first in the write buffer, because the stream
        must not end within a frame.

        Returns:
            False if the connection is lost. Data received before can still be read.

        Raises:
            TimeoutError: The server did not read until `deadline`.
        """
        data = self.connection.data_to_send()
        if data and self._trace is not None:
            self._trace(Role.CLIENT, data)
        self._write_buffer += data
        while self._write_buffer:
            try:
                _set_timeout(self._socket, deadline)
                sent = self._socket.send(self._write_buffer)
            except OSError as error:
                if _is_timeout(error):
                    raise TimeoutError(_NOT_READ) from None
                self._write_buffer = b""
                return False
            self._write_buffer = self._write_buffer[sent:]
        return True


def _is_timeout(error: OSError) -> bool:
    """Return True if the deadline of `_set_timeout` has passed, before a call or during it.

    ETIMEDOUT of the kernel has an `errno` and means a lost connection.
    """
    if isinstance(error, (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)):
        return True
    return isinstance(error, TimeoutError) and error.errno is None


def _set_timeout(sock: socket.socket, deadline: float | None) -> None:
    """Let the socket's next call block until `deadline`; None sets no limit."""
    sock.settimeout(None if deadline is None else max(0.0, deadline - time.monotonic()))
