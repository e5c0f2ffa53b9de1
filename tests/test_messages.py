"""From frames to messages: RFC 6455, sections 5.4 and 8.1, and the budgets."""

from __future__ import annotations

from codecs import utf_8_decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min import messages
from wsproto_min.codes import Opcode
from wsproto_min.deflate import Compressor
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame
from wsproto_min.messages import MessageAssembler
from wsproto_min.testing.strategies import chunkings

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION


def failure(assembler: MessageAssembler, *frames: Frame) -> tuple[int, str]:
    """Return the code and reason with which the last of the frames is rejected."""
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
            id="one frame in three pieces, the first of them empty",
        ),
    ],
)
def test_a_message_is_what_its_last_frame_completes(
    frames: list[Frame], message: str | bytes
) -> None:
    assembler = MessageAssembler()
    for frame in frames[:-1]:
        assert assembler.receive_frame(frame) is None
        assert not assembler.idle
    received = assembler.receive_frame(frames[-1])
    assert (type(received), received) == (type(message), message)
    assert assembler.idle


def test_one_message_leaves_nothing_behind_for_the_next() -> None:
    assembler = MessageAssembler(max_message_size=4, max_fragments=2)
    # Each reaches both budgets, and the text's unfinished character ends in time.
    for _ in range(3):
        assert assembler.receive_frame(Frame(TEXT, b"a\xc3", fin=False)) is None
        assert assembler.receive_frame(Frame(CONTINUATION, b"\xa9b")) == "a\u00e9b"
        assert assembler.receive_frame(Frame(BINARY, b"\xff\xff", fin=False)) is None
        assert assembler.receive_frame(Frame(CONTINUATION, b"\xff\xff")) == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("character", "\u00e9\u0800\ud7ff\ue000\ufeff\uffff\U00010000\U0010ffff")
def test_a_character_may_be_cut_anywhere(character: str) -> None:
    payload = character.encode()
    for cut in range(len(payload)):
        assembler = MessageAssembler()
        assert assembler.receive_frame(Frame(TEXT, payload[:cut], fin=False)) is None
        assert assembler.receive_frame(Frame(CONTINUATION, payload[cut:])) == character


def test_bad_text_fails_as_fast_after_a_message_in_fragments_as_before_one() -> None:
    assembler = MessageAssembler()
    fragments = Frame(TEXT, b"abc", fin=False), Frame(CONTINUATION, b"d")
    assert [assembler.receive_frame(fragment) for fragment in fragments] == [None, "abcd"]
    assert failure(assembler, Frame(TEXT, b"\xff", remaining=9))[0] == 1007


@given(st.data(), st.text(max_size=40) | st.binary(max_size=120))
def test_any_pieces_in_any_fragments_make_the_same_message(
    data: st.DataObject, message: str | bytes
) -> None:
    assembler = MessageAssembler()
    opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
    fragments = data.draw(chunkings(payload)) or [b""]
    received: list[str | bytes | None] = []
    for index, fragment in enumerate(fragments):
        fin = index == len(fragments) - 1
        # As the decoder cuts frames: only the first piece may be empty.
        chunks = data.draw(chunkings(fragment))
        pieces = [*chunks[:1], *filter(None, chunks[1:])] or [b""]
        offset = 0
        for piece in pieces:
            remaining = len(fragment) - offset - len(piece)
            received.append(
                assembler.receive_frame(
                    Frame(opcode, piece, fin, offset=offset, remaining=remaining)
                )
            )
            offset += len(piece)
        opcode = CONTINUATION
    assert received == [None] * (len(received) - 1) + [message]


@given(st.data(), st.text(max_size=10), st.binary(min_size=1, max_size=8))
def test_text_is_taken_exactly_if_python_decodes_it(
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


# Each sequence is written with a bar before the byte at which no continuation
# could make it good UTF-8: table 3-7 of the Unicode standard.
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
        "|f8 88 80 80 80",  # five and six bytes, as UTF-8 once had them
        "|fc 84 80 80 80 80",
        "|fe",
        "|ff",
        "c3 |28",  # something else where a continuation byte is due
        "e2 82 |28",
        "f0 9f 98 |28",
        "e2 |c3 a9",
    ],
)
@pytest.mark.parametrize("before", ["", "61", "c3 a9", "f0 9f 98 80"])
def test_bad_text_is_rejected_at_its_first_wrong_byte(before: str, text: str) -> None:
    good, _, bad = text.partition("|")
    unfinished = bytes.fromhex(before + good)
    wrong = bytes.fromhex(bad)[:1]
    # All in one frame of which more is to come, in one piece or in two ...
    first = Frame(TEXT, unfinished + wrong, remaining=9)
    assert failure(MessageAssembler(), first)[0] == 1007
    pieces = Frame(TEXT, unfinished, remaining=10), Frame(TEXT, wrong, remaining=9)
    assert failure(MessageAssembler(), *pieces)[0] == 1007
    # ... and over two fragments.
    fragments = Frame(TEXT, unfinished, fin=False), Frame(CONTINUATION, wrong, fin=False)
    assert failure(MessageAssembler(), *fragments)[0] == 1007


