"""The frame codec (RFC 6455, section 5), in bytes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import Decoded, ReferenceFrame, reference_decode
from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import (
    RSV1,
    RSV2,
    RSV3,
    Frame,
    FrameDecoder,
    encode_close,
    encode_frame,
    parse_close,
    parse_header,
)
from wsproto_min.masking import INTEGER_LIMIT, apply_mask, xor
from wsproto_min.testing.raw_frame import RawFrame, naive_mask, parse_frame_notation, patterned
from wsproto_min.testing.strategies import (
    BOUNDARY_LENGTHS,
    Traffic,
    chunkings,
    frames,
    masks,
    nearly_valid,
    payloads,
    single_bytes,
    traffic,
)
from wsproto_min.testing.violations import VIOLATIONS, Violation

KEY = bytes.fromhex("37fa213d")
TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION

# RFC 6455, section 5.7, in its order.
RFC_EXAMPLES = [
    pytest.param("81 05 48656c6c6f", Frame(TEXT, b"Hello"), id="unmasked text"),
    pytest.param("81 85 37fa213d 7f9f4d5158", Frame(TEXT, b"Hello", mask=KEY), id="masked text"),
    pytest.param("01 03 48656c", Frame(TEXT, b"Hel", fin=False), id="first of two fragments"),
    pytest.param("80 02 6c6f", Frame(CONTINUATION, b"lo"), id="second of two fragments"),
    pytest.param("89 05 48656c6c6f", Frame(Opcode.PING, b"Hello"), id="unmasked Ping"),
    pytest.param(
        "8a 85 37fa213d 7f9f4d5158", Frame(Opcode.PONG, b"Hello", mask=KEY), id="masked Pong"
    ),
    pytest.param("82 7e 0100" + "aa" * 256, Frame(BINARY, b"\xaa" * 256), id="256 bytes of binary"),
    pytest.param(
        "82 7f 0000000000010000" + "aa" * 65536, Frame(BINARY, b"\xaa" * 65536), id="64 KiB"
    ),
]


def decode(
    *chunks: bytes, masked: bool | None = None, rsv1_allowed: bool = False
) -> tuple[list[Frame], str | None]:
    """Return the frames, joined from their chunks, and the error's reason or None."""
    decoder = FrameDecoder(masked=masked, rsv1_allowed=rsv1_allowed)
    whole: list[Frame] = []
    for chunk in chunks:
        decoder.receive_data(chunk)
        try:
            while (frame := decoder.next_frame()) is not None:
                if frame.offset:
                    assert frame.payload, f"an empty chunk after the first: {frame}"
                    first = whole.pop()
                    assert frame.offset == len(first.payload), (first, frame)
                    assert frame.length == first.length, (first, frame)
                    whole.append(_join(first, frame))
                elif whole and whole[-1].remaining:  # the chunk after an empty first one
                    whole[-1] = _join(whole[-1], frame)
                else:
                    whole.append(frame)
        except ProtocolError as error:
            reason = error.reason if error.code == 1002 else f"{error.code}, not 1002: {error}"
            return whole, reason
    return whole, None


def _join(first: Frame, second: Frame) -> Frame:
    return Frame(
        first.opcode,
        first.payload + second.payload,
        first.fin,
        first.rsv1,
        first.rsv2,
        first.rsv3,
        first.mask,
        remaining=second.remaining,
    )


def as_reference(frames: list[Frame]) -> list[ReferenceFrame]:
    return [
        ReferenceFrame(
            int(frame.fin),
            (int(frame.rsv1), int(frame.rsv2), int(frame.rsv3)),
            int(frame.opcode),
            frame.mask,
            frame.length,
            frame.payload,
        )
        for frame in frames
    ]


def as_frame(frame: RawFrame) -> Frame:
    return Frame(Opcode(frame.opcode), frame.payload, frame.fin, mask=frame.mask)


# Valid frames


@pytest.mark.parametrize(("data", "frame"), RFC_EXAMPLES)
def test_decoder_reads_examples_of_section_5_7(data: str, frame: Frame) -> None:
    assert decode(bytes.fromhex(data)) == ([frame], None)


