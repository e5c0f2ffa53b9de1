"""Assembling messages (RFC 6455, sections 5.4 and 8.1) within their limits."""

from __future__ import annotations

from codecs import utf_8_decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min import messages, rules
from wsproto_min.codes import Opcode
from wsproto_min.deflate import Compressor
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame
from wsproto_min.messages import MessageAssembler
from wsproto_min.testing.strategies import chunkings

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION


def failure(assembler: MessageAssembler, *frames: Frame) -> tuple[int, str]:
    """Return code and reason of the error that the last frame raises."""
    for frame in frames[:-1]:
        assembler.receive_frame(frame)
    with pytest.raises(ProtocolError) as raised:
        assembler.receive_frame(frames[-1])
    return raised.value.code, raised.value.reason


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        pytest.param([Frame(TEXT, b"Hello")], "Hello", id="one text frame"),
        pytest.param([Frame(BINARY, b"Hello")], b"Hello", id="one binary frame"),
        pytest.param([Frame(TEXT, b"")], "", id="an empty text"),
        pytest.param([Frame(BINARY, b"")], b"", id="an empty binary"),
        pytest.param(
            [Frame(TEXT, b"Hel", fin=False), Frame(CONTINUATION, b"lo")],
            "Hello",
            id="two fragments",
        ),
        pytest.param(
            [Frame(BINARY, b"", fin=False), Frame(CONTINUATION, b"")],
            b"",
            id="two empty fragments",
        ),
        pytest.param(
            [Frame(TEXT, b"\xe2", fin=False), Frame(CONTINUATION, b"\x82\xac")],
            "\u20ac",
            id="a character over two fragments",
        ),
        pytest.param(
            [Frame(BINARY, b"\xe2", fin=False), Frame(CONTINUATION, b"\x28")],
            b"\xe2\x28",
            id="binary that is not UTF-8",
        ),
        pytest.param(
            [Frame(TEXT, b"", remaining=2), Frame(TEXT, b"h", remaining=1), Frame(TEXT, b"i")],
            "hi",
            id="one frame in three chunks, the first one empty",
        ),
    ],
)
def test_message_is_returned_with_its_last_frame(frames: list[Frame], message: str | bytes) -> None:
    assembler = MessageAssembler()
    for frame in frames[:-1]:
        assert assembler.receive_frame(frame) is None
        assert not assembler.idle
    received = assembler.receive_frame(frames[-1])
    assert (type(received), received) == (type(message), message)
    assert assembler.idle


def test_message_leaves_nothing_behind_for_the_next() -> None:
    assembler = MessageAssembler(max_message_size=4, max_fragments=2)
    # Each message reaches both limits. The incomplete character is completed in time.
    for _ in range(3):
        assert assembler.receive_frame(Frame(TEXT, b"a\xc3", fin=False)) is None
        assert assembler.receive_frame(Frame(CONTINUATION, b"\xa9b")) == "a\u00e9b"
        assert assembler.receive_frame(Frame(BINARY, b"\xff\xff", fin=False)) is None
        assert assembler.receive_frame(Frame(CONTINUATION, b"\xff\xff")) == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("character", "\u00e9\u0800\ud7ff\ue000\ufeff\uffff\U00010000\U0010ffff")
def test_text_character_may_be_split_anywhere(character: str) -> None:
    payload = character.encode()
    for cut in range(len(payload)):
        assembler = MessageAssembler()
        assert assembler.receive_frame(Frame(TEXT, payload[:cut], fin=False)) is None
        assert assembler.receive_frame(Frame(CONTINUATION, payload[cut:])) == character


def test_text_invalid_after_fragments_fails_at_first_byte() -> None:
    assembler = MessageAssembler()
    fragments = Frame(TEXT, b"abc", fin=False), Frame(CONTINUATION, b"d")
    assert [assembler.receive_frame(fragment) for fragment in fragments] == [None, "abcd"]
    assert failure(assembler, Frame(TEXT, b"\xff", remaining=9))[0] == 1007


@given(st.data(), st.text(max_size=40) | st.binary(max_size=120))
def test_message_any_chunks_and_fragments_are_joined(
    data: st.DataObject, message: str | bytes
) -> None:
    assembler = MessageAssembler()
    opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
    fragments = data.draw(chunkings(payload)) or [b""]
    received: list[str | bytes | None] = []
    for index, fragment in enumerate(fragments):
        fin = index == len(fragments) - 1
        # Like the decoder: only the first chunk of a frame may be empty.
        chunks = data.draw(chunkings(fragment))
        parts = [*chunks[:1], *filter(None, chunks[1:])] or [b""]
        offset = 0
        for part in parts:
            remaining = len(fragment) - offset - len(part)
            received.append(
                assembler.receive_frame(
                    Frame(opcode, part, fin, offset=offset, remaining=remaining)
                )
            )
            offset += len(part)
        opcode = CONTINUATION
    assert received == [None] * (len(received) - 1) + [message]


