"""Capture files of packets: pcap and pcapng (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng).

Times are not read: the order of the packets in the file decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from wsproto_min.explain.captures.packets import LINK_TYPES, parse_packet
from wsproto_min.explain.captures.tcp import Segment

_Order = Literal["little", "big"]

# Times in microseconds, and in nanoseconds.
_PCAP_MAGIC = (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d")
_MODIFIED_MAGIC = b"\xa1\xb2\xcd\x34"  # records have other headers
_SECTION_HEADER = b"\n\r\r\n"
_ORDER_MAGIC = b"\x1a\x2b\x3c\x4d"
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_PACKET_HEADERS = {_OLD_PACKET: 20, _SIMPLE_PACKET: 4, _ENHANCED_PACKET: 20}


def is_pcap(data: bytes) -> bool:
    """Return True if `data` is a pcap or pcapng file. No valid frame begins like one."""
    start = data[:4]
    magic = (*_PCAP_MAGIC, _MODIFIED_MAGIC)
    return start == _SECTION_HEADER or start in magic or start[::-1] in magic


def read_segments(data: bytes) -> Iterator[Segment]:
    """Yield the TCP segments of a pcap or pcapng file.

    Raises:
        ValueError: The file is corrupt or of an unsupported kind; the message says where.

    """
    packets = _read_pcapng(data) if data.startswith(_SECTION_HEADER) else _read_pcap(data)
    for link_type, begin, end in packets:
        segment = parse_packet(link_type, data[begin:end])
        if segment is not None:
            yield segment


def _read_pcap(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the link type, begin and end of each packet."""
    magic = data[:4]
    if _MODIFIED_MAGIC in (magic, magic[::-1]):
        raise ValueError("pcap: the file has modified records; convert it with editcap -F pcap")
    order: _Order = "big" if magic in _PCAP_MAGIC else "little"
    if len(data) < 24:
        raise ValueError(f"pcap: the file ends at byte {len(data)}, in its header; record again")
    link_type = int.from_bytes(data[20:24], order) & 0x0FFF_FFFF
    _check_link_type(link_type, 20)
    position = 24
    while position < len(data):
        size = int.from_bytes(data[position + 8 : position + 12], order)
        begin, end = position + 16, position + 16 + size
        if end > len(data):
            raise ValueError(
                f"pcap: the packet at byte {position} ends at byte {end}, but the file has "
                f"{len(data)} bytes; repair it with editcap"
            )
        yield link_type, begin, end
        position = end


def _check_link_type(link_type: int, position: int) -> None:
    if link_type not in LINK_TYPES:
        raise ValueError(
            f"capture: link type {link_type} (byte {position}) is not supported; "
            "record Ethernet, loopback, Linux cooked or raw IP"
        )


def _read_pcapng(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the link type, begin and end of each packet."""
    order: _Order = "little"
    interfaces: list[tuple[int, int, int]] = []  # link type, its position, bytes kept of a packet
    position = 0
    while position < len(data):
        if data.startswith(_SECTION_HEADER, position):
            order = "big" if data[position + 8 : position + 12] == _ORDER_MAGIC else "little"
            interfaces = []
        kind = int.from_bytes(data[position : position + 4], order)
        size = int.from_bytes(data[position + 4 : position + 8], order)
        end = position + size
        if size < 12 or size % 4 or data[end - 4 : end] != data[position + 4 : position + 8]:
            raise ValueError(
                f"pcapng: the block at byte {position} has size {size}, which its end does not "
                "confirm; repair the file with editcap"
            )
        body = position + 8
        if kind == _INTERFACE:
            link_type = int.from_bytes(data[body : body + 2], order)
            interfaces.append((link_type, body, int.from_bytes(data[body + 4 : body + 8], order)))
        elif kind in _PACKET_HEADERS:
            yield _packet(data, order, kind, body, end - 4, interfaces)
        position = end


def _packet(
    data: bytes,
    order: _Order,
    kind: int,
    body: int,
    end: int,
    interfaces: list[tuple[int, int, int]],
) -> tuple[int, int, int]:
    """Return the link type, begin and end of the packet in a block."""

    def number(position: int, size: int = 4) -> int:
        return int.from_bytes(data[body + position : body + position + size], order)

    interface = {_OLD_PACKET: number(0, 2), _SIMPLE_PACKET: 0, _ENHANCED_PACKET: number(0)}[kind]
    if interface >= len(interfaces):
        raise ValueError(
            f"pcapng: the packet at byte {body - 8} names interface {interface}, of "
            f"{len(interfaces)}; repair the file with editcap"
        )
    link_type, where, kept = interfaces[interface]
    _check_link_type(link_type, where)
    begin = body + _PACKET_HEADERS[kind]
    is_simple = kind == _SIMPLE_PACKET
    size = min(number(0), kept or number(0)) if is_simple else number(12)
    if begin + size > end:
        raise ValueError(
            f"pcapng: the packet at byte {body - 8} is larger than its block; "
            "repair the file with editcap"
        )
    return link_type, begin, begin + size