@pytest.mark.parametrize(("data", "frame"), RFC_EXAMPLES)
def test_encode_frame_writes_examples_of_section_5_7(data: str, frame: Frame) -> None:
    encoded = encode_frame(frame.opcode, frame.payload, fin=frame.fin, mask=frame.mask)
    assert encoded.hex() == bytes.fromhex(data).hex()


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (0, "82 00"),
        (1, "82 01"),
        (124, "82 7c"),
        (125, "82 7d"),
        (126, "82 7e 007e"),
        (127, "82 7e 007f"),
        (65534, "82 7e fffe"),
        (65535, "82 7e ffff"),
        (65536, "82 7f 0000000000010000"),
        (65537, "82 7f 0000000000010001"),
    ],
)
def test_length_at_each_boundary_has_its_shortest_form(length: int, header: str) -> None:
    payload = patterned(length)
    encoded = encode_frame(BINARY, payload)
    assert encoded[: len(encoded) - length].hex(" ") == bytes.fromhex(header).hex(" ")
    assert decode(bytes.fromhex(header) + payload) == ([Frame(BINARY, payload)], None)


@given(frames())
def test_encode_frame_equals_the_figure(frame: RawFrame) -> None:
    encoded = encode_frame(Opcode(frame.opcode), frame.payload, fin=frame.fin, mask=frame.mask)
    assert encoded == frame.data


@given(frames())
def test_decoder_reads_every_encoded_frame(frame: RawFrame) -> None:
    encoded = encode_frame(Opcode(frame.opcode), frame.payload, fin=frame.fin, mask=frame.mask)
    assert decode(encoded) == ([as_frame(frame)], None)


@given(payloads(), masks(None), st.booleans())
def test_rsv1_where_allowed_survives_a_round_trip(
    payload: bytes, mask: bytes | None, fin: bool
) -> None:
    encoded = encode_frame(BINARY, payload, fin=fin, rsv1=True, mask=mask)
    assert encoded == RawFrame(BINARY, payload, fin, mask, rsv=0b100).data
    decoded = decode(encoded, rsv1_allowed=True)
    assert decoded == ([Frame(BINARY, payload, fin, rsv1=True, mask=mask)], None)


@given(st.data(), st.booleans())
def test_decoder_any_chunking_gives_the_same_frames(data: st.DataObject, masked: bool) -> None:
    sent: Traffic = data.draw(traffic(masked, closes=None))
    chunks = data.draw(chunkings(sent.data))
    expected = [as_frame(frame) for frame in sent.frames]
    assert decode(*chunks, masked=masked) == (expected, None)


@given(st.data(), st.booleans())
def test_decoder_damaged_input_any_chunking_same_result(data: st.DataObject, masked: bool) -> None:
    damaged = data.draw(nearly_valid(masked))
    chunks = data.draw(chunkings(damaged))
    assert decode(*chunks, masked=masked) == decode(damaged, masked=masked)


@given(st.binary(max_size=200), st.sampled_from([None, False, True]), st.booleans())
def test_decoder_arbitrary_bytes_raise_only_protocol_error(
    data: bytes, masked: bool | None, rsv1_allowed: bool
) -> None:
    decode(data, masked=masked, rsv1_allowed=rsv1_allowed)
    decode(*single_bytes(data), masked=masked, rsv1_allowed=rsv1_allowed)


def assert_agrees_with_the_reference(data: bytes, masked: bool | None) -> None:
    decoded, error = decode(data, masked=masked)
    expected = reference_decode(data, masked=masked)
    section = None if error is None else error.rpartition("RFC 6455, ")[2].rstrip(")")
    assert Decoded(as_reference(decoded), section) == expected


@given(st.binary(max_size=100), st.sampled_from([None, False, True]))
def test_decoder_arbitrary_bytes_equal_the_reference(data: bytes, masked: bool | None) -> None:
    assert_agrees_with_the_reference(data, masked)


@given(st.data(), st.booleans())
def test_decoder_nearly_valid_bytes_equal_the_reference(data: st.DataObject, masked: bool) -> None:
    assert_agrees_with_the_reference(data.draw(nearly_valid(masked)), masked)


