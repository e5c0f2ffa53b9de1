"""One direction of a capture: a real `Connection` receives the frames of one end."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterator
from dataclasses import dataclass

from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Event
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.frames import Frame, FrameDecoder

MAX_EXACT = 1024
"""Payload bytes up to which a compressed frame is decompressed byte by byte."""


@dataclass(frozen=True, slots=True)
class FragmentInfo:
    """The position of a data frame in its message.

    Attributes:
        opcode: The message's opcode, from its first frame.
        compressed: True if the message is compressed.
        fragments: The number of frames, up to and including this one.
        size: The payload bytes on the wire, up to and including this frame.
        last: True if the message is complete.

    """

    opcode: Opcode
    compressed: bool
    fragments: int
    size: int
    last: bool


class Direction:
    """The frames of one end, and the connection that receives them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.fed: int = 0  # bytes of the current frame that the connection has received
        self.unfinished: FragmentInfo | None = None  # of the message in progress

    def receive(self, frame: FrameFields) -> Event | None:
        """Feed the connection with the frame's next bytes; return the event they complete.

        After a violation, `fed` ends at the byte that shows it. In a compressed frame with more
        than `MAX_EXACT` bytes, `fed` ends at the last byte that has arrived: decompressing byte by
        byte costs too much.
        """
        event = None
        for end in self._chunk_ends(frame):
            self.connection.receive_data(frame.data[self.fed : end])
            self.fed = end
            event = self.connection.next_event()
            if self.connection.error is not None:
                return None
        return event

    def _chunk_ends(self, frame: FrameFields) -> Iterator[int]:
        """Yield the ends of the next chunks, so that a violation is in a chunk's last byte."""
        begin, available = frame.header_size, len(frame.data)
        yield from range(self.fed + 1, min(begin, available) + 1)
        first = self.unfinished
        opcode = frame.opcode if first is None or frame.is_control else first.opcode
        compressed = frame.rsv[0] if first is None else first.compressed
        if opcode == Opcode.TEXT and not compressed:
            for end in _text_ends(frame.payload, max(0, self.fed - begin)):
                yield begin + end
        elif available > begin:
            is_exact = (frame.length or 0) <= MAX_EXACT
            yield from range(max(begin, self.fed) + 1, available) if is_exact else ()
            yield available

    def add_fragment(self, frame: FrameFields) -> FragmentInfo | None:
        """Return the position of a data frame in its message, and remember it."""
        if frame.is_control:
            return None
        first = self.unfinished
        size = len(frame.wire_payload)
        fragment = FragmentInfo(
            opcode=Opcode(frame.opcode) if first is None else first.opcode,
            compressed=frame.rsv[0] if first is None else first.compressed,
            fragments=1 if first is None else first.fragments + 1,
            size=size if first is None else first.size + size,
            last=frame.fin and not frame.remaining,
        )
        self.unfinished = None if fragment.last else fragment
        return fragment

    def replies(self) -> tuple[Frame, ...]:
        """Return the frames that the connection sends."""
        decoder = FrameDecoder(rsv1_allowed=True)
        decoder.receive_data(self.connection.data_to_send())
        return tuple(iter(decoder.next_frame, None))


def _text_ends(text: bytes, start: int) -> Iterator[int]:
    """Yield the ends of chunks of `text`, so that an error of UTF-8 is in a chunk's last byte.

    The bytes before `start` are already fed and may end within a character.
    """
    end = start
    begins_character = False
    while end < len(text) and not begins_character:
        begins_character = text[end] & 0b1100_0000 != 0b1000_0000
        end += 1
        yield end
    first = end - 1  # the byte that begins a character
    try:
        _, valid = utf_8_decode(text[first:], "strict", False)
    except UnicodeDecodeError as error:
        valid = error.start
    if first + valid > end:
        end = first + valid
        yield end
    yield from range(end + 1, len(text) + 1)
