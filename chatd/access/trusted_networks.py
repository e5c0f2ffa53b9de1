"""Client addresses behind trusted proxies.

Each proxy appends to `X-Forwarded-For` the address of its own client. Therefore only
the entries that trusted proxies appended are true. The client is the first entry from
the right that is not a trusted proxy. Every entry to its left may be forged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from wsproto_min import Headers

TrustedNetwork = IPv4Network | IPv6Network | Literal["unix"]
"""A network of trusted proxies or metrics readers; `unix` for clients of the Unix socket."""

Host = IPv4Address | IPv6Address | Literal["unix"]
"""The host of an address, or `unix` for a client of the Unix socket."""

# An entry is an address, as most proxies write it, or a node of RFC 7239, 6: with a port, an IPv6
# address in brackets, the whole in quotation marks. The longest IP address has 45 characters (an
# IPv4 address embedded in IPv6). A zone ("%eth0") names an interface of another machine, so the
# pattern excludes it.
_ENTRY = re.compile(
    r"""(?P<quote>"?)
    (?: (?P<ipv4>[0-9.]{7,15}) (?::[0-9]{1,5})?
      | \[(?P<bracketed>[0-9A-Fa-f:.]{2,45})\] (?::[0-9]{1,5})?
      | (?P<ipv6>[0-9A-Fa-f:.]{2,45})
    )
    (?P=quote)""",
    re.VERBOSE,
)


def parse_network(text: str) -> TrustedNetwork:
    """Parse `ADDRESS`, `ADDRESS/BITS` or `unix`.

    Raises:
        ValueError: The text has another form, or the address has host bits set.
    """
    return "unix" if text == "unix" else ip_network(text)


def client_address(address: str, headers: Headers, trusted: Sequence[TrustedNetwork]) -> str:
    """Return the address of the client behind the trusted proxies.

    >>> entries = Headers([("X-Forwarded-For", "forged, 203.0.113.7, 10.0.0.2")])
    >>> client_address("unix", entries, [parse_network("unix"), parse_network("10.0.0.0/8")])
    '203.0.113.7'
    >>> client_address("198.51.100.1:4321", entries, [parse_network("unix")])
    '198.51.100.1:4321'

    Args:
        address: Address of the socket, as in `Peer.address`.
        headers: Headers of the request.
        trusted: Networks of the trusted proxies.

    Returns:
        `address`, unless its host is trusted and has forwarded another address. A
        forwarded address loses its port; an IPv6 address is in brackets. An invalid
        entry ends the search.
    """
    if not trusted:
        return address
    host = parse_host(address)
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


def parse_host(address: str) -> Host | None:
    """Return the host of an address with or without a port, None if it is invalid.

    >>> parse_host("[2001:db8::7]:4321"), parse_host("203.0.113.7")
    (IPv6Address('2001:db8::7'), IPv4Address('203.0.113.7'))
    """
    host = strip_port(address)
    return "unix" if host == "unix" else _parse_ip(host.strip("[]"))


def strip_port(address: str) -> str:
    """Return an address without its port; an IPv6 address stays in brackets."""
    bracket = address.rfind("]")
    return address[: bracket + 1] if bracket >= 0 else address.partition(":")[0]


def is_trusted(host: Host, trusted: Sequence[TrustedNetwork]) -> bool:
    """Return True if a host is in one of the trusted networks."""
    if isinstance(host, str):
        return host in trusted
    return any(not isinstance(network, str) and host in network for network in trusted)


def _parse_entry(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in an entry of X-Forwarded-For, without its port."""
    found = _ENTRY.fullmatch(text)
    return _parse_ip(found["ipv4"] or found["bracketed"] or found["ipv6"]) if found else None


@lru_cache(1024)
def _parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, as IPv4 if it is an IPv4 address embedded in IPv6."""
    try:
        host = ip_address(text)
    except ValueError:
        return None
    return getattr(host, "ipv4_mapped", None) or host
