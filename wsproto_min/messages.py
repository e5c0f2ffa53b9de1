"""Assembling frames to messages (RFC 6455, section 5.4) and checking text (section 8.1).

A `MessageAssembler` takes the data frames of one direction, whole or in chunks, and returns
messages: `str` for text, `bytes` for binary. It keeps two limits: the size of a message and the
number of its fragments. Every fragment counts, an empty one too, so a million tiny fragments are
as bounded as one large one. All fragments of a message gather in one buffer. Messages that an
extension changed, such as compressed ones (RFC 7692), are decoded within the same limits.

Instead of whole messages, an assembler can return `MessageChunk` objects while a message arrives.
It then keeps no payload except the incomplete character at the end of a chunk.

A message is fragmented like this: the first frame has the opcode, all others are continuation
frames, and the last one has FIN. Control frames may come in between::

             text or binary, FIN=1                         continuation, FIN=0
                    +------+                                   +----------+
                    v      |                                   v          |
               +---------------+   text or binary, FIN=0  +-------------------+
               |               | -----------------------> |                   |
    start  --> |  no message   |                          | message under way |
               |               | <----------------------- |                   |
               +---------------+    continuation, FIN=1   +-------------------+
                       |                                            |
                       | continuation                text or binary |
                       |                                            |
                       v                                            v
       +------------------------------+         +------------------------------+
       |  violation: close code 1002  |         |  violation: close code 1002  |
       | a continuation frame has no  |         | a message begins before the  |
       |     message to continue      |         |      last one has ended      |
       +------------------------------+         +------------------------------+
"""

from __future__ import annotations

import sys
from codecs import utf_8_decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.deflate import NEW_DECOMPRESSOR
from wsproto_min.errors import ProtocolError
from wsproto_min.extensions import MessageDecoder
from wsproto_min.frames import RSV1, RSV2, RSV3, Frame, shorten

DEFAULT_MAX_MESSAGE_SIZE = 1 << 20

# One fragment for each 64 bytes of the size limit: the smallest fragments of Autobahn's
# performance cases (9.3.1, 9.4.1). A small size limit still allows usual fragmentation.
BYTES_PER_FRAGMENT = 64
MIN_FRAGMENTS = 128

# Stands for "no limit"; zlib accepts it as a size.
NO_LIMIT = sys.maxsize >> 1

# Output of a decoder in one chunk, in bytes: a compressed read can grow by a factor of 1,000.
MAX_DECODED_CHUNK = 1 << 16

# Bytes of memory, about, for `MessageAssembler.size`: the objects of an unfinished message, and
# zlib's state with its window of 32 KiB.
BUFFER_OVERHEAD = 256
DECODER_SIZE = 40 << 10

Decoders = Mapping[int, Callable[[], MessageDecoder]]
"""RSV bits, each with the function that makes the decoder of its extension."""

# permessage-deflate without and with context takeover. Connections share these.
COMPRESSION_DECODERS: tuple[Decoders, Decoders] = (
    {RSV1: NEW_DECOMPRESSOR[False]},
    {RSV1: NEW_DECOMPRESSOR[True]},
)

# Constants, because the hot path reads the members often.
_CONTINUATION, _TEXT = Opcode.CONTINUATION, Opcode.TEXT


@dataclass(frozen=True, slots=True)
class MessageChunk:
    """A part of a message, in the order of arrival.

    The chunks of a message, joined, are the message. Their boundaries depend on the way in which
    reads split the bytes. A chunk of text never ends within a character.

    Attributes:
        data: Text (`str`) or binary data (`bytes`). All chunks of a message have the same type.
        frame_finished: True if a frame, and thereby a fragment of the message, ends here.
        message_finished: True for the last chunk of a message.

    """

    data: str | bytes
    frame_finished: bool = True
    message_finished: bool = True

    def __repr__(self) -> str:
        """Return the fields, with the beginning of long data."""
        flags = f"frame_finished={self.frame_finished}, message_finished={self.message_finished}"
        return f"MessageChunk(data={shorten(self.data)}, {flags})"


