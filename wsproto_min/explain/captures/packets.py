"""Packets of a capture file: from the link layer to the TCP segment.

Reads Ethernet with VLAN tags, Linux cooked, loopback and raw IP; IPv4 and IPv6. Another protocol
gives no segment. Checksums are not checked, because network cards often compute them later.
"""

from __future__ import annotations

import ipaddress

from wsproto_min.explain.captures.tcp import Segment

_IPV4, _IPV6 = 0x0800, 0x86DD  # EtherTypes
_VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
_TCP = 6
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing and destination options (RFC 8200, section 4)
_FRAGMENT = 44
_SYN, _RST, _ACK = 0x02, 0x04, 0x10

# Link types (tcpdump.org/linktypes.html): size of the link header, position of the EtherType.
_RAW = (12, 14, 101, 228, 229)
_LOOPBACK = (0, 108)
_ETHERNET = 1
_WITH_ETHERTYPE = {_ETHERNET: (14, 12), 113: (16, 14), 276: (20, 0)}
_LARGEST_HEADERS = 160  # bytes, of link, IP and TCP
LINK_TYPES: frozenset[int] = frozenset((*_RAW, *_LOOPBACK, *_WITH_ETHERTYPE))
"""The supported link types."""


def parse_packet(link_type: int, data: bytes) -> Segment | None:
    """Return the TCP segment of a packet, or None for a packet of another kind.

    A packet that is shorter than its headers announce is truncated. Its segment has the size of
    the original and the payload that is left.

    Args:
        link_type: A number of `LINK_TYPES`.
        data: The packet from its link header on.

    """
    if link_type in _RAW:
        return _parse_ip(data)
    if link_type in _LOOPBACK:
        return _parse_ip(data[4:])  # the IP version is in the packet, too
    size, position = _WITH_ETHERTYPE[link_type]
    kind = int.from_bytes(data[position : position + 2], "big")
    while kind in _VLAN_TAGS:
        kind = int.from_bytes(data[size + 2 : size + 4], "big")
        size += 4
    return _parse_ip(data[size:]) if kind in (_IPV4, _IPV6) else None


def is_packet(data: bytes) -> bool:
    """Return True if `data` is one whole packet, for example copied out of Wireshark."""
    for link_type in LINK_TYPES:
        segment = parse_packet(link_type, data)
        if segment is not None and len(segment.payload) == segment.size:
            return len(data) - segment.size <= _LARGEST_HEADERS
    return False


def _parse_ip(data: bytes) -> Segment | None:
    if not data:
        return None
    return _parse_ipv6(data) if data[0] >> 4 == 6 else _parse_ipv4(data)


def _parse_ipv4(data: bytes) -> Segment | None:
    if len(data) < 20 or data[0] >> 4 != 4 or data[9] != _TCP:
        return None
    header_size = max(20, 4 * (data[0] & 0x0F))
    # The size is 0 if the network card divides the packet later.
    size = int.from_bytes(data[2:4], "big") or len(data)
    if int.from_bytes(data[6:8], "big") & 0x3FFF:  # a fragment; its bytes are then missing
        return None
    addresses = (str(ipaddress.IPv4Address(data[12:16])), str(ipaddress.IPv4Address(data[16:20])))
    return _parse_tcp(data[header_size:], size - header_size, *addresses)


def _parse_ipv6(data: bytes) -> Segment | None:
    if len(data) < 40:
        return None
    size = int.from_bytes(data[4:6], "big") or len(data) - 40
    addresses = (str(ipaddress.IPv6Address(data[8:24])), str(ipaddress.IPv6Address(data[24:40])))
    kind, position = data[6], 40
    while kind in _EXTENSIONS and len(data) >= position + 2:
        kind, position = data[position], position + 8 + 8 * data[position + 1]
    return _parse_tcp(data[position:], size + 40 - position, *addresses) if kind == _TCP else None


def _parse_tcp(data: bytes, size: int, source: str, destination: str) -> Segment | None:
    """Return the segment of `size` bytes; the capture may have only `data`, its beginning."""
    if len(data) < 20:
        return None
    header_size, flags = data[12] >> 4 << 2, data[13]
    if not 20 <= header_size <= size:
        return None
    # A reset may have any numbers.
    is_acknowledgment = flags & _ACK and not flags & _RST
    return Segment(
        source=(source, int.from_bytes(data[0:2], "big")),
        destination=(destination, int.from_bytes(data[2:4], "big")),
        sequence=int.from_bytes(data[4:8], "big"),
        acknowledged=int.from_bytes(data[8:12], "big") if is_acknowledgment else None,
        syn=bool(flags & _SYN),
        size=0 if flags & _RST else size - header_size,
        payload=b"" if flags & _RST else bytes(data[header_size:size]),
    )
