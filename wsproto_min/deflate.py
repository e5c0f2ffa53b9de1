"""The extension permessage-deflate (RFC 7692), apart from the frame codec.

`DeflateParameters` are negotiated in the handshake. A `Compressor` compresses messages, a
`Decompressor` decompresses one message within a limit. They implement the interface of module
`extensions`. The bit RSV1 marks a compressed message.

Compression costs memory more than time. A context that is kept from message to message is a
window of up to 32 KiB for each connection and direction. It makes the compressed frames of each
peer different. A server therefore asks for no context takeover by default: an idle peer
holds nothing, and one compressed frame serves all peers.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.errors import ProtocolError
from wsproto_min.extensions import Parameters
from wsproto_min.frames import RSV1

NAME = "permessage-deflate"

# Section 7.1.2: a window has 2^8 to 2^15 bytes.
MIN_WINDOW_BITS = 8
MAX_WINDOW_BITS = 15
WINDOW_SIZE = 1 << MAX_WINDOW_BITS

# Section 7.2.1: the sender removes these bytes, the end of an empty stored block.
TAIL = b"\x00\x00\xff\xff"

# An empty stored block that is final, as bytes that follow a complete block.
_END = b"\x01" + TAIL

# Smaller messages rarely get shorter.
DEFAULT_COMPRESSION_THRESHOLD = 256

# The fastest level of zlib, as in nginx. Other connections wait while a message is compressed.
LEVEL = 1

# zlib moves its hash table along with the window. Next to a small window, the default table of
# 2^15 entries would cost more time than the compression.
_MEMORY_LEVELS = {bits: min(bits - 4, zlib.DEF_MEM_LEVEL) for bits in range(9, MAX_WINDOW_BITS + 1)}

# Data of at least this size is stored, not compressed, if a sample of it shrinks by less than an
# eighth, as in ZFS. Compression of photos and archives takes time and saves almost nothing.
_MIN_SAMPLED_SIZE = 1 << 14
_SAMPLE_SIZE = 1 << 12
_STORED = 0  # zlib's level for blocks without compression

# Section 7.2.3.5 allows a final block within a message. Each one costs a decompressor.
MAX_FINAL_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """Parameters of permessage-deflate (section 7.1): configured, offered or negotiated.

    Attributes:
        server_no_context_takeover: The server compresses each message by itself.
        client_no_context_takeover: The client compresses each message by itself.
        server_max_window_bits: Size of the server's window as a power of two, 8 to 15.
        client_max_window_bits: Size of the client's window as a power of two, 8 to 15.

    Raises:
        ValueError: Window bits are outside 8 to 15.

    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = MAX_WINDOW_BITS
    client_max_window_bits: int = MAX_WINDOW_BITS

    DEFAULT: ClassVar[DeflateParameters]
    """No restriction, as RFC 7692 has it: a client's default offer."""

    NO_CONTEXT_TAKEOVER: ClassVar[DeflateParameters]
    """Neither side keeps a context: a server's default."""

    name: ClassVar[str] = NAME
    rsv: ClassVar[int] = RSV1

    def __post_init__(self) -> None:
        """Check the window bits."""
        for bits in (self.server_max_window_bits, self.client_max_window_bits):
            if not MIN_WINDOW_BITS <= bits <= MAX_WINDOW_BITS:
                raise ValueError(f"window bits must be 8 to 15, not {bits} (RFC 7692, 7.1.2)")

    def context_takeover(self, *, server: bool) -> bool:
        """Return True if messages of that side may refer to its earlier messages."""
        return not (self.server_no_context_takeover if server else self.client_no_context_takeover)

    def encoder(self, *, server: bool) -> Compressor:
        """Return a compressor for the messages of that side."""
        bits = self.server_max_window_bits if server else self.client_max_window_bits
        if self.context_takeover(server=server):
            return Compressor(context_takeover=True, window_bits=bits)
        if bits == MAX_WINDOW_BITS:
            return SHARED_COMPRESSOR
        return Compressor(window_bits=bits)

    def decoder(self, *, server: bool) -> Callable[[], Decompressor]:
        """Return the function that makes a decompressor for the messages of that side."""
        return NEW_DECOMPRESSOR[self.context_takeover(server=server)]

    def to_offer(self) -> str:
        """Return a client's offer for the header Sec-WebSocket-Extensions."""
        bits = self.client_max_window_bits
        limit = "client_max_window_bits" + ("" if bits == MAX_WINDOW_BITS else f"={bits}")
        # Section 7.1.2.2: the name alone lets the server ask for a smaller window.
        return f"{self.to_header(with_client_window=False)}; {limit}"

    def to_header(self, *, with_client_window: bool = True) -> str:
        """Return the parameters for the server's header Sec-WebSocket-Extensions."""
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

    def accept_offer(self, offered: Parameters) -> DeflateParameters | None:
        """Return the negotiated parameters for a client's offer, or None to decline it.

        `self` is the server's configuration. A server must decline an offer with an unknown,
        repeated or malformed parameter (section 7.1); the client's next offer may be valid.
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

    def validate_response(self, parameters: Parameters) -> DeflateParameters | None:
        """Return the negotiated parameters for a server's response, or None if it is invalid.

        `self` is the client's offer.
        """
        response = _parse(parameters, bare_client_window=False)
        if (
            response is None
            or (self.server_no_context_takeover and not response.server_no_context_takeover)
            or response.server_max_window_bits > self.server_max_window_bits
        ):
            return None
        client_bits = self.client_max_window_bits
        # Section 7.1.2.2: a server may leave out the client's window; the offer holds then.
        if any(name == "client_max_window_bits" for name, _ in parameters):
            if response.client_max_window_bits > client_bits:
                return None
            client_bits = response.client_max_window_bits
        return DeflateParameters(
            response.server_no_context_takeover,
            response.client_no_context_takeover or self.client_no_context_takeover,
            response.server_max_window_bits,
            client_bits,
        )


DeflateParameters.DEFAULT = DeflateParameters()
DeflateParameters.NO_CONTEXT_TAKEOVER = DeflateParameters(
    server_no_context_takeover=True, client_no_context_takeover=True
)

_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS = ("server_max_window_bits", "client_max_window_bits")

# Section 7.1.2.1: "a decimal integer value without leading zeroes between 8 to 15".
_WINDOW_BITS: dict[str | None, int] = {
    str(bits): bits for bits in range(MIN_WINDOW_BITS, MAX_WINDOW_BITS + 1)
}


def _parse(parameters: Parameters, *, bare_client_window: bool) -> DeflateParameters | None:
    """Return the parameters as an object, or None if one of them is invalid (section 7.1)."""
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


class Compressor:
    """Compressor for the messages of one direction (section 7.2.1).

    Args:
        context_takeover: True if a message may refer to earlier ones. The compressor then
            belongs to one connection; otherwise it keeps nothing and may be shared.
        window_bits: Size of the window as a power of two, 8 to 15.

    """

    __slots__ = ("_kept", "_window_bits")

    def __init__(
        self, *, context_takeover: bool = False, window_bits: int = MAX_WINDOW_BITS
    ) -> None:
        self._window_bits = window_bits
        self._kept = MessageCompressor(window_bits) if context_takeover else None

    def begin(self, opcode: Opcode, size: int) -> MessageCompressor:
        """Begin a message of any kind and size."""
        return self._kept or MessageCompressor(self._window_bits)

    def compress(self, data: bytes) -> bytes:
        """Return the compressed payload of a message.

        >>> Compressor().compress(b"Hello").hex(" ")
        'f2 48 cd c9 c9 07 00'
        """
        return (self._kept or MessageCompressor(self._window_bits)).encode(data, last=True)


class MessageCompressor:
    """Compressor for one message, fragment by fragment (section 6.1).

    With context takeover, it compresses all messages of a connection one after the other.

    Args:
        window_bits: Size of the window as a power of two, 8 to 15.

    """

    __slots__ = ("_compressor", "_window_bits")

    def __init__(self, window_bits: int = MAX_WINDOW_BITS) -> None:
        self._window_bits = window_bits
        self._compressor: zlib._Compress | None = None  # None while there is no context

    def encode(self, data: bytes, *, last: bool) -> bytes:
        """Return the payload of the next frame; it can be decompressed at once.

        Args:
            data: The next part of the message, possibly empty.
            last: True if the message ends with this part.

        """
        if not data:
            # Section 7.2.3.6; a second flush in a row would give nothing.
            return b"\x00" if last else b""
        if len(data) >= _MIN_SAMPLED_SIZE and not _is_compressible(data):
            compressor = zlib.compressobj(_STORED, wbits=-MAX_WINDOW_BITS)
            # The earlier context has moved in the receiver's window: begin a new one.
            self._compressor = None
        else:
            compressor = self._compressor = self._compressor or _new_compressor(self._window_bits)
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed[: -len(TAIL)] if last else compressed


def _new_compressor(window_bits: int) -> zlib._Compress:
    # zlib has no raw DEFLATE with a window of 2^8 bytes. Data without references back fits
    # every window, so Huffman coding alone is used there.
    bits = max(window_bits, MIN_WINDOW_BITS + 1)
    return zlib.compressobj(
        LEVEL,
        wbits=-bits,
        memLevel=_MEMORY_LEVELS[bits],
        strategy=zlib.Z_HUFFMAN_ONLY if window_bits < bits else zlib.Z_DEFAULT_STRATEGY,
    )


def _is_compressible(data: bytes) -> bool:
    """Return True if compression makes a sample from the middle of the data clearly smaller."""
    begin = (len(data) - _SAMPLE_SIZE) // 2
    compressed = SHARED_COMPRESSOR.compress(data[begin : begin + _SAMPLE_SIZE])
    return len(compressed) <= _SAMPLE_SIZE * 7 // 8


SHARED_COMPRESSOR = Compressor()
"""The compressor without context and with the largest window.