@pytest.mark.parametrize("first", range(256))
def test_decoder_two_byte_headers_equal_the_reference(first: int) -> None:
    for second in range(256):
        # Enough zeros for any key and length, and a 16-bit length that is short enough.
        assert_agrees_with_the_reference(bytes((first, second, 0, 0x7E)) + bytes(8), None)


# Invalid headers


HEADER_SECTIONS = ("RFC 6455, 5.1", "RFC 6455, 5.2", "RFC 6455, 5.5")
OF_A_HEADER = [each for each in VIOLATIONS if each.rule.section in HEADER_SECTIONS]


@pytest.mark.parametrize("violation", OF_A_HEADER, ids=str)
def test_header_invalid_is_rejected_at_its_first_wrong_byte(violation: Violation) -> None:
    masked = violation.role == "server"
    _, early = decode(violation.data[:-1], masked=masked)
    assert early is None, f"{violation.data[:-1].hex(' ')} could still become valid"
    for chunks in ([violation.data], single_bytes(violation.data)):
        _, error = decode(*chunks, masked=masked)
        assert error is not None, f"{violation.data.hex(' ')} was accepted"
        assert f"({violation.rule.section})" in error


@pytest.mark.parametrize(
    ("received", "masked", "rule"),
    [
        ("c1", None, "a reserved bit is set (RFC 6455, 5.2)"),
        ("83", None, "opcode 0x3 is reserved (RFC 6455, 5.2)"),
        ("8f", None, "opcode 0xf is reserved (RFC 6455, 5.2)"),
        ("09", None, "a control frame is fragmented (RFC 6455, 5.5)"),
        ("81 00", True, "a client's frame is not masked (RFC 6455, 5.1)"),
        ("81 80", False, "a server's frame is masked (RFC 6455, 5.1)"),
        ("89 7e", None, "a control frame is longer than 125 bytes (RFC 6455, 5.5)"),
        ("82 7e 007d", None, "a length is not in its shortest form (RFC 6455, 5.2)"),
        ("82 7f 80", None, "the top bit of a 64-bit length is set (RFC 6455, 5.2)"),
        ("82 7f 000000000000ffff", None, "a length is not in its shortest form (RFC 6455, 5.2)"),
    ],
)
def test_error_reason_names_problem_and_section(
    received: str, masked: bool | None, rule: str
) -> None:
    assert decode(bytes.fromhex(received), masked=masked) == ([], rule)


def test_control_frame_with_rsv1_is_rejected() -> None:
    rule = "a control frame is marked as compressed (RFC 7692, 6.1)"
    for first in ("c8", "c9", "ca"):
        assert decode(bytes.fromhex(first), rsv1_allowed=True) == ([], rule)


@pytest.mark.parametrize("violation", OF_A_HEADER, ids=str)
def test_frames_before_an_invalid_header_are_decoded(violation: Violation) -> None:
    masked = violation.role == "server"
    # Ping "hi", binary "abc"
    good = parse_frame_notation("89 02 . 6869 | 82 03 . 616263", masked=masked)
    for chunks in ([good + violation.data], single_bytes(good + violation.data)):
        decoded, error = decode(*chunks, masked=masked)
        assert [frame.payload for frame in decoded[:2]] == [b"hi", b"abc"]
        assert error is not None


@pytest.mark.parametrize("masked", [True, False])
def test_decoder_repeats_its_error(masked: bool) -> None:
    decoder = FrameDecoder(masked=masked)
    decoder.receive_data(bytes.fromhex("83 00"))  # reserved opcode 3
    for _ in range(2):
        with pytest.raises(ProtocolError, match="opcode 0x3 is reserved"):
            decoder.next_frame()


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ("e1", "a reserved bit is set"),  # RSV1 is allowed, RSV2 is not
        ("d1", "a reserved bit is set"),  # RSV1 is allowed, RSV3 is not
        ("c8", "a control frame is marked as compressed"),  # Close
        ("c9", "a control frame is marked as compressed"),  # Ping
        ("ca", "a control frame is marked as compressed"),  # Pong
    ],
)
def test_rsv1_allowed_is_valid_only_in_data_frames(data: str, rule: str) -> None:
    _, error = decode(bytes.fromhex(data), rsv1_allowed=True)
    assert error is not None
    assert rule in error


