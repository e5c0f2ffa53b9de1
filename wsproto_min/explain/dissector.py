"""Dissector: explains captured bytes of one or both ends, and gives a verdict.

A capture may begin with the opening handshake. For each direction, a real `Connection` receives
the frames. It decides which messages, replies and errors there are, so that `explain` always
agrees with the codec. Modules `render_text` and `render_json` show the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wsproto_min.connection import Close, Connection, Event, Role
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.direction import Direction, FragmentInfo
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext, HandshakeLines
from wsproto_min.explain.verdict import Counts, Verdict, broken, incomplete, refused, valid
from wsproto_min.frames import Frame
from wsproto_min.http_reader import HeadReader
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE

# First bytes of a head. A frame that begins with one of these bytes breaks a rule.
_REQUESTS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ")
_RESPONSE = b"HTTP/"
_LONGEST_WORD = 8  # bytes
_LONGEST_HEADER = 14  # bytes, section 5.2


@dataclass(frozen=True, slots=True)
class FrameReport:
    """The explanation of one frame, up to its end or to the byte that breaks a rule.

    Attributes:
        number: The frame's number in the capture, from 1.
        sender: The end that sent the frame, or None if unknown because the MASK bit is missing.
        offset: Index of the frame's first byte in the capture.
        fields: The frame's fields.
        fragment: The position of a data frame in its message; None for other frames.
        event: The message or control frame that this frame completes.
        replies: The frames that the receiver sends at once.
        ignored: True for a frame after a Close frame.
        verdict: None if the frame is valid and complete.

    """

    number: int
    sender: Role | None
    offset: int
    fields: FrameFields
    fragment: FragmentInfo | None
    event: Event | None
    replies: tuple[Frame, ...]
    ignored: bool
    verdict: Verdict | None


class Dissector:
    """Explains the bytes of one end, or a capture of both ends.

    >>> dissector = Dissector(Role.CLIENT)
    >>> dissector.receive_data(bytes.fromhex("8185 37fa213d 7f9f4d5158"))
    >>> frame = dissector.next_event()
    >>> frame.fields.opcode_name, frame.event
    ('TEXT', 'Hello')
    >>> dissector.receive_eof()
    >>> dissector.next_event(), dissector.verdict.result
    (None, 'valid')

    Args:
        sender: The end that sent the bytes. None for a capture of both ends: then a masked frame
            is the client's, any other frame the server's.
        context: The handshake's state. Two dissectors of one connection share it.
        max_message_size: The receiver's limit in bytes.
        max_fragments: The receiver's limit on the fragments of a message.

    """

    def __init__(
        self,
        sender: Role | None = None,
        *,
        context: HandshakeContext | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
    ) -> None:
        self._sender = sender
        self._context = context or HandshakeContext()
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._expected_heads = [_REQUESTS, (_RESPONSE,)]
        self._directions: dict[Role, Direction] = {}
        self._buffer = bytearray()  # from the next head or frame on
        self._offset = 0  # index of the buffer's first byte in the capture
        self._eof = False
        self._frames = self._messages = self._heads = self._ignored = 0
        self._compressed = False  # True after a frame with RSV1
        self._final: Verdict | None = None  # after it nothing is explained

    @property
    def verdict(self) -> Verdict:
        """The verdict on all bytes that `next_event` has returned."""
        if self._final is not None:
            return self._final
        for sender, direction in self._directions.items():
            if direction.unfinished is not None:
                return incomplete(
                    f"the {sender.value}'s message waits for its last fragment",
                    6 if sender is Role.CLIENT else 2,
                    at_least=True,
                )
        return valid(self.counts)

    @property
    def counts(self) -> Counts:
        """The numbers of heads, frames and messages that `next_event` has returned."""
        assumed = self._compressed and self._context.assumes_compression
        return Counts(self._heads, self._frames, self._messages, self._ignored, assumed)

    def receive_data(self, data: bytes) -> None:
        """Store captured bytes."""
        self._buffer += data

    def receive_eof(self) -> None:
        """Record the end of the capture: `next_event` then returns incomplete frames, too."""
        self._eof = True

    def next_event(self) -> HandshakeLines | FrameReport | None:
        """Return the next head or frame, or None if more data is needed.

        After a head or frame with a verdict there are no more events.
        """
        if not self._buffer or self._final is not None:
            return None
        head_start = self._head_start()
        event = self._next_frame() if head_start is None else self._next_head(head_start)
        if event is not None:
            self._final = event.verdict
        return event

    def events(self) -> Iterator[HandshakeLines | FrameReport]:
        """Yield the heads and frames that are complete."""
        while (event := self.next_event()) is not None:
            yield event

    def _head_start(self) -> bytes | None:
        """Return the first word of the head that comes next, or None if a frame comes."""
        begin = bytes(self._buffer[:_LONGEST_WORD])
        for words in self._expected_heads:
            for word in words:
                if begin.startswith(word) or (not self._eof and word.startswith(begin)):
                    return word
        return None

    def _next_head(self, start: bytes) -> HandshakeLines | None:
        is_response = start == _RESPONSE
        reader = HeadReader()
        reader.receive_data(bytes(self._buffer))
        try:
            head = reader.next_head()
        except HandshakeError as error:
            self._final = refused(error, self._offset, by_server=not is_response)
            return None
        if head is None:
            if self._eof:
                reason = "the head has no empty line at its end"
                self._final = incomplete(reason, 2, at_least=True)
            return None
        context = self._context
        explain = context.explain_response if is_response else context.explain_request
        lines = explain(head, self._offset)
        if lines.kind == "response" and self._sender is not None:
            self._expected_heads = []
        elif lines.kind != "interim response":
            self._expected_heads.remove((_RESPONSE,) if is_response else _REQUESTS)
        self._heads += 1
        self._consume(lines.size)
        return lines

    def _next_frame(self) -> FrameReport | None:
        if self._sender is not None:
            self._expected_heads = []
        self._context.assume_response()
        header = FrameFields(bytes(self._buffer[:_LONGEST_HEADER]))
        if self._sender is None and header.masked is None and not self._eof:
            return None
        frame = FrameFields(bytes(self._buffer[: header.size]))
        sender = self._sender or (Role.SERVER if frame.masked is False else Role.CLIENT)
        direction = self._direction(sender)
        connection = direction.connection
        ignored = connection.close_received is not None
        event = direction.receive(frame)
        fed = direction.fed
        verdict = None
        if connection.error is not None:
            frame = FrameFields(frame.data[:fed])
            verdict = broken(connection.error, self._offset + fed - 1)
        elif frame.remaining:
            if not self._eof:
                return None
            reason = f"the {frame.opcode_name} frame at byte {self._offset} is incomplete"
            verdict = incomplete(reason, frame.remaining, at_least=frame.length is None)
        in_message = not ignored and connection.error is None
        self._frames += 1
        report = FrameReport(
            number=self._frames,
            sender=None if self._sender is None and header.masked is None else sender,
            offset=self._offset,
            fields=frame,
            fragment=direction.add_fragment(frame) if in_message else None,
            event=event,
            replies=self._replies(sender, direction, event),
            ignored=ignored,
            verdict=verdict,
        )
        direction.fed = 0
        self._ignored += ignored
        self._compressed = self._compressed or frame.rsv[0]
        self._messages += isinstance(event, str | bytes)
        self._consume(len(frame.data))
        return report

    def _replies(
        self, sender: Role, direction: Direction, event: Event | None
    ) -> tuple[Frame, ...]:
        """Return the receiver's frames. It sends no second Close if the capture has its first."""
        replies = direction.replies()
        if isinstance(event, Close):
            if self._context.closed_by - {sender}:
                replies = ()
            self._context.closed_by.add(sender)
        return replies

    def _consume(self, size: int) -> None:
        del self._buffer[:size]
        self._offset += size

    def _direction(self, sender: Role) -> Direction:
        direction = self._directions.get(sender)
        if direction is None:
            receiver = Role.SERVER if sender is Role.CLIENT else Role.CLIENT
            connection = Connection(
                receiver,
                compression=self._context.compression,
                max_message_size=self._max_message_size,
                max_fragments=self._max_fragments,
            )
            direction = self._directions[sender] = Direction(connection)
        return direction