@given(st.data(), st.text(max_size=10), st.binary(min_size=1, max_size=8))
def test_text_accepted_only_if_python_decodes_it(
    data: st.DataObject, good: str, rest: bytes
) -> None:
    payload = good.encode() + rest
    try:
        expected: str | None = payload.decode()
    except UnicodeDecodeError:
        expected = None
    chunks = data.draw(chunkings(payload))
    assembler = MessageAssembler()
    received: str | bytes | None = None
    code = None
    try:
        for index, chunk in enumerate(chunks):
            frame = Frame(CONTINUATION if index else TEXT, chunk, index == len(chunks) - 1)
            received = assembler.receive_frame(frame)
    except ProtocolError as error:
        code = error.code
    assert (received, code) == (expected, None if expected is not None else 1007)


# A bar marks the first byte that makes the sequence invalid (Unicode, table 3-7).
@pytest.mark.parametrize(
    "text",
    [
        "|80",  # a continuation byte first
        "|bf",
        "|c0 80",  # overlong
        "|c1 bf",
        "e0 |80 80",
        "e0 |9f bf",
        "f0 |80 80 80",
        "f0 |8f bf bf",
        "ed |a0 80",  # surrogates
        "ed |bf bf",
        "f4 |90 80 80",  # above U+10FFFF
        "|f5 80 80 80",
        "|f8 88 80 80 80",  # five and six bytes, valid in old UTF-8
        "|fc 84 80 80 80 80",
        "|fe",
        "|ff",
        "c3 |28",  # no continuation byte
        "e2 82 |28",
        "f0 9f 98 |28",
        "e2 |c3 a9",
    ],
)
@pytest.mark.parametrize("before", ["", "61", "c3 a9", "f0 9f 98 80"])
def test_text_invalid_is_rejected_at_its_first_wrong_byte(before: str, text: str) -> None:
    valid, _, invalid = text.partition("|")
    incomplete = bytes.fromhex(before + valid)
    wrong = bytes.fromhex(invalid)[:1]
    # In an incomplete frame, in one chunk or in two ...
    first = Frame(TEXT, incomplete + wrong, remaining=9)
    assert failure(MessageAssembler(), first)[0] == 1007
    chunks = Frame(TEXT, incomplete, remaining=10), Frame(TEXT, wrong, remaining=9)
    assert failure(MessageAssembler(), *chunks)[0] == 1007
    # ... and over two fragments.
    fragments = Frame(TEXT, incomplete, fin=False), Frame(CONTINUATION, wrong, fin=False)
    assert failure(MessageAssembler(), *fragments)[0] == 1007


@pytest.mark.parametrize("text", ["c3", "e2", "e2 82", "f0", "f0 9f", "f0 9f 98", "61 c3"])
def test_text_ending_within_a_character_fails_at_its_end(
    text: str,
) -> None:
    payload = bytes.fromhex(text)
    assert failure(MessageAssembler(), Frame(TEXT, payload))[0] == 1007
    fragments = Frame(TEXT, payload, fin=False), Frame(CONTINUATION, b"")
    assert failure(MessageAssembler(), *fragments)[0] == 1007


def test_text_check_is_linear_in_the_number_of_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = 0

    def counting(data: memoryview, errors: str, final: bool) -> tuple[str, int]:
        nonlocal checked
        checked += len(data)
        return utf_8_decode(data, errors, final)

    monkeypatch.setattr(messages, "utf_8_decode", counting)
    payload = "\U0001f600".encode() * 500
    assembler = MessageAssembler(max_message_size=len(payload))
    for offset in range(len(payload) - 1):
        chunk = payload[offset : offset + 1]
        remaining = len(payload) - offset - 1
        assembler.receive_frame(Frame(TEXT, chunk, offset=offset, remaining=remaining))
    # An incomplete character of n bytes is checked n times.
    assert checked <= len(payload) / 4 * (1 + 2 + 3 + 4)


def test_compressed_messages_stand_alone_by_default() -> None:
    # "Hello", then "Hello" as a reference to it (RFC 7692, 7.2.3.2)
    first, second = bytes.fromhex("f248cdc9c90700"), bytes.fromhex("f200110000")
    frames = [Frame(TEXT, payload, rsv1=True) for payload in (first, second)]
    assert failure(MessageAssembler(), *frames)[0] == 1007
    assembler = MessageAssembler(context_takeover=True)
    assert [assembler.receive_frame(frame) for frame in frames] == ["Hello", "Hello"]