@pytest.mark.parametrize("text", ["c3", "e2", "e2 82", "f0", "f0 9f", "f0 9f 98", "61 c3"])
def test_text_that_ends_within_a_character_is_rejected_at_its_end_and_not_before(
    text: str,
) -> None:
    payload = bytes.fromhex(text)
    assert failure(MessageAssembler(), Frame(TEXT, payload))[0] == 1007
    fragments = Frame(TEXT, payload, fin=False), Frame(CONTINUATION, b"")
    assert failure(MessageAssembler(), *fragments)[0] == 1007


def test_the_work_of_checking_text_does_not_grow_with_the_pieces_it_comes_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at = 0

    def counting(data: memoryview, errors: str, final: bool) -> tuple[str, int]:
        nonlocal looked_at
        looked_at += len(data)
        return utf_8_decode(data, errors, final)

    monkeypatch.setattr(messages, "utf_8_decode", counting)
    payload = "\U0001f600".encode() * 500
    assembler = MessageAssembler(max_message_size=len(payload))
    for offset in range(len(payload) - 1):
        piece = payload[offset : offset + 1]
        remaining = len(payload) - offset - 1
        assembler.receive_frame(Frame(TEXT, piece, offset=offset, remaining=remaining))
    # An unfinished character of n bytes is looked at n times.
    assert looked_at <= len(payload) / 4 * (1 + 2 + 3 + 4)


def test_compressed_messages_stand_alone_unless_told_otherwise() -> None:
    # "Hello", then "Hello" as a reference to it (RFC 7692, 7.2.3.2)
    first, second = bytes.fromhex("f248cdc9c90700"), bytes.fromhex("f200110000")
    frames = [Frame(TEXT, payload, rsv1=True) for payload in (first, second)]
    assert failure(MessageAssembler(), *frames)[0] == 1007
    assembler = MessageAssembler(context_takeover=True)
    assert [assembler.receive_frame(frame) for frame in frames] == ["Hello", "Hello"]


# Fragments in the wrong order (section 5.4)


NOTHING_BEGAN = "a continuation has no message to continue (RFC 6455, 5.4)"
NOT_ENDED = "a message began before the last one ended (RFC 6455, 5.4)"


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
            "a continuation is marked as compressed (RFC 7692, 6.1)",
        ),
    ],
)
def test_a_fragment_out_of_order_is_rejected_with_1002(frames: list[Frame], rule: str) -> None:
    code, reason = failure(MessageAssembler(), *frames)
    assert (code, reason) == (1002, rule)


# The budgets


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_may_have_exactly_as_many_bytes_as_allowed(opcode: Opcode) -> None:
    assembler = MessageAssembler(max_message_size=10)
    assert assembler.receive_frame(Frame(opcode, b"x" * 10)) is not None
    code, reason = failure(assembler, Frame(opcode, b"x" * 11))
    assert (code, reason) == (1009, "a message is larger than 10 bytes")


def test_fragments_may_have_exactly_as_many_bytes_as_allowed_together() -> None:
    assembler = MessageAssembler(max_message_size=10)
    assembler.receive_frame(Frame(BINARY, b"x" * 6, fin=False))
    assert assembler.receive_frame(Frame(CONTINUATION, b"x" * 4)) == b"x" * 10
    fragments = Frame(BINARY, b"x" * 6, fin=False), Frame(CONTINUATION, b"x" * 5)
    assert failure(assembler, *fragments)[0] == 1009


@pytest.mark.parametrize("length", [11, 126, 65536, 2**63 - 1])
def test_a_message_is_rejected_on_its_announced_length_before_any_payload(length: int) -> None:
    assembler = MessageAssembler(max_message_size=10)
    assert failure(assembler, Frame(BINARY, b"", remaining=length))[0] == 1009