All connections that negotiated these parameters use this one, so that one compressed frame can
be sent to all of them.
"""


class Decompressor:
    """Decompressor for the messages of one direction, chunk by chunk (section 7.2.2).

    A message must end after a complete block. Otherwise it was cut, and the next message would
    be taken for the rest of its last block. A message without any byte is empty, because some
    senders leave the empty block of section 7.2.3.6 out.

    Args:
        context_takeover: True if a message may refer to earlier ones. Otherwise each message
            needs a fresh decompressor.

    Attributes:
        keeps_context: The value of `context_takeover`.
        has_more: True if the limit of the last call held output back.

    """

    __slots__ = (
        "_begun",
        "_decompressor",
        "_final_blocks",
        "_last",
        "_unconsumed",
        "_window",
        "has_more",
        "keeps_context",
    )

    def __init__(self, *, context_takeover: bool = False) -> None:
        self.keeps_context: bool = context_takeover
        self.has_more: bool = False
        # The largest window also fits data that was compressed with a smaller one. Some versions
        # of zlib use 2^9 bytes where 2^8 was negotiated.
        self._decompressor = zlib.decompressobj(-MAX_WINDOW_BITS)
        self._window = bytearray()  # the end of the output, at least one window of it
        self._begun = False  # a byte of the message has arrived
        self._final_blocks = 0
        self._unconsumed = b""  # the input behind the output so far, if the limit ended it
        self._last = False  # the message has no further input

    def decode(self, data: bytes, limit: int, *, last: bool) -> tuple[bytes, ProtocolError | None]:
        """Decompress the next chunk of a message.

        Args:
            data: The chunk. To continue after a limit that held output back, pass no data.
            limit: The number of bytes that the caller accepts.
            last: True if the message ends with this chunk.

        Returns:
            The output and the error that follows it, or None. The output has at most `limit` + 1
            bytes; if it has more than `limit`, `has_more` is True. Output before invalid data
            may be missing, because zlib withholds it.

        """
        self._begun = self._begun or bool(data)
        if last:
            if not self._begun:
                return b"", None
            data += TAIL
            self._last = True
        if self.has_more:
            data = self._unconsumed + data
            self._unconsumed = b""
            self.has_more = False
        result = b""
        while True:
            # zlib takes a max_length of 0 for "no limit"; this one is at least 1. It must fit
            # into a Py_ssize_t, but the limit may be larger.
            max_length = min(limit + 1 - len(result), sys.maxsize)
            try:
                result += self._decompressor.decompress(data, max_length)
            except zlib.error:
                return result, ProtocolError(rules.NOT_DEFLATE)
            if len(result) > limit or not self._decompressor.eof:
                break
            # Another block may follow a final block and refer to all output before it.
            self._final_blocks += 1
            if self._final_blocks > MAX_FINAL_BLOCKS:
                problem = f"a compressed message has more than {MAX_FINAL_BLOCKS} final blocks"
                return result, ProtocolError(rules.TOO_MANY_FINAL_BLOCKS, problem)
            data = self._decompressor.unused_data
            window = (self._window + result)[-WINDOW_SIZE:]
            self._decompressor = zlib.decompressobj(-MAX_WINDOW_BITS, window)
        self._window += result
        if len(self._window) > 2 * WINDOW_SIZE:  # rarely, because the deletion moves a window
            del self._window[:-WINDOW_SIZE]
        if len(result) > limit:
            self.has_more = True
            self._unconsumed = self._decompressor.unconsumed_tail
        elif self._last:
            if not self._is_after_a_block():
                problem = "a compressed message ends within a block of DEFLATE data"
                return result, ProtocolError(rules.NOT_DEFLATE, problem)
            self._begun = self._last = False
            self._final_blocks = 0
        return result, None

    def _is_after_a_block(self) -> bool:
        """Return True if the input so far ends with a complete block and a whole byte."""
        decompressor = self._decompressor.copy() if self.keeps_context else self._decompressor
        try:
            decompressor.decompress(_END, 1)
        except zlib.error:
            return False
        return decompressor.eof and not decompressor.unused_data


# Functions that make a decompressor, without and with context takeover. Connections share them.
NEW_DECOMPRESSOR: tuple[Callable[[], Decompressor], Callable[[], Decompressor]] = (
    Decompressor,
    partial(Decompressor, context_takeover=True),
)
