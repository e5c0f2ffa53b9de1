"""permessage-deflate: RFC 7692, its parameters, its compressor and its expander."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Event, Role
from wsproto_min.deflate import (
    MAX_FINAL_BLOCKS,
    SHARED_COMPRESSOR,
    TAIL,
    Compressor,
    Decompressor,
    DeflateParameters,
)
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import encode_frame
from wsproto_min.testing.strategies import chunkings, patterned

Parameters = Sequence[tuple[str, str | None]]

SERVER_ALONE = "server_no_context_takeover"
CLIENT_ALONE = "client_no_context_takeover"
SERVER_BITS = "server_max_window_bits"
CLIENT_BITS = "client_max_window_bits"

LIMIT = 1 << 20
WINDOWS = pytest.mark.parametrize("bits", range(8, 16))


def inflated(inflater: Decompressor, *pieces: bytes, limit: int = LIMIT) -> bytes:
    """Return the one message that the pieces make up, which has no fault."""
    result = b""
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        expanded, error = inflater.inflate(piece, limit - len(result), last=last)
        assert error is None, error
        result += expanded
    return result


def fault(data: bytes, *, limit: int = LIMIT) -> tuple[bytes, ProtocolError]:
    """Return what comes before the fault of a message, and the fault."""
    result, error = Decompressor().inflate(data, limit, last=True)
    assert error is not None, f"{data.hex(' ')} was taken for {result!r}"
    return result, error


def stored(data: bytes, *, final: bool = False) -> bytes:
    """Return a block without compression (RFC 1951, 3.2.4)."""
    length = len(data)
    return (
        bytes([final])
        + length.to_bytes(2, "little")
        + (length ^ 0xFFFF).to_bytes(2, "little")
        + data
    )


# The examples (section 7.2.3), byte for byte


def test_a_message_made_of_one_block_is_that_of_section_7_2_3_1() -> None:
    client = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT)
    # Text, FIN and RSV1, 7 bytes
    assert list(client.receive_data(bytes.fromhex("c1 07 f248cdc9c90700"))) == ["Hello"]
    # Text, RSV1 without FIN; then a continuation with FIN
    fragments = bytes.fromhex("41 03 f248cd  80 04 c9c90700")
    assert list(client.receive_data(fragments)) == ["Hello"]
    assert Compressor().compress(b"Hello").hex() == "f248cdc9c90700"


def test_messages_share_the_window_as_in_section_7_2_3_2() -> None:
    compressor = Compressor(context_takeover=True)
    assert compressor.compress(b"Hello").hex() == "f248cdc9c90700"
    assert compressor.compress(b"Hello").hex() == "f200110000"
    client = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT)
    frames = bytes.fromhex("c1 07 f248cdc9c90700  c1 05 f200110000")
    assert list(client.receive_data(frames)) == ["Hello", "Hello"]


def test_without_takeover_a_reference_to_the_last_message_is_1007() -> None:
    client = Connection(Role.CLIENT, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    frames = bytes.fromhex("c1 07 f248cdc9c90700  c1 05 f200110000")
    assert list(client.receive_data(frames)) == ["Hello"]
    assert client.error is not None
    assert client.error.code == 1007


@pytest.mark.parametrize(
    ("section", "data", "message"),
    [
        ("7.2.3.3: a block without compression", "00 0500 faff 48656c6c6f 00", b"Hello"),
        ("7.2.3.4: a block with BFINAL", "f3 48 cd c9 c9 07 00 00", b"Hello"),
        ("7.2.3.5: two blocks", "f2 48 05 00 00 00 ff ff ca c9 c9 07 00", b"Hello"),
        ("7.2.3.6: an empty message", "00", b""),
        ("an empty fixed block", "02 00", b""),
    ],
)
def test_the_other_examples_expand_in_one_piece_and_in_single_bytes(
    section: str, data: str, message: bytes
) -> None:
    payload = bytes.fromhex(data)
    assert inflated(Decompressor(), payload) == message, section
    pieces = [payload[i : i + 1] for i in range(len(payload))]
    assert inflated(Decompressor(), *pieces) == message, section
    again = Decompressor()  # and the message after it is none the worse
    assert [inflated(again, payload), inflated(again, bytes.fromhex("f248cdc9c90700"))] == [
        message,
        b"Hello",
    ]


@pytest.mark.parametrize("context_takeover", [False, True])
def test_an_empty_message_is_one_zero_byte_each_time(context_takeover: bool) -> None:
    compressor = Compressor(context_takeover=context_takeover)
    assert [compressor.compress(data) for data in (b"", b"", b"a", b"")][::3] == [b"\0"] * 2
    assert compressor.compress(b"") == b"\0", "a second one in a row"
    inflater = Decompressor()
    assert [inflated(inflater, b"\0"), inflated(inflater, b"\0")] == [b"", b""]


# The parameters (section 7.1)


@pytest.mark.parametrize("bits", [-15, 0, 7, 16])
def test_a_window_that_does_not_exist_is_a_value_error(bits: int) -> None:
    with pytest.raises(ValueError, match=f"8 to 15, not {bits}"):
        DeflateParameters(server_max_window_bits=bits)
    with pytest.raises(ValueError, match=f"8 to 15, not {bits}"):
        DeflateParameters(client_max_window_bits=bits)


@pytest.mark.parametrize(
    ("wish", "offer"),
    [
        (DeflateParameters.DEFAULT, "permessage-deflate; client_max_window_bits"),
        (
            DeflateParameters.NO_CONTEXT_TAKEOVER,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "client_max_window_bits",
        ),
        (
            DeflateParameters(server_max_window_bits=10, client_max_window_bits=9),
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
        ),
    ],
)
def test_an_offer_lets_the_server_choose_the_clients_window(
    wish: DeflateParameters, offer: str
) -> None:
    assert wish.offer() == offer


@pytest.mark.parametrize(
    ("wish", "offered", "agreed"),
    [
        (DeflateParameters.DEFAULT, [], DeflateParameters.DEFAULT),
        (
            DeflateParameters.DEFAULT,
            [(SERVER_ALONE, None)],
            DeflateParameters(server_no_context_takeover=True),
        ),
        (
            DeflateParameters.DEFAULT,
            [(CLIENT_ALONE, None)],
            DeflateParameters(client_no_context_takeover=True),
        ),
        (
            DeflateParameters.DEFAULT,
            [(SERVER_BITS, "8")],
            DeflateParameters(server_max_window_bits=8),
        ),
        (DeflateParameters.DEFAULT, [(SERVER_BITS, "15")], DeflateParameters.DEFAULT),
        (DeflateParameters.DEFAULT, [(CLIENT_BITS, None)], DeflateParameters.DEFAULT),
        (
            DeflateParameters.DEFAULT,
            [(CLIENT_BITS, "8")],
            DeflateParameters(client_max_window_bits=8),
        ),
        (
            DeflateParameters.DEFAULT,
            [(CLIENT_BITS, "9"), (SERVER_ALONE, None), (SERVER_BITS, "12"), (CLIENT_ALONE, None)],
            DeflateParameters(True, True, 12, 9),
        ),
        (DeflateParameters.NO_CONTEXT_TAKEOVER, [], DeflateParameters.NO_CONTEXT_TAKEOVER),
        # The smaller of the wish and the offer ...
        (
            DeflateParameters(server_max_window_bits=10),
            [(SERVER_BITS, "12")],
            DeflateParameters(False, False, 10),
        ),
        (
            DeflateParameters(server_max_window_bits=12),
            [(SERVER_BITS, "10")],
            DeflateParameters(False, False, 10),
        ),
        (DeflateParameters(server_max_window_bits=12), [], DeflateParameters(False, False, 12)),
        (
            DeflateParameters(client_max_window_bits=10),
            [(CLIENT_BITS, "12")],
            DeflateParameters(False, False, 15, 10),
        ),
        (
            DeflateParameters(client_max_window_bits=12),
            [(CLIENT_BITS, "10")],
            DeflateParameters(False, False, 15, 10),
        ),
        (
            DeflateParameters(client_max_window_bits=12),
            [(CLIENT_BITS, None)],
            DeflateParameters(False, False, 15, 12),
        ),
        # ... and of the client nothing is asked that it did not offer (7.1.2.2).
        (DeflateParameters(client_max_window_bits=10), [], DeflateParameters.DEFAULT),
    ],
)
def test_a_server_agrees_to_the_least_that_both_wish(
    wish: DeflateParameters, offered: Parameters, agreed: DeflateParameters
) -> None:
    assert wish.answer(offered) == agreed


@pytest.mark.parametrize(
    ("agreed", "header"),
    [
        (DeflateParameters.DEFAULT, "permessage-deflate"),
        (
            DeflateParameters(True, True, 8, 14),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=8; client_max_window_bits=14",
        ),
    ],
)
def test_an_answer_tells_all_that_is_not_so_by_default(
    agreed: DeflateParameters, header: str
) -> None:
    assert agreed.encode() == header


ILL_FORMED: list[Parameters] = [
    [("x", None)],
    [("Server_Max_Window_Bits", "10")],
    [(SERVER_ALONE, "true")],
    [(SERVER_ALONE, "1")],
    [(CLIENT_ALONE, "")],
    [(SERVER_ALONE, None), (SERVER_ALONE, None)],
    [(SERVER_BITS, "10"), (SERVER_BITS, "10")],
    [(CLIENT_BITS, "10"), (CLIENT_BITS, None)],
    [(SERVER_BITS, None)],
    *(
        [(name, value)]
        for name in (SERVER_BITS, CLIENT_BITS)
        for value in ["0", "7", "16", "010", "08", "+9"]
    ),
    *([(name, value)] for name in (SERVER_BITS, CLIENT_BITS) for value in ("", "-9", "9.0", "ten")),
    [(SERVER_BITS, "\u0661\u0660")],  # digits, but not decimal ASCII
]


@pytest.mark.parametrize("parameters", ILL_FORMED)
def test_what_is_unknown_repeated_or_ill_formed_is_declined_by_a_server_and_refused_by_a_client(
    parameters: Parameters,
) -> None:
    assert DeflateParameters.DEFAULT.answer(parameters) is None
    assert DeflateParameters.DEFAULT.check(parameters) is None


@pytest.mark.parametrize(
    ("offer", "answered", "agreed"),
    [
        (DeflateParameters.DEFAULT, [], DeflateParameters.DEFAULT),
        # A server may restrict itself, and the client, unasked (7.1.1.1 to 7.1.2.2).
        (
            DeflateParameters.DEFAULT,
            [(SERVER_ALONE, None)],
            DeflateParameters(server_no_context_takeover=True),
        ),
        (
            DeflateParameters.DEFAULT,
            [(CLIENT_ALONE, None)],
            DeflateParameters(client_no_context_takeover=True),
        ),
        (
            DeflateParameters.DEFAULT,
            [(SERVER_BITS, "8")],
            DeflateParameters(server_max_window_bits=8),
        ),
        (
            DeflateParameters.DEFAULT,
            [(CLIENT_BITS, "8")],
            DeflateParameters(client_max_window_bits=8),
        ),
        (DeflateParameters.DEFAULT, [(CLIENT_BITS, "15")], DeflateParameters.DEFAULT),
        (DeflateParameters.DEFAULT, [(CLIENT_BITS, None)], None),
        # What the client asked of it the server must grant ...
        (DeflateParameters(server_no_context_takeover=True), [], None),
        (
            DeflateParameters.NO_CONTEXT_TAKEOVER,
            [(SERVER_ALONE, None)],
            DeflateParameters.NO_CONTEXT_TAKEOVER,
        ),
        (DeflateParameters(server_max_window_bits=10), [], None),
        (DeflateParameters(server_max_window_bits=10), [(SERVER_BITS, "11")], None),
        (
            DeflateParameters(server_max_window_bits=10),
            [(SERVER_BITS, "10")],
            DeflateParameters(False, False, 10),
        ),
        (
            DeflateParameters(server_max_window_bits=10),
            [(SERVER_BITS, "9")],
            DeflateParameters(False, False, 9),
        ),
        # ... but what the client said of itself holds also if the server is silent.
        (DeflateParameters(client_no_context_takeover=True), [], DeflateParameters(False, True)),
        (DeflateParameters(client_max_window_bits=10), [], DeflateParameters(False, False, 15, 10)),
        (
            DeflateParameters(client_max_window_bits=10),
            [(CLIENT_BITS, "10")],
            DeflateParameters(False, False, 15, 10),
        ),
        (
            DeflateParameters(client_max_window_bits=10),
            [(CLIENT_BITS, "8")],
            DeflateParameters(False, False, 15, 8),
        ),
        (DeflateParameters(client_max_window_bits=10), [(CLIENT_BITS, "11")], None),
        (DeflateParameters(client_max_window_bits=10), [(CLIENT_BITS, "15")], None),
    ],
)
def test_a_client_takes_an_answer_exactly_if_it_fits_its_offer(
    offer: DeflateParameters, answered: Parameters, agreed: DeflateParameters | None
) -> None:
    assert offer.check(answered) == agreed


def parameter_sets() -> st.SearchStrategy[DeflateParameters]:
    bits = st.integers(8, 15)
    return st.builds(DeflateParameters, st.booleans(), st.booleans(), bits, bits)


def parsed(header: str) -> Parameters:
    pairs = [part.strip().partition("=") for part in header.split(";")[1:]]
    return [(name, value if equals else None) for name, equals, value in pairs]


@given(parameter_sets(), parameter_sets())
def test_what_any_server_answers_to_any_offer_both_take_for_the_same(
    offer: DeflateParameters, wish: DeflateParameters
) -> None:
    agreed = wish.answer(parsed(offer.offer()))
    assert agreed is not None
    assert offer.check(parsed(agreed.encode())) == agreed
    for asked in (offer, wish):
        assert agreed.server_max_window_bits <= asked.server_max_window_bits
        assert agreed.client_max_window_bits <= asked.client_max_window_bits
        assert agreed.server_no_context_takeover >= asked.server_no_context_takeover
        assert agreed.client_no_context_takeover >= asked.client_no_context_takeover


# Compressing and expanding


# Text with repetitions near and far, so that every window has something to refer to.
FAR = (patterned(300) + bytes(range(256)) * 3) * 60


@WINDOWS
@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize("server", [False, True])
def test_each_window_is_kept_to_by_both_ends(
    server: bool, context_takeover: bool, bits: int
) -> None:
    agreed = (
        DeflateParameters(not context_takeover, True, bits, 15)
        if server
        else DeflateParameters(True, not context_takeover, 15, bits)
    )
    assert agreed.context_takeover(server=server) is context_takeover
    compressor = agreed.compressor(server=server)
    # A strict expander: with no more window than was agreed, it fails on a
    # reference further back. zlib has none of 2^8 bytes, the next one does.
    strict = zlib.decompressobj(-max(bits, 9))
    inflater = Decompressor()
    for message in (b"Hello", FAR, b"", b"Hello", FAR[100:5000]):
        payload = compressor.compress(message)
        if not context_takeover:
            strict, inflater = zlib.decompressobj(-max(bits, 9)), Decompressor()
        assert strict.decompress(payload + TAIL) == message
        assert inflated(inflater, payload) == message


def test_a_window_of_256_bytes_is_never_left() -> None:
    # No code refers back at all: repetitions beyond 256 bytes are not found.
    compressor = Compressor(context_takeover=True, window_bits=8)
    far = [compressor.compress(patterned(251)), compressor.compress(patterned(251))]
    assert len(far[1]) > 200, "the second message refers to the first"
    assert len(Compressor(window_bits=8).compress(b"Hello" * 50)) > 50, "a message refers to itself"


@pytest.mark.parametrize("server", [False, True])
def test_where_the_context_is_taken_over_a_message_said_again_is_smaller(server: bool) -> None:
    compressor = DeflateParameters().compressor(server=server)
    assert [len(compressor.compress(b"Hello")) for _ in range(2)] == [7, 5]


@pytest.mark.parametrize("bits", range(9, 16))
def test_the_quickest_level_is_used(bits: int) -> None:
    compressor = zlib.compressobj(1, wbits=-bits)
    quick = compressor.compress(FAR) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert Compressor(window_bits=bits).compress(FAR) == quick[:-4]


def test_a_larger_window_finds_what_is_further_back() -> None:
    noise = bytes((i * i * 7 + i // 3) % 251 for i in range(20_000))
    sizes = [len(Compressor(window_bits=bits).compress(noise[:3000] * 2)) for bits in (9, 15)]
    assert sizes[1] < sizes[0]


def test_whoever_agreed_to_no_memory_and_the_largest_window_shares_one_deflater() -> None:
    assert DeflateParameters.NO_CONTEXT_TAKEOVER.compressor(server=True) is SHARED_COMPRESSOR
    assert DeflateParameters.NO_CONTEXT_TAKEOVER.compressor(server=False) is SHARED_COMPRESSOR
    assert DeflateParameters(True, False).compressor(server=True) is SHARED_COMPRESSOR
    assert DeflateParameters(True, False).compressor(server=False) is not SHARED_COMPRESSOR
    assert DeflateParameters(True, True, 14, 15).compressor(server=True) is not SHARED_COMPRESSOR
    first, second = SHARED_COMPRESSOR.compress(b"Hello"), SHARED_COMPRESSOR.compress(b"Hello")
    assert first == second, "it remembers"


@given(
    st.data(),
    st.lists(st.binary(max_size=60) | st.sampled_from([b"", FAR, b"Hello" * 50]), max_size=5),
    st.integers(8, 15),
    st.booleans(),
)
def test_messages_come_back_through_any_window_in_any_pieces(
    data: st.DataObject, messages: list[bytes], bits: int, context_takeover: bool
) -> None:
    compressor = Compressor(context_takeover=context_takeover, window_bits=bits)
    inflater = Decompressor()
    for message in messages:
        payload = compressor.compress(message)
        if not context_takeover:
            inflater = Decompressor()
        assert inflated(inflater, *(data.draw(chunkings(payload)) or [b""])) == message


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_what_peers_make_with_any_zlib_window_and_level_is_expanded(level: int, bits: int) -> None:
    compressor = zlib.compressobj(level, wbits=-bits)
    inflater = Decompressor()
    for message in (b"Hello", FAR, b"Hello", FAR):
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert inflated(inflater, payload[:-4]) == message


# Final blocks within a message (section 7.2.3.5)


def final(data: bytes, window: bytes = b"") -> bytes:
    """Return one message's data in a block with BFINAL that may refer to `window`."""
    compressor = zlib.compressobj(9, wbits=-15, zdict=window)
    return compressor.compress(data) + compressor.flush(zlib.Z_FINISH)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(final(b"Hello") + b"\0", id="at the end"),
        pytest.param(final(b"Hel") + bytes.fromhex("00 0200 fdff 6c6f 00"), id="in the middle"),
        pytest.param(final(b"") + bytes.fromhex("f248cdc9c90700"), id="empty and at the beginning"),
        pytest.param(final(b"He") + final(b"l") + final(b"lo") + b"\0", id="three of them"),
        pytest.param(stored(b"Hello", final=True) + b"\0", id="without compression"),
    ],
)
def test_a_final_block_may_stand_anywhere_and_the_window_lives_on(payload: bytes) -> None:
    pieces = [payload[i : i + 1] for i in range(len(payload))]
    for cut in ([payload], pieces):
        inflater = Decompressor()
        assert inflated(inflater, *cut) == b"Hello"
        # 7.2.3.2's second message: it refers to the five bytes before.
        assert inflated(inflater, bytes.fromhex("f200110000")) == b"Hello"


