"""Life of each connection, from accept to close: its slot, its counters and its log line.

The log line of a connection has its address, its mode, its rooms and its end. It
contains no message and nothing that can hold a token, such as the target of a request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from http import HTTPStatus

from chatd.access.connection_limits import ConnectionLimiter, ServiceUnavailable, Slot
from chatd.access.trusted_networks import TrustedNetwork, client_address
from chatd.ops.metrics import Metrics
from wsproto_min import Close, CloseCode, Connection, Peer, Request

# Limits on a log line: rooms, and characters of the reason of a refusal.
MAX_LOGGED_ROOMS = 8
MAX_LOGGED_REASON = 300

_LOST = Close(CloseCode.ABNORMAL_CLOSURE, "the stream ended without a Close frame")

logger = logging.getLogger("chatd")


class ConnectionRecord:
    """A connection as the limiter and the access log see it."""

    __slots__ = ("accepted_at", "request_received", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.accepted_at = time.monotonic()
        self.request_received = False


class AccessLog:
    """Admits connections within the limits; counts and logs their ends.

    Set `draining` to True to refuse all requests that come later.

    Args:
        limiter: The limits on connections.
        metrics: The counters for refusals and closes.
        trusted_proxies: The proxies whose X-Forwarded-For header is believed.
    """

    def __init__(
        self,
        limiter: ConnectionLimiter,
        metrics: Metrics,
        trusted_proxies: Sequence[TrustedNetwork],
    ) -> None:
        self.draining = False
        self._limiter = limiter
        self._metrics = metrics
        self._trusted_proxies = trusted_proxies

    def on_accept(self, peer: Peer) -> ConnectionRecord | None:
        """Return the record of an accepted peer, or abort the peer and return None."""
        slot = self._limiter.acquire(peer.address)
        if slot is None:
            self.abort(peer, "no_spare_place")
            return None
        return ConnectionRecord(slot)

    def on_request(self, record: ConnectionRecord, peer: Peer, request: Request) -> None:
        """Set the peer's address to the client's if a trusted proxy forwards the request."""
        record.request_received = True
        peer.address = client_address(peer.address, request.headers, self._trusted_proxies)

    def admit(self, record: ConnectionRecord, peer: Peer) -> None:
        """Move a peer to a regular slot of its address.

        Raises:
            ServiceUnavailable: No regular slot is free, or the server drains. If the overflow
                slots are full too, this method also counts and aborts the peer.
        """
        if self.draining:
            reason = "the server is stopping; try again when it is back"
            raise ServiceUnavailable("draining", reason)
        record.slot = self._limiter.rekey(record.slot, peer.address)
        if record.slot.refusal is not None:
            if record.slot.is_surplus:
                self.abort(peer, "no_spare_place")
            raise record.slot.refusal

    def abort(self, peer: Peer, cause: str) -> None:
        """Count and abort a peer that the server does not answer."""
        self._metrics.refusals["none", cause] += 1
        peer.abort()

    def on_join_refused(self, peer: Peer, room: str, reason: str) -> None:
        """Count and log a join that was refused in chat mode."""
        self._metrics.refusals["none", "unauthorized"] += 1
        _log("join refused", address=peer.address, room=room, why=reason)

    def on_close(
        self, record: ConnectionRecord, peer: Peer, mode: str, rooms: Sequence[str]
    ) -> None:
        """Release the slot of a connection; count and log its end.

        Args:
            record: The connection's record.
            peer: The peer, whose socket is closed.
            mode: `chat`, `plain`, or empty before the handshake's end.
            rooms: The rooms that the peer was in.
        """
        self._limiter.release(record.slot)
        connection, refusal = peer.connection, peer.refusal
        if connection is not None:
            side, close = describe_close(connection)
            self._metrics.count_close(close.code, side)
            more = ["..."] if len(rooms) > MAX_LOGGED_ROOMS else []
            _log(
                "connection ended",
                address=peer.address,
                mode=mode,
                room=",".join([*rooms[:MAX_LOGGED_ROOMS], *more]),
                seconds=round(time.monotonic() - record.accepted_at, 3),
                code=close.code,
                by=side,
                why=close.reason,
            )
        elif refusal is not None:
            cause = HTTPStatus(refusal.status).name.lower()
            if isinstance(refusal, ServiceUnavailable):
                cause = refusal.cause
            self._metrics.refusals[str(refusal.status), cause] += 1
            _log(
                "connection refused",
                address=peer.address,
                seconds=round(time.monotonic() - record.accepted_at, 3),
                status=int(refusal.status),
                why=refusal.reason[:MAX_LOGGED_REASON],
            )
        elif not record.request_received:
            self._metrics.refusals["none", "no_request"] += 1


def describe_close(connection: Connection) -> tuple[str, Close]:
    """Return the side that began the closing, and its Close frame.

    The side is `peer` or `server`. It is `lost` if the stream ended without a Close
    frame; code 1006 then stands for the frame (RFC 6455, 7.1.5).
    """
    close = connection.first_close
    if close is None:
        return "lost", _LOST
    return "peer" if close is connection.close_received else "server", close


def _log(message: str, **fields: object) -> None:
    """Log a line for each connection, so without the search for the calling line of code."""
    if logger.isEnabledFor(logging.INFO):
        extra = {"fields": fields}
        record = logger.makeRecord(
            logger.name, logging.INFO, __file__, 0, message, (), None, extra=extra
        )
        logger.handle(record)