def test_decoder_without_masked_accepts_both() -> None:
    both = bytes.fromhex("81 85 37fa213d 7f9f4d5158  81 05 48656c6c6f")
    decoded, error = decode(both)
    assert ([frame.payload for frame in decoded], error) == ([b"Hello", b"Hello"], None)


# Chunks, and the decoder's memory


def test_header_is_returned_before_its_payload() -> None:
    decoder = FrameDecoder(masked=False)
    decoder.receive_data(bytes.fromhex("82 7f 7fffffffffffffff"))  # 2^63 - 1 bytes to come
    frame = decoder.next_frame()
    assert frame == Frame(BINARY, b"", remaining=2**63 - 1)
    assert frame.length == 2**63 - 1
    assert decoder.next_frame() is None


def test_data_frame_is_returned_in_chunks_as_it_arrives() -> None:
    decoder = FrameDecoder(masked=True)
    chunks = []
    for data in ("81 85 37fa213d 7f", "9f4d", "5158"):  # masked "Hello": "H", "el", "lo"
        decoder.receive_data(bytes.fromhex(data))
        frame = decoder.next_frame()
        assert frame is not None
        chunks.append((frame.payload, frame.offset, frame.remaining, frame.length))
        assert decoder.next_frame() is None
    assert chunks == [(b"H", 0, 4, 5), (b"el", 1, 2, 5), (b"lo", 3, 0, 5)]


def test_control_frame_is_never_returned_in_chunks() -> None:
    decoder = FrameDecoder(masked=False)
    data = bytes.fromhex("89 05 48656c6c6f")  # Ping "Hello"
    for byte in single_bytes(data)[:-1]:
        decoder.receive_data(byte)
        assert decoder.next_frame() is None
    decoder.receive_data(data[-1:])
    assert decoder.next_frame() == Frame(Opcode.PING, b"Hello")


@pytest.mark.parametrize(
    ("received", "idle"),
    [
        ("", True),
        ("81", False),  # an incomplete header
        ("81 05", False),  # a header without its payload
        ("81 05 4865", False),  # part of a payload
        ("89 02 68", False),  # part of a Ping
        ("81 05 48656c6c6f", True),
        ("81 05 48656c6c6f 81", False),
        ("01 00", True),  # a fragment is a complete frame
    ],
)
def test_decoder_idle_only_between_frames(received: str, idle: bool) -> None:
    decoder = FrameDecoder(masked=False)
    decoder.receive_data(bytes.fromhex(received))
    while decoder.next_frame() is not None:
        pass
    assert decoder.idle is idle


def test_decoder_discard_drops_data_and_reads_the_next_frame() -> None:
    decoder = FrameDecoder(masked=False)
    decoder.receive_data(bytes.fromhex("81 00 81 05 48"))
    decoder.next_frame()
    decoder.discard()
    assert decoder.idle
    decoder.receive_data(bytes.fromhex("89 00"))
    assert decoder.next_frame() == Frame(Opcode.PING, b"")


def test_decoder_with_undecoded_bytes_is_not_idle() -> None:
    decoder = FrameDecoder(masked=False)
    assert decoder.idle
    decoder.receive_data(bytes.fromhex("81 00"))
    assert not decoder.idle
    decoder.next_frame()
    assert decoder.idle


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", BOUNDARY_LENGTHS)
def test_parse_header_incomplete_returns_none(length: int, masked: bool) -> None:
    data = RawFrame(BINARY, patterned(length), mask=KEY if masked else None).data
    size = len(data) - length
    shorter = [parse_header(b"\xff" + data[:n], 1) for n in range(size)]
    assert shorter == [None] * size
    header = parse_header(b"\xff" + data[:size], 1)
    assert header is not None
    assert (header.size, header.length, header.mask) == (size, length, KEY if masked else None)


