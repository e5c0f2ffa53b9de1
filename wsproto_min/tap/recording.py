"""Recording of the tapped connections in a pcap file, which `explain --file` reads.

Each WebSocket connection becomes a TCP connection between the client and the tap. Its packets are
synthetic: raw IP (link type 101) with the three-way handshake, sequence numbers, FIN and RST of
RFC 9293, section 3. The bytes are without TLS, and the head is as the client sent it.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from wsproto_min.connection import Role
from wsproto_min.explain.captures.reader import MAX_CAPTURE_SIZE

MAX_SEGMENT = 1 << 15
"""Payload bytes of the largest packet. The header of IPv4 allows 65,535 for the whole packet."""

HEADER_SIZE = 24
"""Size of a pcap file's header in bytes."""

_RAW_IP = 101
_MAGIC, _VERSION = 0xA1B2C3D4, (2, 4)  # times in microseconds
_NANOSECOND_MAGIC = 0xA1B23C4D
_FIN, _SYN, _RST, _PSH, _ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_TCP = 6
_MODULUS = 1 << 32
# Two connections between the same ports differ in their first sequence numbers, so that a reader
# can tell them apart.
_FIRST_SEQUENCE_STEP = 64_000

Endpoint = tuple[str, int]
"""An IPv4 address and a port."""


class Writer(Protocol):
    """A file without a buffer."""

    def write(self, data: bytes, /) -> int:
        """Write the bytes that fit, and return their number. Raises `OSError`."""

    def truncate(self, size: int, /) -> int:
        """Cut the file back to `size` bytes. Raises `OSError`."""


class Recording:
    """A pcap file that grows with each packet.

    Each packet goes to the system at once, so a tap that is killed leaves a readable file.

    Args:
        file: An empty file, opened for writing without a buffer.
        on_failure: Called once if the file takes no more bytes. Recording then stops, and the
            file ends with its last whole packet.
        on_large: Called once when the file is larger than `explain` reads.

    """

    def __init__(
        self,
        file: Writer,
        on_failure: Callable[[OSError], None],
        on_large: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._on_failure = on_failure
        self._on_large = on_large
        self._failed = False
        self._size = 0  # bytes of the header and of whole packets
        self._connections = 0
        self._write(struct.pack("<IHHiIII", _MAGIC, *_VERSION, 0, 0, 1 << 18, _RAW_IP))

    def connection(self, client: Endpoint, server: Endpoint) -> RecordedConnection:
        """Return a new connection of the file; its three packets of the TCP handshake are in it."""
        self._connections += 1
        return RecordedConnection(self, client, server, self._connections * _FIRST_SEQUENCE_STEP)

    def add_packets(self, packets: list[bytes]) -> None:
        """Write packets with the current time."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        for packet in packets:
            size = len(packet)
            header = struct.pack("<IIII", seconds, nanoseconds // 1000, size, size)
            self._write(header + packet)

    def _write(self, data: bytes) -> None:
        """Write the header of the file, or one packet."""
        if self._failed:
            return
        rest = data
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # a full disk may take only a part
        except OSError as error:
            self._failed = True
            with suppress(OSError):  # a device cannot be cut
                self._file.truncate(self._size)
            self._on_failure(error)
            return
        before, self._size = self._size, self._size + len(data)
        if before <= MAX_CAPTURE_SIZE < self._size:
            self._on_large()


def is_recording(start: bytes) -> bool:
    """Return True if a file begins as a pcap file of raw IP packets.

    Args:
        start: The first HEADER_SIZE bytes of the file.

    """
    return any(
        len(start) == HEADER_SIZE
        and struct.unpack_from(f"{order}I", start)[0] in (_MAGIC, _NANOSECOND_MAGIC)
        and struct.unpack_from(f"{order}I", start, 20)[0] == _RAW_IP
        for order in "<>"
    )


class RecordedConnection:
    """A TCP connection of the file.

    Args:
        recording: The file.
        client: Endpoint of the client.
        server: Endpoint of the tap.
        first: First sequence number of both ends.

    """

    def __init__(
        self, recording: Recording, client: Endpoint, server: Endpoint, first: int
    ) -> None:
        self._recording = recording
        self._ends = {
            Role.CLIENT: (client, server),
            Role.SERVER: (server, client),
        }
        self._next = dict.fromkeys(Role, first)  # sequence numbers
        packets = [self._packet(Role.CLIENT, _SYN)]
        self._next[Role.CLIENT] += 1
        packets.append(self._packet(Role.SERVER, _SYN | _ACK))
        self._next[Role.SERVER] += 1
        packets.append(self._packet(Role.CLIENT, _ACK))
        recording.add_packets(packets)

    def data(self, sender: Role, data: bytes) -> None:
        """Record bytes, in segments."""
        packets = []
        for begin in range(0, len(data), MAX_SEGMENT):
            segment = data[begin : begin + MAX_SEGMENT]
            packets.append(self._packet(sender, _PSH | _ACK, segment))
            self._next[sender] += len(segment)
        self._recording.add_packets(packets)

    def end(self, sender: Role) -> None:
        """Record the end of a stream."""
        self._recording.add_packets([self._packet(sender, _FIN | _ACK)])
        self._next[sender] += 1

    def reset(self, sender: Role) -> None:
        """Record that one end has reset the connection."""
        self._recording.add_packets([self._packet(sender, _RST | _ACK)])

    def _packet(self, sender: Role, flags: int, payload: bytes = b"") -> bytes:
        """Return a packet with the next sequence number; it acknowledges all earlier bytes."""
        (source, source_port), (destination, destination_port) = self._ends[sender]
        receiver = Role.SERVER if sender is Role.CLIENT else Role.CLIENT
        acknowledged = self._next[receiver] % _MODULUS if flags & _ACK else 0
        tcp = struct.pack(
            ">HHIIBBHHH",
            source_port,
            destination_port,
            self._next[sender] % _MODULUS,
            acknowledged,
            5 << 4,  # size of this header in words of 32 bits
            flags,
            0xFFFF,  # window
            0,  # checksum: as if the network card computed it later
            0,
        )
        addresses = socket.inet_aton(source) + socket.inet_aton(destination)
        size = 20 + len(tcp) + len(payload)
        ip = struct.pack(">BBHHHBB", 0x45, 0, size, 0, 0x4000, 64, _TCP)
        return ip + _checksum(ip + addresses) + addresses + tcp + payload


def _checksum(header: bytes) -> bytes:
    """Return the checksum of an IPv4 header without its checksum (RFC 791, section 3.1)."""
    words: tuple[int, ...] = struct.unpack(f">{len(header) // 2}H", header)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
