"""The fast path returns the messages that the slow path returns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min import connection
from wsproto_min._fast_path import join_fragments, read_messages
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Event, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.frames import Frame, FrameDecoder
from wsproto_min.masking import INTEGER_LIMIT
from wsproto_min.messages import MessageAssembler
from wsproto_min.testing.raw_frame import KEY, RawFrame, parse_frame_notation, patterned
from wsproto_min.testing.strategies import TEXT, chunkings, nearly_valid


def decoder_with(data: bytes) -> FrameDecoder:
    decoder = FrameDecoder(masked=True)
    decoder.receive_data(data)
    return decoder


def ascii_text(length: int) -> bytes:
    return (bytes(range(32, 127)) * (length // 95 + 1))[:length]


def test_fast_path_unmasks_every_length() -> None:
    text = ascii_text(INTEGER_LIMIT)
    for length in range(INTEGER_LIMIT + 1):
        payload = text[:length]
        data = RawFrame(TEXT, payload, mask=KEY).data
        expected = [payload.decode()] * 2
        assert read_messages(decoder_with(data * 2), INTEGER_LIMIT) == expected, length
    longer = RawFrame(TEXT, text + b"a", mask=KEY).data
    assert read_messages(decoder_with(longer), INTEGER_LIMIT + 1) == []


@pytest.mark.parametrize(
    "notation",
    [
        "01 01 . 61",  # no FIN
        "80 01 . 61",  # a continuation
        "c1 01 . 61",  # RSV1
        "83 01 . 61",  # a reserved opcode
        "89 01 . 61",  # a Ping
        "88 00 .",  # a Close
        "81 01 . ff",  # not UTF-8
        "81 02 . 61",  # incomplete
        "81 7e 0001 . 61",  # not the shortest length
        "81 0b . 6162636465666768696a6b",  # over the limit of ten bytes
        "81 7e 007e . " + "61" * 126,  # over that limit too
        "81 7f 0000000000010000 . 61",
        "81",
    ],
)
def test_fast_path_leaves_any_other_frame(notation: str) -> None:
    usual = parse_frame_notation("81 01 . 61 | 81 01 . 62", masked=True)
    other = parse_frame_notation(notation, masked=True)
    decoder = decoder_with(usual + other)
    assert read_messages(decoder, 10) == ["b", "a"], "the next one comes last"
    assert decoder.buffer[decoder.position :] == other


def test_fast_path_leaves_an_unmasked_frame() -> None:
    frame = parse_frame_notation("81 01 . 61", masked=False)
    assert read_messages(decoder_with(frame * 9), 10) == []


def test_fast_path_within_a_frame_reads_nothing() -> None:
    # A payload of 300 bytes that begins with a complete short frame.
    inner = parse_frame_notation("81 01 . 61", masked=True)
    data = bytes.fromhex("82 fe 012c 00000000") + inner * 3
    for size in (1, 9, 20):
        server = Connection(Role.SERVER)
        server.receive_data(data[:size])
        assert server.next_event() is None
        server.receive_data(data[size:] + bytes(300 - len(inner) * 3))
        message = server.next_event()
        assert isinstance(message, bytes)
        assert len(message) == 300
        assert server.next_event() is None


def test_fast_path_bounds_the_messages_of_a_paused_peer() -> None:
    frame = RawFrame(TEXT, b"a", mask=KEY).data
    decoder = decoder_with(frame * 1000)
    assert len(read_messages(decoder, 10)) == 64
    assert len(decoder.buffer) - decoder.position == 936 * len(frame)


def test_fast_path_bounds_the_bytes_of_a_paused_peer() -> None:
    frame = RawFrame(TEXT, b"a" * 1000, mask=KEY).data
    decoder = decoder_with(frame * 30)
    assert len(read_messages(decoder, 1000)) == 16  # 16 KiB
    assert decoder.position == 16 * len(frame)


def test_fast_path_messages_ahead_count_as_unfinished() -> None:
    server = Connection(Role.SERVER)
    server.receive_data(RawFrame(TEXT, b"a" * 1000, mask=KEY).data * 2)
    server.next_event()
    assert 1000 < server.unfinished_size < 1100
    server.next_event()
    assert server.unfinished_size == 0


def test_fast_path_releases_a_read_that_is_decoded() -> None:
    decoder = decoder_with(RawFrame(TEXT, b"a", mask=KEY).data * 3)
    read_messages(decoder, 10)
    assert (decoder.buffer, decoder.position) == (b"", 0)


# The second fast path joins the fragments of a message.


def within_message(
    data: bytes, max_message_size: int = 1 << 20, max_fragments: int | None = None
) -> tuple[FrameDecoder, MessageAssembler]:
    """Return a decoder with the data, and an assembler within a message."""
    assembler = MessageAssembler(max_message_size=max_message_size, max_fragments=max_fragments)
    assembler.receive_frame(Frame(Opcode.BINARY, b"<", fin=False))
    return decoder_with(data), assembler


def fragments(*payloads: bytes, masked: bool = True) -> bytes:
    """Return continuation frames; those of a client all have different masking keys."""
    return b"".join(
        RawFrame(0, payload, fin=False, mask=bytes([index] * 4) if masked else None).data
        for index, payload in enumerate(payloads, 1)
    )


def join(decoder: FrameDecoder, assembler: MessageAssembler) -> Frame | None:
    return join_fragments(decoder, assembler, masked=True)


@pytest.mark.parametrize("masked", [False, True])
def test_join_fragments_joins_all_forms_of_complete_frames(masked: bool) -> None:
    payloads = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * INTEGER_LIMIT]
    decoder, assembler = within_message(fragments(*payloads, masked=masked))
    assert join_fragments(decoder, assembler, masked=masked) == Frame(
        Opcode.CONTINUATION, b"".join(payloads), fin=False
    )
    assert decoder.idle
    # One fragment began the message, and `receive_frame` is to count the joined frame.
    assert assembler.remaining_limits[1] == 16384 - 1 - (len(payloads) - 1)


@pytest.mark.parametrize(
    "notation",
    [
        "80 01 . 61",  # FIN
        "40 01 . 61",  # RSV1
        "09 01 . 61",  # a fragmented Ping
        "89 01 . 61",  # a Ping
        "00 02 . 61",  # incomplete
        "00 7e 0001 . 61",  # not the shortest length
        "00 7e 0801 . " + "61" * 2049,  # as fast on the slow path
        "00 7e 00",
        "00 7f 0000000000010000 .",  # a 64-bit length
        "00",
    ],
)
def test_join_fragments_leaves_any_other_frame(notation: str) -> None:
    other = parse_frame_notation(notation, masked=True)
    decoder, assembler = within_message(fragments(b"a", b"b") + other)
    frame = join(decoder, assembler)
    assert frame is not None
    assert frame.payload == b"ab"
    assert decoder.buffer[decoder.position :] == other
    assert join(decoder, assembler) is None


def test_join_fragments_leaves_a_frame_masked_by_the_wrong_side() -> None:
    for masked in (False, True):
        data = parse_frame_notation("00 01 . 61 | 00 01 . 62", masked=not masked)
        decoder, assembler = within_message(data + bytes(9))
        assert join_fragments(decoder, assembler, masked=masked) is None


@pytest.mark.parametrize(("masked", "header"), [(True, 6), (False, 2)])
def test_join_fragments_stops_before_the_limits(masked: bool, header: int) -> None:
    data = fragments(b"aa", b"bb", b"cc", masked=masked)
    joined = {}
    for name, limits in {
        "size": {"max_message_size": 1 + 2 * (header + 2)},  # of two frames with their headers
        "one byte less": {"max_message_size": 2 * (header + 2)},
        "fragments": {"max_fragments": 3},  # of which one began the message
    }.items():
        decoder, assembler = within_message(data, **limits)
        frame = join_fragments(decoder, assembler, masked=masked)
        joined[name] = b"" if frame is None else frame.payload
    assert joined == {"size": b"aabb", "one byte less": b"aa", "fragments": b"aa"}


Outcome = tuple[list[Event], bytes, str | None]
LIMIT = 300


def outcome(chunks: list[bytes], role: Role) -> Outcome:
    connection = Connection(
        role, max_message_size=LIMIT, max_fragments=6, compression=DeflateParameters.DEFAULT
    )
    events: list[Event] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        while (event := connection.next_event()) is not None:
            events.append(event)
            if len(events) == 6:
                connection.fail(1008, "six messages are enough")
    error = None if connection.error is None else connection.error.reason
    # The client's masking keys differ from run to run.
    replies = connection.data_to_send() if role is Role.SERVER else b""
    return events, replies, error


def payloads() -> st.SearchStrategy[bytes]:
    """Draw text and other data around the lengths 126 and `LIMIT`."""
    texts = st.text(max_size=30).map(str.encode)
    lengths = st.integers(120, 132) | st.integers(LIMIT - 2, LIMIT + 2)
    long = lengths.map(ascii_text) | lengths.map(patterned)
    return texts | long | st.binary(max_size=30) | st.just(b"\xc3\xa9")


def whole_messages(mask: bytes | None) -> st.SearchStrategy[bytes]:
    frames = st.tuples(st.sampled_from([0x1, 0x2]), payloads())
    return st.lists(frames.map(lambda drawn: RawFrame(*drawn, mask=mask).data), max_size=4).map(
        b"".join
    )


def small_fragments(mask: bytes | None) -> st.SearchStrategy[bytes]:
    """Draw a message in up to nine fragments, around the limits of six and `LIMIT` bytes."""
    drawn = st.tuples(st.sampled_from([0x1, 0x2]), st.lists(payloads(), min_size=1, max_size=8))
    return drawn.map(
        lambda drawn: (
            RawFrame(drawn[0], drawn[1][0], fin=False, mask=mask).data
            + fragments(*drawn[1][1:], masked=mask is not None)
            + RawFrame(0, b"", mask=mask).data
        )
    )


@pytest.mark.parametrize("role", Role)
@given(st.data())
def test_fast_path_equals_slow_path_for_any_traffic(role: Role, data: st.DataObject) -> None:
    masked = role is Role.SERVER
    mask = KEY if masked else None
    messages = whole_messages(mask) | small_fragments(mask) | nearly_valid(masked)
    chunks = data.draw(chunkings(b"".join(data.draw(st.lists(messages, max_size=4)))))
    by_the_fast_path = outcome(chunks, role)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "read_messages", lambda decoder, limit: [])
        patch.setattr(connection, "join_fragments", lambda decoder, assembler, masked: None)
        assert outcome(chunks, role) == by_the_fast_path
