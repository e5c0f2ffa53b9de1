"""Fuzz target: frames from a peer, for both roles, with compression and without.

The first byte of an input chooses the role, the negotiated compression and one comparison.
A single comparison per input keeps the fuzzer fast. The second byte is the size of the first
chunks and the number of the frame to render. The rest is the received data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from tests.fuzz.splits import first_chunks_of, splits_may_violate
from tests.reference import Decoded, ReferenceFrame, reference_decode
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Pong, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ProtocolError
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import plain
from wsproto_min.explain.verdict import Verdict
from wsproto_min.frames import FrameDecoder, parse_close
from wsproto_min.messages import MessageAssembler
from wsproto_min.rules import Rule
from wsproto_min.testing.raw_frame import parse_frame_notation
from wsproto_min.testing.violations import (
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    VIOLATIONS,
)

COMPRESSIONS = (None, DeflateParameters.NO_CONTEXT_TAKEOVER, DeflateParameters.DEFAULT)
# Bytes; the reference decoder is too slow for longer inputs.
REFERENCE_LIMIT = 40
# Frames of an input that are dissected; a dissector takes 20 times as long as a decoder.
DISSECTOR_LIMIT = 4
# The comparison, bits 3 to 5 of the first byte.
CHUNKS, PARTS, REFERENCE, REPLIES, DISSECTOR = 0x00, 0x08, 0x10, 0x18, 0x20
COMPARISON = 0x38


@dataclass(frozen=True)
class Outcome:
    """The events of an input, and the first rule that it violates."""

    events: Sequence[Event]
    rule: Rule | None


def check(data: bytes) -> None:
    """Raise `AssertionError` if two ways to read the same bytes differ."""
    options = data[0] if data else 0
    size = 1 + data[1] % 64 if len(data) > 1 else 1
    received = data[2:]
    role = Role.SERVER if options & 1 else Role.CLIENT
    compression = COMPRESSIONS[(options >> 1) % len(COMPRESSIONS)]
    comparison = options & COMPARISON
    if comparison == REFERENCE:
        check_against_reference(role, received[:REFERENCE_LIMIT])
    elif comparison == DISSECTOR:
        sender = Role.CLIENT if role is Role.SERVER else Role.SERVER
        check_dissector(sender, received, size)
    else:
        whole, replies = by_connection(role, compression, [received])
        if comparison == PARTS:
            assert by_parts(role, compression, received) == whole
        elif comparison == REPLIES:
            check_replies(role, compression, whole, replies)
        else:
            check_chunks(role, compression, whole, replies, first_chunks_of(received, size))


def check_chunks(
    role: Role,
    compression: DeflateParameters | None,
    whole: Outcome,
    replies: bytes,
    chunks: Sequence[bytes],
) -> None:
    """Raise `AssertionError` unless the chunks have the outcome of the whole input."""
    in_chunks, replies_to_chunks = by_connection(role, compression, chunks)
    assert splits_may_violate(in_chunks.rule, whole.rule)
    if in_chunks.rule is not whole.rule:
        assert in_chunks.events[:-1] == whole.events[:-1]
        return
    assert in_chunks == whole
    if role is Role.SERVER:  # a client's masking keys are random
        assert replies == replies_to_chunks


def check_replies(
    role: Role, compression: DeflateParameters | None, whole: Outcome, replies: bytes
) -> None:
    """Raise `AssertionError` unless the other end accepts the replies and gets every Pong."""
    other = Role.CLIENT if role is Role.SERVER else Role.SERVER
    understood, _ = by_connection(other, compression, [replies])
    assert understood.rule is None, f"the replies {replies.hex(' ')} violates {understood.rule}"
    pongs = [event.payload for event in understood.events if isinstance(event, Pong)]
    assert pongs == [event.payload for event in whole.events if isinstance(event, Ping)]


def by_connection(
    role: Role, compression: DeflateParameters | None, chunks: Sequence[bytes]
) -> tuple[Outcome, bytes]:
    """Return the outcome of a `Connection` that receives the chunks, and its replies."""
    connection = Connection(
        role,
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
        compression=compression,
    )
    events: list[Event] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        events += iter(connection.next_event, None)
    error = connection.error
    if error is None:
        return Outcome(events, None), connection.data_to_send()
    assert connection.state is State.FLUSHING
    assert events[-1] == connection.close_sent
    return Outcome(events, error.rule), connection.data_to_send()


def by_parts(role: Role, compression: DeflateParameters | None, received: bytes) -> Outcome:
    """Return the outcome of a decoder and an assembler, without a fast path."""
    is_server = role is Role.SERVER
    decoder = FrameDecoder(masked=is_server, rsv1_allowed=compression is not None)
    assembler = MessageAssembler(
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
        context_takeover=compression is not None
        and compression.context_takeover(server=not is_server),
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
        events.append(Close(error.code, error.reason))
        return Outcome(events, error.rule)
    return Outcome(events, None)


def check_dissector(sender: Role, received: bytes, size: int) -> None:
    """Raise `AssertionError` if chunks change a report, or a terminal cannot print it.

    Rendering takes most of the time. So an input has one report rendered, which `size` chooses.
    """
    reports, verdict = dissected(sender, [received])
    assert dissected(sender, first_chunks_of(received, size, 6)) == (reports, verdict)
    lines = list(render_verdict(verdict))
    if reports:
        lines += render(reports[-size % len(reports)], plain)
    assert all(line.isprintable() for line in lines)


def dissected(
    sender: Role, chunks: Sequence[bytes]
) -> tuple[list[HandshakeLines | FrameReport], Verdict]:
    """Return the dissector's first reports on the chunks, and its verdict after them."""
    dissector = Dissector(sender)

    def events() -> Iterator[HandshakeLines | FrameReport]:
        for chunk in (*chunks, None):
            if chunk is None:
                dissector.receive_eof()
            else:
                dissector.receive_data(chunk)
            while (event := dissector.next_event()) is not None:
                yield event

    reports = [without_masks(report) for report in islice(events(), DISSECTOR_LIMIT)]
    return reports, dissector.verdict


