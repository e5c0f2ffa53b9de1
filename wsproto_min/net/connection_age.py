"""The limit on the age of connections, which moves clients to other or newer servers."""

from __future__ import annotations

import os

from wsproto_min.net.peer import Peer
from wsproto_min.net.timers import CoarseTimers, TimerSlot

# Largest part of the age by which a connection ends early. Clients that connected together, as
# after a restart, would otherwise all reconnect at once.
JITTER = 0.1


class _AgeLimit:
    __slots__ = ("_peer", "slot")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.slot: TimerSlot = {}

    def on_timer(self) -> None:
        self._peer.go_away("the connection has reached its maximum age")


class ConnectionAge:
    """Closes each peer with 1001 when its connection is too old.

    Args:
        timers: The server's timers.
        max_age: Seconds.

    """

    __slots__ = ("_limits", "_max_age", "_timers")

    def __init__(self, timers: CoarseTimers, max_age: float) -> None:
        self._timers = timers
        self._max_age = max_age
        self._limits: dict[Peer, _AgeLimit] = {}

    def start(self, peer: Peer) -> None:
        """Start the limit of an opened peer, at 90% to 100% of the age."""
        limit = self._limits[peer] = _AgeLimit(peer)
        jitter = JITTER * int.from_bytes(os.urandom(4), "big") / (1 << 32)
        limit.slot = self._timers.start(limit, self._max_age * (1 - jitter))

    def stop(self, peer: Peer) -> None:
        """Forget a peer that is no longer open."""
        limit = self._limits.pop(peer)
        limit.slot.pop(limit, None)
