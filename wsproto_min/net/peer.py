"""A peer: one connection of a server, as the application sees it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Close, Connection, State
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request, Response
from wsproto_min.net.broadcast import Group
from wsproto_min.net.keepalive import Keepalive
from wsproto_min.net.outgoing_stream import OutgoingStream
from wsproto_min.net.transport import Transport
from wsproto_min.server_handshake import Acceptance


class PeerSession(Protocol):
    """The part of a `session.Session` that its peer shows to the application."""

    @property
    def state(self) -> State:
        """See `Peer.state`."""

    @property
    def request(self) -> Request | None:
        """See `Peer.request`."""

    @property
    def refusal(self) -> HandshakeError | None:
        """See `Peer.refusal`."""

    @property
    def subprotocol(self) -> str | None:
        """See `Peer.subprotocol`."""

    @property
    def connection(self) -> Connection | None:
        """See `Peer.connection`."""

    @property
    def keepalive(self) -> Keepalive | None:
        """The keepalive of an open connection, if the server has one."""

    @property
    def is_deferred(self) -> bool:
        """True while a request waits for `respond`."""

    def respond(self, response: Response | Acceptance | HandshakeError) -> None:
        """See `Peer.respond`."""

    def send(self, message: str | bytes, text: bool, compress: bool) -> None:
        """See `Peer.send`."""

    def ping(
        self, peer: Peer, on_pong: Callable[[Peer, float | None], None], timeout: float
    ) -> None:
        """See `Peer.ping`."""

    def send_stream(self, *, compress: bool) -> OutgoingStream:
        """See `Peer.send_stream`."""

    def receive_chunks(self, max_message_size: int | None) -> None:
        """See `Peer.receive_chunks`."""

    @property
    def write_buffer_size(self) -> int:
        """See `Peer.write_buffer_size`."""

    def set_write_marks(self, high: int, low: int) -> None:
        """See `Peer.set_write_marks`."""

    def pause_reading(self, seconds: float) -> None:
        """See `Peer.pause_reading`."""

    def close(self, code: int, reason: str) -> None:
        """See `Peer.close`."""

    def fail(self, code: int, reason: str) -> None:
        """See `Peer.fail`."""

    def abort(self) -> None:
        """See `Peer.abort`."""


class Peer:
    """A connection of a server, as the application sees it.

    Methods that do not apply in the current state do nothing, so an application need not
    check it. Use a peer only in the thread of `Server.run`: methods raise `RuntimeError` in
    another thread, which calls `Server.call_soon_threadsafe` instead.

    Attributes:
        address: The peer's "host:port" (IPv6 hosts in brackets), or "unix".
        user_data: Any object of the application; None at first.

    """

    __slots__ = ("__weakref__", "_groups", "_session", "_transport", "address", "user_data")

    def __init__(self, session: PeerSession, transport: Transport, address: str) -> None:
        self.address: str = address
        self.user_data: Any = None
        self._session = session
        self._transport = transport
        self._groups: tuple[Group, ...] = ()

    def __repr__(self) -> str:
        """Return address, state, subprotocol and close code."""
        subprotocol = "" if self.subprotocol is None else f" {self.subprotocol!r:.50}"
        code = "" if self.close_code is None else f" close_code={self.close_code}"
        return f"<Peer {self.address} {self.state.name}{subprotocol}{code}>"

    @property
    def state(self) -> State:
        """State of the connection; CLOSED means that the socket is closed."""
        return self._session.state

    @property
    def is_open(self) -> bool:
        """True if messages can be sent: the handshake is complete and no closing has begun."""
        return self._session.state is State.OPEN

    @property
    def request(self) -> Request | None:
        """The opening request, from `on_request` on.

        None once `on_open` has returned, because headers would double the memory of an idle
        peer. Keep the parts that you need in `user_data`. A refused peer keeps its request.
        """
        return self._session.request

    @property
    def refusal(self) -> HandshakeError | None:
        """The error that refused the opening handshake or the TLS handshake, or None."""
        return self._session.refusal

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None."""
        return self._session.subprotocol

    @property
    def connection(self) -> Connection | None:
        """The connection without its socket; None before the handshake is complete."""
        return self._session.connection

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered Ping to its Pong; None before the first."""
        keepalive = self._session.keepalive
        return None if keepalive is None else keepalive.latency

    @property
    def write_buffer_size(self) -> int:
        """Number of bytes that the socket has not taken yet.

        While a stream is open, messages that wait for its end count too.
        """
        return self._session.write_buffer_size

    @property
    def close_code(self) -> int | None:
        """Close code of the Close frame that began the closing, sent or received.

        None while the connection is open, or if the connection never opened. 1006 if the
        stream ended without a Close frame (RFC 6455, section 7.1.5).
        """
        close = self._close_frame()
        return None if close is None else close.code

    @property
    def close_reason(self) -> str:
        """Reason in the Close frame that began the closing, or an empty string."""
        close = self._close_frame()
        return "" if close is None else close.reason

    def _close_frame(self) -> Close | None:
        connection = self._session.connection
        if connection is None or self.is_open:
            return None
        return connection.first_close or Close(CloseCode.ABNORMAL_CLOSURE)

    def respond(self, response: Response | Acceptance | HandshakeError) -> None:
        """Answer the request for which `on_request` has returned a `Deferred`.

        Any callback may call this, `on_request` itself too. Until then the server reads nothing
        from the peer. `open_timeout` limits the wait: after that the server answers 503, logs a
        warning, and ignores this call. It also ignores a second call, and one for a peer that
        has gone. An invalid response is logged and answered with 500, as in `on_request`.
        """
        self._session.respond(response)

    def send(self, message: str | bytes, *, text: bool = False, compress: bool = True) -> None:
        """Send a text (`str`) or binary (`bytes`) message if the peer is open.

        The message goes out at the end of the loop iteration. A message sent in `on_open` goes
        out after `on_open` has returned.

        Args:
            message: The message.
            text: Send `bytes` as text, after a check that they are UTF-8.
            compress: False sends this message uncompressed.

        Raises:
            TypeError: The message is neither `str` nor `bytes`.
            ValueError: With `text`, the bytes are not UTF-8.

        """
        # By position: CPython 3.11 calls a function with keyword-only parameters more slowly.
        self._session.send(message, text, compress)

    def send_stream(self, *, compress: bool = True) -> OutgoingStream:
        """Begin a message in fragments; see `OutgoingStream`.

            with peer.send_stream() as stream:
                stream.send("part 1, ")
                stream.send("part 2")

        If the peer is not open, the methods of the stream do nothing.

        Args:
            compress: False sends the message uncompressed.

        Raises:
            RuntimeError: Another stream of the peer is open.

        """
        return self._session.send_stream(compress=compress)

    def set_write_marks(self, *, high: int, low: int) -> None:
        """Change the high mark and the low mark of this peer's write buffer; see `Server`.

        Args:
            high: Bytes above which `OutgoingStream.send` returns False.
            low: Bytes at which `on_drained` comes, at most `high`.

        Raises:
            ValueError: The marks are not 0 <= low <= high.

        """
        self._session.set_write_marks(high, low)

    def receive_chunks(self, *, max_message_size: int | None) -> None:
        """Receive messages in chunks by `on_chunk`, from `on_open` on or later.

        Args:
            max_message_size: New limit for a message of this peer in bytes. None is no limit,
                because chunks are not kept.

        Raises:
            RuntimeError: The server has no `on_chunk`.

        """
        self._session.receive_chunks(max_message_size)

    def ping(self, on_pong: Callable[[Peer, float | None], None], timeout: float = 20.0) -> None:
        """Send a Ping, and call `on_pong(peer, seconds)` exactly once.

        Args:
            on_pong: Receives the seconds from the Ping to its Pong. Receives None at the
                timeout, and when closing has begun. If the peer is not open, this is at once.
                An exception closes the peer with 1011.
            timeout: Seconds to wait for the Pong.

        Raises:
            ValueError: `timeout` is not a finite number from 0 on.

        """
        if not 0 <= timeout < math.inf:
            raise ValueError("timeout: must be a finite number of seconds from 0 on")
        self._session.ping(self, on_pong, timeout)

    def pause_reading(self, seconds: float) -> None:
        """Neither read nor process anything from this peer for `seconds`.

        Nothing is lost: its messages wait in the kernel, and then at the sender. A later
        call replaces an earlier one. Does nothing once closing has begun, because the server
        must read the peer's Close frame.
        """
        self._session.pause_reading(seconds)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake, after everything that was sent before.

        Raises:
            ValueError: A Close frame must not carry `code` (RFC 6455, section 7.4).

        """
        self._session.close(code, reason)

    def go_away(self, reason: str) -> None:
        """Close with code 1001; abort if the handshake is not complete.

        A request that waits for `respond` may still get its response.
        """
        if self.state is not State.CONNECTING:
            self.close(CloseCode.GOING_AWAY, reason)
        elif not self._session.is_deferred:
            self.abort()

    def fail(self, code: int, reason: str = "") -> None:
        """Send a Close frame and discard all further input (RFC 6455, section 7.1.7).

        Raises:
            ValueError: A Close frame must not carry `code` (RFC 6455, section 7.4).

        """
        self._session.fail(code, reason)

    def abort(self) -> None:
        """Close the socket at once; unsent bytes are lost."""
        self._session.abort()

    @property
    def _accepts_shared_compression(self) -> bool:
        connection = self._session.connection
        return connection is not None and connection.accepts_shared_compression