class MessageAssembler:
    """Assembler for the data frames of one direction.

    Args:
        max_message_size: Limit for the payload of a message in bytes, after decoding; None for
            no limit.
        max_fragments: Limit for the fragments of a message; by default one for each 64 bytes of
            `max_message_size`, and at least 128.
        context_takeover: True if a compressed message may refer to earlier ones (RFC 7692,
            section 7.1.1).
        decoders: Decoders of the negotiated extensions; by default that of permessage-deflate.

    Attributes:
        chunked: True if the caller asks for chunks; the assembler only keeps this value.
        has_more: True if `next_chunk` must be called before the next `receive_chunk`.

    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_decoders",
        "_emitted",
        "_fragments",
        "_in_frame",
        "_incomplete",
        "_kept_decoders",
        "_last",
        "_max_fragments",
        "_max_message_size",
        "_opcode",
        "_received",
        "_rsv",
        "_valid",
        "chunked",
        "has_more",
    )

    def __init__(
        self,
        *,
        max_message_size: int | None = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        context_takeover: bool = False,
        decoders: Decoders | None = None,
    ) -> None:
        self.chunked: bool = False
        self.has_more: bool = False
        self._max_message_size = NO_LIMIT
        self._max_fragments = NO_LIMIT
        self.set_limits(max_message_size, max_fragments)
        self._decoders = COMPRESSION_DECODERS[context_takeover] if decoders is None else decoders
        self._opcode: Opcode | None = None  # Of the message under way.
        self._rsv = 0  # The bit of the extension that changed that message.
        self._buffer: BytesIO | None = None  # BytesIO, because getvalue() copies nothing.
        self._valid = 0  # Bytes at the start of the buffer known to be UTF-8.
        self._received = 0  # Bytes of payload on the wire, as headers announced them.
        self._fragments = 0
        self._in_frame = False
        self._decoder: MessageDecoder | None = None  # Of that message, if an extension changed it.
        self._kept_decoders: dict[int, MessageDecoder] | None = None  # With context takeover.
        self._emitted: int | None = None  # Bytes returned in chunks; None before the first.
        self._incomplete = b""  # The incomplete character behind the last chunk.
        self._last = False  # True if the decoder of a chunked message has all of its input.

    def set_limits(self, max_message_size: int | None, max_fragments: int | None) -> None:
        """Change both limits, for the message under way too. For the arguments see the class."""
        self._max_message_size = NO_LIMIT if max_message_size is None else max_message_size
        self._max_fragments = (
            max(MIN_FRAGMENTS, self._max_message_size // BYTES_PER_FRAGMENT)
            if max_fragments is None
            else max_fragments
        )

    @property
    def idle(self) -> bool:
        """True while no message is under way."""
        return self._opcode is None

    @property
    def in_chunks(self) -> bool:
        """True if a part of the message under way was returned as a chunk."""
        return self._emitted is not None

    @property
    def size(self) -> int:
        """Bytes of memory for the message under way, about; 0 without one."""
        if self._opcode is None:
            return 0
        size = BUFFER_OVERHEAD + (0 if self._buffer is None else self._buffer.tell())
        return size if self._decoder is None else size + DECODER_SIZE

    @property
    def remaining_limits(self) -> tuple[int, int]:
        """The payload bytes on the wire and the fragments that the message may still have."""
        return self._wire_limit() - self._received, self._max_fragments - self._fragments

    def count_joined_fragments(self, number: int) -> None:
        """Count fragments that the caller has joined with the next frame."""
        self._fragments += number

    def receive_frame(self, frame: Frame) -> str | bytes | None:
        """Add a data frame or its next chunk; return the message that it completes.

        Raises:
            ProtocolError: With code 1002, a frame is out of order. With 1007, text is not UTF-8
                (raised at the first invalid byte) or data is not DEFLATE. With 1008, there are
                too many fragments or final blocks. With 1009, the message is too big (raised as
                soon as a header announces it).

        """
        if not self._in_frame:
            self._begin_frame(frame)
        self._in_frame = frame.remaining > 0
        last = frame.fin and not self._in_frame
        payload = frame.payload if self._decoder is None else self._decode(frame.payload, last)
        is_text = self._opcode is _TEXT
        if last and self._buffer is None:  # the usual message: one frame, in one chunk
            message = _decode_text(payload) if is_text else payload
        else:
            if self._buffer is None:
                self._buffer = BytesIO()
            self._buffer.write(payload)
            if not last:
                if is_text and payload:
                    self._check_text(self._buffer)
                return None
            data = self._buffer.getvalue()
            message = _decode_text(data) if is_text else data
        self._end_message()
        return message

    def receive_chunk(self, frame: Frame) -> MessageChunk | None:
        """Add a data frame or its next chunk; return the message's next chunk, if any.

        Call this method, not `receive_frame`, for all later frames of the message. Frames that
        `receive_frame` took before belong to the first chunk. Call `next_chunk` while `has_more`
        is True.

        Raises:
            ProtocolError: As for `receive_frame`.

        """
        if not self._in_frame:
            self._begin_frame(frame)
        self._in_frame = frame.remaining > 0
        return self._chunk(frame.payload, frame.fin and not self._in_frame)

    def next_chunk(self) -> MessageChunk | None:
        """Return the next chunk of the output that a decoder holds, if any.

        Raises:
            ProtocolError: As for `receive_frame`.

        """
        return self._chunk(b"", False)

    def _chunk(self, payload: bytes, last: bool) -> MessageChunk | None:
        """Return the next chunk, or None if there is neither data nor the end of a frame."""
        gathered = b""
        if self._emitted is None:
            self._emitted = 0
            if self._buffer is not None:  # the message was not chunked at its beginning
                gathered = self._buffer.getvalue()
                self._buffer = None
        if self._decoder is not None:
            self._last = self._last or last
            payload = self._decode_bounded(self._decoder, payload, last, gathered)
            self.has_more = self._decoder.has_more
            last = self._last and not self.has_more
        payload = gathered + payload if gathered else payload
        self._emitted += len(payload)
        data = self._decode_partial_text(payload, last) if self._opcode is _TEXT else payload
        frame_finished = not (self._in_frame or self.has_more)
        if last:
            self._end_message()
        return MessageChunk(data, frame_finished, last) if data or frame_finished else None

    def _end_message(self) -> None:
        """Forget the message, except a decoder with the context of later messages."""
        if self._decoder is not None:
            if self._decoder.keeps_context:
                if self._kept_decoders is None:
                    self._kept_decoders = {}
                self._kept_decoders[self._rsv] = self._decoder
            self._decoder = None
        self._opcode = None
        self._buffer = None
        self._valid = 0
        self._received = 0
        self._fragments = 0
        self._emitted = None
        self._last = False

    def _begin_frame(self, frame: Frame) -> None:
        """Check a frame's header before any of its payload is kept."""
        if frame.opcode is _CONTINUATION:
            if self._opcode is None:
                raise ProtocolError(rules.NOTHING_TO_CONTINUE)
            if frame.rsv1:
                raise ProtocolError(rules.COMPRESSED_CONTINUATION)
            if frame.rsv2 or frame.rsv3:
                raise ProtocolError(rules.RESERVED_BIT)
        elif self._opcode is not None:
            raise ProtocolError(rules.MESSAGE_NOT_ENDED)
        else:
            self._opcode = frame.opcode
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                self._rsv = frame.rsv1 * RSV1 | frame.rsv2 * RSV2 | frame.rsv3 * RSV3
                self._decoder = self._new_decoder(self._rsv)
        self._fragments += 1
        if self._fragments > self._max_fragments:
            problem = f"a message has more than {self._max_fragments} fragments"
            raise ProtocolError(rules.TOO_MANY_FRAGMENTS, problem)
        self._received += frame.length
        if self._received > self._wire_limit():
            raise self._too_big()

    def _wire_limit(self) -> int:
        """Return the limit for the payload on the wire."""
        limit = self._max_message_size
        # DEFLATE's fixed codes take up to nine bits a byte, and its blocks have headers.
        return limit if self._decoder is None else limit + limit // 8 + 64

    def _new_decoder(self, rsv: int) -> MessageDecoder:
        """Return the decoder for a new message with these RSV bits."""
        if self._kept_decoders is not None and rsv in self._kept_decoders:
            return self._kept_decoders[rsv]
        if rsv not in self._decoders:  # two bits, because the frame decoder checks each one
            raise ProtocolError(rules.RESERVED_BIT)
        return self._decoders[rsv]()

    def _decode(self, payload: bytes, last: bool) -> bytes:
        """Decode a chunk of a message that an extension changed, within the size limit."""
        assert self._decoder is not None
        limit = self._max_message_size - (0 if self._buffer is None else self._buffer.tell())
        data, error = self._decoder.decode(payload, limit, last=last)
        if len(data) > limit:
            error = self._too_big()
        if error is not None:
            # Check the text before the error first: the verdict must not depend on the way in
            # which the message was split.
            if self._opcode is _TEXT:
                self._buffer = self._buffer or BytesIO()
                self._buffer.write(data[:limit])
                self._check_text(self._buffer)
            raise error
        return data

    def _decode_bounded(
        self, decoder: MessageDecoder, payload: bytes, last: bool, gathered: bytes
    ) -> bytes:
        """Decode at most `MAX_DECODED_CHUNK` bytes, behind the gathered ones."""
        assert self._emitted is not None
        limit = self._max_message_size - self._emitted - len(gathered)
        data, error = decoder.decode(payload, min(limit, MAX_DECODED_CHUNK - 1), last=last)
        if len(data) > limit:
            error = self._too_big()
        if error is not None:
            if self._opcode is _TEXT:  # as in `_decode`
                self._decode_partial_text(gathered + data[:limit], False)
            raise error
        return data

    def _too_big(self) -> ProtocolError:
        problem = f"a message is larger than {self._max_message_size} bytes"
        return ProtocolError(rules.MESSAGE_TOO_BIG, problem)

    def _check_text(self, buffer: BytesIO) -> None:
        """Reject text at its first invalid byte; the last character may be incomplete.

        Only bytes not yet known to be valid are decoded, so each byte is checked about once.
        """
        with buffer.getbuffer() as view:
            try:
                _, length = utf_8_decode(view[self._valid :], "strict", False)
            except UnicodeDecodeError:
                raise ProtocolError(rules.TEXT_NOT_UTF8) from None
            self._valid += length
            incomplete = bytes(view[self._valid :])
        _check_incomplete(incomplete)

    def _decode_partial_text(self, data: bytes, last: bool) -> str:
        """Return the text that is complete; keep the incomplete character behind it."""
        data = self._incomplete + data
        try:
            text, length = utf_8_decode(data, "strict", last)
        except UnicodeDecodeError:
            raise ProtocolError(rules.TEXT_NOT_UTF8) from None
        self._incomplete = data[length:]
        _check_incomplete(self._incomplete)
        return text


def _check_incomplete(character: bytes) -> None:
    """Reject the beginning of a surrogate, which is no character.

    Python waits for its third byte; the second is already invalid.
    """
    if character[:1] == b"\xed" and character[1:] >= b"\xa0":
        raise ProtocolError(rules.TEXT_NOT_UTF8)


def _decode_text(data: bytes) -> str:
    """Return a whole message as text (section 8.1)."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError(rules.TEXT_NOT_UTF8) from None
