"""Cost of requests, and the budgets of connections and addresses that pay for them.

The unit of cost is one small message. `message_cost` is the cost of receiving a message,
`response_cost` that of a response with stored messages, `fan_out_cost` that of a message
to many members. A connection and its address pay for each request. A connection in debt
is not read until its budget has recovered. While an address is in debt, its expensive
requests wait (see `work_queue`), and its new connections start with an empty budget.

An address also has a limit on its new connections. The server reads later from those over
the limit, and closes them at once if they would wait for too long.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from chatd.access.address_buckets import AddressBuckets
from chatd.access.rate_limit import TokenBucket
from chatd.access.trusted_networks import TrustedNetwork

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
# Cost of a search or of the directory, beside that of its response. A search reads for up to
# 30 ms in a thread.
SEARCH_COST = 20.0
# Cost of an opening handshake for its address.
HANDSHAKE_COST = 1.0

# Budget of an address, as a multiple of the budget of a connection.
CONNECTIONS_PER_ADDRESS = 5


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

    def is_in_debt(self) -> bool:
        """Return True if the address must pay for earlier requests first."""
        return self.address is not None and self.address.wait(time.monotonic()) > 0

    def charge_address(self, cost: float) -> None:
        """Charge the address alone."""
        if self.address is not None:
            self.address.take(time.monotonic(), cost)


class Budgets:
    """Budgets of all connections, and of the addresses with a recent request.

    Args:
        rate: Cost per second that a connection may cause; 0 for no limit.
        burst: Cost that it may cause at once.
        address_rate: Cost per second that an address may cause, twice as much at once; 0 for
            no limit. It is also the rate of its new connections.
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
        self._addresses = AddressBuckets(address_rate, trusted)
        # New connections have buckets of their own. So an address in debt can still connect.
        self._handshakes = AddressBuckets(address_rate, trusted)

    def charge_handshake(self, address: str) -> float:
        """Charge an address for a new connection, with its handshake or its page.

        Returns:
            Seconds for which the server must not read from the connection. `math.inf` stands
            for a connection over the limit, which is not charged.
        """
        now = time.monotonic()
        bucket = self._handshakes.find(address, now)
        if bucket is None:
            return 0.0
        if bucket.is_exhausted(now, HANDSHAKE_COST):
            return math.inf
        return bucket.take(now, HANDSHAKE_COST)

    def open(self, address: str) -> Budget:
        """Return the budget of a new connection; its address pays for the handshake."""
        now = time.monotonic()
        shared = self._addresses.find(address, now)
        if shared is not None:
            shared.take(now, HANDSHAKE_COST)
        if not self._rate:
            return Budget(None, shared)
        # A client that reconnects must not get another burst each time.
        level = self._burst if shared is None else min(self._burst, max(0.0, shared.level(now)))
        return Budget(TokenBucket(self._rate, self._burst, now, level=level), shared)
