"""Pings that the application sends, and the callbacks that wait for their Pongs.

The server's own Pings are in module `keepalive`. A peer may answer only the latest of several
Pings (RFC 6455, section 5.5.3), so a Pong answers all earlier Pings of the connection too. Each
callback comes exactly once: with the Pong, at the timeout, or when closing has begun.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from itertools import count

from wsproto_min.codes import CloseCode
from wsproto_min.net.peer import Peer
from wsproto_min.net.timers import CoarseTimers, TimerSlot

logger: logging.Logger = logging.getLogger("wsproto_min")

OnPong = Callable[[Peer, float | None], None]
"""Callback with the peer, and the seconds from the Ping to its Pong or None."""

# Payload of a Ping: a number, in another size than that of the server's own Pings.
_PAYLOAD = struct.Struct("!I")


class PendingPing:
    """A Ping without its Pong."""

    __slots__ = ("_owner", "on_pong", "payload", "peer", "sent_at", "slot")

    def __init__(
        self, owner: PendingPings, peer: Peer, on_pong: OnPong, payload: bytes, sent_at: float
    ) -> None:
        self._owner = owner
        self.peer: Peer = peer
        self.on_pong: OnPong = on_pong
        self.payload: bytes = payload
        self.sent_at: float = sent_at
        self.slot: TimerSlot = {}

    def on_timer(self) -> None:
        """End the wait."""
        self._owner.on_timeout(self)


class PendingPings:
    """The Pings of all peers of a server that wait for their Pongs.

    Args:
        timers: The server's timers.

    """

    __slots__ = ("_numbers", "_pending", "_timers")

    def __init__(self, timers: CoarseTimers) -> None:
        self._timers = timers
        self._numbers = count()
        self._pending: dict[Peer, list[PendingPing]] = {}  # the oldest Ping first

    def add(self, peer: Peer, on_pong: OnPong, now: float, timeout: float) -> bytes:
        """Wait for the Pong to a new Ping; return the payload to send."""
        payload = _PAYLOAD.pack(next(self._numbers) % (1 << 32))
        ping = PendingPing(self, peer, on_pong, payload, now)
        ping.slot = self._timers.start(ping, timeout)
        self._pending.setdefault(peer, []).append(ping)
        return payload

    def on_pong(self, peer: Peer, payload: bytes, now: float) -> bool:
        """Call back for the Ping with this payload and all before it; return True if there is one.

        Args:
            peer: The peer.
            payload: Payload of the Pong.
            now: Time on the monotonic clock, in seconds.

        """
        pings = self._pending.get(peer, [])
        for number, ping in enumerate(pings, 1):
            if ping.payload == payload:
                self._answer(pings[:number], now)
                return True
        return False

    def acknowledge(self, peer: Peer, sent_at: float, now: float) -> None:
        """Call back for all Pings that were not sent after `sent_at`."""
        pings = self._pending.get(peer, [])
        self._answer([ping for ping in pings if ping.sent_at <= sent_at], now)

    def _answer(self, pings: list[PendingPing], now: float) -> None:
        for ping in pings:
            self._finish(ping, now - ping.sent_at)

    def on_timeout(self, ping: PendingPing) -> None:
        """Call back with None: the Pong did not come in time."""
        self._finish(ping, None)

    def close(self, peer: Peer) -> None:
        """Call back with None for all Pings of a peer that is no longer open."""
        for ping in list(self._pending.get(peer, ())):
            self._finish(ping, None)

    def _finish(self, ping: PendingPing, seconds: float | None) -> None:
        """Forget a Ping and call its callback. An exception closes the peer with 1011."""
        pings = self._pending.get(ping.peer, [])
        if ping not in pings:  # an earlier callback of this call has closed the peer
            return
        pings.remove(ping)
        if not pings:
            del self._pending[ping.peer]
        ping.slot.pop(ping, None)
        try:
            ping.on_pong(ping.peer, seconds)
        except Exception:
            address = ping.peer.address
            logger.exception("on_pong: raised an exception for %s; fix the callback", address)
            ping.peer.fail(CloseCode.INTERNAL_ERROR, "internal server error")