def test_decoder_allocates_nothing_on_an_announced_length() -> None:
    decoder = FrameDecoder(masked=False)
    header = bytes.fromhex("82 7f 0000000100000000")  # 4 GiB to come
    tracemalloc.start()
    try:
        decoder.receive_data(header)
        decoder.next_frame()
        decoder.receive_data(b"x")
        decoder.next_frame()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000, f"{peak} bytes were allocated for {len(header) + 1} received"


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("whole frames", ""),
        ("a whole frame and half a header", "82 7f 00000000"),
        ("a whole frame and all but one byte of a Ping", "89 7d" + "00" * 124),
    ],
)
def test_decoder_keeps_under_140_bytes_between_reads(name: str, rest: str) -> None:
    decoder = FrameDecoder(masked=False)
    size = 1_000_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        decoder.receive_data(RawFrame(BINARY, bytes(size)).data + bytes.fromhex(rest))
        while decoder.next_frame() is not None:
            pass
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 2,000 bytes allow for the objects around these 140.
    assert after - before < 140 + 2000, f"after {name} the decoder holds {after - before} bytes"


def test_decoder_keeps_no_chunk_that_it_returned() -> None:
    decoder = FrameDecoder(masked=False)
    size = 1_000_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        decoder.receive_data(RawFrame(BINARY, bytes(size)).data[:-1])
        while decoder.next_frame() is not None:
            pass
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 140 + 2000, f"within a frame the decoder holds {after - before} bytes"


# Masking (section 5.3)


def test_apply_mask_hello_of_section_5_7() -> None:
    assert apply_mask(b"Hello", KEY).hex(" ") == "7f 9f 4d 51 58"
    assert apply_mask(bytes.fromhex("7f9f4d5158"), KEY) == b"Hello"


@pytest.mark.parametrize("offset", range(8))
def test_apply_mask_equals_definition_at_every_length(offset: int) -> None:
    data = patterned(INTEGER_LIMIT + 10)
    lengths = [*range(301), *range(INTEGER_LIMIT - 10, INTEGER_LIMIT + 10)]
    wrong = [
        length
        for length in lengths
        if apply_mask(data[:length], KEY, offset) != naive_mask(data[:length], KEY, offset)
    ]
    assert wrong == [], f"wrong lengths at offset {offset}"


@given(
    st.binary(max_size=30) | st.integers(100, 2200).map(patterned),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 7) | st.integers(0, 2**63),
)
def test_apply_mask_equals_definition_for_any_key(data: bytes, mask: bytes, offset: int) -> None:
    masked = apply_mask(data, mask, offset)
    assert masked == naive_mask(data, mask, offset)
    assert apply_mask(masked, mask, offset) == data


@given(st.binary().flatmap(lambda data: st.tuples(st.just(data), st.binary(min_size=len(data)))))
def test_xor_changes_each_byte(drawn: tuple[bytes, bytes]) -> None:
    data, keys = drawn[0], drawn[1][: len(drawn[0])]
    assert xor(data, keys) == bytes(octet ^ key for octet, key in zip(data, keys, strict=True))


# The payload of a Close frame (section 5.5.1)


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        ("", 1005, ""),  # no status received (section 7.1.5)
        ("03e8", 1000, ""),
        ("03e9 676f6f64206e69676874", 1001, "good night"),
        ("0bb8 e282ac", 3000, "\u20ac"),
        ("1387 00", 4999, "\0"),
    ],
)
def test_parse_close_returns_code_and_reason(payload: str, code: int, reason: str) -> None:
    assert parse_close(bytes.fromhex(payload)) == (code, reason)


