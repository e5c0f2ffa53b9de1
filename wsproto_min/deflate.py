"""permessage-deflate: RFC 7692, beside the codec and not threaded through it.

`DeflateParameters` is a set of parameters: what an end wishes, what a client offers, what
is agreed. `DeflateParameters.answer` and `DeflateParameters.check` settle them in the handshake, a
`Compressor` compresses messages, an `Decompressor` expands one within a budget. The
bit RSV1 that marks a compressed message is left to `messages` and `connection`.

The cost of compression is memory more than time: a context that is taken over
from message to message is a window of up to 32 KiB a connection and direction,
and makes every peer's compressed frames different. So a server asks for none
by default: an idle peer then holds nothing, and one frame serves all.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from wsproto_min.codes import CloseCode
from wsproto_min.errors import ProtocolError

NAME = "permessage-deflate"
Parameters = Sequence[tuple[str, str | None]]

# Section 7.1.2: a window is 2^8 to 2^15 bytes.
MIN_WINDOW_BITS = 8
MAX_WINDOW_BITS = 15
WINDOW_SIZE = 1 << MAX_WINDOW_BITS

# Section 7.2.1: each message ends in an empty stored block without these bytes.
TAIL = b"\x00\x00\xff\xff"

# Below this many bytes a frame rarely gets smaller, and never by much.
DEFAULT_COMPRESSION_THRESHOLD = 256

# zlib's level: the quickest, as in nginx. The next ones cost two to five times as
# much time in a loop that others wait for, to save a few bytes more.
LEVEL = 1

# Section 7.2.3.5 lets a final block stand inside a message. Each one costs a new
# decompressor, so there must be an end to them.
MAX_FINAL_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """The parameters of permessage-deflate (section 7.1)."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = MAX_WINDOW_BITS
    client_max_window_bits: int = MAX_WINDOW_BITS

    # Set below the class: the default offer of a client and of a server.
    DEFAULT: ClassVar[DeflateParameters]
    NO_CONTEXT_TAKEOVER: ClassVar[DeflateParameters]

    def __post_init__(self) -> None:
        """Raise `ValueError` for a window that does not exist."""
        for bits in (self.server_max_window_bits, self.client_max_window_bits):
            if not MIN_WINDOW_BITS <= bits <= MAX_WINDOW_BITS:
                raise ValueError(f"window bits are 8 to 15, not {bits} (RFC 7692, 7.1.2)")

    def context_takeover(self, *, server: bool) -> bool:
        """Whether what that end sends may refer to its earlier messages."""
        return not (self.server_no_context_takeover if server else self.client_no_context_takeover)

    def compressor(self, *, server: bool) -> Compressor:
        """Return what compresses that end's messages."""
        bits = self.server_max_window_bits if server else self.client_max_window_bits
        if self.context_takeover(server=server):
            return Compressor(context_takeover=True, window_bits=bits)
        if bits == MAX_WINDOW_BITS:
            return SHARED_COMPRESSOR
        return Compressor(window_bits=bits)

    def offer(self) -> str:
        """Return a client's offer of these parameters, for the request's header."""
        bits = self.client_max_window_bits
        limit = "client_max_window_bits" + ("" if bits == MAX_WINDOW_BITS else f"={bits}")
        # Its presence alone lets the server ask for a smaller window (7.1.2.2).
        return f"{self.encode(with_client_window=False)}; {limit}"

    def encode(self, *, with_client_window: bool = True) -> str:
        """Return these parameters as the response's header gives them."""
        parts = [NAME]
        if self.server_no_context_takeover:
            parts.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            parts.append("client_no_context_takeover")
        if self.server_max_window_bits != MAX_WINDOW_BITS:
            parts.append(f"server_max_window_bits={self.server_max_window_bits}")
        if with_client_window and self.client_max_window_bits != MAX_WINDOW_BITS:
            parts.append(f"client_max_window_bits={self.client_max_window_bits}")
        return "; ".join(parts)

    def answer(self, offered: Parameters) -> DeflateParameters | None:
        """Return what a server with these wishes agrees to, or None to decline.

        An offer with an unknown, repeated or ill-formed parameter must be
        declined (section 7.1); the next one may do.
        """
        offer = _parse(offered, bare_client_window=True)
        if offer is None:
            return None
        client_bits = MAX_WINDOW_BITS
        if any(name == "client_max_window_bits" for name, _ in offered):
            client_bits = min(offer.client_max_window_bits, self.client_max_window_bits)
        return DeflateParameters(
            offer.server_no_context_takeover or self.server_no_context_takeover,
            offer.client_no_context_takeover or self.client_no_context_takeover,
            min(offer.server_max_window_bits, self.server_max_window_bits),
            client_bits,
        )

    def check(self, answered: Parameters) -> DeflateParameters | None:
        """Return what a server agreed to of this offer, or None if it may not say so."""
        answer = _parse(answered, bare_client_window=False)
        if (
            answer is None
            or (self.server_no_context_takeover and not answer.server_no_context_takeover)
            or answer.server_max_window_bits > self.server_max_window_bits
        ):
            return None
        client_bits = self.client_max_window_bits
        # Section 7.1.2.2: a server need not mention the client's window, and
        # then the client keeps to what it offered.
        if any(name == "client_max_window_bits" for name, _ in answered):
            if answer.client_max_window_bits > client_bits:
                return None
            client_bits = answer.client_max_window_bits
        return DeflateParameters(
            answer.server_no_context_takeover,
            answer.client_no_context_takeover or self.client_no_context_takeover,
            answer.server_max_window_bits,
            client_bits,
        )


