"""Frames as they come from a peer, for both roles, compressed and not.

The first byte chooses the role, what was agreed of compression, and what else is
held against a `Connection`: one thing at a time, to try more inputs in a second.
The second byte is the size of pieces, the rest what arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.fuzz import cut
from tests.reference import Decoded, ReferenceFrame, reference_decode
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Pong, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ProtocolError
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.render_text import conclude, draw
from wsproto_min.explain.style import plain
from wsproto_min.frames import FrameDecoder, parse_close
from wsproto_min.messages import MessageAssembler
from wsproto_min.testing.strategies import (
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    VIOLATIONS,
    wire,
)

AGREED = (None, DeflateParameters.NO_CONTEXT_TAKEOVER, DeflateParameters.DEFAULT)
# Longer inputs take the reference decoder too long.
REFERENCE_UP_TO = 40
# The first byte's other bits: what to compare with.
PIECES, PARTS, REFERENCE, ANSWER, DISSECTOR = 0x00, 0x08, 0x10, 0x18, 0x20
COMPARISON = 0x38


@dataclass(frozen=True)
class Outcome:
    """What came of some bytes; `code` and `reason` are those of a violation."""

    events: Sequence[Event]
    code: int | None
    reason: str | None


def check(data: bytes) -> None:
    """Raise `AssertionError` if two ways to read the same bytes differ."""
    options = data[0] if data else 0
    size = 1 + data[1] % 64 if len(data) > 1 else 1
    received = data[2:]
    role = Role.SERVER if options & 1 else Role.CLIENT
    agreed = AGREED[(options >> 1) % len(AGREED)]
    whole, answer = by_connection(role, agreed, [received])
    comparison = options & COMPARISON
    if comparison == PIECES:
        in_pieces, answer_to_pieces = by_connection(role, agreed, cut(received, size))
        assert in_pieces == whole
        if role is Role.SERVER:  # a client's masks differ from time to time
            assert answer == answer_to_pieces
    elif comparison == PARTS:
        assert by_parts(role, agreed, received) == whole
    elif comparison == REFERENCE:
        check_against_reference(role, received[:REFERENCE_UP_TO])
    elif comparison == ANSWER:
        other = Role.CLIENT if role is Role.SERVER else Role.SERVER
        understood, _ = by_connection(other, agreed, [answer])
        assert understood.code is None, f"the answer {answer.hex(' ')} is faulty"
        pongs = [event.payload for event in understood.events if isinstance(event, Pong)]
        assert pongs == [event.payload for event in whole.events if isinstance(event, Ping)]
    else:
        sender = Role.CLIENT if role is Role.SERVER else Role.SERVER
        assert explained(sender, cut(received, size)) == explained(sender, [received])


def by_connection(
    role: Role, agreed: DeflateParameters | None, pieces: Sequence[bytes]
) -> tuple[Outcome, bytes]:
    """Return what a `Connection` makes of the pieces, and its answer."""
    connection = Connection(
        role,
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
        compression=agreed,
    )
    events = [event for piece in pieces for event in connection.receive_data(piece)]
    error = connection.error
    if error is None:
        return Outcome(events, None, None), connection.data_to_send()
    assert connection.state is State.CLOSED
    assert connection.close_sent is not None
    assert connection.close_sent.code == error.code
    return Outcome(events, error.code, error.reason), connection.data_to_send()


def by_parts(role: Role, agreed: DeflateParameters | None, received: bytes) -> Outcome:
    """Return what a decoder and an assembler make of it, with no shorter way."""
    is_server = role is Role.SERVER
    decoder = FrameDecoder(masked=is_server, rsv1_allowed=agreed is not None)
    assembler = MessageAssembler(
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
        context_takeover=agreed is not None and agreed.context_takeover(server=not is_server),
    )
    events: list[Event] = []
    decoder.receive_data(received)
    try:
        while (frame := decoder.next_frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                events.append(Close(*parse_close(frame.payload)))
                break
            if frame.opcode is Opcode.PING:
                events.append(Ping(frame.payload))
            elif frame.opcode is Opcode.PONG:
                events.append(Pong(frame.payload))
            elif (message := assembler.receive_frame(frame)) is not None:
                events.append(message)
    except ProtocolError as error:
        return Outcome(events, error.code, error.reason)
    return Outcome(events, None, None)


def explained(sender: Role, pieces: Sequence[bytes]) -> list[str]:
    """Return what a person is told of the pieces, which must be fit for a terminal."""
    dissector = Dissector(sender)
    seen = [each for piece in pieces for each in dissector.receive_data(piece)]
    seen += dissector.receive_eof()
    lines = [line for each in seen for line in draw(each, plain)]
    lines += conclude(dissector.verdict)
    assert all(line.isprintable() for line in lines)
    return lines


def check_against_reference(role: Role, received: bytes) -> None:
    """Raise `AssertionError` unless the decoder agrees with the slow one."""
    masked = role is Role.SERVER
    decoder = FrameDecoder(masked=masked)
    decoder.receive_data(received)
    frames: list[ReferenceFrame] = []
    broken = None
    try:
        while (frame := decoder.next_frame()) is not None:
            rsv = (int(frame.rsv1), int(frame.rsv2), int(frame.rsv3))
            frames.append(
                ReferenceFrame(
                    int(frame.fin), rsv, frame.opcode, frame.mask, frame.length, frame.payload
                )
            )
    except ProtocolError as error:
        broken = error.reason.rpartition("RFC 6455, ")[2].rstrip(")")
    assert Decoded(frames, broken) == reference_decode(received, masked=masked)


GOOD = (
    "81 05 . 48656c6c6f",
    "01 03 . 48656c | 89 02 . 6869 | 80 02 . 6c6f",
    "82 7e 0080 . " + "61" * 128,
    "81 04 . f09f9880 | 8a 00 . | 88 04 . 03e8 6f6b",
    "01 01 . c3 | 80 01 . a9 | 82 00 .",
)
GOOD_COMPRESSED = (
    "c1 07 . f248cdc9c90700",
    "c1 07 . f248cdc9c90700 | c1 05 . f200110000",
    "41 03 . f248cd | 89 00 . | 80 04 . c9c90700",
    "c2 0b . 00 0500 faff 48656c6c6f | 81 01 . 61",
)


def seeds() -> Iterator[bytes]:
    """Yield every violation and some good traffic, under all options that fit them."""
    for comparison in (PIECES, PARTS, REFERENCE, ANSWER, DISSECTOR):
        for violation in VIOLATIONS:
            yield bytes((comparison | (violation.role == "server"), 0)) + violation.data
        for is_server in (False, True):
            for notation in GOOD:
                yield bytes((comparison | is_server, 2)) + wire(notation, masked=is_server)
    for comparison in (PIECES, PARTS):
        for agreed in (1, 2):
            options = comparison | agreed << 1
            for violation in DEFLATE_VIOLATIONS:
                yield bytes((options | (violation.role == "server"), 6)) + violation.data
            for is_server in (False, True):
                for notation in GOOD_COMPRESSED:
                    yield bytes((options | is_server, 2)) + wire(notation, masked=is_server)
