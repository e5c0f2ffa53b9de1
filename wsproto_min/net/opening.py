"""The opening handshake of a session, from its first byte to its response.

`Opening` exists only until the connection is open, so an idle peer does not pay for it. A refused
peer keeps it, with the request and the reason of the refusal.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Protocol

from wsproto_min.connection import Connection, State
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import HandshakeResult
from wsproto_min.http import Request, Response
from wsproto_min.net.context import ServerContext
from wsproto_min.net.message_budget import MessageOwner
from wsproto_min.net.peer import Peer
from wsproto_min.net.tls import describe_failure
from wsproto_min.net.transport import Transport
from wsproto_min.server_handshake import Acceptance, Deferred, ServerHandshake

logger: logging.Logger = logging.getLogger("wsproto_min")

_CALLBACK_RAISED = "on_request: raised an exception for %s; fix the callback"
_NO_RESPONSE = "on_request: no response %s for %s; call Peer.respond earlier"


class OpeningSession(MessageOwner, Protocol):
    """A session, as far as its opening handshake uses it."""

    peer: Peer
    transport: Transport
    state: State

    @property
    def is_paused(self) -> bool:
        """True while the application pauses reading."""

    def start_timer(self, seconds: float) -> None:
        """Call `on_timer` in `seconds` instead of at the earlier deadline."""

    def open(self, connection: Connection, result: HandshakeResult) -> None:
        """Open the connection, and process the frames that came with the request."""

    def end_unopened(self) -> None:
        """End the stream after the response."""


class Opening:
    """The opening handshake of one session.

    Args:
        context: The server's shared state.
        session: The session.

    Attributes:
        request, refusal: See `Peer`.

    """

    __slots__ = ("_context", "_handshake", "_session", "refusal", "request")

    def __init__(self, context: ServerContext, session: OpeningSession) -> None:
        self.request: Request | None = None
        self.refusal: HandshakeError | None = None
        self._context = context
        self._session = session
        # None once the handshake is over; then `_session` is deleted too.
        self._handshake: ServerHandshake | None = ServerHandshake(
            self._respond,
            max_message_size=context.max_message_size,
            max_fragments=context.max_fragments,
            compression_threshold=context.compression_threshold,
            max_body_size=context.max_body_size,
        )
        context.pending_handshakes[self] = None

    @property
    def is_pending(self) -> bool:
        """True until the response is sent."""
        return self._handshake is not None

    @property
    def is_deferred(self) -> bool:
        """True while a request waits for `respond`."""
        return self._handshake is not None and self._handshake.is_deferred

    def receive_data(self, data: bytes) -> None:
        """Process received bytes."""
        if self._handshake is not None:
            self._handshake.receive_data(data)
            self._process(self._handshake)

    def _respond(self, request: Request) -> Response | Acceptance | Deferred:
        self.request = request
        return self._context.on_request(self._session.peer, request)

    def _process(self, handshake: ServerHandshake) -> None:
        """Answer the opening request once it is complete."""
        session = self._session
        peer = session.peer
        try:
            result = handshake.next_result()
        except Exception:
            logger.exception(_CALLBACK_RAISED, peer.address)
            result = handshake.refuse(HandshakeError(500, "internal server error"))
        if session.state is State.CLOSED:  # on_request may abort
            return
        if result is not None:
            self._finish(handshake, result)
        elif handshake.request is not None:
            self._await_rest(handshake)

    def _await_rest(self, handshake: ServerHandshake) -> None:
        """Wait for the rest of a body, or for the application's response."""
        session = self._session
        if interim := handshake.data_to_send():
            self._context.write_coalescer.enqueue(session.peer, interim)
        if handshake.is_deferred:
            # The peer's next bytes wait in the kernel, so the server need not limit them.
            session.transport.pause_reading()
            session.start_timer(self._context.open_timeout)
        self._context.message_budget.update(session, handshake.unfinished_size)

    def respond(self, response: Response | Acceptance | HandshakeError) -> None:
        """See `Peer.respond`."""
        if self._handshake is not None and self._handshake.is_deferred:
            self._handshake.decide(response)
            # Not at once, because on_request may be the caller.
            self._context.loop.call_later(0, self._send_response)

    def _send_response(self) -> None:
        """Send the response, unless the peer or its deadline was earlier."""
        if self._handshake is not None:
            self._process(self._handshake)

    def refuse(self, status: int, reason: str) -> None:
        """Refuse the handshake, which is pending."""
        assert self._handshake is not None
        self._finish(self._handshake, self._handshake.refuse(HandshakeError(status, reason)))

    def _finish(self, handshake: ServerHandshake, result: HandshakeResult) -> None:
        """Send the response; open the connection if there is one."""
        session = self._session
        peer = session.peer
        self.release()
        if handshake.is_deferred and not session.is_paused:
            session.transport.resume_reading()
        self._context.write_coalescer.enqueue(peer, handshake.data_to_send())
        if result.connection is None:
            self.refusal = result.error
            session.end_unopened()
        else:
            session.open(result.connection, result)
        # Nothing else is pending for this peer. An early write shortens the next peer's wait.
        self._context.write_coalescer.flush_member(peer)

    def release(self) -> None:
        """Forget the handshake and the session, because the handshake is over."""
        if self._handshake is not None:
            self._handshake = None
            del self._session
            del self._context.pending_handshakes[self]

    def on_timeout(self) -> None:
        """Refuse the handshake: its time is over."""
        limit = f"within {self._context.open_timeout:g} s"
        if self.is_deferred:
            logger.warning(_NO_RESPONSE, limit, self._session.peer.address)
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"the server has no answer {limit}")
        else:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive {limit}")

    def on_too_many_handshakes(self) -> None:
        """Close the socket: too many handshakes are pending, and this one is the oldest."""
        reason = "too many pending handshakes; try again"
        self.refusal = HandshakeError(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        self._session.transport.close()

    def on_read_error(self, error: OSError) -> None:
        """Keep the reason of a failed TLS handshake as `refusal`."""
        reason = describe_failure(error)
        if self._handshake is not None and reason is not None:
            self.refusal = HandshakeError(HTTPStatus.BAD_REQUEST, reason)