# Fragments in the wrong order (section 5.4)


NOTHING_BEGAN = "a continuation frame has no message to continue (RFC 6455, 5.4)"
NOT_ENDED = "a message begins before the last one has ended (RFC 6455, 5.4)"


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        ([Frame(CONTINUATION, b"")], NOTHING_BEGAN),
        ([Frame(CONTINUATION, b"", fin=False)], NOTHING_BEGAN),
        ([Frame(TEXT, b"a"), Frame(CONTINUATION, b"")], NOTHING_BEGAN),
        ([Frame(TEXT, b"a", fin=False), Frame(TEXT, b"")], NOT_ENDED),
        ([Frame(BINARY, b"a", fin=False), Frame(TEXT, b"")], NOT_ENDED),
        (
            [Frame(TEXT, b"a", fin=False), Frame(CONTINUATION, b"", fin=False), Frame(BINARY, b"")],
            NOT_ENDED,
        ),
        (
            [Frame(TEXT, b"a", fin=False), Frame(CONTINUATION, b"", rsv1=True)],
            "a continuation frame is marked as compressed (RFC 7692, 6.1)",
        ),
    ],
)
def test_fragment_out_of_order_is_1002(frames: list[Frame], rule: str) -> None:
    code, reason = failure(MessageAssembler(), *frames)
    assert (code, reason) == (1002, rule)


# Limits


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_size_at_the_limit_is_accepted(opcode: Opcode) -> None:
    assembler = MessageAssembler(max_message_size=10)
    assert assembler.receive_frame(Frame(opcode, b"x" * 10)) is not None
    code, reason = failure(assembler, Frame(opcode, b"x" * 11))
    assert (code, reason) == (1009, "a message is larger than 10 bytes (RFC 6455, 7.4.1)")


def test_fragments_at_the_size_limit_are_accepted() -> None:
    assembler = MessageAssembler(max_message_size=10)
    assembler.receive_frame(Frame(BINARY, b"x" * 6, fin=False))
    assert assembler.receive_frame(Frame(CONTINUATION, b"x" * 4)) == b"x" * 10
    fragments = Frame(BINARY, b"x" * 6, fin=False), Frame(CONTINUATION, b"x" * 5)
    assert failure(assembler, *fragments)[0] == 1009


@pytest.mark.parametrize("length", [11, 126, 65536, 2**63 - 1])
def test_message_too_big_is_rejected_at_its_header(length: int) -> None:
    assembler = MessageAssembler(max_message_size=10)
    assert failure(assembler, Frame(BINARY, b"", remaining=length))[0] == 1009


def test_fragment_too_big_is_rejected_at_its_header() -> None:
    fragments = Frame(BINARY, b"x" * 6, fin=False), Frame(CONTINUATION, b"", remaining=5)
    assert failure(MessageAssembler(max_message_size=10), *fragments)[0] == 1009


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
def test_fragments_at_the_count_limit_are_accepted(payload: bytes) -> None:
    fragments = [
        Frame(BINARY, payload, fin=False),
        *[Frame(CONTINUATION, payload, fin=False)] * 2,
    ]
    assembler = MessageAssembler(max_fragments=4)
    for fragment in fragments:
        assembler.receive_frame(fragment)
    assert assembler.receive_frame(Frame(CONTINUATION, payload)) == payload * 4
    code, reason = failure(MessageAssembler(max_fragments=3), *fragments, fragments[-1])
    assert (code, reason) == (1008, "a message has more than 3 fragments (RFC 6455, 7.4.1)")


def test_chunks_of_a_fragment_count_as_one() -> None:
    assembler = MessageAssembler(max_fragments=1)
    for offset in range(9):
        assembler.receive_frame(Frame(BINARY, b"x", offset=offset, remaining=9 - offset))
    assert assembler.receive_frame(Frame(BINARY, b"x", offset=9)) == b"x" * 10


@pytest.mark.parametrize(
    ("max_message_size", "fragments"),
    [(0, 128), (8191, 128), (8192, 128), (8256, 129), (1 << 20, 16384)],
)
def test_max_fragments_default_is_one_per_64_bytes(max_message_size: int, fragments: int) -> None:
    assembler = MessageAssembler(max_message_size=max_message_size)
    assembler.receive_frame(Frame(BINARY, b"", fin=False))
    code, reason = failure(assembler, *[Frame(CONTINUATION, b"", fin=False)] * fragments)
    assert (code, reason) == (
        1008,
        f"a message has more than {fragments} fragments (RFC 6455, 7.4.1)",
    )


