"""Assembling frames to messages (RFC 6455, section 5.4) and checking text (section 8.1).

A `MessageAssembler` takes the data frames of one direction, whole or in chunks, and returns
messages: `str` for text, `bytes` for binary. It keeps two limits: the size of a message and the
number of its fragments. Every fragment counts, an empty one too, so a million tiny fragments are
as bounded as one large one. All fragments of a message gather in one buffer. Compressed
messages (RFC 7692) are decompressed within the same limits.

A message is fragmented like this: the first frame has the opcode, all others are continuation
frames, and the last one has FIN. Control frames may come in between::

                      text or binary, FIN=1
                    +----------------------+
                    |                      |
                    v                      |
    start --> [ no message ] --------------+
                  |      ^
     text or      |      |  continuation, FIN=1
     binary,      v      |
     FIN=0   [ message under way ] <--+
                        |             |
                        +-------------+
                    continuation, FIN=0
"""

from __future__ import annotations

from codecs import utf_8_decode
from io import BytesIO

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.deflate import Decompressor
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame

DEFAULT_MAX_MESSAGE_SIZE = 1 << 20

# One fragment for each 64 bytes of the size limit: the smallest fragments of Autobahn's
# performance cases (9.3.1, 9.4.1). A small size limit still allows usual fragmentation.
BYTES_PER_FRAGMENT = 64
MIN_FRAGMENTS = 128

# Bytes of memory, about, for `MessageAssembler.size`: the objects of an unfinished message, and
# zlib's state with its window of 32 KiB.
BUFFER_OVERHEAD = 256
DECOMPRESSOR_SIZE = 40 << 10

# Constants, because the hot path reads the members often.
_CONTINUATION, _TEXT = Opcode.CONTINUATION, Opcode.TEXT


class MessageAssembler:
    """Assembler for the data frames of one direction.

    Args:
        max_message_size: Limit for the payload of a message in bytes, after decompression.
        max_fragments: Limit for the fragments of a message; by default one for each 64 bytes of
            `max_message_size`, and at least 128.
        context_takeover: True if a compressed message may refer to earlier ones (RFC 7692,
            section 7.1.1).

    """

    __slots__ = (
        "_buffer",
        "_context_takeover",
        "_decompressor",
        "_fragments",
        "_in_frame",
        "_max_fragments",
        "_max_message_size",
        "_opcode",
        "_received",
        "_rsv1",
        "_valid",
    )

    def __init__(
        self,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        context_takeover: bool = False,
    ) -> None:
        self._max_message_size = max_message_size
        self._max_fragments = (
            max(MIN_FRAGMENTS, max_message_size // BYTES_PER_FRAGMENT)
            if max_fragments is None
            else max_fragments
        )
        self._context_takeover = context_takeover
        self._opcode: Opcode | None = None  # Of the message under way.
        self._rsv1 = False  # True if that message is compressed.
        self._buffer: BytesIO | None = None  # BytesIO, because getvalue() copies nothing.
        self._valid = 0  # Bytes at the start of the buffer known to be UTF-8.
        self._received = 0  # Bytes of payload on the wire, as headers announced them.
        self._fragments = 0
        self._in_frame = False
        self._decompressor: Decompressor | None = None

    @property
    def idle(self) -> bool:
        """True while no message is under way."""
        return self._opcode is None

    @property
    def size(self) -> int:
        """Bytes of memory for the message under way, about; 0 without one."""
        if self._opcode is None:
            return 0
        size = BUFFER_OVERHEAD + (0 if self._buffer is None else self._buffer.tell())
        return size if self._decompressor is None else size + DECOMPRESSOR_SIZE

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
        payload = self._decompress(frame.payload, last) if self._rsv1 else frame.payload
        is_text = self._opcode is _TEXT
        if last and self._buffer is None:  # the usual message: one frame, in one chunk
            message = _decode(payload) if is_text else payload
        else:
            if self._buffer is None:
                self._buffer = BytesIO()
            self._buffer.write(payload)
            if not last:
                if is_text and payload:
                    self._check_text(self._buffer)
                return None
            data = self._buffer.getvalue()
            message = _decode(data) if is_text else data
        self._opcode = None
        self._buffer = None
        self._valid = 0
        self._received = 0
        self._fragments = 0
        return message

    def _begin_frame(self, frame: Frame) -> None:
        """Check a frame's header before any of its payload is kept."""
        if frame.opcode is _CONTINUATION:
            if self._opcode is None:
                raise ProtocolError(rules.NOTHING_TO_CONTINUE)
            if frame.rsv1:
                raise ProtocolError(rules.COMPRESSED_CONTINUATION)
        elif self._opcode is not None:
            raise ProtocolError(rules.MESSAGE_NOT_ENDED)
        else:
            self._opcode = frame.opcode
            self._rsv1 = frame.rsv1
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
        return limit + limit // 8 + 64 if self._rsv1 else limit

    def _decompress(self, payload: bytes, last: bool) -> bytes:
        """Decompress a chunk of a compressed message within the size limit."""
        if self._decompressor is None:
            self._decompressor = Decompressor()
        limit = self._max_message_size - (0 if self._buffer is None else self._buffer.tell())
        data, error = self._decompressor.decompress(payload, limit, last=last)
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
        if last and not self._context_takeover:
            self._decompressor = None
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
        # Python waits for the third byte of a surrogate; the second is already invalid.
        if incomplete[:1] == b"\xed" and incomplete[1:] >= b"\xa0":
            raise ProtocolError(rules.TEXT_NOT_UTF8)


def _decode(data: bytes) -> str:
    """Return a whole message as text (section 8.1)."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError(rules.TEXT_NOT_UTF8) from None
