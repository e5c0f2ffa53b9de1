"""Cost of requests, and the budgets of connections and addresses that pay for them.

The unit of cost is one small message. `message_cost` is the cost of receiving a message,
`response_cost` that of a response with stored messages, `fan_out_cost` that of a message
to many members. A connection and its address pay for each request. A connection in debt
is not read until its budget has recovered. While an address is in debt, its expensive
requests wait (see `work_queue`), and its new connections start with an empty budget.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from chatd.access.rate_limit import TokenBucket
from chatd.access.trusted_networks import TrustedNetwork, is_trusted, parse_host

# Characters of JSON, after decompression, that cost as much as a small message. A longer
# message is expensive: its parsing waits while its address is in debt.
CHEAP_SIZE = 2048
# Members that receive a message for the cost of a small message. A `say` to a larger room is
# expensive.
CHEAP_MEMBERS = 200
# Parts of a response that each cost as much as a small message.
MESSAGES_PER_UNIT = 50
CHARACTERS_PER_UNIT = 8192
NAMES_PER_UNIT = 50
# Cost of an opening handshake for its address.
HANDSHAKE_COST = 1.0

# Budget of an address, as a multiple of the budget of a connection.
CONNECTIONS_PER_ADDRESS = 5
# Addresses with a budget that has not recovered.
MAX_ADDRESSES = 10_000


def message_cost(size: int) -> float:
    """Return the cost of receiving a message of `size` characters, after decompression."""
    return 1.0 if size <= CHEAP_SIZE else size / CHEAP_SIZE


def response_cost(messages: int, size: int, names: int = 0) -> float:
    """Return the cost of a response, without that of its request.

    Args:
        messages: Number of stored messages that were read.
        size: Characters of the encoded response.
        names: Number of names of members.
    """
    return messages / MESSAGES_PER_UNIT + size / CHARACTERS_PER_UNIT + names / NAMES_PER_UNIT


def fan_out_cost(members: int) -> float:
    """Return the cost for an address of a message to `members`, without that of its request."""
    return members / CHEAP_MEMBERS if members > CHEAP_MEMBERS else 0.0


class Budget:
    """Budget of a connection; its address pays too. Without buckets nothing is limited.

    Args:
        own: The connection's bucket.
        address: The bucket of its address, None for an address without a limit.
    """

    __slots__ = ("_own", "address")

    def __init__(self, own: TokenBucket | None, address: TokenBucket | None) -> None:
        self._own = own
        self.address = address

    def charge(self, cost: float, now: float | None = None) -> float:
        """Charge the connection and its address.

        Args:
            cost: In small messages.
            now: Time in seconds of the monotonic clock; None reads the clock.

        Returns:
            Seconds for which the connection must not be read.
        """
        if now is None:
            now = time.monotonic()
        if self.address is not None:
            self.address.take(now, cost)
        return 0.0 if self._own is None else self._own.take(now, cost)

    def charge_address(self, cost: float) -> None:
        """Charge the address alone."""
        if self.address is not None:
            self.address.take(time.monotonic(), cost)


class Budgets:
    """Budgets of all connections, and of the addresses with a recent request.

    An IPv6 address shares the budget of its /64 network. Trusted proxies and clients of the
    Unix socket have no budget of an address: the addresses that proxies forward have one.

    Args:
        rate: Cost per second that a connection may cause; 0 for no limit.
        burst: Cost that it may cause at once.
        address_rate: Cost per second that an address may cause, twice as much at once; 0 for
            no limit.
        trusted: Networks of the trusted proxies.

    Attributes:
        limit_connections: True if connections have a budget.
        limit_anything: True if connections or addresses have one.
    """

    def __init__(
        self, rate: float, burst: float, address_rate: float, trusted: Sequence[TrustedNetwork]
    ) -> None:
        self.limit_connections = rate > 0
        self.limit_anything = rate > 0 or address_rate > 0
        self._rate = rate
        self._burst = burst
        self._address_rate = address_rate
        self._trusted = trusted
        self._addresses: dict[bytes, TokenBucket] = {}

    def open(self, address: str) -> Budget:
        """Return the budget of a new connection; its address pays for the handshake."""
        now = time.monotonic()
        shared = self._address_bucket(address, now)
        if shared is not None:
            shared.take(now, HANDSHAKE_COST)
        if not self._rate:
            return Budget(None, shared)
        # A client that reconnects must not get another burst each time.
        level = self._burst if shared is None else min(self._burst, max(0.0, shared.level(now)))
        return Budget(TokenBucket(self._rate, self._burst, now, level=level), shared)

    def _address_bucket(self, address: str, now: float) -> TokenBucket | None:
        key = self._key(address) if self._address_rate else None
        if key is None:
            return None
        bucket = self._addresses.get(key)
        if bucket is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._forget_addresses(now)
            burst = 2 * self._address_rate
            # The limit on the debt ends the effect of an attack within seconds.
            bucket = TokenBucket(self._address_rate, burst, now, max_debt=burst)
            self._addresses[key] = bucket
        return bucket

    def _forget_addresses(self, now: float) -> None:
        """Forget the addresses with a full budget, and the oldest half if all are in use."""
        remaining = {
            key: bucket
            for key, bucket in self._addresses.items()
            if bucket.level(now) < 2 * self._address_rate
        }
        surplus = len(remaining) - MAX_ADDRESSES // 2
        for key in list(remaining)[: max(0, surplus)]:
            del remaining[key]
        self._addresses = remaining

    def _key(self, address: str) -> bytes | None:
        host = parse_host(address)
        if host is None or isinstance(host, str) or is_trusted(host, self._trusted):
            return None
        return host.packed if host.version == 4 else host.packed[:8]
