"""Keepalive: Pings that find dead peers and measure the latency (RFC 6455, section 5.5.2).

A silent peer may be idle or gone, and TCP does not tell which. So the server sends a Ping.
The peer is alive if the server receives a byte, or if the socket takes buffered bytes, before
the timeout. The states::

              interval                              timeout
    idle -------------------> Ping, timeout_running ---------------> lost
      ^                                 |             no byte
      |                                 | timeout, the peer is alive
      +---------------------------------+

A timeout that is longer than the interval delays the next Ping to its own end. A `Keepalive`
has no clock and no timer. `Session` calls it when its own timer fires.
"""

from __future__ import annotations

import struct

from wsproto_min.connection import Connection

# Payload of a Ping: the time at which it was sent, on this machine's monotonic clock.
_PAYLOAD = struct.Struct("!d")


class Keepalive:
    """Keepalive of one open connection.

    Attributes:
        alive_since_ping: The server has received a byte since the last Ping, or the socket has
            taken buffered bytes.
        timeout_running: The timeout of the last Ping has not passed yet.
        ping_sent_at: Time of the last Ping; 0 once its Pong has come.
        latency: Seconds from the last answered Ping to its Pong; None before the first.

    """

    __slots__ = ("alive_since_ping", "latency", "ping_sent_at", "timeout_running")

    def __init__(self) -> None:
        self.alive_since_ping: bool = False
        self.timeout_running: bool = False
        self.ping_sent_at: float = 0.0
        self.latency: float | None = None

    @property
    def awaiting_pong(self) -> bool:
        """True from a Ping to its Pong."""
        return self.ping_sent_at != 0.0

    def on_timer(
        self, connection: Connection, now: float, *, interval: float, timeout: float
    ) -> float | None:
        """Queue a Ping, or judge the last one at the end of its timeout.

        Args:
            connection: The open connection; it queues the Ping.
            now: Time on the monotonic clock, in seconds.
            interval: Seconds from one Ping to the next, if `timeout` is not longer.
            timeout: Seconds to wait after a Ping for received bytes or write progress.

        Returns:
            Seconds until the next call, or None if the peer is lost.

        """
        if self.timeout_running:
            self.timeout_running = False
            if not self.alive_since_ping:
                return None
            if interval > timeout:
                return interval - timeout
        self.alive_since_ping = False
        self.timeout_running = True
        self.ping_sent_at = now
        connection.ping(_PAYLOAD.pack(now))
        return timeout

    def on_pong(self, payload: bytes, now: float) -> bool:
        """Measure the latency; return True if this is the first Pong for the last Ping."""
        if self.awaiting_pong and payload == _PAYLOAD.pack(self.ping_sent_at):
            self.latency = now - self.ping_sent_at
            self.ping_sent_at = 0.0
            return True
        return False
