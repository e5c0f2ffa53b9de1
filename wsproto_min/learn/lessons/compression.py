"""permessage-deflate.

Text compresses well. The extension permessage-deflate (RFC 7692) is
negotiated in the handshake. A browser offers it like this:

    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits

A server that accepts answers with the same name, and the parameters that
both sides then use. Without an offer the server must not use it. An offer
with an unknown parameter, or with an invalid value, must be declined; the
header may have several offers in a list. The parameters (section 7.1):

    server_no_context_takeover   the server compresses each message alone
    client_no_context_takeover   the client does; the server may ask for it
    server_max_window_bits=N     the server's window has 2^N bytes, 8 to 15
    client_max_window_bits[=N]   the client can limit its window

A value may be in quotes. An offer with a parameter twice, or with 010 for 10,
is invalid. Answer client_max_window_bits only if it was offered, and with a
number. zlib cannot compress with a window of 2^8 bytes in this format:
decline an offer with server_max_window_bits=8.

To send a message (section 7.2.1): compress it with DEFLATE, flush, and
remove the last four bytes 00 00 ff ff. Set RSV1 in its first frame, and in
no other frame. To receive one with RSV1 (7.2.2): join the fragments, append
00 00 ff ff and decompress:

    compressor = zlib.compressobj(wbits=-15)      # minus: no zlib header
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    zlib.decompressobj(wbits=-15).decompress(data, max_length)

The *context* is the end of the earlier messages. Without no_context_takeover
a message may refer to it, so keep the same decompressor for all messages
of the client, or ask for client_no_context_takeover. A sender may also end
its DEFLATE stream within a message (7.2.3.5): `eof` is then true, and
`unused_data` has the rest, which begins a new stream. A decompressor whose
stream has ended cannot be used again.

- RSV1 is still an error in a continuation frame and a control frame (6.1).
- The limit of step 11 holds for the decompressed message: 1 KiB on the
  wire can become 1 MiB. Decompress at most LIMIT + 1 bytes, and close with
  1009 if there are so many. A max_length of 0 means no limit.
- Data that is no DEFLATE closes with 1007. Text must be UTF-8 as before.
- Each side may send any message uncompressed.
"""

from __future__ import annotations

import zlib
from functools import partial
from random import Random

from wsproto_min import rules
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.connection import Pong
from wsproto_min.deflate import MAX_WINDOW_BITS, TAIL, DeflateParameters
from wsproto_min.learn.client_frames import masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.random_traffic import check_random_traffic
from wsproto_min.learn.step import Case, Step
from wsproto_min.learn.violations import refuses_violation, violations_of

_LIMIT = 1 << 17
_RSV1 = 0b100
_BOMB = 60 << 20  # bytes
_OFFER = DeflateParameters.DEFAULT
_SMALL_WINDOW = DeflateParameters(server_max_window_bits=9)
_INVALID = (
    "; server_max_window_bits=16",
    "; server_max_window_bits",
    "; server_max_window_bits=010",
    "; client_max_window_bits=16",
    "; client_max_window_bits=7",
    "; server_no_context_takeover=1",
    "; client_no_context_takeover; client_no_context_takeover",
    "x",
)
_VALID = (
    ";client_max_window_bits",
    '; client_max_window_bits="10"',
)
_SAMPLES = ("a longer text, a longer text, a longer text", "Hello", "Hello", "", "é" * 300)


class _Sender:
    """Compressor of the client's messages, as the handshake negotiated it."""

    def __init__(self, parameters: DeflateParameters) -> None:
        self._parameters = parameters
        self._compressor = self._new()

    def _new(self) -> zlib._Compress:
        # zlib has no raw streams with a window of 256 bytes.
        return zlib.compressobj(wbits=-max(9, self._parameters.client_max_window_bits))

    def compress(self, data: bytes) -> bytes:
        """Return the compressed payload of a message."""
        if self._parameters.client_no_context_takeover:
            self._compressor = self._new()
        compressed = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed.removesuffix(TAIL)


def _open(exchange: Exchange, offer: DeflateParameters = _OFFER) -> DeflateParameters:
    """Make the handshake; return the negotiated parameters."""
    parameters = exchange.open(compression=offer).compression
    if parameters is None:
        raise Wrong(f"the server does not accept the offer {offer.to_offer()!r}")
    return parameters