def test_a_fragment_is_rejected_on_its_announced_length_before_any_payload() -> None:
    fragments = Frame(BINARY, b"x" * 6, fin=False), Frame(CONTINUATION, b"", remaining=5)
    assert failure(MessageAssembler(max_message_size=10), *fragments)[0] == 1009


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
def test_a_message_may_have_exactly_as_many_fragments_as_allowed(payload: bytes) -> None:
    fragments = [
        Frame(BINARY, payload, fin=False),
        *[Frame(CONTINUATION, payload, fin=False)] * 2,
    ]
    assembler = MessageAssembler(max_fragments=4)
    for fragment in fragments:
        assembler.receive_frame(fragment)
    assert assembler.receive_frame(Frame(CONTINUATION, payload)) == payload * 4
    code, reason = failure(MessageAssembler(max_fragments=3), *fragments, fragments[-1])
    assert (code, reason) == (1008, "a message has more than 3 fragments")


def test_the_pieces_of_a_fragment_count_as_one() -> None:
    assembler = MessageAssembler(max_fragments=1)
    for offset in range(9):
        assembler.receive_frame(Frame(BINARY, b"x", offset=offset, remaining=9 - offset))
    assert assembler.receive_frame(Frame(BINARY, b"x", offset=9)) == b"x" * 10


@pytest.mark.parametrize(
    ("max_message_size", "fragments"),
    [(0, 128), (8191, 128), (8192, 128), (8256, 129), (1 << 20, 16384)],
)
def test_without_a_limit_of_its_own_a_message_has_a_fragment_for_every_64_bytes_and_128_at_least(
    max_message_size: int, fragments: int
) -> None:
    assembler = MessageAssembler(max_message_size=max_message_size)
    assembler.receive_frame(Frame(BINARY, b"", fin=False))
    code, reason = failure(assembler, *[Frame(CONTINUATION, b"", fin=False)] * fragments)
    assert (code, reason) == (1008, f"a message has more than {fragments} fragments")


# Compressed messages (RFC 7692)


def compressed(message: bytes) -> bytes:
    return Compressor().compress(message)


def test_pieces_and_fragments_of_a_compressed_message_are_expanded_as_they_come() -> None:
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
    # Nothing of it is left for what follows, compressed or not.
    assert assembler.receive_frame(Frame(BINARY, payload)) == payload
    assert assembler.receive_frame(Frame(TEXT, payload, rsv1=True)) == "Hello"


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_budget_is_for_what_a_compressed_message_expands_to(opcode: Opcode) -> None:
    assembler = MessageAssembler(max_message_size=1000)
    for _ in range(3):
        expanded = assembler.receive_frame(Frame(opcode, compressed(b"x" * 1000), rsv1=True))
        assert expanded is not None
        assert len(expanded) == 1000
    code, reason = failure(assembler, Frame(opcode, compressed(b"x" * 1001), rsv1=True))
    assert (code, reason) == (1009, "a message is larger than 1000 bytes")


def test_the_budget_is_for_all_fragments_of_a_compressed_message_together() -> None:
    payload = compressed(b"x" * 600 + b"y" * 600)
    fragments = Frame(BINARY, payload[:8], fin=False, rsv1=True), Frame(CONTINUATION, payload[8:])
    assert failure(MessageAssembler(max_message_size=1199), *fragments)[0] == 1009
    assembler = MessageAssembler(max_message_size=1200)
    assembler.receive_frame(fragments[0])
    assert assembler.receive_frame(fragments[1]) == b"x" * 600 + b"y" * 600


def test_the_bytes_of_a_compressed_message_on_the_wire_are_bounded_at_the_header() -> None:
    # An eighth more than the message itself, and 64: 1000 + 125 + 64.
    taken = MessageAssembler(max_message_size=1000)
    assert taken.receive_frame(Frame(BINARY, b"", rsv1=True, remaining=1189)) is None
    refused = Frame(BINARY, b"", rsv1=True, remaining=1190)
    assert failure(MessageAssembler(max_message_size=1000), refused)[0] == 1009
    # Flushed over and over: five bytes that expand to none.
    block = bytes.fromhex("00 0000 ffff")
    flushes = [Frame(BINARY, block, fin=False, rsv1=True)]
    flushes += [Frame(CONTINUATION, block, fin=False)] * 237
    assert failure(MessageAssembler(max_message_size=1000, max_fragments=1000), *flushes)[0] == 1009


def test_a_message_that_is_not_compressed_is_no_part_of_the_context() -> None:
    assembler = MessageAssembler(context_takeover=True)
    assert (
        assembler.receive_frame(Frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv1=True)) == "Hello"
    )
    assert assembler.receive_frame(Frame(TEXT, b"in between")) == "in between"
    # RFC 7692, 7.2.3.2: five bytes, five bytes back
    assert assembler.receive_frame(Frame(TEXT, bytes.fromhex("f200110000"), rsv1=True)) == "Hello"
