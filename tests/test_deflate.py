"""permessage-deflate (RFC 7692): parameters, compressor and decompressor."""

from __future__ import annotations

import random
import sys
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Role
from wsproto_min.deflate import (
    MAX_FINAL_BLOCKS,
    SHARED_COMPRESSOR,
    TAIL,
    WINDOW_SIZE,
    Compressor,
    Decompressor,
    DeflateParameters,
)
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import encode_frame
from wsproto_min.rules import Rule
from wsproto_min.testing.raw_frame import patterned
from wsproto_min.testing.strategies import chunkings

Parameters = Sequence[tuple[str, str | None]]

SERVER_ALONE = "server_no_context_takeover"
CLIENT_ALONE = "client_no_context_takeover"
SERVER_BITS = "server_max_window_bits"
CLIENT_BITS = "client_max_window_bits"

LIMIT = 1 << 20
WINDOWS = pytest.mark.parametrize("bits", range(8, 16))


def decompressed(decompressor: Decompressor, *chunks: bytes, limit: int = LIMIT) -> bytes:
    """Return the message that the chunks make up; fail on an error."""
    result = b""
    for index, chunk in enumerate(chunks):
        last = index == len(chunks) - 1
        output, error = decompressor.decode(chunk, limit - len(result), last=last)
        assert error is None, error
        result += output
    return result


def error_of(data: bytes, *, limit: int = LIMIT) -> tuple[bytes, ProtocolError]:
    """Return the output before the error of a message, and the error."""
    result, error = Decompressor().decode(data, limit, last=True)
    assert error is not None, f"{data.hex(' ')} was accepted as {result!r}"
    return result, error


def receive(connection: Connection, data: bytes) -> list[Event]:
    """Return all events of the data."""
    connection.receive_data(data)
    return list(iter(connection.next_event, None))


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


def test_example_7_2_3_1_one_block() -> None:
    client = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT)
    # Text, FIN and RSV1, 7 bytes
    assert receive(client, bytes.fromhex("c1 07 f248cdc9c90700")) == ["Hello"]
    # Text, RSV1 without FIN; then a continuation with FIN
    fragments = bytes.fromhex("41 03 f248cd  80 04 c9c90700")
    assert receive(client, fragments) == ["Hello"]
    assert Compressor().compress(b"Hello").hex() == "f248cdc9c90700"


def test_example_7_2_3_2_shared_window() -> None:
    compressor = Compressor(context_takeover=True)
    assert compressor.compress(b"Hello").hex() == "f248cdc9c90700"
    assert compressor.compress(b"Hello").hex() == "f200110000"
    client = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT)
    frames = bytes.fromhex("c1 07 f248cdc9c90700  c1 05 f200110000")
    assert receive(client, frames) == ["Hello", "Hello"]