def without_masks(report: HandshakeLines | FrameReport) -> HandshakeLines | FrameReport:
    """Return a report without the masking keys of the replies, which are random."""
    if isinstance(report, FrameReport) and report.replies:
        return replace(report, replies=tuple(each._replace(mask=None) for each in report.replies))
    return report


def check_against_reference(role: Role, received: bytes) -> None:
    """Raise `AssertionError` unless the decoder agrees with the reference decoder."""
    masked = role is Role.SERVER
    decoder = FrameDecoder(masked=masked)
    decoder.receive_data(received)
    frames: list[ReferenceFrame] = []
    violated = None
    try:
        while (frame := decoder.next_frame()) is not None:
            rsv = (int(frame.rsv1), int(frame.rsv2), int(frame.rsv3))
            frames.append(
                ReferenceFrame(
                    int(frame.fin), rsv, frame.opcode, frame.mask, frame.length, frame.payload
                )
            )
    except ProtocolError as error:
        violated = error.rule.section.removeprefix("RFC 6455, ")
    assert Decoded(frames, violated) == reference_decode(received, masked=masked)


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
    """Yield every violation and some valid frames, with all options that apply to them."""
    for comparison in (CHUNKS, PARTS, REFERENCE, REPLIES, DISSECTOR):
        for violation in VIOLATIONS:
            yield bytes((comparison | (violation.role == "server"), 0)) + violation.data
        for is_server in (False, True):
            for notation in GOOD:
                data = parse_frame_notation(notation, masked=is_server)
                yield bytes((comparison | is_server, 2)) + data
    for comparison in (CHUNKS, PARTS):
        for compression in (1, 2):
            options = comparison | compression << 1
            for violation in DEFLATE_VIOLATIONS:
                yield bytes((options | (violation.role == "server"), 6)) + violation.data
            for is_server in (False, True):
                for notation in GOOD_COMPRESSED:
                    data = parse_frame_notation(notation, masked=is_server)
                    yield bytes((options | is_server, 2)) + data