def test_a_block_after_a_final_one_may_refer_to_the_whole_window_before_it() -> None:
    noise = bytes((i * i * 7 + i // 3) % 251 for i in range(1 << 15))
    second = final(noise, window=noise)
    assert len(second) < 2000, "it does not refer back"
    assert inflated(Decompressor(), final(noise) + second + b"\0") == noise * 2
    inflater = Decompressor()  # and over two messages
    assert inflated(inflater, final(noise) + b"\0") == noise
    assert inflated(inflater, second + b"\0") == noise


def test_the_final_blocks_of_a_message_are_counted_and_one_too_many_is_1008() -> None:
    block = bytes.fromhex("03 00")  # final, fixed codes, nothing in it
    inflater = Decompressor()
    for _ in range(3):  # each message has its own count
        assert inflated(inflater, block * MAX_FINAL_BLOCKS + b"\0") == b""
    _, error = fault(block * (MAX_FINAL_BLOCKS + 1) + b"\0")
    assert (error.code, error.reason) == (
        1008,
        "a compressed message has more than 64 final blocks",
    )


def test_a_block_after_a_final_one_may_not_refer_to_before_the_beginning() -> None:
    # "H", then "Hello" from five bytes back
    reference = bytes.fromhex("f2 00 11 00 00")
    assert inflated(Decompressor(), stored(b"abcd", final=True) + reference) == b"abcdHabcd"
    result, error = fault(stored(b"abc", final=True) + reference)
    assert (result, error.code) == (b"abcH", 1007)


@pytest.mark.parametrize("limit", range(8))
def test_final_blocks_expand_to_the_limit_and_a_byte_together(limit: int) -> None:
    payload = stored(b"abc", final=True) + stored(b"def", final=True) + stored(b"ghi") + b"\0"
    result, error = Decompressor().inflate(payload, limit, last=True)
    assert (result, error) == (b"abcdefghi"[: limit + 1], None)


# Bad data and the budget


@pytest.mark.parametrize(
    ("data", "before"),
    [
        ("07", b""),  # block type 3 does not exist
        ("ff", b""),
        ("00 0500 0000 48656c6c6f", b""),  # a length and its complement that do not fit
        ("f2 00 11 00 00", b""),  # "Hello" from five bytes back, of which there are none
        ("00 0500 faff 48656c6c6f 06", b"Hello"),  # Hello, then block type 3
    ],
)
def test_what_is_not_deflate_data_is_1007_and_what_came_before_it_is_told(
    data: str, before: bytes
) -> None:
    result, error = fault(bytes.fromhex(data))
    assert result[: len(before)] == before
    assert error.code == 1007
    assert error.reason == "a compressed message is not deflate data (RFC 7692, 7.2.2)"


@pytest.mark.parametrize("limit", [0, 1, 100, 999, 1000, 1001])
def test_before_a_fault_too_a_byte_over_the_limit_is_all_that_is_expanded(limit: int) -> None:
    compressor = zlib.compressobj(wbits=-15)
    good = compressor.compress(b"x" * 1000) + compressor.flush(zlib.Z_SYNC_FLUSH)
    result, _ = Decompressor().inflate(good + b"\x06", limit, last=True)  # block type 3
    assert result == b"x" * min(limit + 1, 1000)


@pytest.mark.parametrize("length", range(len(Compressor().compress(b"Hello, Hello, Hello"))))
def test_a_message_cut_short_harms_nobody_where_no_context_is_taken_over(length: int) -> None:
    payload = Compressor().compress(b"Hello, Hello, Hello")[:length]
    server = Connection(Role.SERVER, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    cut = encode_frame(Opcode.BINARY, payload, rsv1=True, mask=bytes(4))
    whole = encode_frame(Opcode.TEXT, Compressor().compress(b"Hello"), rsv1=True, mask=bytes(4))
    events = list(server.receive_data(cut + whole))
    if server.error is None:
        assert events[1:] == ["Hello"]
    else:
        assert (events, server.error.code) == ([], 1007)


@pytest.mark.parametrize("limit", [0, 1, 4, 5, 1000])
def test_one_byte_over_the_limit_is_all_that_is_expanded(limit: int) -> None:
    payload = Compressor().compress(b"x" * 100_000)
    result, error = Decompressor().inflate(payload, limit, last=True)
    assert (result, error) == (b"x" * (limit + 1), None)
    exact = Compressor().compress(b"x" * limit)
    assert inflated(Decompressor(), exact, limit=limit) == b"x" * limit


def bomb(size: int) -> bytes:
    """Return what expands to `size` zero bytes."""
    compressor = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    data = b"".join(compressor.compress(zeros) for _ in range(size >> 20))
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.fixture(scope="module")
def gibibyte() -> bytes:
    return bomb(1 << 30)


def test_of_many_messages_no_more_than_their_window_is_kept() -> None:
    inflater = Decompressor()
    payload = bomb(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(5):
            inflated(inflater, payload)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20, f"{held} bytes are kept of 5 MiB"


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("cut", [1 << 30, 64], ids=["one read", "many reads"])
def test_a_bomb_of_a_gibibyte_is_1009_and_costs_little_memory(
    gibibyte: bytes, cut: int, opcode: Opcode
) -> None:
    server = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT)
    data = encode_frame(opcode, gibibyte, rsv1=True, mask=bytes(4))
    assert len(gibibyte) <= 1_200_000, "the size on the wire would give it away"
    tracemalloc.start()
    try:
        events: list[Event] = []
        for begin in range(0, len(data), cut):
            events += server.receive_data(data[begin : begin + cut])
            if server.error is not None:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert events == []
    assert server.error is not None
    assert server.error.code == 1009
    assert peak < 8 << 20, f"{peak} bytes at the peak"


@pytest.mark.parametrize("in_pieces", [False, True])
def test_bad_text_before_other_faults_is_what_is_told(in_pieces: bool) -> None:
    faults = {
        "not deflate": bytes.fromhex("06"),
        "too big": stored(b"x" * 2000),
        "final blocks": bytes.fromhex("0300") * 65,
    }
    for name, rest in faults.items():
        client = Connection(
            Role.CLIENT, compression=DeflateParameters.DEFAULT, max_message_size=1000
        )
        data = encode_frame(Opcode.TEXT, (stored(b"a\xff") + rest)[:1100], rsv1=True)
        for piece in [data[i : i + 1] for i in range(len(data))] if in_pieces else [data]:
            assert list(client.receive_data(piece)) == []
        assert client.error is not None, name
        assert client.error.reason == "a text message is not UTF-8 (RFC 6455, 8.1)", name


BLOCKS = [
    stored(b"a\xc3"),
    stored(b"\xa9b"),
    stored(b"\xff"),
    stored(b"x" * 30),
    Compressor().compress(b"abab" * 20),
    final(b"abc"),
    bytes.fromhex("0300") * 40,  # final blocks, which must not be too many
    b"\x06",  # no such block type
    zlib.compress(b"hi", wbits=-15),
]


@given(
    st.data(),
    st.lists(
        st.sampled_from(BLOCKS) | st.binary(max_size=4),
        max_size=6,
    ),
    st.integers(0, 64),
    st.booleans(),
)
@example(None, [stored(b"x" * 30), b"\x06"], 29, False)
def test_the_pieces_in_which_a_message_comes_make_no_difference_to_the_verdict_on_it(
    data: st.DataObject | None, blocks: list[bytes], limit: int, text: bool
) -> None:
    payload = b"".join(blocks)
    frame = encode_frame(Opcode.TEXT if text else Opcode.BINARY, payload, rsv1=True)

    def verdict(chunks: list[bytes]) -> tuple[list[Event], str | None]:
        client = Connection(
            Role.CLIENT, compression=DeflateParameters.DEFAULT, max_message_size=limit
        )
        events = [event for chunk in chunks for event in client.receive_data(chunk)]
        return events, None if client.error is None else client.error.reason

    bytewise = verdict([frame[i : i + 1] for i in range(len(frame))])
    assert verdict([frame]) == bytewise
    if data is not None:
        assert verdict(data.draw(chunkings(frame))) == bytewise