def test_no_context_takeover_reference_to_last_message_is_1007() -> None:
    client = Connection(Role.CLIENT, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    frames = bytes.fromhex("c1 07 f248cdc9c90700  c1 05 f200110000")
    close = Close(1007, "a compressed message is not DEFLATE data (RFC 7692, 7.2.2)")
    assert receive(client, frames) == ["Hello", close]
    assert client.error is not None
    assert client.error.rule is rules.NOT_DEFLATE


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
def test_example_decompresses_whole_and_in_single_bytes(
    section: str, data: str, message: bytes
) -> None:
    payload = bytes.fromhex(data)
    assert decompressed(Decompressor(), payload) == message, section
    chunks = [payload[i : i + 1] for i in range(len(payload))]
    assert decompressed(Decompressor(), *chunks) == message, section
    again = Decompressor(context_takeover=True)  # the next message is not affected
    assert [decompressed(again, payload), decompressed(again, bytes.fromhex("f248cdc9c90700"))] == [
        message,
        b"Hello",
    ]


def test_final_blocks_of_all_chunks_of_a_message_count() -> None:
    decompressor = Decompressor(context_takeover=True)
    block = stored(b"a", final=True)
    for _ in range(2):  # the second message too
        message = block * MAX_FINAL_BLOCKS + b"\0"
        assert decompressed(decompressor, message) == b"a" * MAX_FINAL_BLOCKS
    for _ in range(MAX_FINAL_BLOCKS):
        assert decompressor.decode(block, LIMIT, last=False) == (b"a", None)
    _, error = decompressor.decode(block, LIMIT, last=False)
    assert error is not None
    assert error.rule is rules.TOO_MANY_FINAL_BLOCKS


def test_decompressor_keeps_at_most_two_windows() -> None:
    decompressor = Decompressor(context_takeover=True)
    for number in range(40):
        decompressed(decompressor, stored(bytes([number]) * 5000) + b"\0")
        assert len(decompressor._window) <= 2 * WINDOW_SIZE


def test_has_more_only_after_a_limit_held_output_back() -> None:
    decompressor = Decompressor(context_takeover=True)
    has_more = [decompressor.has_more]
    payload = stored(b"abcdef") + b"\0"
    for data, limit in ((payload, 3), (b"", 1), (b"", 1), (payload, 6)):
        result, error = decompressor.decode(data, limit, last=bool(data))
        assert (len(result) > limit, error) == (decompressor.has_more, None)
        has_more.append(decompressor.has_more)
    assert has_more == [False, True, True, False, False]


@pytest.mark.parametrize("limit", [sys.maxsize, 1 << 63, 1 << 80])
def test_size_limit_may_be_above_the_largest_of_zlib(limit: int) -> None:
    connection = Connection(
        Role.CLIENT, compression=DeflateParameters.DEFAULT, max_message_size=limit
    )
    assert receive(connection, bytes.fromhex("c1 07 f2 48 cd c9 c9 07 00")) == ["Hello"]


@pytest.mark.parametrize("context_takeover", [False, True])
def test_empty_message_is_one_zero_byte_each_time(context_takeover: bool) -> None:
    compressor = Compressor(context_takeover=context_takeover)
    assert [compressor.compress(data) for data in (b"", b"", b"a", b"")][::3] == [b"\0"] * 2
    assert compressor.compress(b"") == b"\0", "a second one in a row"
    decompressor = Decompressor(context_takeover=True)
    assert [decompressed(decompressor, b"\0"), decompressed(decompressor, b"\0")] == [b"", b""]


@pytest.mark.parametrize("frames", ["c2 00", "42 00  80 00", "42 00  00 00  80 00"])
@pytest.mark.parametrize(
    "compression", [DeflateParameters.DEFAULT, DeflateParameters.NO_CONTEXT_TAKEOVER]
)
def test_messages_without_a_byte_are_empty(frames: str, compression: DeflateParameters) -> None:
    client = Connection(Role.CLIENT, compression=compression)
    hello = "c1 07 f248cdc9c90700"
    received = receive(client, bytes.fromhex(f"{frames} {hello} {frames} {frames} {hello}"))
    assert received == [b"", "Hello", b"", b"", "Hello"]


# The parameters (section 7.1)


@pytest.mark.parametrize("bits", [-15, 0, 7, 16])
def test_window_bits_out_of_range_is_value_error(bits: int) -> None:
    with pytest.raises(ValueError, match=f"8 to 15, not {bits}"):
        DeflateParameters(server_max_window_bits=bits)
    with pytest.raises(ValueError, match=f"8 to 15, not {bits}"):
        DeflateParameters(client_max_window_bits=bits)


@pytest.mark.parametrize(
    ("configured", "offer"),
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
def test_offer_lets_the_server_choose_the_client_window(
    configured: DeflateParameters, offer: str
) -> None:
    assert configured.to_offer() == offer


@pytest.mark.parametrize(
    ("configured", "offered", "negotiated"),
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
        # The smaller of configuration and offer ...
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
        # ... except that the client's window needs its offer (7.1.2.2).
        (DeflateParameters(client_max_window_bits=10), [], DeflateParameters.DEFAULT),
    ],
)
def test_accept_offer_returns_the_smaller_of_both(
    configured: DeflateParameters, offered: Parameters, negotiated: DeflateParameters
) -> None:
    assert configured.accept_offer(offered) == negotiated


@pytest.mark.parametrize(
    ("negotiated", "header"),
    [
        (DeflateParameters.DEFAULT, "permessage-deflate"),
        (
            DeflateParameters(True, True, 8, 14),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=8; client_max_window_bits=14",
        ),
    ],
)
def test_header_of_a_response_omits_default_parameters(
    negotiated: DeflateParameters, header: str
) -> None:
    assert negotiated.to_header() == header


MALFORMED: list[Parameters] = [
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


@pytest.mark.parametrize("parameters", MALFORMED)
def test_parameters_malformed_are_declined_and_refused(
    parameters: Parameters,
) -> None:
    assert DeflateParameters.DEFAULT.accept_offer(parameters) is None
    assert DeflateParameters.DEFAULT.validate_response(parameters) is None


@pytest.mark.parametrize(
    ("offer", "parameters", "negotiated"),
    [
        (DeflateParameters.DEFAULT, [], DeflateParameters.DEFAULT),
        # A server may add restrictions for itself and for the client (7.1.1.1 to 7.1.2.2).
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
        # The server must grant a restriction that the client requests of it ...
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
        # ... and a restriction of the client itself holds without being repeated.
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
def test_validate_response_accepts_only_a_fitting_response(
    offer: DeflateParameters, parameters: Parameters, negotiated: DeflateParameters | None
) -> None:
    assert offer.validate_response(parameters) == negotiated


def parameter_sets() -> st.SearchStrategy[DeflateParameters]:
    bits = st.integers(8, 15)
    return st.builds(DeflateParameters, st.booleans(), st.booleans(), bits, bits)


def parsed(header: str) -> Parameters:
    pairs = [part.strip().partition("=") for part in header.split(";")[1:]]
    return [(name, value if equals else None) for name, equals, value in pairs]


@given(parameter_sets(), parameter_sets())
def test_negotiation_of_any_offer_is_equal_on_both_sides(
    offer: DeflateParameters, configured: DeflateParameters
) -> None:
    negotiated = configured.accept_offer(parsed(offer.to_offer()))
    assert negotiated is not None
    assert offer.validate_response(parsed(negotiated.to_header())) == negotiated
    for side in (offer, configured):
        assert negotiated.server_max_window_bits <= side.server_max_window_bits
        assert negotiated.client_max_window_bits <= side.client_max_window_bits
        assert negotiated.server_no_context_takeover >= side.server_no_context_takeover
        assert negotiated.client_no_context_takeover >= side.client_no_context_takeover


# Compressing and decompressing


# Repetitions near and far, so that every window has data to refer to.
FAR = (patterned(300) + bytes(range(256)) * 3) * 60
# Data that no compressor makes smaller.
NOISE = random.Random(7692).randbytes(200_000)


@WINDOWS
@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize("server", [False, True])
def test_window_is_kept_by_both_sides(server: bool, context_takeover: bool, bits: int) -> None:
    negotiated = (
        DeflateParameters(not context_takeover, True, bits, 15)
        if server
        else DeflateParameters(True, not context_takeover, 15, bits)
    )
    assert negotiated.context_takeover(server=server) is context_takeover
    compressor = negotiated.encoder(server=server)
    # A decompressor with only the negotiated window fails on a reference further back.
    # zlib has none of 2^8 bytes, so the next size is used there.
    strict = zlib.decompressobj(-max(bits, 9))
    decompressor = Decompressor()
    for message in (b"Hello", FAR, b"", b"Hello", FAR[100:5000]):
        payload = compressor.compress(message)
        if not context_takeover:
            strict, decompressor = zlib.decompressobj(-max(bits, 9)), Decompressor()
        assert strict.decompress(payload + TAIL) == message
        assert decompressed(decompressor, payload) == message


def test_window_of_256_bytes_has_no_references() -> None:
    # There are no references at all, so repetitions are not found.
    compressor = Compressor(context_takeover=True, window_bits=8)
    far = [compressor.compress(patterned(251)), compressor.compress(patterned(251))]
    assert len(far[1]) > 200, "the second message refers to the first"
    assert len(Compressor(window_bits=8).compress(b"Hello" * 50)) > 50, "a message refers to itself"


@pytest.mark.parametrize("server", [False, True])
def test_context_takeover_makes_a_repeated_message_smaller(server: bool) -> None:
    compressor = DeflateParameters().encoder(server=server)
    assert [len(compressor.compress(b"Hello")) for _ in range(2)] == [7, 5]


@pytest.mark.parametrize("bits", range(9, 16))
def test_compressor_uses_the_fastest_level(bits: int) -> None:
    compressor = zlib.compressobj(1, wbits=-bits, memLevel=min(bits - 4, 8))
    quick = compressor.compress(FAR) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert Compressor(window_bits=bits).compress(FAR) == quick[:-4]


@pytest.mark.parametrize("size", [1 << 14, 60_000])
def test_compressor_stores_data_that_does_not_shrink(size: int) -> None:
    assert Compressor().compress(NOISE[:size]) == stored(NOISE[:size]) + b"\0"


def test_compressor_decides_by_a_sample_from_the_middle() -> None:
    text, noise = b"Hello" * 2000, NOISE[:10_000]
    assert len(Compressor().compress(noise + text + noise)) < 22_000
    assert len(Compressor().compress(text + noise + text)) > 30_000
    assert len(Compressor().compress(noise[:4000] + text[:2000])) < 5000, "too small for a sample"


@pytest.mark.parametrize(("noise", "is_stored"), [(3500, False), (3700, True)])
def test_compressor_stores_a_sample_above_seven_eighths(noise: int, is_stored: bool) -> None:
    sample = NOISE[:noise] + bytes(4096 - noise)
    data = bytes(6144) + sample + bytes(6144)
    assert (len(Compressor().compress(data)) > len(data)) is is_stored


@WINDOWS
def test_stored_data_begins_a_new_context(bits: int) -> None:
    compressor = Compressor(context_takeover=True, window_bits=bits)
    strict, decompressor = zlib.decompressobj(-max(bits, 9)), Decompressor(context_takeover=True)
    for message in (b"Hello", NOISE[:20_000], b"Hello", b"Hello", NOISE[-300:]):
        payload = compressor.compress(message)
        assert strict.decompress(payload + TAIL) == message
        assert decompressed(decompressor, payload) == message


def test_stored_fragment_within_a_message_is_decompressed() -> None:
    sender = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT)
    receiver = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT)
    parts = [b"Hello" * 100, NOISE[:20_000], b"Hello" * 100, b""]
    for _ in range(2):
        for part in parts:
            sender.send_fragment(part, last=not part)
        data = sender.data_to_send()
        assert len(data) < 20_200
        assert receive(receiver, data) == [b"".join(parts)]


def test_window_larger_finds_repetitions_further_back() -> None:
    noise = bytes((i * i * 7 + i // 3) % 251 for i in range(20_000))
    sizes = [len(Compressor(window_bits=bits).compress(noise[:3000] * 2)) for bits in (9, 15)]
    assert sizes[1] < sizes[0]


def test_compressor_without_context_is_shared() -> None:
    assert DeflateParameters.NO_CONTEXT_TAKEOVER.encoder(server=True) is SHARED_COMPRESSOR
    assert DeflateParameters.NO_CONTEXT_TAKEOVER.encoder(server=False) is SHARED_COMPRESSOR
    assert DeflateParameters(True, False).encoder(server=True) is SHARED_COMPRESSOR
    assert DeflateParameters(True, False).encoder(server=False) is not SHARED_COMPRESSOR
    assert DeflateParameters(True, True, 14, 15).encoder(server=True) is not SHARED_COMPRESSOR
    first, second = SHARED_COMPRESSOR.compress(b"Hello"), SHARED_COMPRESSOR.compress(b"Hello")
    assert first == second, "it keeps a context"


@given(
    st.data(),
    st.lists(
        st.binary(max_size=60) | st.sampled_from([b"", FAR, b"Hello" * 50, NOISE[: 1 << 14]]),
        max_size=5,
    ),
    st.integers(8, 15),
    st.booleans(),
)
def test_messages_survive_any_window_and_chunking(
    data: st.DataObject, messages: list[bytes], bits: int, context_takeover: bool
) -> None:
    compressor = Compressor(context_takeover=context_takeover, window_bits=bits)
    decompressor = Decompressor()
    for message in messages:
        payload = compressor.compress(message)
        if not context_takeover:
            decompressor = Decompressor()
        assert decompressed(decompressor, *(data.draw(chunkings(payload)) or [b""])) == message


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_messages_of_any_zlib_window_and_level_are_decompressed(level: int, bits: int) -> None:
    compressor = zlib.compressobj(level, wbits=-bits)
    decompressor = Decompressor()
    for message in (b"Hello", FAR, b"Hello", FAR):
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert decompressed(decompressor, payload[:-4]) == message


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
def test_final_block_anywhere_keeps_the_window(payload: bytes) -> None:
    single_bytes = [payload[i : i + 1] for i in range(len(payload))]
    for chunks in ([payload], single_bytes):
        decompressor = Decompressor()
        assert decompressed(decompressor, *chunks) == b"Hello"
        # The second message of 7.2.3.2 refers to the five bytes before.
        assert decompressed(decompressor, bytes.fromhex("f200110000")) == b"Hello"


def test_final_block_leaves_the_whole_window_to_the_next() -> None:
    noise = bytes((i * i * 7 + i // 3) % 251 for i in range(1 << 15))
    second = final(noise, window=noise)
    assert len(second) < 2000, "it does not refer back"
    assert decompressed(Decompressor(), final(noise) + second + b"\0") == noise * 2
    decompressor = Decompressor()  # the same over two messages
    assert decompressed(decompressor, final(noise) + b"\0") == noise
    assert decompressed(decompressor, second + b"\0") == noise


def test_final_blocks_over_the_limit_are_1008() -> None:
    block = bytes.fromhex("03 00")  # final, fixed codes, empty
    decompressor = Decompressor(context_takeover=True)
    for _ in range(3):  # each message has its own count
        assert decompressed(decompressor, block * MAX_FINAL_BLOCKS + b"\0") == b""
    _, error = error_of(block * (MAX_FINAL_BLOCKS + 1) + b"\0")
    assert error.rule is rules.TOO_MANY_FINAL_BLOCKS
    assert error.problem == "a compressed message has more than 64 final blocks"


def test_block_after_a_final_one_keeps_to_the_window() -> None:
    # "H", then "Hello" from five bytes back
    reference = bytes.fromhex("f2 00 11 00 00")
    assert decompressed(Decompressor(), stored(b"abcd", final=True) + reference) == b"abcdHabcd"
    result, error = error_of(stored(b"abc", final=True) + reference)
    assert (result, error.code) == (b"abc", 1007), "only the output of earlier blocks"


@pytest.mark.parametrize("limit", range(8))
def test_final_blocks_together_stop_at_the_limit(limit: int) -> None:
    payload = stored(b"abc", final=True) + stored(b"def", final=True) + stored(b"ghi") + b"\0"
    result, error = Decompressor().decode(payload, limit, last=True)
    assert (result, error) == (b"abcdefghi"[: limit + 1], None)


# Invalid data and the size limit


@pytest.mark.parametrize(
    "data",
    [
        "07",  # block type 3 does not exist
        "ff",
        "00 0500 0000 48656c6c6f",  # a length that does not fit its complement
        "f2 00 11 00 00",  # "Hello" from five bytes back, where there are none
        "00 0500 faff 48656c6c6f 06",  # "Hello", then block type 3
    ],
)
def test_invalid_data_is_1007(
    data: str,
) -> None:
    _, error = error_of(bytes.fromhex(data))
    assert error.rule is rules.NOT_DEFLATE
    assert error.code == 1007
    assert error.reason == "a compressed message is not DEFLATE data (RFC 7692, 7.2.2)"


@pytest.mark.parametrize(
    "data",
    [
        "02",  # after a whole empty block with fixed codes
        "f248cdc9c9",  # before the end of the block
        "f248cdc9c907",  # before the empty block
        "f248cdc9",  # before the last code
        "00 0600 f9ff 48656c6c6f",  # the removed bytes complete the block, not an empty one
        "00 0800 f7ff 48",  # in a block without compression
        "00 0500 faff 48656c6c6f",  # behind such a block
        "03 00",  # behind a final block
        "00 0000 ffff",  # with the bytes that belong to be removed
    ],
)
@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize("bytewise", [False, True])
def test_message_that_ends_within_a_block_is_1007(
    data: str, context_takeover: bool, bytewise: bool
) -> None:
    payload = bytes.fromhex(data)
    decompressor = Decompressor(context_takeover=context_takeover)
    if bytewise:
        for byte in payload:
            assert decompressor.decode(bytes([byte]), LIMIT, last=False)[1] is None
        payload = b""
    _, error = decompressor.decode(payload, LIMIT, last=True)
    assert error is not None
    assert (error.rule, error.code) == (rules.NOT_DEFLATE, 1007)
    assert error.reason == (
        "a compressed message ends within a block of DEFLATE data (RFC 7692, 7.2.2)"
    )


@pytest.mark.parametrize("limit", [0, 1, 100, 999, 1000, 1001])
def test_output_before_invalid_data_is_bounded(limit: int) -> None:
    compressor = zlib.compressobj(wbits=-15)
    valid = compressor.compress(b"x" * 1000) + compressor.flush(zlib.Z_FINISH)
    result, _ = Decompressor().decode(valid + b"\x06", limit, last=True)  # block type 3
    assert result == b"x" * min(limit + 1, 1000)


@pytest.mark.parametrize("length", range(len(Compressor().compress(b"Hello, Hello, Hello"))))
def test_truncated_message_does_not_affect_the_next(length: int) -> None:
    payload = Compressor().compress(b"Hello, Hello, Hello")[:length]
    server = Connection(Role.SERVER, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    truncated = encode_frame(Opcode.BINARY, payload, rsv1=True, mask=bytes(4))
    whole = encode_frame(Opcode.TEXT, Compressor().compress(b"Hello"), rsv1=True, mask=bytes(4))
    events = receive(server, truncated + whole)
    if server.error is None:
        assert events[1:] == ["Hello"]
    else:
        assert events == [Close(1007, server.error.reason)]


@pytest.mark.parametrize("limit", [0, 1, 4, 5, 1000])
def test_output_stops_one_byte_over_the_limit(limit: int) -> None:
    payload = Compressor().compress(b"x" * 100_000)
    result, error = Decompressor().decode(payload, limit, last=True)
    assert (result, error) == (b"x" * (limit + 1), None)
    exact = Compressor().compress(b"x" * limit)
    assert decompressed(Decompressor(), exact, limit=limit) == b"x" * limit


def bomb(size: int) -> bytes:
    """Return compressed data for `size` zero bytes."""
    compressor = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    data = b"".join(compressor.compress(zeros) for _ in range(size >> 20))
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.fixture(scope="module")
def bomb_data() -> bytes:
    return bomb(256 << 20)


def test_decompressor_keeps_only_its_window() -> None:
    decompressor = Decompressor()
    payload = bomb(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(5):
            decompressed(decompressor, payload)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20, f"{held} of 5 MiB are kept"


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", [1 << 30, 64], ids=["one read", "many reads"])
def test_bomb_of_256_mib_is_1009_and_costs_little_memory(
    bomb_data: bytes, size: int, opcode: Opcode
) -> None:
    server = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT)
    data = encode_frame(opcode, bomb_data, rsv1=True, mask=bytes(4))
    assert len(bomb_data) <= 300_000, "its size on the wire is too large already"
    tracemalloc.start()
    try:
        events: list[Event] = []
        for begin in range(0, len(data), size):
            events += receive(server, data[begin : begin + size])
            if server.error is not None:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert server.error is not None
    assert events == [Close(1009, server.error.reason)]
    assert peak < 8 << 20, f"{peak} bytes at the peak"


@pytest.mark.parametrize("bytewise", [False, True])
def test_text_invalid_before_another_error_is_reported(bytewise: bool) -> None:
    later_errors = {
        "too big": stored(b"x" * 2000),
        "final blocks": bytes.fromhex("0300") * 65,
    }
    for name, rest in later_errors.items():
        client = Connection(
            Role.CLIENT, compression=DeflateParameters.DEFAULT, max_message_size=1000
        )
        data = encode_frame(Opcode.TEXT, (stored(b"a\xff") + rest)[:1100], rsv1=True)
        for chunk in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
            receive(client, chunk)
        assert client.error is not None, name
        assert client.error.reason == "a text message is not UTF-8 (RFC 6455, 8.1)", name


BLOCKS = [
    stored(b"a\xc3"),
    stored(b"\xa9b"),
    stored(b"\xff"),
    stored(b"x" * 30),
    Compressor().compress(b"abab" * 20),
    final(b"abc"),
    bytes.fromhex("0300") * 40,  # final blocks, too many if twice
    b"\x06",  # an invalid block type
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
def test_verdict_any_chunking_is_the_same(
    data: st.DataObject | None, blocks: list[bytes], limit: int, text: bool
) -> None:
    payload = b"".join(blocks)
    frame = encode_frame(Opcode.TEXT if text else Opcode.BINARY, payload, rsv1=True)

    def verdict(chunks: list[bytes]) -> tuple[list[Event], Rule | None]:
        client = Connection(
            Role.CLIENT, compression=DeflateParameters.DEFAULT, max_message_size=limit
        )
        events = [event for chunk in chunks for event in receive(client, chunk)]
        return events, None if client.error is None else client.error.rule

    bytewise = verdict([frame[i : i + 1] for i in range(len(frame))])
    for chunks in [[frame], [] if data is None else data.draw(chunkings(frame))]:
        events, rule = verdict(chunks or [frame])
        # zlib withholds the output before invalid data, and with it an error in that output.
        if rule is rules.NOT_DEFLATE:
            assert bytewise[1] is not None
            assert events[:-1] == bytewise[0][:-1]
        else:
            assert (events, rule) == bytewise
