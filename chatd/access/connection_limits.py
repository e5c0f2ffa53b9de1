"""How many connections there may be, from one address and in all.

They are counted from the moment at which they are accepted: those that never
finish their handshake take a descriptor, too. A few that are over a cap are
heard all the same, for two reasons: each is told in an HTTP answer why it may
not stay, and `/healthz` and `/metrics` can be read when the server is full.
Whoever comes when these few places are taken is cut at once.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus

from chatd.access.trusted_networks import TrustedNetwork, host_of, host_part, is_trusted
from wsproto_min import HandshakeError

DEFAULT_MAX_PEERS = 10_000
# A household or a small office behind one address, with several tabs each.
DEFAULT_MAX_PER_ADDRESS = 200
# Connections over a cap that are answered at the same time.
SPARE_PLACES = 64
# Descriptors for what is no connection: the log, the listener and the like.
OWN_DESCRIPTORS = 64
# Seconds after which whoever was refused may try again.
RETRY_AFTER = 10


class Refused(HandshakeError):
    """There is no place for a connection; `cause` is a word for the metrics."""

    def __init__(self, cause: str, reason: str) -> None:
        headers = [("Retry-After", str(RETRY_AFTER))]
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers)
        self.cause = cause


class Slot:
    """Where a connection counts: for its address, unless that is None, and in all.

    `refused` is why it has only a spare place, None if it has a place of its own.
    """

    __slots__ = ("key", "refused")

    def __init__(self, key: bytes | None, refused: Refused | None) -> None:
        self.key = key
        self.refused = refused


class ConnectionLimiter:
    """Counts connections; `max_peers` and `max_per_address` are its limits, 0 for none.

    Without `max_per_address` 200 may come from one address, and any number from
    this machine itself. An IPv6 address counts with all of its /64, which is
    what one subscriber gets. A trusted proxy, or a Unix socket, is no client:
    the addresses that they pass on are what counts.
    """

    def __init__(
        self, max_peers: int, max_per_address: int | None, trusted: Sequence[TrustedNetwork]
    ) -> None:
        self._max_peers = max_peers
        self._max_per_address = (
            DEFAULT_MAX_PER_ADDRESS if max_per_address is None else max_per_address
        )
        self._spares_loopback = max_per_address is None
        self._trusted = trusted
        self._key_of_host = lru_cache(1024)(self._find_key)
        self._all = 0
        self._by_key: Counter[bytes] = Counter()
        self._spare = 0

    def acquire(self, address: str) -> Slot | None:
        """Return a place for a connection just accepted, None if there is not even a spare one."""
        place = self._take(address)
        if place.refused is not None and self.overflow_full:
            self.release(place)
            return None
        return place

    @property
    def overflow_full(self) -> bool:
        """Whether more are over a cap than there are spare places."""
        return self._spare > SPARE_PLACES

    def rekey(self, place: Slot, address: str) -> Slot:
        """Return the place instead, where the request has told the client's address."""
        if place.refused is None and place.key == self._key(address):
            return place
        self.release(place)
        return self._take(address)

    def release(self, place: Slot) -> None:
        """Free a place."""
        if place.refused is not None:
            self._spare -= 1
            return
        self._all -= 1
        if place.key is not None:
            self._by_key[place.key] -= 1
            if not self._by_key[place.key]:
                del self._by_key[place.key]

    def _take(self, address: str) -> Slot:
        key = self._key(address)
        refused = self._refuse(key)
        if refused is not None:
            self._spare += 1
        else:
            self._all += 1
            if key is not None:
                self._by_key[key] += 1
        return Slot(key, refused)

    def _refuse(self, key: bytes | None) -> Refused | None:
        if self._max_peers and self._all >= self._max_peers:
            return Refused(
                "max_peers",
                f"this server has all the {self._max_peers} connections that it takes; try again"
                f" in {RETRY_AFTER} seconds, or ask whoever runs it to raise --max-peers",
            )
        if key is not None and self._by_key[key] >= self._max_per_address:
            return Refused(
                "max_per_address",
                f"there are {self._max_per_address} connections from your address already; close"
                " some and try again, or ask whoever runs this server to raise"
                " --max-per-address",
            )
        return None

    def _key(self, address: str) -> bytes | None:
        """Return under what an address counts, None if it has no cap."""
        return self._key_of_host(host_part(address)) if self._max_per_address else None

    def _find_key(self, text: str) -> bytes | None:
        host = host_of(text)
        if host is None or isinstance(host, str) or is_trusted(host, self._trusted):
            return None
        if self._spares_loopback and host.is_loopback:
            return None
        return host.packed if host.version == 4 else host.packed[:8]


def descriptors_for(max_peers: int) -> int:
    """Have the process allowed as many descriptors as peers need; return how many peers that is."""
    needed = max_peers + SPARE_PLACES + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = needed if hard == unlimited else min(needed, hard)
    if soft != unlimited and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - SPARE_PLACES - OWN_DESCRIPTORS)
