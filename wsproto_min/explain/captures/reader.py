"""Recognition of capture files by their content, and the connections in them."""

from __future__ import annotations

from collections import Counter

from wsproto_min.explain.captures.conversation import (
    Conversation,
    HarConversation,
    Skipped,
    conversation,
)
from wsproto_min.explain.captures.follow import is_follow, read_follow
from wsproto_min.explain.captures.har import is_har, read_har
from wsproto_min.explain.captures.pcap import is_pcap, read_segments
from wsproto_min.explain.captures.tcp import connections

MAX_CAPTURE_SIZE = 1 << 25
"""Size of the largest input in bytes. The readers hold a capture in memory."""

# Beginnings of other files. No valid frame begins like one.
_OTHER_FORMATS = {
    b"\x1f\x8b\x08": "compressed with gzip; unpack it with gunzip",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with unzstd",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"snoop\x00\x00\x00": "a capture of snoop; convert it with editcap -F pcap",
    b"RTSS": "a capture of Network Monitor; convert it with editcap -F pcap",
    b"GMBU": "a capture of Network Monitor; convert it with editcap -F pcap",
}


def is_capture(data: bytes) -> bool:
    """Return True if `data` is a pcap, pcapng or HAR file, or output of tshark.

    Raises:
        ValueError: `data` is a file of another known format.

    """
    for start, problem in _OTHER_FORMATS.items():
        if data.startswith(start):
            raise ValueError(f"input is {problem}")
    return is_pcap(data) or is_har(data) or is_follow(data)


def read_capture(data: bytes) -> tuple[list[Conversation | HarConversation], list[Skipped]]:
    """Return the WebSocket connections of a capture file, and the other connections.

    Raises:
        ValueError: The file is corrupt or has no WebSocket connection.

    """
    found: list[Conversation | HarConversation] = []
    skipped: list[Skipped] = []
    if is_har(data):
        found += read_har(data)
    else:
        pairs = read_follow(data) if is_follow(data) else connections(read_segments(data))
        for ends in pairs:
            each = conversation(ends)
            if isinstance(each, Skipped):
                skipped.append(each)
            else:
                found.append(each)
    if not found:
        counts = Counter(each.reason for each in skipped)
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts.items())
        others = f", only others: {reasons}" if reasons else ""
        raise ValueError(
            f"capture: there is no WebSocket connection in it{others}; "
            "record from before the handshake on, without TLS"
        )
    return found, skipped