# Compressed messages (RFC 7692)


def compressed(message: bytes) -> bytes:
    return Compressor().compress(message)


def test_compressed_chunks_and_fragments_are_joined() -> None:
    payload = compressed(b"Hello")  # f2 48 cd c9 c9 07 00
    assembler = MessageAssembler()
    frames = [
        Frame(TEXT, payload[:1], fin=False, rsv1=True, remaining=2),
        Frame(TEXT, payload[1:3], fin=False, rsv1=True, offset=1),
        Frame(CONTINUATION, b"", fin=False),
        Frame(CONTINUATION, payload[3:]),
    ]
    assert [assembler.receive_frame(frame) for frame in frames] == [None, None, None, "Hello"]
    assert assembler.idle
    # It leaves nothing behind for the next message, compressed or not.
    assert assembler.receive_frame(Frame(BINARY, payload)) == payload
    assert assembler.receive_frame(Frame(TEXT, payload, rsv1=True)) == "Hello"


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_size_limit_applies_to_decompressed_message(opcode: Opcode) -> None:
    assembler = MessageAssembler(max_message_size=1000)
    for _ in range(3):
        expanded = assembler.receive_frame(Frame(opcode, compressed(b"x" * 1000), rsv1=True))
        assert expanded is not None
        assert len(expanded) == 1000
    code, reason = failure(assembler, Frame(opcode, compressed(b"x" * 1001), rsv1=True))
    assert (code, reason) == (1009, "a message is larger than 1000 bytes (RFC 6455, 7.4.1)")


def test_size_limit_applies_to_all_compressed_fragments() -> None:
    payload = compressed(b"x" * 600 + b"y" * 600)
    fragments = Frame(BINARY, payload[:8], fin=False, rsv1=True), Frame(CONTINUATION, payload[8:])
    assert failure(MessageAssembler(max_message_size=1199), *fragments)[0] == 1009
    assembler = MessageAssembler(max_message_size=1200)
    assembler.receive_frame(fragments[0])
    assert assembler.receive_frame(fragments[1]) == b"x" * 600 + b"y" * 600


def test_compressed_size_on_the_wire_is_bounded_at_the_header() -> None:
    # The limit is an eighth more than the message, and 64: 1000 + 125 + 64.
    accepted = MessageAssembler(max_message_size=1000)
    assert accepted.receive_frame(Frame(BINARY, b"", rsv1=True, remaining=1189)) is None
    refused = Frame(BINARY, b"", rsv1=True, remaining=1190)
    assert failure(MessageAssembler(max_message_size=1000), refused)[0] == 1009
    # Empty stored blocks: five bytes that decompress to none.
    block = bytes.fromhex("00 0000 ffff")
    flushes = [Frame(BINARY, block, fin=False, rsv1=True)]
    flushes += [Frame(CONTINUATION, block, fin=False)] * 237
    assert failure(MessageAssembler(max_message_size=1000, max_fragments=1000), *flushes)[0] == 1009


def test_uncompressed_message_is_no_part_of_the_context() -> None:
    assembler = MessageAssembler(context_takeover=True)
    assert (
        assembler.receive_frame(Frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv1=True)) == "Hello"
    )
    assert assembler.receive_frame(Frame(TEXT, b"in between")) == "in between"
    # RFC 7692, 7.2.3.2: five bytes, five bytes back
    assert assembler.receive_frame(Frame(TEXT, bytes.fromhex("f200110000"), rsv1=True)) == "Hello"


def test_new_assembler_has_nothing_more_and_no_chunks() -> None:
    assembler = MessageAssembler()
    assert (assembler.has_more, assembler.chunked) == (False, False)


def test_incomplete_character_before_invalid_data_is_no_invalid_text() -> None:
    assembler = MessageAssembler()
    character = bytes.fromhex("00 0100 feff c3")
    assembler.receive_chunk(Frame(TEXT, character, fin=False, rsv1=True))
    with pytest.raises(ProtocolError) as raised:
        assembler.receive_chunk(Frame(CONTINUATION, b"\x06"))
    assert raised.value.rule is rules.NOT_DEFLATE


def test_size_limit_counts_what_was_gathered_before_the_first_chunk() -> None:
    payload = compressed(b"x" * 600 + b"y" * 600)
    assembler = MessageAssembler(max_message_size=1199)
    assembler.receive_frame(Frame(BINARY, payload[:8], fin=False, rsv1=True))
    with pytest.raises(ProtocolError) as raised:
        assembler.receive_chunk(Frame(CONTINUATION, payload[8:]))
    assert raised.value.rule is rules.MESSAGE_TOO_BIG
