"""The dissector: the bytes of a capture in, what they are out, and a verdict.

It finds a frame's ends with `layout` and gives the frame to a real `Connection`,
the one that would receive it: whatever is said of messages, answers and broken
rules is what that connection did. So it cannot drift from the codec. How it all
is drawn is left to `drawing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Event, Role, State
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext, Head
from wsproto_min.explain.verdict import Verdict, broken, incomplete, refused
from wsproto_min.frames import Frame, FrameDecoder
from wsproto_min.http import HeadReader
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE

# How a head begins. No lawful frame begins like any of these.
_REQUESTS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ")
_RESPONSE = b"HTTP/"
_LONGEST_WORD = 8  # bytes of the words above
_LONGEST_HEADER = 14  # bytes


@dataclass(frozen=True, slots=True)
class Part:
    """The place of a data frame in its message; sizes in bytes of payload as sent."""

    opcode: Opcode
    compressed: bool
    fragments: int  # with this one
    size: int
    last: bool


@dataclass(frozen=True, slots=True)
class FrameReport:
    """The `number`-th frame, up to the byte that breaks a rule or the end of all bytes.

    `sender` is None if it was not said and the MASK bit has not come. `event` is the
    message or control frame that it completes, `answers` what the
    receiver sends at once. `ignored` is a frame that came after a Close.
    """

    number: int
    sender: Role | None
    offset: int
    layout: FrameFields
    part: Part | None
    event: Event | None
    answers: tuple[Frame, ...]
    ignored: bool
    verdict: Verdict | None


class Dissector:
    """Explains what one end sent, or both.

        >>> dissector = Dissector(Role.CLIENT)
        >>> (frame,) = dissector.receive_data(bytes.fromhex("8185 37fa213d 7f9f4d5158"))
        >>> frame.layout.opcode_name, frame.event
        ('TEXT', 'Hello')
        >>> list(dissector.receive_eof()), dissector.verdict.result
        ([], 'valid')

    `sender` is the end that sent the bytes. With None it is a capture of both: a
    masked frame is the client's, another the server's. A request and a response
    may come first. `opening` is shared by two dissectors of one connection.
    """

    def __init__(
        self,
        sender: Role | None = None,
        *,
        opening: HandshakeContext | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
    ) -> None:
        self._sender = sender
        self._opening = opening or HandshakeContext()
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._expected_heads = [_REQUESTS, (_RESPONSE,)]
        self._directions: dict[Role, _Direction] = {}
        self._buffer = b""
        self._position = 0  # in the buffer: where the next head or frame begins
        self._offset = 0  # the same in all bytes
        self._fed = 0  # bytes of the next frame that its connection has already
        self._frames = self._messages = self._heads = self._ignored = 0
        self._end: Verdict | None = None  # what leaves nothing more to be explained

    @property
    def verdict(self) -> Verdict:
        """What is to be said of all bytes so far."""
        if self._end is not None:
            return self._end
        for sender, direction in self._directions.items():
            if direction.part is not None:
                return incomplete(
                    f"the {sender.value}'s message waits for its last fragment",
                    6 if sender is Role.CLIENT else 2,
                    at_least=True,
                )
        counts = [_count(self._heads, "head")] if self._heads else []
        counts += [_count(self._frames, "frame"), _count(self._messages, "message")]
        ignored = f"; {_count(self._ignored, 'frame')} after a Close" if self._ignored else ""
        return Verdict("valid", ", ".join(counts) + ignored)

    def receive_data(self, data: bytes) -> Iterator[Head | FrameReport]:
        """Yield the heads and frames that `data` completes; nothing after a broken rule."""
        self._buffer = self._buffer[self._position :] + data
        self._position = 0
        return self._take(ended=False)

    def receive_eof(self) -> Iterator[Head | FrameReport]:
        """Yield what the end cut off."""
        return self._take(ended=True)

    def _take(self, *, ended: bool) -> Iterator[Head | FrameReport]:
        while self._position < len(self._buffer) and self._end is None:
            kind = self._head_kind(ended)
            seen = self._take_frame(ended) if kind is None else self._take_head(kind, ended)
            if seen is None:
                return
            self._end = seen.verdict
            yield seen

    def _head_kind(self, ended: bool) -> bytes | None:
        """Return how the head begins that comes next, or None if it is a frame."""
        begin = self._rest(_LONGEST_WORD)
        for words in self._expected_heads:
            for word in words:
                if begin.startswith(word) or (not ended and word.startswith(begin)):
                    return word
        return None

    def _rest(self, size: int | None = None) -> bytes:
        """Return the first `size` bytes of what is not explained yet, or all of it."""
        return self._buffer[self._position : None if size is None else self._position + size]

    def _take_head(self, kind: bytes, ended: bool) -> Head | None:
        try:
            whole = HeadReader().receive_data(self._rest())
        except HandshakeError as error:
            self._end = refused(error, self._offset, by_server=kind != _RESPONSE)
            return None
        if whole is None:
            if ended:
                self._end = incomplete("the head has no empty line at its end", 2, at_least=True)
            return None
        is_response = kind == _RESPONSE
        self._expected_heads = [] if is_response else [(_RESPONSE,)]
        read = self._opening.read_response if is_response else self._opening.read_request
        seen = read(whole[0], self._offset)
        self._position += seen.size
        self._offset += seen.size
        self._heads += 1
        return seen

    def _take_frame(self, ended: bool) -> FrameReport | None:
        self._expected_heads = []
        begin = FrameFields(self._rest(_LONGEST_HEADER))
        if self._sender is None and begin.masked is None and not ended:
            return None
        frame = FrameFields(self._rest(begin.size))
        sender = self._sender or (Role.SERVER if frame.masked is False else Role.CLIENT)
        direction = self._direction(sender)
        ignored = direction.connection.state is State.CLOSED
        event = direction.receive(frame.data[self._fed :])
        self._fed += direction.taken
        error = direction.connection.error
        verdict = None
        if error is not None:
            frame = FrameFields(frame.data[: self._fed])
            verdict = broken(error, self._offset + self._fed - 1)
        elif frame.remaining:
            if not ended:
                return None
            what = f"the {frame.opcode_name} frame at byte {self._offset} is cut off"
            verdict = incomplete(what, frame.remaining, at_least=frame.length is None)
        part = None if ignored or error is not None else direction.place(frame)
        answers = direction.answers()
        self._frames += 1
        seen = FrameReport(
            self._frames,
            None if self._sender is None and begin.masked is None else sender,
            self._offset,
            frame,
            part,
            event,
            answers,
            ignored,
            verdict,
        )
        self._position += len(frame.data)
        self._offset += len(frame.data)
        self._fed = 0
        self._ignored += ignored
        self._messages += isinstance(event, str | bytes)
        return seen

    def _direction(self, sender: Role) -> _Direction:
        direction = self._directions.get(sender)
        if direction is None:
            receiver = Role.SERVER if sender is Role.CLIENT else Role.CLIENT
            connection = Connection(
                receiver,
                compression=self._opening.compression,
                max_message_size=self._max_message_size,
                max_fragments=self._max_fragments,
            )
            direction = self._directions[sender] = _Direction(connection)
        return direction


class _Direction:
    """What one end sent, and the connection that receives it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.taken = 0  # bytes of what was given last, up to an error
        self.part: Part | None = None  # of the message under way

    def receive(self, data: bytes) -> Event | None:
        """Give the connection bytes of one frame; return what they complete.

        After an error `taken` tells its byte, which is looked for by halving: any
        split of the bytes gives the same result.
        """
        self.taken = len(data)
        probe = deepcopy(self.connection)
        events = list(probe.receive_data(data))
        if probe.error is None:
            self.connection = probe
            return events[0] if events else None
        good, self.taken = 0, len(data)
        while self.taken - good > 1:
            middle = (good + self.taken) // 2
            probe = deepcopy(self.connection)
            list(probe.receive_data(data[good:middle]))
            if probe.error is None:
                self.connection, good = probe, middle
            else:
                self.taken = middle
        list(self.connection.receive_data(data[good : self.taken]))
        return None

    def place(self, frame: FrameFields) -> Part | None:
        """Return the place of a data frame in its message, and keep it in mind."""
        if frame.is_control:
            return None
        before = self.part
        size = len(frame.wire_payload)
        part = Part(
            Opcode(frame.opcode) if before is None else before.opcode,
            frame.rsv[0] if before is None else before.compressed,
            1 if before is None else before.fragments + 1,
            size if before is None else before.size + size,
            frame.fin and not frame.remaining,
        )
        self.part = None if part.last else part
        return part

    def answers(self) -> tuple[Frame, ...]:
        """Return the frames that the connection has to send."""
        decoder = FrameDecoder(rsv1_allowed=True)
        decoder.receive_data(self.connection.data_to_send())
        return tuple(iter(decoder.next_frame, None))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
