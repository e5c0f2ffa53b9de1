"""The session of a peer: the protocol between its transport and the application.

The path of received bytes: the transport calls `on_data`. `Opening`, and after it `Connection`,
turn the bytes into a request and into events. The session passes messages to the application's
callbacks. Bytes to send, from the application or from the protocol, go to
the write coalescer. It writes them at the end of the loop iteration, except a Close frame to a
slow or lost peer, which it writes at once.

Each session has a single timer, which limits the opening handshake, then drives the keepalive,
then limits the closing.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from threading import get_ident
from weakref import ref

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Connection, Ping, Pong, State
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import HandshakeResult
from wsproto_min.http import Request, Response
from wsproto_min.messages import MessageChunk
from wsproto_min.net.broadcast import leave_groups
from wsproto_min.net.context import ServerContext
from wsproto_min.net.keepalive import Keepalive
from wsproto_min.net.message_order import MessageOrder
from wsproto_min.net.opening import Opening
from wsproto_min.net.outgoing_stream import OutgoingStream
from wsproto_min.net.peer import Peer
from wsproto_min.net.timers import TimerSlot
from wsproto_min.net.tls import TLSSocket
from wsproto_min.net.transport import Transport
from wsproto_min.net.write_buffer import check_marks
from wsproto_min.server_handshake import Acceptance

logger: logging.Logger = logging.getLogger("wsproto_min")

_INTERNAL_ERROR = "internal server error"

# Control frames beyond `control_rate_limit`: the seconds of the limit that may pass at once, and
# the seconds without reading. Longer pauses cost fewer timers.
_CONTROL_BURST = 2.0
_CONTROL_PAUSE = 1.0

_CALLBACK_RAISED = "%s: raised an exception for %s; fix the callback"

# Constants, because the hot path reads the members often.
_CONNECTING, _OPEN, _CLOSING, _FLUSHING, _CLOSED = State
_MESSAGE = (str, bytes)


class Session:
    """An accepted connection, from its opening handshake to its closed socket.

    Args:
        context: The server's shared state.
        sock: A connected non-blocking socket.
        address: The peer's "host:port", or "unix".

    Attributes:
        transport: The socket with its write buffer.
        peer: The application's view. Deleted when the socket is closed, because the reference
            cycle would keep closed peers in memory.
        state: See `State`; CLOSED means that the socket is closed.
        connection, keepalive: None before the handshake is complete.
        stream: The message in fragments that is under way to the peer, or None.
        opening: The opening handshake. None once `on_open` has returned.
        subprotocol: See `Peer`.

    Raises:
        OSError: The event loop cannot watch the socket.

    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_control_frames_due",
        "_paused_until",
        "_timer",
        "connection",
        "keepalive",
        "opening",
        "peer",
        "state",
        "stream",
        "subprotocol",
        "transport",
    )

    def __init__(
        self, context: ServerContext, sock: socket.socket | TLSSocket, address: str
    ) -> None:
        self.state: State = _CONNECTING
        self.subprotocol: str | None = None
        self.connection: Connection | None = None
        self.keepalive: Keepalive | None = None
        self.stream: OutgoingStream | None = None
        self._context = context
        self._paused_until = 0.0  # 0 while reading is not paused
        # Time by which the limit allows all control frames so far. An idle peer keeps the shared
        # constant, because the Pongs to the server's Pings are not counted.
        self._control_frames_due = 0.0
        self.transport: Transport = Transport(
            sock, self, context.loop, context.write_buffer_limit, context.write_budget
        )
        self.peer: Peer = Peer(self, self.transport, address)
        self.opening: Opening | None = Opening(context, self)
        self._timer: TimerSlot = context.timers.start(self, context.open_timeout)
        context.peers.add(self.peer)
        self._call("on_accept", context.on_accept)
        if len(context.pending_handshakes) > context.max_pending_handshakes:
            next(iter(context.pending_handshakes)).on_too_many_handshakes()

    @property
    def request(self) -> Request | None:
        """See `Peer.request`."""
        return None if self.opening is None else self.opening.request

    @property
    def refusal(self) -> HandshakeError | None:
        """See `Peer.refusal`."""
        return None if self.opening is None else self.opening.refusal

    @property
    def is_deferred(self) -> bool:
        """True while a request waits for `respond`."""
        return self.opening is not None and self.opening.is_deferred

    @property
    def is_paused(self) -> bool:
        """True while reading is paused."""
        return self._paused_until > 0

    # Receiving.

    def on_data(self, data: bytes) -> None:
        """Process received bytes."""
        self._context.bytes_received += len(data)
        connection = self.connection
        if connection is not None:
            if self.keepalive is not None:
                self.keepalive.alive_since_ping = True
            if self.state is not _FLUSHING:
                connection.receive_data(data)
                self._process_events(connection)
        else:
            assert self.opening is not None
            self.opening.receive_data(data)

    def on_message_budget_exceeded(self) -> None:
        """Fail the connection: all unfinished messages and bodies together are too large."""
        if self.connection is not None:
            self.fail(CloseCode.TRY_AGAIN_LATER, "too many unfinished messages")
        else:
            assert self.opening is not None
            reason = "too many unfinished requests; try again"
            self.opening.refuse(HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def on_read_error(self, error: OSError) -> None:
        """Keep the reason of a failed TLS handshake."""
        if self.opening is not None:
            self.opening.on_read_error(error)

    def respond(self, response: Response | Acceptance | HandshakeError) -> None:
        """See `Peer.respond`."""
        self._context.write_coalescer.check_thread()
        if self.opening is not None:
            self.opening.respond(response)

    def end_unopened(self) -> None:
        """End the stream after the response, because no connection opens."""
        self._enter(_FLUSHING)
        self.transport.end_after_next_write(half_close=True)

    def open(self, connection: Connection, result: HandshakeResult) -> None:
        """Open the connection, and process the frames that came with the request."""
        self.connection = connection
        self.subprotocol = result.subprotocol
        self.state = _OPEN
        if self._context.ping_interval is None:
            self._timer.pop(self, None)
        else:
            self.keepalive = Keepalive()
            self.start_timer(self._context.ping_interval)
        if self._context.connection_age is not None:
            self._context.connection_age.start(self.peer)
        self._call("on_open", self._context.on_open)
        self.opening = None
        connection.receive_data(result.trailing_data)
        if not self._paused_until:
            self._process_events(connection)

    def _process_events(self, connection: Connection) -> None:
        """Act on received frames until more data is needed or the application pauses."""
        context = self._context
        while self.state < _FLUSHING:
            event = connection.next_event()
            if event is None:
                break
            if isinstance(event, _MESSAGE):
                if self.state is _OPEN:  # after close() the application wants no messages
                    peer = self.peer
                    try:  # not by `_call`, because this is the hot path
                        context.on_message(peer, event)
                    except Exception:
                        self._on_exception("on_message", peer)
            elif isinstance(event, MessageChunk):
                if self.state is _OPEN and context.on_chunk is not None:
                    self._call("on_chunk", context.on_chunk, event)
            else:
                self._enqueue(connection)  # the reply precedes later messages
                if connection.eof_to_send:
                    self._end(connection)
                    return
                if isinstance(event, (Ping, Pong)) and self._limits_control_frame(event):
                    break
            if self._paused_until and self.state is _OPEN:
                break
        if self.state < _FLUSHING:  # else a callback has ended the connection
            size, budget = connection.unfinished_size, context.message_budget
            if size or budget.total:
                budget.update(self, size)

    def _limits_control_frame(self, event: Ping | Pong) -> bool:
        """Count a control frame; pause reading and return True if there are too many.

        The limit holds during the closing too, so it cannot use `Peer.pause_reading`.
        """
        now = time.monotonic()
        if isinstance(event, Pong) and self._answers_ping(event, now):
            return False
        due = max(self._control_frames_due, now) + 1 / self._context.control_rate_limit
        self._control_frames_due = due
        if due - now <= _CONTROL_BURST:
            return False
        self.transport.pause_reading()
        self._resume_later(_CONTROL_PAUSE)
        return True

    def _answers_ping(self, pong: Pong, now: float) -> bool:
        """Pass a Pong to the keepalive and to the application's Pings."""
        pings, keepalive = self._context.pings, self.keepalive
        if keepalive is not None:
            sent_at = keepalive.ping_sent_at
            if keepalive.on_pong(pong.payload, now):
                pings.acknowledge(self.peer, sent_at, now)
                return True
        return pings.on_pong(self.peer, pong.payload, now)

    def _call(self, name: str, callback: Callable[..., None], *arguments: object) -> None:
        """Call the application. An exception fails an open connection with 1011.

        Before the handshake an exception closes the socket.
        """
        peer = self.peer
        try:
            callback(peer, *arguments)
        except Exception:
            self._on_exception(name, peer)

    def _on_exception(self, name: str, peer: Peer) -> None:
        """Log the exception in progress, and fail the connection."""
        logger.exception(_CALLBACK_RAISED, name, peer.address)
        if self.connection is None:
            self.transport.close()
        else:
            self.fail(CloseCode.INTERNAL_ERROR, _INTERNAL_ERROR)

    def pause_reading(self, seconds: float) -> None:
        """See `Peer.pause_reading`."""
        self._context.write_coalescer.check_thread()
        if self.state < _CLOSING:
            self.transport.pause_reading()
            self._resume_later(seconds)

    def _resume_later(self, seconds: float) -> None:
        """Replace the end of the pause."""
        self._paused_until = time.monotonic() + seconds
        # A timer cannot be cancelled, and must not keep a closed session in memory.
        self._context.loop.call_later(seconds, partial(_resume_if_alive, ref(self)))

    def _resume_reading(self) -> None:
        """End a pause, unless a later call has prolonged it."""
        if self._paused_until and self._paused_until <= time.monotonic():
            self._paused_until = 0.0
            # Count the peer as alive: the server reads nothing during a pause.
            if self.keepalive is not None:
                self.keepalive.alive_since_ping = True
            if self.connection is not None:
                self._process_events(self.connection)
            if not self._paused_until and not self.is_deferred:  # on_message may pause again
                self.transport.resume_reading()

    # Sending.

    def send(self, message: str | bytes, text: bool, compress: bool) -> None:
        """See `Peer.send`."""
        # This is the hot path, so few calls and attributes.
        write_coalescer = self._context.write_coalescer
        if get_ident() != write_coalescer.thread:
            write_coalescer.check_thread()
        connection = self.connection
        if connection is not None and self.state is _OPEN:
            if self.stream is not None:
                self.stream.defer(message, text=text, compress=compress)
                return
            connection.send(message, text=text, compress=compress)
            write_coalescer.enqueue(self.peer, connection.data_to_send())

    def send_stream(self, *, compress: bool) -> OutgoingStream:
        """See `Peer.send_stream`."""
        context = self._context
        context.write_coalescer.check_thread()
        if self.stream is not None:
            raise RuntimeError("send_stream: another stream is open; finish it first")
        coalescer, budget = context.write_coalescer, context.write_budget
        order = MessageOrder(self, budget)
        if self.state is _OPEN:
            order = coalescer.begin_message(self.peer, order)
        stream = OutgoingStream(self, order, coalescer, budget, compress=compress)
        if self.state is _OPEN:
            self.stream = stream
        return stream

    def receive_chunks(self, max_message_size: int | None) -> None:
        """See `Peer.receive_chunks`."""
        self._context.write_coalescer.check_thread()
        if self._context.on_chunk is None:
            raise RuntimeError("receive_chunks: the server has no on_chunk; pass it to Server")
        if self.connection is not None:
            self.connection.set_limits(max_message_size)
            self.connection.receive_chunks = True

    @property
    def write_buffer_size(self) -> int:
        """See `Peer.write_buffer_size`."""
        size = self.transport.write_buffer_size
        return size if self.stream is None else size + self.stream.size

    def set_write_marks(self, high: int, low: int) -> None:
        """See `Peer.set_write_marks`."""
        self._context.write_coalescer.check_thread()
        marks = check_marks(high, low, self._context.write_buffer_limit)
        if self.state is not _CLOSED:
            self._context.write_budget.set_marks(self.transport, marks)

    def on_order_flushed(self, order: MessageOrder) -> None:
        """Check the size of the messages that wait for a stream, and wait for its drain."""
        if self.state is not _OPEN:
            return
        size = order.held_size + self.transport.write_buffer_size
        if size > self._context.write_buffer_limit:
            self.on_write_buffer_full()
        elif order.awaits_drain:
            order.awaits_drain = False
            self.transport.await_drain()
        self._context.write_budget.enforce_limit()

    def on_drained(self) -> None:
        """Call the application in the next iteration, so that all peers get their turn."""
        if self._context.on_drained is not None:
            self._context.loop.call_later(0, self._report_drained)

    def _report_drained(self) -> None:
        if self.state is _OPEN and self._context.on_drained is not None:
            self._call("on_drained", self._context.on_drained)

    def ping(
        self, peer: Peer, on_pong: Callable[[Peer, float | None], None], timeout: float
    ) -> None:
        """See `Peer.ping`."""
        self._context.write_coalescer.check_thread()
        if self.connection is None or self.state is not _OPEN:
            on_pong(peer, None)
            return
        payload = self._context.pings.add(peer, on_pong, time.monotonic(), timeout)
        self.connection.ping(payload)
        self._enqueue(self.connection)

    def _enqueue(self, connection: Connection) -> None:
        """Put the connection's bytes into their place among this iteration's writes."""
        data = connection.data_to_send()
        if data:
            self._context.write_coalescer.enqueue(self.peer, data)

    def on_write_progress(self) -> None:
        """Count write progress as a sign of life: the peer takes bytes."""
        if self.keepalive is not None:
            self.keepalive.alive_since_ping = True

    def on_write_buffer_full(self) -> None:
        """Fail a slow reader: the server neither skips messages nor buffers without limit."""
        assert self.connection is not None
        self.connection.fail(CloseCode.POLICY_VIOLATION, "too slow: the write buffer is full")
        # The write that fills the buffer includes the pending frames.
        leave_groups(self.peer, keep_pending=False)
        self._enter(_FLUSHING)
        self.transport.end_after_next_write(half_close=True)
        self._context.write_coalescer.write_now(self.peer, self.connection.data_to_send())

    def on_too_slow(self, reason: str) -> None:
        """Close the socket of a peer that takes too few bytes, and keep the reason."""
        if self.connection is not None:
            self.connection.fail(CloseCode.POLICY_VIOLATION, reason)
        self.transport.close()

    # Ending.

    def abort(self) -> None:
        """See `Peer.abort`."""
        self._context.write_coalescer.check_thread()
        self.transport.close()

    def close(self, code: int, reason: str) -> None:
        """See `Peer.close`."""
        self._context.write_coalescer.check_thread()
        if self.connection is not None and self.state is _OPEN:
            self.connection.close(code, reason)
            self._enter(_CLOSING)
            self._enqueue(self.connection)

    def fail(self, code: int, reason: str) -> None:
        """See `Peer.fail`."""
        self._context.write_coalescer.check_thread()
        if self.connection is not None:
            self.connection.fail(code, reason)
            self._end(self.connection)

    def _end(self, connection: Connection) -> None:
        """Send the last bytes; the transport ends the stream after them."""
        if self.state < _FLUSHING:
            self._enter(_FLUSHING)
            # Section 7.1.1: the server closes TCP first once both Close frames have passed.
            complete = connection.close_sent is not None and connection.close_received is not None
            self.transport.end_after_next_write(half_close=not complete)
            self._context.write_coalescer.enqueue(self.peer, connection.data_to_send())

    def on_socket_closed(self) -> None:
        """Release everything that belongs to an open socket."""
        self._enter(_CLOSED)
        if self.connection is not None:
            self.connection.receive_eof()
        if self.opening is not None:
            self.opening.release()
        self._timer.pop(self, None)
        self._context.peers.discard(self.peer)
        self._context.write_coalescer.discard(self.peer)
        self._context.disconnected.append(self.peer)
        del self.peer

    def _enter(self, state: State) -> None:
        """Enter a later state; an open peer leaves its groups, and `on_close` follows."""
        if self.state is _OPEN:
            leave_groups(self.peer, keep_pending=state is not _CLOSED)
            if self.stream is not None:
                self.stream.cancel()
            self._context.closed.append(self.peer)
            if self._context.connection_age is not None:
                self._context.connection_age.stop(self.peer)
        if self.state < _CLOSING and state is not _CLOSED:  # one limit for the whole closing
            self.start_timer(self._context.close_timeout)
            if self._paused_until:
                self._resume_later(0)  # the session must read the peer's Close frame
        self.state = state
        if state >= _FLUSHING and self._context.message_budget.total:
            self._context.message_budget.update(self, 0)

    # Timers.

    def start_timer(self, seconds: float) -> None:
        """Call `on_timer` in `seconds` instead of at the earlier deadline."""
        self._timer.pop(self, None)
        self._timer = self._context.timers.start(self, seconds)

    def on_timer(self) -> None:
        """Act on the deadline of the current state."""
        if self.opening is not None and self.opening.is_pending and self.transport.can_write:
            self.opening.on_timeout()
        elif self.state is _OPEN:
            self._keep_alive()
        else:
            self.transport.close()

    def _keep_alive(self) -> None:
        """Send a Ping, or close a peer that is lost."""
        connection, keepalive = self.connection, self.keepalive
        assert connection is not None
        assert keepalive is not None
        # Count the peer as alive: the server reads nothing during a pause.
        if self._paused_until:
            keepalive.alive_since_ping = True
        interval, timeout = self._context.ping_interval, self._context.ping_timeout
        assert interval is not None
        now = time.monotonic()
        seconds = keepalive.on_timer(connection, now, interval=interval, timeout=timeout)
        if seconds is None:
            connection.fail(CloseCode.INTERNAL_ERROR, "no sign of life")
            self._context.write_coalescer.write_now(self.peer, connection.data_to_send())
            self.transport.close()
        else:
            self._enqueue(connection)
            self.start_timer(seconds)


def _resume_if_alive(session: ref[Session]) -> None:
    """End the pause of a session that is still in use."""
    paused = session()
    if paused is not None:
        paused._resume_reading()
