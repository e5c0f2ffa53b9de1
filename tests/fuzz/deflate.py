"""Fuzz target: permessage-deflate, its parameters in a header and its payloads.

The lowest bit of the first byte chooses header or payload. For a header, the other bits
choose the server's preference; the rest of the input is the value. For a payload, the
other bits choose opcode, size limit and one comparison. The second byte is the place where
the second message begins, the third the size of chunks, the rest is the payload.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from tests.fuzz.handshake import EXTENSIONS
from tests.fuzz.splits import chunks_of, splits_may_violate
from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.deflate import NAME, TAIL, Compressor, DeflateParameters
from wsproto_min.errors import HandshakeError, ProtocolError
from wsproto_min.extensions import Parameters
from wsproto_min.frames import Frame
from wsproto_min.handshake import parse_extensions
from wsproto_min.http import Headers
from wsproto_min.messages import MessageAssembler
from wsproto_min.rules import Rule
from wsproto_min.testing.violations import DEFLATE_VIOLATIONS

PREFERENCES = (
    DeflateParameters.DEFAULT,
    DeflateParameters.NO_CONTEXT_TAKEOVER,
    DeflateParameters(server_max_window_bits=10, client_max_window_bits=9),
    DeflateParameters(server_no_context_takeover=True, client_max_window_bits=8),
)
LIMITS = (0, 1, 100, 1024)  # bytes in a message
# The comparison, the two highest bits of the first byte.
CHUNKS, FRAGMENTS, ZLIB, ROUND_TRIP = 0x00, 0x40, 0x80, 0xC0
COMPARISON = 0xC0

# Messages, and the first rule that is violated.
Outcome = tuple[Sequence[str | bytes], Rule | None]


def check(data: bytes) -> None:
    """Raise `AssertionError` if a response exceeds its offer, or chunks change a message."""
    options = data[0] if data else 0
    if options & 1:
        check_header(PREFERENCES[(options >> 1) % len(PREFERENCES)], data[1:].decode("latin-1"))
    else:
        check_payload(options, data[1:2], data[2:3], data[3:])


def check_header(preference: DeflateParameters, value: str) -> None:
    """Respond to each offer; validate the response as the client of the offer."""
    try:
        extensions = parse_extensions(Headers([("Sec-WebSocket-Extensions", value)]))
    except HandshakeError as error:
        assert error.status == 400
        return
    for name, offered in extensions:
        assert name
        negotiated = preference.accept_offer(offered)
        preference.validate_response(offered)  # must not raise
        if negotiated is not None:
            check_negotiated(preference, offered, negotiated)


def check_negotiated(
    preference: DeflateParameters, offered: Parameters, negotiated: DeflateParameters
) -> None:
    """Check the negotiated parameters against offer, preference and header."""
    asked = dict(offered)
    client = DeflateParameters(
        "server_no_context_takeover" in asked,
        "client_no_context_takeover" in asked,
        int(asked.get("server_max_window_bits") or 15),
        int(asked.get("client_max_window_bits") or 15),
    )
    ((name, parameters),) = parse_extensions(
        Headers([("Sec-WebSocket-Extensions", negotiated.to_header())])
    )
    assert name == NAME
    assert client.validate_response(parameters) == negotiated, f"{offered} got {negotiated}"
    assert negotiated.server_max_window_bits <= preference.server_max_window_bits
    assert negotiated.server_no_context_takeover or not preference.server_no_context_takeover
    assert negotiated.client_no_context_takeover or not preference.client_no_context_takeover


def check_payload(options: int, where: bytes, size: bytes, payload: bytes) -> None:
    """Decompress a payload in different chunks, or compress it."""
    context_takeover = bool(options & 0x02)
    opcode = Opcode.TEXT if options & 0x04 else Opcode.BINARY
    limit = LIMITS[options >> 3 & 0x03]
    # Two messages; the second may refer to the first.
    split = where[0] % (len(payload) + 1) if where else len(payload)
    messages = [payload[:split], payload[split:]]
    number = size[0] if size else 0
    comparison = options & COMPARISON
    if comparison == ROUND_TRIP:
        compressor = Compressor(context_takeover=context_takeover, window_bits=8 + number % 8)
        compressed = [[compressor.compress(each)] for each in messages]
        assert decompress(compressed, Opcode.BINARY, len(payload), context_takeover) == (
            messages,
            None,
        )
        return
    whole = decompress([[each] for each in messages], opcode, limit, context_takeover)
    if comparison == ZLIB:
        check_against_zlib(messages[0], whole, opcode, limit)
        return
    chunks = [chunks_of(each, 1 + number % 32) or [b""] for each in messages]
    in_fragments = comparison == FRAGMENTS
    # A decoder checks a message's size at its header, a fragmented one's at each header.
    if not in_fragments or all(len(each) <= limit for each in messages):
        messages_of_chunks, rule = decompress(
            chunks, opcode, limit, context_takeover, fragments=in_fragments
        )
        assert messages_of_chunks == whole[0]
        assert splits_may_violate(rule, whole[1])


def decompress(
    messages: Sequence[Sequence[bytes]],
    opcode: Opcode,
    limit: int,
    context_takeover: bool,
    *,
    fragments: bool = False,
) -> Outcome:
    """Decompress messages, each in chunks or, with `fragments`, in fragments."""
    assembler = MessageAssembler(
        max_message_size=limit, max_fragments=10_000, context_takeover=context_takeover
    )
    decompressed: list[str | bytes] = []
    try:
        for chunks in messages:
            offset, remaining = 0, sum(map(len, chunks))
            for number, chunk in enumerate(chunks):
                remaining -= len(chunk)
                if fragments:
                    frame = Frame(
                        Opcode.CONTINUATION if number else opcode,
                        chunk,
                        fin=number == len(chunks) - 1,
                        rsv1=number == 0,
                    )
                else:
                    frame = Frame(opcode, chunk, rsv1=True, offset=offset, remaining=remaining)
                message = assembler.receive_frame(frame)
                if message is not None:
                    decompressed.append(message)
                offset += len(chunk)
    except ProtocolError as error:
        return decompressed, error.rule
    return decompressed, None


def check_against_zlib(payload: bytes, whole: Outcome, opcode: Opcode, limit: int) -> None:
    """Raise `AssertionError` unless zlib alone has the same outcome for a binary message."""
    decompressor = zlib.decompressobj(-15)
    if opcode is Opcode.TEXT or len(payload) > limit:
        return
    try:
        expected = decompressor.decompress(payload + TAIL, limit + 1)
    except zlib.error:
        assert whole in (([], rules.NOT_DEFLATE), ([], rules.MESSAGE_TOO_BIG))
        return
    if len(expected) > limit:
        assert whole == ([], rules.MESSAGE_TOO_BIG)
    elif decompressor.eof:  # another block may follow a final one
        return
    elif not payload or ends_with_block(decompressor):
        assert whole[0][:1] == [expected]
    else:
        assert whole == ([], rules.NOT_DEFLATE)


def ends_with_block(decompressor: zlib._Decompress) -> bool:
    """Return True if a decompressor expects a block, which a final block without data shows."""
    try:
        output = decompressor.decompress(b"\x01" + TAIL)
    except zlib.error:
        return False
    return not output and decompressor.eof and not decompressor.unused_data


def seeds() -> Iterator[bytes]:
    """Yield offers with each preference, and the payloads of all violations."""
    offers = [*EXTENSIONS, "permessage-deflate; server_max_window_bits=16", "a;b=c;d"]
    for number in range(len(PREFERENCES)):
        for value in offers:
            yield bytes((number << 1 | 1,)) + value.encode()
    texts = [b"", b"Hello", "h\u00e9\u20ac\U0001f600".encode(), b"Hello" * 50, bytes(range(256))]
    for bits in range(8):
        yield bytes((ROUND_TRIP, 255, bits)) + b"Hello Hello"
        yield bytes((ROUND_TRIP | 0x02, 6, bits)) + b"Hello Hello" * 30
    for comparison in (CHUNKS, FRAGMENTS, ZLIB):
        for text in texts:
            for finish in (zlib.Z_SYNC_FLUSH, zlib.Z_FINISH):
                compressor = zlib.compressobj(wbits=-15)
                payload = compressor.compress(text) + compressor.flush(finish)
                for options in (0x18, 0x1A, 0x1C, 0x1E):
                    begin = bytes((comparison | options,))
                    yield begin + b"\xff\x03" + payload.removesuffix(TAIL)
                    yield begin + bytes((len(payload) // 2, 0)) + payload * 2
        for violation in DEFLATE_VIOLATIONS:
            if violation.role == "client":
                yield bytes((comparison | 0x1A, 255, 1)) + violation.data[2:]
