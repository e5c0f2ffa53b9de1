"""Each connection from its socket's first moment to its last: admitted, counted, noted.

The log line of a connection says where it came from, what it used and how it
ended; never what was said, nor anything that a token might stand in, such as
the target of a request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus

from chatd.access.connection_limits import ConnectionLimiter, Refused, Slot
from chatd.access.trusted_networks import TrustedNetwork, client_address
from chatd.ops.log_handler import Note
from chatd.ops.metrics import Metrics
from wsproto_min import Close, CloseCode, Peer, Request

# Rooms that a line names, and characters of why a connection was refused.
MAX_NAMED_ROOMS = 8
MAX_WHY = 300


class ConnectionRecord:
    """A connection as the caps and the log line know it."""

    __slots__ = ("asked", "place", "since")

    def __init__(self, place: Slot) -> None:
        self.place = place
        self.since = time.monotonic()
        self.asked = False  # its request has come


class AccessLog:
    """Lets connections in as far as the caps allow, and notes how they end.

    While `draining`, nobody is let in. `note` is what writes the log line.
    """

    def __init__(
        self,
        caps: ConnectionLimiter,
        metrics: Metrics,
        trusted: Sequence[TrustedNetwork],
        note: Note,
    ) -> None:
        self.draining = False
        self._note = note
        self._limiter = caps
        self._metrics = metrics
        self._trusted = trusted

    def on_accept(self, peer: Peer) -> ConnectionRecord | None:
        """Return the visit of a peer just accepted; None if it was turned away."""
        place = self._limiter.acquire(peer.address)
        if place is None:
            self._metrics.refused["none", "no_spare_place"] += 1
            peer.abort()
            return None
        return ConnectionRecord(place)

    def on_request(self, visit: ConnectionRecord, peer: Peer, request: Request) -> None:
        """Note that a request has come, and the address of the client that it names."""
        visit.asked = True
        peer.address = client_address(peer.address, request.headers, self._trusted)

    def admit(self, visit: ConnectionRecord, peer: Peer) -> None:
        """Give a peer a place of its own, where its address counts.

        Raises `Refused`, and has cut the peer if all spare places are taken.
        """
        if self.draining:
            raise Refused("draining", "the server is stopping; try again when it is back")
        visit.place = self._limiter.rekey(visit.place, peer.address)
        if visit.place.refused is not None:
            if self._limiter.overflow_full:
                peer.abort()
            raise visit.place.refused

    def on_join_refused(self, peer: Peer, room: str, why: str) -> None:
        """Count and note that somebody was not let into a room in chat mode."""
        self._metrics.refused["none", "unauthorized"] += 1
        self._note("join refused", address=peer.address, room=room, why=why)

    def on_close(self, visit: ConnectionRecord, peer: Peer, mode: str, rooms: Sequence[str]) -> None:
        """Count and note how a connection has ended."""
        self._limiter.release(visit.place)
        refusal = peer.refusal
        if peer.connection is not None:
            code, by, why = how_it_ended(peer)
            self._metrics.count_close(code, by)
            more = ["..."] if len(rooms) > MAX_NAMED_ROOMS else []
            self._note(
                "connection ended",
                address=peer.address,
                mode=mode,
                room=",".join([*rooms[:MAX_NAMED_ROOMS], *more]),
                seconds=round(time.monotonic() - visit.since, 3),
                code=code,
                by=by,
                why=why,
            )
        elif refusal is not None:
            reason = HTTPStatus(refusal.status).name.lower()
            if isinstance(refusal, Refused):
                reason = refusal.cause
            self._metrics.refused[str(refusal.status), reason] += 1
            self._note(
                "connection refused",
                address=peer.address,
                seconds=round(time.monotonic() - visit.since, 3),
                status=int(refusal.status),
                why=refusal.reason[:MAX_WHY],
            )
        elif not visit.asked:
            self._metrics.refused["none", "no_request"] += 1


def how_it_ended(peer: Peer) -> tuple[int, str, str]:
    """Return the close code of a connection, who ended it (peer, server or lost) and why."""
    connection = peer.connection
    assert connection is not None
    sent, received = connection.close_sent, connection.close_received
    # The answer to a Close repeats its code and gives no reason.
    if received is not None and sent == Close(received.code):
        return received.code, "peer", received.reason
    if sent is not None:
        return sent.code, "server", sent.reason
    return CloseCode.ABNORMAL_CLOSURE, "lost", "the stream ended without a Close frame"
