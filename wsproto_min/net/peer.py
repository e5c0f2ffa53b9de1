"""One accepted socket: from its opening handshake to its last byte.

A `Peer` reads what is there, lets `http` and `Connection` say what it means,
calls the application, and writes what the socket takes. What it does not take
is kept, up to a limit, and only then is the socket watched for writing. An
idle peer has no buffer and no queue, and one entry among the loop's deadlines.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any
from weakref import ref

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Connection, Event, Pong, Role, State
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import agreement
from wsproto_min.http import HeadReader, Request, Response, error_response, parse_request
from wsproto_min.net.broadcast import Group, WriteCoalescer
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.tls import TLSSocket
from wsproto_min.net.write_buffer import WriteBuffer

# One read takes at most this much, so that no peer keeps the others waiting.
RECEIVE_SIZE = 1 << 16

# For whatever goes wrong in the application before there is a connection.
_FAULT = HandshakeError(500, "the server has a fault")

# Pings go out together, at multiples of so many seconds: a turn for each of 10,000
# peers' Ping and one for each Pong would cost half as much again.
_PING_TICK = 0.1

# The payload of a Ping: when it was sent, by this machine's monotonic clock.
_PING_PAYLOAD = struct.Struct("!d")

logger = logging.getLogger("wsproto_min")


class Stage(IntEnum):
    """How far a peer has come; there is no way back."""

    HANDSHAKE = 0  # the request's head is not whole yet
    OPEN = 1  # messages flow
    CLOSING = 2  # our Close frame is on its way, the peer's is awaited
    ENDING = 3  # nothing more to say: what is queued goes out, what arrives is discarded
    GONE = 4  # the socket is closed


# Looking a member up in its enum takes 0.1 us, as long as a call, and a message would
# ask for a dozen.
_HANDSHAKE, _OPEN, _CLOSING, _ENDING, _GONE = Stage
_CONNECTED, _DISCONNECTED = State.OPEN, State.CLOSED
_MESSAGE = (str, bytes)


def _ignore(peer: Peer) -> None:
    pass


@dataclass(slots=True)
class ServerContext:
    """What all peers of one server share; `Server` documents the options."""

    on_request: Callable[[Peer, Request], Response]
    on_open: Callable[[Peer], None]
    on_message: Callable[[Peer, str | bytes], None]
    max_message_size: int
    max_fragments: int | None
    write_buffer_limit: int
    open_timeout: float
    close_timeout: float
    compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD
    ping_interval: float | None = None
    ping_timeout: float = 20.0
    on_accept: Callable[[Peer], None] = _ignore
    loop: EventLoop = field(default_factory=EventLoop)
    write_coalescer: WriteCoalescer = field(default_factory=WriteCoalescer)
    peers: set[Peer] = field(default_factory=set)  # all that have a socket
    left: list[Peer] = field(default_factory=list)  # of which the application is to be told
    gone: list[Peer] = field(default_factory=list)  # the same, when the socket is closed
    bytes_received: int = 0


class Peer:
    """One connection, as the application sees it.

    `address` is the peer's "host:port"; `user_data` is the application's, which
    may keep there whatever it likes; `connection` is None until the handshake
    is done, and so is `subprotocol` if none was chosen. `refusal` is why the
    handshake was refused, if it was. `latency` is what the last Ping and its
    Pong took, in seconds, None before.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_context",
        "_due",
        "_events",
        "_head",
        "_heard",
        "_input_ended",
        "_paused_until",
        "_pinged",
        "_pong_due",
        "_received",
        "_sealed",
        "_socket",
        "_stage",
        "_write_buffer",
        "address",
        "connection",
        "groups",
        "latency",
        "refusal",
        "user_data",
        "subprotocol",
    )

    def __init__(
        self, service: ServerContext, sock: socket.socket | TLSSocket, address: str
    ) -> None:
        self.address = address
        self.user_data: Any = None
        self.connection: Connection | None = None
        self.subprotocol: str | None = None
        self.refusal: HandshakeError | None = None
        self.latency: float | None = None
        self.groups: tuple[Group, ...] = ()
        self._context = service
        self._socket = sock
        self._stage = _HANDSHAKE
        self._head: HeadReader | None = HeadReader()
        self._write_buffer: WriteBuffer | None = None
        self._sealed = False
        self._input_ended = False
        self._paused_until = 0.0
        self._received: Iterator[Event] | None = None  # while paused, what is not acted on
        self._events = EVENT_READ
        self._heard = False  # anything since the last Ping
        self._pong_due = False
        self._pinged = 0.0  # when that Ping was sent; 0 once its Pong has come
        self._due = self._alarm = math.inf
        service.loop.register(sock, EVENT_READ, self)
        service.peers.add(self)
        self._set_deadline(service.open_timeout)
        self._call(service.on_accept)

    # What the application may call.

    @property
    def is_open(self) -> bool:
        """Whether messages flow: the handshake is done and no closing has begun."""
        return self._stage is _OPEN

    @property
    def accepts_shared_compression(self) -> bool:
        """Whether frames compressed for a whole group may be sent to it."""
        return self.connection is not None and self.connection.accepts_shared_compression

    @property
    def write_buffer_size(self) -> int:
        """How many bytes wait until the socket takes them."""
        return 0 if self._write_buffer is None else self._write_buffer.size

    def send(self, message: str | bytes) -> None:
        """Send a text or binary message, in `on_open` at once, else when the turn ends.

        Does nothing if the peer is not open.
        """
        if self.connection is not None and self.connection.state is _CONNECTED:
            self.connection.send(message)
            self._post_outgoing(self.connection)

    def pause_reading(self, seconds: float) -> None:
        """Neither read nor act on what this peer sends for so many seconds.

        Nothing is lost: what it sends meanwhile waits, in the end in its own
        buffers. A later call replaces an earlier one.
        """
        self._paused_until = time.monotonic() + seconds
        self._watch()
        self._context.loop.call_later(seconds, self._resume)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake, after all that was sent so far."""
        if self.connection is not None and self.connection.state is _CONNECTED:
            self.connection.close(code, reason)
            self._advance(_CLOSING)
            self._post_outgoing(self.connection)

    def fail(self, code: int, reason: str = "") -> None:
        """Say why, then discard whatever still arrives (RFC 6455, section 7.1.7)."""
        if self.connection is not None:
            self.connection.fail(code, reason)
            self._end(self.connection)

    def go_away(self, reason: str) -> None:
        """End with Close 1001, or at once if there is no connection to close."""
        if self._stage is _HANDSHAKE:
            self.abort()
        else:
            self.close(CloseCode.GOING_AWAY, reason)

    def abort(self) -> None:
        """Close the socket at once; what is queued is lost."""
        if self._stage is not _GONE:
            self._advance(_GONE)
            if self.connection is not None:
                self.connection.receive_eof()
            self._head = None
            self._write_buffer = None
            if self._events:
                self._context.loop.unregister(self._socket)
            self._context.peers.discard(self)
            self._context.gone.append(self)
            self._socket.close()

    # What the loop and the outbox call.

    def on_ready(self, events: int) -> None:
        """Write and read once, as far as the socket goes without blocking."""
        tls = isinstance(self._socket, TLSSocket)
        # Gone it may be since another peer was read in this turn; and in TLS
        # either readiness may be what the other direction waits for.
        if (events & EVENT_WRITE or tls) and self._stage is not _GONE:
            self._write_backlog()
        if (events & EVENT_READ or tls) and not self._paused_until:
            self._read()
        if tls:
            self._watch()

    def _read(self) -> None:
        """Read what is there, once, and act on it."""
        if self._stage is _GONE:
            return
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:  # reset: nobody is there any more
            self.abort()
            return
        if data:
            self._receive(data)
        elif self._stage is _ENDING and self._write_buffer:
            # The peer has only closed its own direction: finish the answer.
            self._input_ended = True
            self._watch()
        else:
            self.abort()

    def _watch(self) -> None:
        """Have the loop wait for just what the socket needs to go on."""
        if self._stage is _GONE:
            return
        read, write = EVENT_READ, EVENT_WRITE
        if isinstance(self._socket, TLSSocket):
            read, write = self._socket.read_waits_for, self._socket.write_waits_for
        reads = not self._input_ended and not self._paused_until
        events = (read if reads else 0) | (write if self._write_buffer else 0)
        if events != self._events:
            self._context.loop.modify(self._socket, self._events, events, self)
            self._events = events

    def write(self, data: bytes) -> None:
        """Send `data` after all that is queued, or queue what the socket does not take.

        A peer whose queue outgrows its limit is failed: it reads too slowly,
        and the chat must neither skip messages nor grow without bound.
        """
        stage = self._stage
        if stage is not _OPEN:
            if self._sealed or stage is _GONE:
                return
            if stage is _ENDING:
                self._sealed = True  # such data ends with the last words
        if self._write_buffer is None:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort()
                return
            if sent == len(data):
                if self._sealed:
                    self._end_stream()
                return
            self._write_buffer = WriteBuffer(memoryview(data)[sent:])
            self._watch()
        else:
            self._write_buffer.append(data)
        if self._write_buffer.size > self._context.write_buffer_limit and stage < _ENDING:
            assert self.connection is not None
            self.connection.fail(CloseCode.POLICY_VIOLATION, "too slow: the send queue is full")
            self._write_buffer.append(self.connection.data_to_send())
            self._sealed = True
            self._advance(_ENDING)

    # Inside.

    def _receive(self, data: bytes) -> None:
        """Hand received bytes to whoever reads at this stage."""
        self._heard = True
        self._context.bytes_received += len(data)
        if self._stage is _HANDSHAKE:
            self._receive_head(data)
        elif self.connection is not None and self._stage is not _ENDING:
            self._act_on(self.connection, self.connection.receive_data(data))

    def _receive_head(self, data: bytes) -> None:
        """Gather the request; when it is whole, answer it."""
        assert self._head is not None
        head_only = False
        rest = b""
        try:
            whole = self._head.receive_data(data)
            if whole is None:
                return
            head, rest = whole
            request = parse_request(head)
            head_only = request.method == "HEAD"
            response = self._context.on_request(self, request)
        except HandshakeError as error:
            response = self._refuse(error)
        except Exception:
            logger.exception("on_request failed")
            response = self._refuse(_FAULT)
        if self._stage is _GONE:  # aborted in on_request
            return
        self._answer(response, head_only=head_only)
        if self._stage is _OPEN:
            self._call(self._context.on_open)
            if rest and self.connection is not None:
                received = self.connection.receive_data(rest)
                if self._paused_until:
                    self._received = received
                else:
                    self._act_on(self.connection, received)
        # At once, for nothing else is due to it: whoever connects next waits for less.
        self._context.write_coalescer.flush_peer(self)

    def _refuse(self, error: HandshakeError) -> Response:
        """Return the answer to a handshake that cannot be completed."""
        error.__context__ = None  # for tracebacks would keep this peer alive
        self.refusal = error.with_traceback(None)
        return error_response(error)

    def _answer(self, response: Response, *, head_only: bool = False) -> None:
        """Send the answer to the handshake; 101 opens the connection, others end it."""
        self._head = None
        try:
            data = response.encode(head_only=head_only)
            agreed = agreement(response)
        except Exception:
            logger.exception("on_request gave what cannot be sent")
            response = self._refuse(_FAULT)
            data = response.encode(head_only=head_only)
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self.subprotocol = agreed.subprotocol
            self.connection = Connection(
                Role.SERVER,
                max_message_size=self._context.max_message_size,
                max_fragments=self._context.max_fragments,
                compression=agreed.compression,
                compression_threshold=self._context.compression_threshold,
            )
            self._advance(_OPEN)
            self._set_deadline(self._context.ping_interval)
        else:
            self._advance(_ENDING)
        self._context.write_coalescer.enqueue(self, data)

    def _act_on(self, connection: Connection, received: Iterator[Event]) -> None:
        """Pass messages on, until they end or the application pauses the peer."""
        self._received = None
        for event in received:
            # What arrives after the application has closed is of no interest to it.
            if self._stage is _OPEN and isinstance(event, _MESSAGE):
                self._call(self._context.on_message, event)
            elif isinstance(event, Pong):
                if self._pinged and event.payload == _PING_PAYLOAD.pack(self._pinged):
                    self.latency = time.monotonic() - self._pinged
                    self._pinged = 0.0  # a second Pong is none of its own
            else:  # a Pong goes before whatever the application sends next
                self._post_outgoing(connection)
            if self._paused_until and self._stage is _OPEN:
                self._received = received
                break
        if connection.state is _DISCONNECTED:
            self._end(connection)
        else:
            self._post_outgoing(connection)

    def _resume(self) -> None:
        """Go on where `pause` stopped, unless it was called again since."""
        if self._paused_until and self._paused_until <= time.monotonic():
            self._paused_until = 0.0
            self._heard = True  # nobody listened
            if self._received is not None and self.connection is not None:
                self._act_on(self.connection, self._received)
            self._watch()

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call the application; its fault ends this peer and no other."""
        try:
            callback(self, *arguments)
        except Exception:
            logger.exception("an application callback failed for %s", self.address)
            self.fail(CloseCode.INTERNAL_ERROR, "the server has a fault")

    def _post_outgoing(self, connection: Connection) -> None:
        """Post what the connection has to say, in its place in this turn."""
        data = connection.data_to_send()
        if data:
            self._context.write_coalescer.enqueue(self, data)

    def _end(self, connection: Connection) -> None:
        """Post the last words; `write` ends the stream after them."""
        if self._stage < _ENDING:
            self._advance(_ENDING)
            self._context.write_coalescer.enqueue(self, connection.data_to_send())

    def _end_stream(self) -> None:
        """All is written: close, or half-close and wait for the peer (section 7.1.1)."""
        connection = self.connection
        if connection is not None and connection.close_sent and connection.close_received:
            self.abort()
            return
        try:
            # Closing with unread input would reset the connection, and the
            # reset could overtake the last words.
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()

    def _advance(self, stage: Stage) -> None:
        """Enter a later stage; whoever was open leaves its groups, and the application."""
        if self._stage is _OPEN:
            for group in self.groups:
                group.discard(self, owed=stage is not _GONE)
            self._context.left.append(self)
        self._stage = stage
        if stage in (_CLOSING, _ENDING):
            self._set_deadline(self._context.close_timeout)
            if self._paused_until:
                self.pause_reading(0)  # what it says now can only be its Close

    def _write_backlog(self) -> None:
        """Send what is queued; stop watching for writability once it is all gone."""
        if self._write_buffer is None:
            return
        try:
            sent = self._write_buffer.send_to(self._socket)
        except OSError:
            self.abort()
            return
        self._heard = self._heard or sent > 0  # it reads: a sign of life
        if self._write_buffer.size:
            return
        self._write_buffer = None
        self._input_ended = False  # it may be told again now
        self._watch()
        if self._sealed:
            self._end_stream()

    def _set_deadline(self, seconds: float | None) -> None:
        """Let `ring` act in so many seconds, None for never, instead of when it was to.

        A peer has at most one alarm that matters: moving the deadline back
        costs nothing, the alarm finds it when it rings.
        """
        if seconds is None:
            self._due = math.inf
            return
        now = time.monotonic()
        self._due = now + seconds
        if self._stage is _OPEN and not self._pong_due:
            self._due -= self._due % min(_PING_TICK, seconds / 8)
        if self._due < self._alarm:
            self._alarm = self._due
            self._context.loop.call_later(self._due - now, _Alarm(self))

    def ring(self) -> None:
        """Act if the deadline has passed; if it has moved, set the alarm anew."""
        self._alarm = math.inf
        remaining = self._due - time.monotonic()
        if self._stage is _GONE or remaining == math.inf:
            return
        if remaining > 0:
            self._set_deadline(remaining)
        elif self._stage is _HANDSHAKE and _can_answer(self._socket):
            reason = f"the request did not arrive within {self._context.open_timeout:g} s"
            self._answer(self._refuse(HandshakeError(HTTPStatus.REQUEST_TIMEOUT, reason)))
        elif self._stage is _OPEN:
            self._keep_alive()
        else:
            self.abort()

    def _keep_alive(self) -> None:
        """Ping; `ping_timeout` later, cut a peer of which nothing was heard since then."""
        connection, interval = self.connection, self._context.ping_interval
        assert connection is not None
        assert interval is not None
        if self._pong_due:
            self._pong_due = False
            if not self._heard and not self._paused_until:
                connection.fail(CloseCode.INTERNAL_ERROR, "no sign of life")
                self.write(connection.data_to_send())
                self.abort()
                return
            if interval > self._context.ping_timeout:
                self._set_deadline(interval - self._context.ping_timeout)
                return
        self._heard = False
        self._pong_due = True
        self._pinged = time.monotonic()
        connection.ping(_PING_PAYLOAD.pack(self._pinged))
        self._post_outgoing(connection)
        self._set_deadline(self._context.ping_timeout)


class _Alarm(ref[Peer]):
    """Rings for a peer when it is called; one who is gone by then it has not held."""

    __slots__ = ()

    def __call__(self) -> None:
        peer = super().__call__()
        if peer is not None:
            peer.ring()


def _can_answer(sock: socket.socket | TLSSocket) -> bool:
    """Return whether an HTTP answer can be sent: not before TLS is established."""
    return not isinstance(sock, TLSSocket) or sock.is_established
