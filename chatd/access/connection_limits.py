"""Limits on the number of connections, per address and in total.

A connection counts from accept() on, because a connection without a handshake also takes
a file descriptor. Connections over a limit get one of a few overflow slots. There the
server explains the refusal in an HTTP response. `/healthz` and `/metrics` also stay
readable while the server is full. The server closes further connections at once.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus

from chatd.access.trusted_networks import TrustedNetwork, is_trusted, parse_host, strip_port
from wsproto_min import HandshakeError

DEFAULT_MAX_PEERS = 10_000
# Enough for a household or a small office behind one address, with several tabs each.
DEFAULT_MAX_PER_ADDRESS = 200
DEFAULT_MAX_HANDSHAKES = 1024
DEFAULT_MAX_WRITE_BUFFERS = 256  # MiB
DEFAULT_MAX_UNFINISHED = 128  # MiB
DEFAULT_WRITE_TIMEOUT = 60.0  # seconds
# Connections over a limit that the server answers at the same time.
OVERFLOW_SLOTS = 64
# File descriptors for the store, the listener and other files.
RESERVED_DESCRIPTORS = 64
# Seconds, for the Retry-After header (RFC 9110, 10.2.3).
RETRY_AFTER = 10


class ServiceUnavailable(HandshakeError):
    """Refusal with status 503 and Retry-After; `cause` is its label in the metrics."""

    def __init__(self, cause: str, reason: str) -> None:
        headers = [("Retry-After", str(RETRY_AFTER))]
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers)
        self.cause = cause


class Slot:
    """Place of a connection in the counts of a `ConnectionLimiter`.

    `key` identifies the address, None for an address without a limit. `refusal` is None
    in a regular slot. In an overflow slot it is the reason for the refusal. `is_surplus`
    is True if all overflow slots were taken: the server closes the connection at once.
    """

    __slots__ = ("is_surplus", "key", "refusal")

    def __init__(
        self, key: bytes | None, refusal: ServiceUnavailable | None, *, is_surplus: bool
    ) -> None:
        self.key = key
        self.refusal = refusal
        self.is_surplus = is_surplus


class ConnectionLimiter:
    """Counter and limit of connections, per address and in total.

    An IPv6 address counts with its whole /64 network, because a provider assigns a whole
    /64 network to one subscriber. Trusted proxies and the Unix socket have no limit of
    their own: the addresses that they forward count instead.

    Args:
        max_peers: Limit in total; 0 for none.
        max_per_address: Limit for each address; 0 for none. None stands for
            `DEFAULT_MAX_PER_ADDRESS`, and for no limit on loopback addresses.
        trusted: Networks of the trusted proxies.
    """

    def __init__(
        self, max_peers: int, max_per_address: int | None, trusted: Sequence[TrustedNetwork]
    ) -> None:
        self._max_peers = max_peers
        self._max_per_address = (
            DEFAULT_MAX_PER_ADDRESS if max_per_address is None else max_per_address
        )
        self._exempts_loopback = max_per_address is None
        self._trusted = trusted
        self._key_of_host = lru_cache(1024)(self._find_key)
        self._total = 0
        self._by_key: Counter[bytes] = Counter()
        self._overflow = 0

    def acquire(self, address: str) -> Slot | None:
        """Return a slot for an accepted connection, None if the overflow slots are full too."""
        slot = self._take(address)
        if slot.is_surplus:
            self.release(slot)
            return None
        return slot

    @property
    def overflow_full(self) -> bool:
        """True if all overflow slots are taken."""
        return self._overflow >= OVERFLOW_SLOTS

    def rekey(self, slot: Slot, address: str) -> Slot:
        """Return the slot of a connection after the request has named its client.

        Args:
            slot: Slot of the connection so far. It must not be used again.
            address: Address of the client.
        """
        if slot.refusal is None and slot.key == self._key(address):
            return slot
        self.release(slot)
        return self._take(address)

    def release(self, slot: Slot) -> None:
        """Free the slot of a closed connection."""
        if slot.refusal is not None:
            self._overflow -= 1
            return
        self._total -= 1
        if slot.key is not None:
            self._by_key[slot.key] -= 1
            if not self._by_key[slot.key]:
                del self._by_key[slot.key]

    def _take(self, address: str) -> Slot:
        key = self._key(address)
        refusal = self._check(key)
        is_surplus = refusal is not None and self.overflow_full
        if refusal is not None:
            self._overflow += 1
        else:
            self._total += 1
            if key is not None:
                self._by_key[key] += 1
        return Slot(key, refusal, is_surplus=is_surplus)

    def _check(self, key: bytes | None) -> ServiceUnavailable | None:
        if self._max_peers and self._total >= self._max_peers:
            return ServiceUnavailable(
                "max_peers",
                f"server full: its limit is {self._max_peers} connections; try again in"
                f" {RETRY_AFTER} seconds, or ask the operator to raise --max-peers",
            )
        if key is not None and self._by_key[key] >= self._max_per_address:
            return ServiceUnavailable(
                "max_per_address",
                f"too many connections: the limit is {self._max_per_address} connections from"
                " one address; close some and try again, or ask the operator to raise"
                " --max-per-address",
            )
        return None

    def _key(self, address: str) -> bytes | None:
        return self._key_of_host(strip_port(address)) if self._max_per_address else None

    def _find_key(self, text: str) -> bytes | None:
        host = parse_host(text)
        if host is None or isinstance(host, str) or is_trusted(host, self._trusted):
            return None
        if self._exempts_loopback and host.is_loopback:
            return None
        return host.packed[:8]  # an IPv4 address has 4 bytes


def raise_descriptor_limit(max_peers: int) -> int:
    """Raise the soft limit on file descriptors for `max_peers` connections.

    Returns:
        The number of connections for which the descriptors suffice, at least 1. It is
        below `max_peers` if the hard limit is too low.
    """
    needed = max_peers + OVERFLOW_SLOTS + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = needed if hard == unlimited else min(needed, hard)
    if soft != unlimited and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - OVERFLOW_SLOTS - RESERVED_DESCRIPTORS)
