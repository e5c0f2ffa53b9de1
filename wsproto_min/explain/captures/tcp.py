"""Reassembly of TCP connections from segments in any order (RFC 9293, section 3.4).

Segments may be repeated, overlap, or come in the wrong order. A stream ends at its first missing
byte, because the bytes after it cannot be divided into frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_MODULUS = 1 << 32  # of sequence numbers
_LARGEST_WINDOW = 1 << 30  # bytes (RFC 7323, section 2.3); a number beyond it is invalid

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment.

    Attributes:
        source: Address and port of the sender.
        destination: Address and port of the receiver.
        sequence: The sequence number.
        acknowledged: The acknowledgment number, or None without ACK.
        syn: True if the segment begins its stream.
        size: The payload's size in bytes, on the wire.
        payload: The payload, possibly truncated by the capture.

    """

    source: Endpoint
    destination: Endpoint
    sequence: int
    acknowledged: int | None
    syn: bool
    size: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of one end of a connection.

    Attributes:
        source: Address and port of the sender.
        data: The bytes up to the first missing byte.
        arrivals: Pairs of an index of a segment in the capture, and the number of bytes that are
            complete with it. Both increase.
        problem: The reason for which the stream ends too early, or None.
        missing: The number of bytes that are missing at the end of `data`; 0 if unknown.
        from_start: True if the capture has the stream's SYN.

    """

    source: Endpoint
    data: bytes
    arrivals: tuple[tuple[int, int], ...]
    problem: str | None
    missing: int
    from_start: bool


@dataclass(slots=True)
class _Direction:
    """The segments of one end."""

    start: int | None = None  # sequence number of the first byte, from the SYN
    first: int | None = None  # sequence number of any segment
    segments: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)  # the last and greatest number


def connections(segments: Iterable[Segment]) -> list[tuple[Stream, Stream]]:
    """Return the streams of both ends of each connection, in the order of their first segments.

    Of two connections between the same ports, the second begins with its SYN.
    """
    found: list[dict[Endpoint, _Direction]] = []
    open_: dict[frozenset[Endpoint], dict[Endpoint, _Direction]] = {}
    for index, segment in enumerate(segments):
        key = frozenset((segment.source, segment.destination))
        start = (segment.sequence + 1) % _MODULUS
        ends = open_.get(key)
        if ends is None or (segment.syn and ends[segment.source].start not in (None, start)):
            ends = open_[key] = {segment.source: _Direction(), segment.destination: _Direction()}
            found.append(ends)
        _add(ends, index, segment)
    return [_assemble_both(ends) for ends in found]


def _add(ends: dict[Endpoint, _Direction], index: int, segment: Segment) -> None:
    direction = ends[segment.source]
    sequence = segment.sequence
    if segment.syn:
        sequence = (sequence + 1) % _MODULUS
        direction.start = sequence
    if direction.first is None:
        direction.first = sequence
    if segment.size:
        position = _difference(sequence, direction.first)
        direction.segments.append((position, index, segment.size, segment.payload))
    if segment.acknowledged is not None:
        other = ends[segment.destination]
        if not other.acknowledged:
            other.acknowledged = [segment.acknowledged]
        elif _difference(segment.acknowledged, other.acknowledged[0]) > 0:
            other.acknowledged[0] = segment.acknowledged


def _difference(sequence: int, other: int) -> int:
    """Return `sequence` - `other` as the nearest number, because sequence numbers wrap around."""
    difference = (sequence - other) % _MODULUS
    return difference - _MODULUS if difference >= _MODULUS // 2 else difference


def _assemble_both(ends: dict[Endpoint, _Direction]) -> tuple[Stream, Stream]:
    first, second = (_assemble(source, direction) for source, direction in ends.items())
    return first, second


def _assemble(source: Endpoint, direction: _Direction) -> Stream:
    """Return the stream of one end, up to its first missing or contradicting byte."""
    first = direction.first or 0
    segments = sorted(direction.segments)
    if direction.start is not None:
        origin = _difference(direction.start, first)
    else:
        origin = segments[0][0] if segments else 0
    data = bytearray()
    arrivals: list[tuple[int, int]] = []
    problem, missing, latest = None, 0, 0
    end = 0
    for position, index, size, payload in _relative(segments, origin):
        end = max(end, position + size)
        if problem is not None:
            continue
        if position > len(data):
            problem, missing = "missing from the capture", position - len(data)
            continue
        known = data[max(0, position) : position + len(payload)]
        if known != payload[max(0, -position) :][: len(known)]:
            # A probe for a dead peer repeats one byte with another value (RFC 9293, 3.8.4).
            if size > 1:
                problem = "sent twice with different values"
                del data[_first_difference(data, position, payload) :]
            continue
        if position + len(payload) > len(data):
            data += payload[len(data) - position :]
            latest = max(latest, index)
            arrivals.append((latest, len(data)))
    if direction.acknowledged and direction.first is not None:
        # The other end acknowledges a FIN like one more byte.
        seen = _difference(direction.acknowledged[0], first) - origin - 1
        if seen - end < _LARGEST_WINDOW:
            end = max(end, seen)
    if problem is None and end > len(data):
        problem, missing = "missing from the capture", end - len(data)
    complete = direction.start is not None
    return Stream(source, bytes(data), tuple(arrivals), problem, missing, complete)


def _relative(
    segments: list[tuple[int, int, int, bytes]], origin: int
) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the segments with positions in the stream."""
    for position, index, size, payload in segments:
        if position + size > origin:
            yield position - origin, index, size, payload


def _first_difference(data: bytearray, position: int, payload: bytes) -> int:
    begin = max(0, position)
    pairs = zip(data[begin:], payload[begin - position :], strict=False)
    return begin + next(index for index, (one, other) in enumerate(pairs) if one != other)