def _is_not_used_without_an_offer(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(message(_SAMPLES[0]))
        exchange.expect(_SAMPLES[0])


def _declines(offer: str, program: Program) -> None:
    with Exchange(program) as exchange:
        if exchange.open(offer=offer, compression=_OFFER).compression is not None:
            raise Wrong(f"the server accepts the invalid offer {offer!r}")
        exchange.send(message("plain"))
        exchange.expect("plain")


def _accepts_offer(offer: str, program: Program) -> None:
    with Exchange(program) as exchange:
        if exchange.open(offer=offer, compression=_OFFER).compression is None:
            raise Wrong(f"the server does not accept the offer {offer!r}")
        exchange.send(message("plain"))
        exchange.expect("plain")


def _accepts_offers_in_two_lines(program: Program) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    for offers in (("x-other", "permessage-deflate"), ("permessage-deflate", "x-other")):
        headers = [("Sec-WebSocket-Extensions", offer) for offer in offers]
        with Exchange(program) as exchange:
            exchange.send(upgrade_request("127.0.0.1", "/", key, headers=headers))
            if exchange.receive_acceptance(key, compression=_OFFER).compression is None:
                raise Wrong("the server does not accept an offer if the header has two lines")


def _accepts_the_second_offer(program: Program) -> None:
    offer = "x-other; a=1, permessage-deflate; unknown=1, permessage-deflate"
    with Exchange(program) as exchange:
        parameters = exchange.open(offer=offer, compression=_OFFER).compression
        if parameters is None:
            raise Wrong(f"the server does not accept the last one of the offers {offer!r}")
        exchange.send(masked(Opcode.TEXT, _Sender(parameters).compress(b"Hello"), rsv=_RSV1))
        exchange.expect("Hello")


def _echoes(program: Program) -> None:
    """Send compressed messages, and an uncompressed one after each of them."""
    with Exchange(program) as exchange:
        sender = _Sender(_open(exchange))
        for text in _SAMPLES:
            exchange.send(masked(Opcode.TEXT, sender.compress(text.encode()), rsv=_RSV1))
            exchange.expect(text)
            exchange.send(message(text.encode()))
            exchange.expect(text.encode())


def _fragments(program: Program) -> None:
    with Exchange(program) as exchange:
        data = _Sender(_open(exchange)).compress(_SAMPLES[0].encode())
        exchange.send(
            masked(Opcode.TEXT, data[:5], fin=False, rsv=_RSV1)
            + masked(Opcode.PING, b"p")
            + masked(Opcode.CONTINUATION, b"", fin=False)
            + masked(Opcode.CONTINUATION, data[5:])
        )
        exchange.expect(Pong(b"p"), _SAMPLES[0])


def _streams_that_end(program: Program) -> None:
    """Send a message whose DEFLATE stream ends within it (RFC 7692, section 7.2.3.5)."""
    with Exchange(program) as exchange:
        _open(exchange)
        for text in (b"first", b"second"):
            data = b""
            for part in (text[:3], text[3:]):
                compressor = zlib.compressobj(wbits=-9)
                data += compressor.compress(part) + compressor.flush(zlib.Z_FINISH)
            exchange.send(masked(Opcode.TEXT, data + b"\0", rsv=_RSV1))
            exchange.expect(text.decode())


def _respects_the_window(program: Program) -> None:
    """Ask for a small window; expect an answer that decompresses with it, or no compression."""
    data = Random(7692).randbytes(1000) * 4  # repeated at a distance of 1,000 bytes
    with Exchange(program) as exchange:
        parameters = exchange.open(compression=_SMALL_WINDOW).compression
        exchange.send(message(data))
        exchange.expect(data)
        frame = exchange.last_frame
        if parameters is not None and frame is not None and frame.rsv[0]:
            _check_window(frame.payload, parameters.server_max_window_bits)


def _survives_the_smallest_window(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open(compression=DeflateParameters(server_max_window_bits=8))
        exchange.send(message(_SAMPLES[0]))
        exchange.expect(_SAMPLES[0])


def _compresses_each_message_alone(program: Program) -> None:
    """Offer server_no_context_takeover; expect answers that decompress alone."""
    offer = DeflateParameters(server_no_context_takeover=True)
    data = Random(7692).randbytes(200)
    with Exchange(program) as exchange:
        exchange.open(compression=offer)
        for _ in range(2):
            exchange.send(message(data))
            exchange.expect(data)


def _sets_no_client_window(program: Program) -> None:
    offer = "permessage-deflate"
    with Exchange(program) as exchange:
        parameters = exchange.open(offer=offer, compression=_OFFER).compression
        if parameters is None:
            raise Wrong(f"the server does not accept the offer {offer!r}")
        if parameters.client_max_window_bits != MAX_WINDOW_BITS:
            raise Wrong("the server answers client_max_window_bits, which was not offered")


def _check_window(data: bytes, bits: int) -> None:
    """Decompress a message with a window of 2^bits bytes."""
    decompressor = zlib.decompressobj(wbits=-bits)
    data += TAIL
    try:
        while data:  # in steps, because zlib checks distances only across calls
            decompressor.decompress(data, 64)
            data = decompressor.unconsumed_tail
    except zlib.error:
        problem = f"the server's message needs a window of more than 2^{bits} bytes"
        raise Wrong(f"{problem}, but the handshake limits it (7.1.2.1)") from None


def _uses_the_whole_window(program: Program) -> None:
    """Send a message whose DEFLATE data refers to bytes far before."""
    data = Random(7692).randbytes(20_000) * 2
    with Exchange(program) as exchange:
        sender = _Sender(_open(exchange))
        exchange.send(masked(Opcode.BINARY, sender.compress(data), rsv=_RSV1))
        exchange.expect(data)


def _largest(program: Program) -> None:
    data = bytes(_LIMIT)
    with Exchange(program) as exchange:
        sender = _Sender(_open(exchange))
        exchange.send(masked(Opcode.BINARY, sender.compress(data), rsv=_RSV1))
        exchange.expect(data)


def _too_large_on_the_wire(program: Program) -> None:
    header = bytes([0xC2, 0xFF]) + (_LIMIT + 1).to_bytes(8, "big") + bytes(4)
    with Exchange(program) as exchange:
        _open(exchange)
        exchange.send(header)
        exchange.expect_close(1009)


def _bomb(program: Program) -> None:
    with Exchange(program) as exchange:
        data = _Sender(_open(exchange)).compress(bytes(1 << 20))
        exchange.send(masked(Opcode.BINARY, data, rsv=_RSV1))
        exchange.expect_close(1009)


def _bomb_costs_little_memory(program: Program) -> None:
    before = program.peak_memory()
    with Exchange(program) as exchange:
        data = _Sender(_open(exchange)).compress(bytes(_BOMB))
        exchange.send(masked(Opcode.BINARY, data, rsv=_RSV1))
        exchange.expect_close(1009)
    grown = program.peak_memory() - before
    if grown > _BOMB // 2:
        raise Wrong(f"the program needs {grown >> 20} MiB for a message over its limit of 128 KiB")


def _random(program: Program) -> None:
    check_random_traffic(program, compression=DeflateParameters(client_no_context_takeover=True))


_VIOLATIONS = [
    violation
    for violation in violations_of(
        rules.COMPRESSED_CONTINUATION,
        rules.COMPRESSED_CONTROL,
        rules.RESERVED_BIT,
        rules.NOT_DEFLATE,
        rules.TEXT_NOT_UTF8,
        compression=True,
    )
    # With context takeover this message is valid, and the server chooses.
    if violation.name != "deflate-last-message"
    # Modules like Python's zlib do not tell where a block ends.
    and not violation.name.startswith("deflate-ends-with")
]

STEP = Step.from_docstring(
    __doc__,
    [
        Case("no offer, no compression", _is_not_used_without_an_offer),
        Case("compressed and uncompressed messages", _echoes),
        Case("a compressed message in fragments, and a Ping", _fragments),
        Case(
            "an unknown parameter is declined",
            partial(_declines, "permessage-deflate; unknown=1"),
        ),
        *(
            Case(f"{offer} is declined", partial(_declines, f"permessage-deflate{offer}"))
            for offer in _INVALID
        ),
        *(
            Case(f"{offer} is accepted", partial(_accepts_offer, f"permessage-deflate{offer}"))
            for offer in _VALID
        ),
        Case("an offer without client_max_window_bits", _sets_no_client_window),
        Case("the second one of two offers", _accepts_the_second_offer),
        Case("offers in two lines", _accepts_offers_in_two_lines),
        Case("DEFLATE streams that end within a message", _streams_that_end),
        Case("a window of 512 bytes for the server", _respects_the_window),
        Case("a window of 256 bytes for the server", _survives_the_smallest_window),
        Case("server_no_context_takeover", _compresses_each_message_alone),
        Case("a client's message with the whole window", _uses_the_whole_window),
        Case("a message that becomes LIMIT bytes", _largest),
        Case("1 KiB that becomes 1 MiB", _bomb),
        Case("60 KiB that become 60 MiB", _bomb_costs_little_memory),
        Case("a compressed message of LIMIT + 1 bytes", _too_large_on_the_wire),
        *(
            Case(violation.name, partial(refuses_violation, violation, compression=_OFFER))
            for violation in _VIOLATIONS
        ),
        Case("random messages, some compressed", _random),
    ],
    limit=_LIMIT,
)
