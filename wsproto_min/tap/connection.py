"""A connection through the tap: from the client's request to the end of both streams.

The connection reads the head of the request, connects to the upstream and then passes bytes on,
unchanged and in both directions. It stops reading one end while the other end is slow.
"""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import Protocol

from wsproto_min.connection import Role
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request, error_response
from wsproto_min.http_reader import HeadReader, parse_request
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.tap.events import Observer, Refused
from wsproto_min.tap.exchange import Exchange
from wsproto_min.tap.recording import Endpoint
from wsproto_min.tap.request import forwarded_head
from wsproto_min.tap.stream import End, Stream
from wsproto_min.tap.upstream import Upstream

WRITE_BUFFER_LIMIT = 256 << 10
"""Bytes in the write buffer of one end above which the tap stops reading the other end."""
LINGER_TIMEOUT = 5.0
"""Seconds for a client to end its stream after an error that the tap itself sent."""


class Host(Protocol):
    """The proxy, as far as one connection uses it."""

    loop: EventLoop
    upstream: Upstream
    observe: Observer

    def next_number(self) -> int:
        """Return the number of the next connection."""

    def new_exchange(self, number: int, request: Request, client: Endpoint) -> Exchange:
        """Return the observer of a connection."""

    def on_closed(self, connection: TappedConnection) -> None:
        """Forget the connection."""


class TappedConnection:
    """A client, and its connection to the upstream.

    Args:
        host: The proxy.
        sock: The client's socket, non-blocking; the connection closes it.
        address: The client's address. A socket that was reset no longer knows it.

    """

    def __init__(self, host: Host, sock: socket.socket, address: Endpoint) -> None:
        self._host = host
        self._address = address
        self._number: int | None = None  # until the head is complete
        self._request = ""  # method and target
        self._reader: HeadReader | None = HeadReader(is_request=True)  # None after the head
        self._early = b""  # bytes of the client for the upstream, until it is connected
        self._upstream: Stream | None = None
        self._exchange: Exchange | None = None  # from the head on, until the connection ends
        self._closed = False
        self._client = Stream(sock, host.loop, self)

    # Calls of the streams.

    def on_data(self, stream: Stream, data: bytes) -> None:
        """Read the head, or pass bytes on. After an error of the tap, drop them."""
        if self._reader is not None:
            self._read_head(self._reader, data)
        elif self._exchange is not None:
            sender, other = self._ends(stream)
            other.write(data)  # before the explanation, which takes longer
            if other.buffer_size > WRITE_BUFFER_LIMIT:
                stream.pause()
            self._exchange.on_data(sender, data)

    def on_eof(self, stream: Stream) -> None:
        """Pass a half-close on."""
        if self._exchange is not None:
            sender, other = self._ends(stream)
            self._exchange.on_eof(sender)
            other.end(End.HALF_CLOSE)
        self._close_if_ended()

    def on_lost(self, stream: Stream) -> None:
        """Pass a reset on, after the bytes that came before."""
        if self._exchange is not None:
            sender, other = self._ends(stream)
            self._exchange.on_reset(sender)
            other.end(End.RESET)
        self._close_if_ended()

    def on_written(self, stream: Stream) -> None:
        """Continue reading the other end once this one has taken enough."""
        if self._exchange is not None and stream.buffer_size <= WRITE_BUFFER_LIMIT:
            self._ends(stream)[1].resume()
        self._close_if_ended()

    def _ends(self, stream: Stream) -> tuple[Role, Stream]:
        """Return the role of a stream, and the other stream."""
        assert self._upstream is not None  # until then the client is paused
        if stream is self._client:
            return Role.CLIENT, self._upstream
        return Role.SERVER, self._client

    # Steps of the connection.

    def _read_head(self, reader: HeadReader, data: bytes) -> None:
        """Read the request, and connect to the upstream once its head is complete."""
        reader.receive_data(data)
        try:
            head = reader.next_head()
            if head is None:
                return
            request = parse_request(head)
        except HandshakeError as error:
            self._refuse(error)
            return
        self._reader = None
        self._client.pause()
        self._number = self._host.next_number()
        self._request = f"{request.method} {request.target}"
        self._exchange = self._host.new_exchange(self._number, request, self._address)
        self._exchange.on_data(Role.CLIENT, head + b"\r\n\r\n")
        self._exchange.on_data(Role.CLIENT, reader.trailing_data)
        upstream = self._host.upstream
        self._early = forwarded_head(head, request, upstream.url) + reader.trailing_data
        upstream.connect(self._host.loop, self._on_connected)

    def _on_connected(self, result: socket.socket | str) -> None:
        """Send the request to the upstream, or refuse it."""
        if isinstance(result, str):
            if not self._closed:
                self._refuse(HandshakeError(HTTPStatus.BAD_GATEWAY, result))
        elif self._closed:
            result.close()
        else:
            self._upstream = Stream(result, self._host.loop, self)
            self._upstream.write(self._early)
            self._early = b""
            self._client.resume()

    def _refuse(self, error: HandshakeError) -> None:
        """Answer the request with an error, and end the stream."""
        self._reader = None
        number = self._host.next_number() if self._number is None else self._number
        self._host.observe(Refused(number, error.status, error.reason, self._request))
        if self._exchange is not None:
            self._exchange.on_refused(error.status)
            self._exchange = None
        self._client.write(error_response(error).encode())
        self._client.end(End.HALF_CLOSE)
        # close() with unread input sends RST, which may overtake the response. So wait for FIN.
        self._client.resume()
        self._host.loop.call_later(LINGER_TIMEOUT, self.close)

    def _close_if_ended(self) -> None:
        """Close both sockets if neither end has anything left to receive."""
        client, upstream = self._client, self._upstream
        if upstream is not None:
            is_ended = client.half_closed and upstream.half_closed
            is_ended = is_ended or (client.closed and upstream.closed)
        else:  # within the request, or after an error of the tap
            is_ended = client.closed or (client.eof and not client.buffer_size)
        if is_ended:
            self.close()

    def close(self) -> None:
        """Close both sockets at once, and give the verdict."""
        if self._closed:
            return
        self._closed = True
        self._client.close()
        if self._upstream is not None:
            self._upstream.close()
        self._end_exchange()
        self._host.on_closed(self)

    def _end_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.on_end()
            self._exchange = None
