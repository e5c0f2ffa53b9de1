"""permessage-deflate: its parameters in a header, and compressed payloads.

The lowest bit of the first byte chooses between the two, the others are the
wishes, or how messages are made of a payload and what is held against that: one
thing at a time, to try more inputs in a second. The rest is the header's value,
or where a second message begins, the size of pieces, and the payload.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from tests.fuzz import cut
from tests.fuzz.handshake import EXTENSIONS
from wsproto_min.codes import Opcode
from wsproto_min.deflate import NAME, TAIL, Compressor, DeflateParameters, Parameters
from wsproto_min.errors import HandshakeError, ProtocolError
from wsproto_min.frames import Frame
from wsproto_min.handshake import parse_extensions
from wsproto_min.http import Headers
from wsproto_min.messages import MessageAssembler
from wsproto_min.testing.strategies import DEFLATE_VIOLATIONS

WISHES = (
    DeflateParameters.DEFAULT,
    DeflateParameters.NO_CONTEXT_TAKEOVER,
    DeflateParameters(server_max_window_bits=10, client_max_window_bits=9),
    DeflateParameters(server_no_context_takeover=True, client_max_window_bits=8),
)
LIMITS = (0, 1, 100, 1024)  # bytes in a message
# The two highest bits of the first byte: what to compare with.
PIECES, FRAGMENTS, ZLIB, ROUND_TRIP = 0x00, 0x40, 0x80, 0xC0
COMPARISON = 0xC0

# Messages as text or bytes, then a close code if they ended in a violation.
Outcome = tuple[Sequence[str | bytes], int | None]


def check(data: bytes) -> None:
    """Raise `AssertionError` if an answer breaks an offer, or pieces change a message."""
    options = data[0] if data else 0
    if options & 1:
        check_header(WISHES[(options >> 1) % len(WISHES)], data[1:].decode("latin-1"))
    else:
        check_payload(options, data[1:2], data[2:3], data[3:])


def check_header(wish: DeflateParameters, value: str) -> None:
    """Answer each offer, then have the client that made it judge the answer."""
    try:
        extensions = parse_extensions(Headers([("Sec-WebSocket-Extensions", value)]))
    except HandshakeError as error:
        assert error.status == 400
        return
    for name, offered in extensions:
        assert name
        agreed = wish.answer(offered)
        wish.check(offered)  # whatever it says of that, it must not raise
        if agreed is not None:
            check_agreed(wish, offered, agreed)


def check_agreed(wish: DeflateParameters, offered: Parameters, agreed: DeflateParameters) -> None:
    """What was agreed must keep to the offer and the wishes, and be told as it is."""
    asked = dict(offered)
    client = DeflateParameters(
        "server_no_context_takeover" in asked,
        "client_no_context_takeover" in asked,
        int(asked.get("server_max_window_bits") or 15),
        int(asked.get("client_max_window_bits") or 15),
    )
    ((name, answered),) = parse_extensions(Headers([("Sec-WebSocket-Extensions", agreed.encode())]))
    assert name == NAME
    assert client.check(answered) == agreed, f"{offered} was answered by {agreed}"
    assert agreed.server_max_window_bits <= wish.server_max_window_bits
    assert agreed.server_no_context_takeover or not wish.server_no_context_takeover
    assert agreed.client_no_context_takeover or not wish.client_no_context_takeover


def check_payload(options: int, where: bytes, size: bytes, payload: bytes) -> None:
    """Expand a payload in different pieces, or compress it."""
    context_takeover = bool(options & 0x02)
    opcode = Opcode.TEXT if options & 0x04 else Opcode.BINARY
    limit = LIMITS[options >> 3 & 0x03]
    # Two messages, of which the second may refer to the first.
    split = where[0] % (len(payload) + 1) if where else len(payload)
    messages = [payload[:split], payload[split:]]
    number = size[0] if size else 0
    comparison = options & COMPARISON
    if comparison == ROUND_TRIP:
        compressor = Compressor(context_takeover=context_takeover, window_bits=8 + number % 8)
        compressed = [[compressor.compress(each)] for each in messages]
        assert expand(compressed, Opcode.BINARY, len(payload), context_takeover) == (messages, None)
        return
    whole = expand([[each] for each in messages], opcode, limit, context_takeover)
    if comparison == ZLIB:
        check_against_zlib(messages[0], whole, opcode, limit)
        return
    pieces = [cut(each, 1 + number % 32) or [b""] for each in messages]
    in_fragments = comparison == FRAGMENTS
    # The header of a longer message is judged at once, those of its fragments one by one.
    if not in_fragments or all(len(each) <= limit for each in messages):
        assert expand(pieces, opcode, limit, context_takeover, fragments=in_fragments) == whole


def expand(
    messages: Sequence[Sequence[bytes]],
    opcode: Opcode,
    limit: int,
    context_takeover: bool,
    *,
    fragments: bool = False,
) -> Outcome:
    """Return what compressed messages in pieces expand to, the pieces as fragments or not."""
    assembler = MessageAssembler(
        max_message_size=limit, max_fragments=10_000, context_takeover=context_takeover
    )
    expanded: list[str | bytes] = []
    try:
        for pieces in messages:
            offset, remaining = 0, sum(map(len, pieces))
            for number, piece in enumerate(pieces):
                remaining -= len(piece)
                if fragments:
                    frame = Frame(
                        Opcode.CONTINUATION if number else opcode,
                        piece,
                        fin=number == len(pieces) - 1,
                        rsv1=number == 0,
                    )
                else:
                    frame = Frame(opcode, piece, rsv1=True, offset=offset, remaining=remaining)
                message = assembler.receive_frame(frame)
                if message is not None:
                    expanded.append(message)
                offset += len(piece)
    except ProtocolError as error:
        return expanded, error.code
    return expanded, None


def check_against_zlib(payload: bytes, whole: Outcome, opcode: Opcode, limit: int) -> None:
    """Raise `AssertionError` unless zlib by itself says the same of a binary message."""
    decompressor = zlib.decompressobj(-15)
    if opcode is Opcode.TEXT or len(payload) > limit:
        return
    try:
        expected = decompressor.decompress(payload + TAIL, limit + 1)
    except zlib.error:
        assert whole in (([], 1007), ([], 1009))
        return
    if len(expected) > limit:
        assert whole == ([], 1009)
    elif not decompressor.eof:  # after a final block another may follow
        assert whole[0][:1] == [expected]


def seeds() -> Iterator[bytes]:
    """Yield offers under each wish, and the payloads of every violation."""
    offers = [*EXTENSIONS, "permessage-deflate; server_max_window_bits=16", "a;b=c;d"]
    for number in range(len(WISHES)):
        for value in offers:
            yield bytes((number << 1 | 1,)) + value.encode()
    texts = [b"", b"Hello", "h\u00e9\u20ac\U0001f600".encode(), b"Hello" * 50, bytes(range(256))]
    for bits in range(8):
        yield bytes((ROUND_TRIP, 255, bits)) + b"Hello Hello"
        yield bytes((ROUND_TRIP | 0x02, 6, bits)) + b"Hello Hello" * 30
    for comparison in (PIECES, FRAGMENTS, ZLIB):
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