def _parse(parameters: Parameters, *, bare_client_window: bool) -> DeflateParameters | None:
    """Return parameters as a value, or None if one of them is not as section 7.1 has it."""
    found: dict[str, str | None] = {}
    for name, value in parameters:
        if name in found:
            return None
        found[name] = value
        if name in _FLAGS:
            valid = value is None
        elif name in _WINDOWS:
            bare = value is None and name == "client_max_window_bits" and bare_client_window
            valid = bare or value in _WINDOW_BITS
        else:
            valid = False
        if not valid:
            return None
    flags = [name in found for name in _FLAGS]
    windows = [_WINDOW_BITS.get(found.get(name), MAX_WINDOW_BITS) for name in _WINDOWS]
    return DeflateParameters(*flags, *windows)


_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS = ("server_max_window_bits", "client_max_window_bits")
DeflateParameters.DEFAULT = DeflateParameters()
DeflateParameters.NO_CONTEXT_TAKEOVER = DeflateParameters(
    server_no_context_takeover=True, client_no_context_takeover=True
)

# Section 7.1.2.1: "a decimal integer without leading zeroes".
_WINDOW_BITS: dict[str | None, int] = {
    str(bits): bits for bits in range(MIN_WINDOW_BITS, MAX_WINDOW_BITS + 1)
}


class Compressor:
    """Compresses the messages of one direction (section 7.2.1).

    With `context_takeover` each message may refer to those before it, and one
    `Compressor` belongs to one connection; without, it has no memory.
    """

    __slots__ = ("_compressor", "_window_bits")

    def __init__(
        self, *, context_takeover: bool = False, window_bits: int = MAX_WINDOW_BITS
    ) -> None:
        self._window_bits = window_bits
        self._compressor = self._new() if context_takeover else None

    def _new(self) -> zlib._Compress:
        # zlib has no raw deflate with a window of 2^8 bytes. It gets by without
        # any: data whose codes never refer back fits every window.
        if self._window_bits == MIN_WINDOW_BITS:
            return zlib.compressobj(LEVEL, wbits=-9, strategy=zlib.Z_HUFFMAN_ONLY)
        return zlib.compressobj(LEVEL, wbits=-self._window_bits)

    def compress(self, data: bytes) -> bytes:
        """Return a message's compressed payload.

        >>> Compressor().compress(b"Hello").hex(" ")
        'f2 48 cd c9 c9 07 00'
        """
        if not data:
            # Section 7.2.3.6; a second flush in a row would give nothing at all.
            return b"\x00"
        compressor = self._compressor or self._new()
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed[: -len(TAIL)]


# Without memory and with the largest window: one for all who agreed to that, so
# that a frame made with it can be shared among them.
SHARED_COMPRESSOR = Compressor()


class Decompressor:
    """Expands the messages of one direction, piece by piece (section 7.2.2).

    Where no context is taken over, each message wants a new one.
    """

    __slots__ = ("_decompressor", "_final_blocks", "_window")

    def __init__(self) -> None:
        # The largest window also expands what was made with a smaller one, and
        # some zlibs use 2^9 where they say 2^8.
        self._decompressor = zlib.decompressobj(-MAX_WINDOW_BITS)
        self._window = bytearray()  # the newest output: at least a window, if there was so much
        self._final_blocks = 0

    def inflate(self, data: bytes, limit: int, *, last: bool) -> tuple[bytes, ProtocolError | None]:
        """Return what the message's next piece, or its `last`, expands to.

        At most `limit` + 1 bytes: one over `limit` stands for any number more.
        With it comes the error that follows these bytes, if there is one: 1007
        for what is not deflate data, 1008 for a message of too many final blocks.
        """
        if last:
            data += TAIL
        result = b""
        while True:
            before = self._decompressor.copy()
            room = limit + 1 - len(result)
            try:
                # zlib takes a max_length of 0 for "no limit"; this is at least 1.
                result += self._decompressor.decompress(data, room)
            except zlib.error:
                result += _expand_up_to_error(before, data)
                return result, ProtocolError(
                    "a compressed message is not deflate data (RFC 7692, 7.2.2)",
                    CloseCode.INVALID_FRAME_PAYLOAD_DATA,
                )
            if len(result) > limit or not self._decompressor.eof:
                break
            # After a final block another may follow, and refer to all before it.
            self._final_blocks += 1
            if self._final_blocks > MAX_FINAL_BLOCKS:
                return result, ProtocolError(
                    f"a compressed message has more than {MAX_FINAL_BLOCKS} final blocks",
                    CloseCode.POLICY_VIOLATION,
                )
            data = self._decompressor.unused_data
            window = (self._window + result)[-WINDOW_SIZE:]
            self._decompressor = zlib.decompressobj(-MAX_WINDOW_BITS, window)
        self._window += result
        if len(self._window) > 2 * WINDOW_SIZE:  # seldom, for its cost
            del self._window[:-WINDOW_SIZE]
        if last:
            self._final_blocks = 0
        return result, None


def _expand_up_to_error(decompressor: zlib._Decompress, data: bytes) -> bytes:
    """Return the bytes that came before an error, which zlib withholds.

    Byte by byte it gives them; they are within the room that it was given to find
    the error. Without them the verdict on a message with two faults would depend
    on the pieces in which it arrived.
    """
    result = bytearray()
    pieces = (data[index : index + 1] for index in range(len(data)))
    with suppress(zlib.error):
        while True:  # the error comes before the pieces end
            result += decompressor.decompress(next(pieces))
    return bytes(result)
