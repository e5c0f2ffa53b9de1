"""Who a request comes from, when proxies that are trusted have passed it on.

Each proxy appends to `X-Forwarded-For` the address it was reached from, so the
header is worth as much, counted from the right, as those who wrote it: what a
trusted proxy appended is true, and all to the left of the first address that
is not a trusted proxy's may be made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from wsproto_min import Headers

TrustedNetwork = IPv4Network | IPv6Network | Literal["unix"]
"""A trusted network, or whoever may connect to the Unix socket."""

# The longest form of an address, one of IPv4 in IPv6.
MAX_ADDRESS = 45

Host = IPv4Address | IPv6Address | Literal["unix"]


def parse_proxy(text: str) -> TrustedNetwork:
    """Read `ADDRESS`, `ADDRESS/BITS` or `unix`. Raises `ValueError`."""
    return "unix" if text == "unix" else ip_network(text)


def client_address(address: str, headers: Headers, trusted: Sequence[TrustedNetwork]) -> str:
    """Return the address of the client behind the proxies.

    `address` is that of the socket, as `Peer.address` has it; it is returned
    unless its host is trusted and names another. A forwarded address is a host
    without a port, one of IPv6 in brackets. An entry that is no IP address, and
    all to its left, count for nothing.

    >>> entries = Headers([("X-Forwarded-For", "made up, 203.0.113.7, 10.0.0.2")])
    >>> client_address("unix", entries, [parse_proxy("unix"), parse_proxy("10.0.0.0/8")])
    '203.0.113.7'
    >>> client_address("198.51.100.1:4321", entries, [parse_proxy("unix")])
    '198.51.100.1:4321'
    """
    if not trusted:
        return address
    host = host_of(address)
    entries = [
        entry.strip(" \t")
        for line in headers.values("X-Forwarded-For")
        for entry in line.split(",")
    ]
    while entries and host is not None and is_trusted(host, trusted):
        entry = host = _parse_entry(entries.pop())
        if entry is not None:
            address = f"[{entry}]" if entry.version == 6 else str(entry)
    return address


def host_of(address: str) -> Host | None:
    """Return the host of an address, be it a socket's with a port or a forwarded one.

    >>> host_of("[2001:db8::7]:4321"), host_of("203.0.113.7")
    (IPv6Address('2001:db8::7'), IPv4Address('203.0.113.7'))
    """
    host = host_part(address)
    return "unix" if host == "unix" else _parse_host(host.strip("[]"))


def host_part(address: str) -> str:
    """Return an address without its port, one of IPv6 still in brackets."""
    bracket = address.rfind("]")
    return address[: bracket + 1] if bracket >= 0 else address.partition(":")[0]


def is_trusted(host: Host, trusted: Sequence[TrustedNetwork]) -> bool:
    """Return whether what a host forwards is believed."""
    if isinstance(host, str):
        return host in trusted
    return any(not isinstance(proxy, str) and host in proxy for proxy in trusted)


def _parse_entry(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that an entry is, None if it is none.

    What stands behind a '%' would name an interface of another machine, in
    whatever characters.
    """
    return None if "%" in text or len(text) > MAX_ADDRESS else _parse_host(text)


@lru_cache(1024)
def _parse_host(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, one of IPv4 in its own form even if it came in IPv6's."""
    try:
        host = ip_address(text)
    except ValueError:
        return None
    return getattr(host, "ipv4_mapped", None) or host