@pytest.mark.parametrize(
    ("payload", "code", "rule"),
    [
        ("03", 1002, "a Close frame has a payload of one byte (RFC 6455, 5.5.1)"),
        ("0000", 1002, "close code 0 must not be sent (RFC 6455, 7.4.2)"),
        ("03ed", 1002, "close code 1005 must not be sent (RFC 6455, 7.4.1)"),
        ("03e8 ff", 1007, "a close reason is not UTF-8 (RFC 6455, 5.5.1)"),
        ("03ed ff", 1002, "close code 1005 must not be sent (RFC 6455, 7.4.1)"),
        ("03e8 eda080", 1007, "a close reason is not UTF-8 (RFC 6455, 5.5.1)"),
    ],
)
def test_parse_close_invalid_names_its_rule(payload: str, code: int, rule: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        parse_close(bytes.fromhex(payload))
    assert (raised.value.code, raised.value.reason) == (code, rule)


@given(st.integers(3000, 4999), st.text(max_size=30))
def test_close_payload_survives_a_round_trip(code: int, reason: str) -> None:
    assert parse_close(encode_close(code, reason)) == (code, reason)
    assert encode_close(code) == code.to_bytes(2, "big")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535, 65536])
def test_encode_close_code_never_sent_is_value_error(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
        encode_close(code)


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 123, 123),
        ("x" * 124, 123),
        ("x" * 122 + "\u00e9", 122),  # a character of two bytes, one too many
        ("x" * 121 + "\u00e9", 123),
        ("\u20ac" * 41, 123),
        ("\u20ac" * 42, 123),
        ("x" + "\u20ac" * 41, 121),  # a character of three bytes, one too many
        ("\U0001f600" * 31, 120),  # a character of four bytes, one too many
    ],
)
def test_encode_close_shortens_between_two_characters(reason: str, kept: int) -> None:
    payload = encode_close(1000, reason)
    assert len(payload) == 2 + kept
    assert reason.startswith(payload[2:].decode())


@given(st.text(min_size=100, max_size=140))
def test_encode_close_reason_always_fits_a_control_frame(reason: str) -> None:
    payload = encode_close(1000, reason)
    assert len(payload) <= 125
    assert reason.startswith(payload[2:].decode())
    assert len(payload) > 121 or payload[2:].decode() == reason


def test_frame_repr_shows_fields_and_bounded_payload() -> None:
    assert repr(Frame(TEXT, b"Hello")) == "<Frame TEXT b'Hello'>"
    frame = Frame(BINARY, bytes(5000), fin=False, rsv1=True, mask=b"1234", remaining=7)
    zeros = "\\x00" * 64
    shown = (
        f"<Frame BINARY b'{zeros}'... (5,000 bytes) fin=False rsv1=True mask=31323334 remaining=7>"
    )
    assert repr(frame) == shown


# Reserved bits of extensions.


@pytest.mark.parametrize("extra", [0, RSV2, RSV3, RSV2 | RSV3])
@pytest.mark.parametrize("rsv1", [False, True])
@pytest.mark.parametrize("bits", range(0, 0x80, 0x10))
def test_header_has_the_reserved_bits_that_are_allowed(bits: int, rsv1: bool, extra: int) -> None:
    data = bytes((0x81 | bits, 0))
    decoder = FrameDecoder(rsv1_allowed=rsv1, rsv_allowed=extra)
    decoder.receive_data(data)
    if bits & ~(extra | RSV1 * rsv1):
        for read in (
            lambda: parse_header(data, rsv1_allowed=rsv1, rsv_allowed=extra),
            decoder.next_frame,
        ):
            with pytest.raises(ProtocolError) as caught:
                read()
            assert caught.value.rule is rules.RESERVED_BIT
        return
    expected = (bool(bits & RSV1), bool(bits & RSV2), bool(bits & RSV3))
    header = parse_header(data, rsv1_allowed=rsv1, rsv_allowed=extra)
    assert header is not None
    assert (header.rsv1, header.rsv2, header.rsv3) == expected
    frame = decoder.next_frame()
    assert frame is not None
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == expected


def test_header_allows_no_reserved_bit_by_default() -> None:
    for bit in (RSV1, RSV2, RSV3):
        decoder = FrameDecoder()
        decoder.receive_data(bytes((0x81 | bit,)))
        with pytest.raises(ProtocolError):
            decoder.next_frame()
        with pytest.raises(ProtocolError):
            parse_header(bytes((0x81 | bit,)))
    assert parse_header(bytes.fromhex("81 00")) is not None
