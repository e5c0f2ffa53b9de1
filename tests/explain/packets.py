"""Writers of capture files: packets of TCP over IPv4 and IPv6, as pcap and pcapng."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Literal

Order = Literal["little", "big"]
Endpoint = tuple[str, int]

CLIENT: Endpoint = ("127.0.0.1", 50000)
SERVER: Endpoint = ("127.0.0.1", 8765)
CLIENT_6: Endpoint = ("::1", 50000)
SERVER_6: Endpoint = ("::1", 8765)
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

ETHERNET, NULL, RAW, LOOP, SLL, SLL2 = 1, 0, 101, 108, 113, 276
LINK_TYPES = (ETHERNET, NULL, RAW, LOOP, SLL, SLL2)


def tcp_packet(
    source: Endpoint,
    destination: Endpoint,
    sequence: int,
    payload: bytes = b"",
    *,
    flags: int | None = None,
    acknowledged: int = 0,
) -> bytes:
    """Return an IP packet with a TCP segment; it has ACK only with a number or in `flags`."""
    if flags is None:
        flags = ACK if acknowledged else PSH
    tcp = struct.pack(
        ">HHIIBBHHH",
        source[1],
        destination[1],
        sequence % (1 << 32),
        acknowledged % (1 << 32),
        5 << 4,
        flags,
        65535,
        0,
        0,
    )
    addresses = [ipaddress.ip_address(host).packed for host, _ in (source, destination)]
    if len(addresses[0]) == 4:
        size = 20 + len(tcp) + len(payload)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, 6, 0)
    else:
        ip = struct.pack(">IHBB", 6 << 28, len(tcp) + len(payload), 6, 64)
    return ip + b"".join(addresses) + tcp + payload


def framed(packet: bytes, link_type: int) -> bytes:
    """Return an IP packet with its link header."""
    ether_type = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    family = 2 if packet[0] >> 4 == 4 else 30
    header = {
        ETHERNET: bytes(12) + ether_type,
        NULL: family.to_bytes(4, "little"),
        LOOP: family.to_bytes(4, "big"),
        RAW: b"",
        SLL: bytes(14) + ether_type,
        SLL2: ether_type + bytes(18),
    }[link_type]
    return header + packet


def pcap(
    packets: Iterable[bytes],
    link_type: int = RAW,
    *,
    order: Order = "little",
    nanoseconds: bool = False,
    kept: int = 1 << 18,
) -> bytes:
    """Return a pcap file; `kept` is the size to which each packet is truncated."""
    sign = "<" if order == "little" else ">"
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    data = struct.pack(f"{sign}IHHiIII", magic, 2, 4, 0, 0, kept, link_type)
    for number, packet in enumerate(packets):
        frame = framed(packet, link_type)
        stored = frame[:kept]
        data += struct.pack(f"{sign}IIII", number, 0, len(stored), len(frame)) + stored
    return data


def block(kind: int, body: bytes, order: Order = "little") -> bytes:
    """Return a block of a pcapng file."""
    padded = body + bytes(-len(body) % 4)
    size = (len(padded) + 12).to_bytes(4, order)
    return kind.to_bytes(4, order) + size + padded + size


def section(order: Order = "little") -> bytes:
    """Return the block that begins a section."""
    magic = (0x1A2B3C4D).to_bytes(4, order)
    version = (1).to_bytes(2, order) + bytes(2)
    return block(0x0A0D0D0A, magic + version + b"\xff" * 8, order)


def interface(link_type: int = RAW, order: Order = "little", kept: int = 0) -> bytes:
    """Return the block that describes an interface."""
    return block(1, link_type.to_bytes(2, order) + bytes(2) + kept.to_bytes(4, order), order)


def pcapng(
    packets: Iterable[bytes],
    link_type: int = RAW,
    *,
    order: Order = "little",
    kind: int = 6,
) -> bytes:
    """Return a pcapng file; `kind` is the type of the packets' blocks: 2, 3 or 6."""
    data = section(order) + interface(link_type, order) + block(4, b"names", order)
    for packet in packets:
        frame = framed(packet, link_type)
        size = len(frame).to_bytes(4, order)
        header = size if kind == 3 else bytes(12) + size + size
        data += block(kind, header + frame, order)
    return data
