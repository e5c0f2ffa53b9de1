"""Token buckets of addresses, one for each address with recent use."""

from __future__ import annotations

from collections.abc import Sequence

from chatd.access.rate_limit import TokenBucket
from chatd.access.trusted_networks import TrustedNetwork, is_trusted, parse_host

# Addresses with a bucket that is not full.
MAX_ADDRESSES = 10_000
# Seconds in which an address without further use comes out of its largest debt. The limit on
# the debt ends the effect of an attack.
MAX_WAIT = 2.0


class AddressBuckets:
    """Buckets of equal size for all addresses.

    An IPv6 address shares the bucket of its /64 network. Trusted proxies and clients of the
    Unix socket have no bucket: the addresses that proxies forward have one.

    Args:
        rate: Tokens per second of an address, and twice as many at once; 0 for no limit.
        trusted: Networks of the trusted proxies.
    """

    def __init__(self, rate: float, trusted: Sequence[TrustedNetwork]) -> None:
        self._rate = rate
        self._trusted = trusted
        self._buckets: dict[bytes, TokenBucket] = {}

    def __len__(self) -> int:
        """Return the number of addresses with a bucket."""
        return len(self._buckets)

    def find(self, address: str, now: float) -> TokenBucket | None:
        """Return the bucket of an address, None for an address without a limit."""
        key = self._key(address) if self._rate else None
        if key is None:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_ADDRESSES:
                self._forget(now)
            max_debt = MAX_WAIT * self._rate
            bucket = TokenBucket(self._rate, 2 * self._rate, now, max_debt=max_debt)
            self._buckets[key] = bucket
        return bucket

    def _forget(self, now: float) -> None:
        """Forget the full buckets, and the oldest half if all are in use."""
        remaining = {
            key: bucket
            for key, bucket in self._buckets.items()
            if bucket.level(now) < 2 * self._rate
        }
        surplus = len(remaining) - MAX_ADDRESSES // 2
        for key in list(remaining)[: max(0, surplus)]:
            del remaining[key]
        self._buckets = remaining

    def _key(self, address: str) -> bytes | None:
        host = parse_host(address)
        if host is None or isinstance(host, str) or is_trusted(host, self._trusted):
            return None
        return host.packed[:8]  # an IPv4 address has 4 bytes
