"""From frames to messages: RFC 6455, sections 5.4 (fragmentation) and 8.1 (UTF-8).

A `MessageAssembler` takes the data frames of one direction, whole or in
pieces, and gives back messages: `str` for text, `bytes` for binary. It owns
the budgets: the bytes that a message may have, and the fragments it may come
in. A fragment costs even when it is empty, so a million tiny ones are as
bounded as one huge one, and all of them gather in a single buffer. Compressed
messages (RFC 7692) are expanded on the way in, within the same budgets.
"""

from __future__ import annotations

from codecs import utf_8_decode
from io import BytesIO

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.deflate import Decompressor
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame

DEFAULT_MAX_MESSAGE_SIZE = 1 << 20
# One fragment for every 64 bytes of budget: the smallest fragments that
# Autobahn's performance cases (9.3.1, 9.4.1) send. A tiny budget for bytes still
# leaves room for ordinary fragmentation.
BYTES_PER_FRAGMENT = 64
MIN_FRAGMENTS = 128

# Looking a member up in its enum takes 0.1 us, as long as a call.
_CONTINUATION, _TEXT = Opcode.CONTINUATION, Opcode.TEXT


class MessageAssembler:
    """Puts the data frames of one direction together.

    `max_message_size` is in bytes of payload, expanded if it was compressed.
    `max_fragments` defaults to one for every 64 bytes of that, and at least 128.
    `context_takeover` says whether compressed messages may refer to earlier ones.
    """

    __slots__ = (
        "_checked",
        "_context_takeover",
        "_data",
        "_decompressor",
        "_fragments",
        "_in_frame",
        "_max_fragments",
        "_max_message_size",
        "_opcode",
        "_received",
        "_rsv1",
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
        self._opcode: Opcode | None = None
        self._data: BytesIO | None = None  # its `getvalue` copies nothing
        self._checked = 0  # bytes of data known to be good text
        self._received = 0  # bytes on the wire, as announced
        self._fragments = 0
        self._in_frame = False
        self._rsv1 = False  # the message is compressed
        self._decompressor: Decompressor | None = None
        self._context_takeover = context_takeover

    @property
    def idle(self) -> bool:
        """Whether no message is under way."""
        return self._opcode is None

    def receive_frame(self, frame: Frame) -> str | bytes | None:
        """Take a data frame or the next piece of one; return the message it ends.

        Raises `ProtocolError`: 1002 for fragments out of order, 1007 for text
        that is not UTF-8 (at the first wrong byte, wherever the pieces end),
        1008 for too many fragments, 1009 for a message that is too big (as
        soon as a header announces it).
        """
        if not self._in_frame:
            self._begin_frame(frame)
        self._in_frame = frame.remaining > 0
        last = frame.fin and not self._in_frame
        payload = self._inflate(frame.payload, last) if self._rsv1 else frame.payload
        is_text = self._opcode is _TEXT
        if last and self._data is None:  # the usual message: one frame, in one piece
            message = _decode(payload) if is_text else payload
        else:
            if self._data is None:
                self._data = BytesIO()
            self._data.write(payload)
            if not last:
                if is_text:
                    self._check_new_text(self._data)
                return None
            data = self._data.getvalue()
            message = _decode(data) if is_text else data
        self._opcode = None
        self._data = None
        self._checked = 0
        self._received = 0
        self._fragments = 0
        return message

    def _begin_frame(self, frame: Frame) -> None:
        """Judge what a frame's header announces, before any of its payload is kept."""
        if frame.opcode is _CONTINUATION:
            if self._opcode is None:
                raise ProtocolError("a continuation has no message to continue (RFC 6455, 5.4)")
            if frame.rsv1:
                raise ProtocolError("a continuation is marked as compressed (RFC 7692, 6.1)")
        elif self._opcode is not None:
            raise ProtocolError("a message began before the last one ended (RFC 6455, 5.4)")
        else:
            self._opcode = frame.opcode
            self._rsv1 = frame.rsv1
        self._fragments += 1
        if self._fragments > self._max_fragments:
            raise ProtocolError(
                f"a message has more than {self._max_fragments} fragments",
                CloseCode.POLICY_VIOLATION,
            )
        limit = self._max_message_size
        if self._rsv1:
            # Deflate's fixed codes take up to nine bits a byte, and its blocks headers.
            limit += limit // 8 + 64
        self._received += frame.length
        if self._received > limit:
            raise self._too_big()

    def _inflate(self, payload: bytes, last: bool) -> bytes:
        """Expand a piece of a compressed message as far as the budget goes."""
        if self._decompressor is None:
            self._decompressor = Decompressor()
        gathered = 0 if self._data is None else self._data.tell()
        limit = self._max_message_size - gathered
        expanded, error = self._decompressor.inflate(payload, limit, last=last)
        if len(expanded) > limit:
            error = self._too_big()
        if error is not None:
            # What came before the error and fits is judged first, so that it makes
            # no difference to the verdict in how many pieces the message came.
            if self._opcode is _TEXT:
                self._data = self._data or BytesIO()
                self._data.write(expanded[:limit])
                self._check_new_text(self._data)
            raise error
        if last and not self._context_takeover:
            self._decompressor = None
        return expanded

    def _too_big(self) -> ProtocolError:
        return ProtocolError(
            f"a message is larger than {self._max_message_size} bytes", CloseCode.MESSAGE_TOO_BIG
        )

    def _check_new_text(self, data: BytesIO) -> None:
        """Reject text at its first wrong byte; a character may still be unfinished.

        Only bytes not yet known to be good are looked at, so each is checked
        once, however many pieces they come in.
        """
        with data.getbuffer() as view:
            try:
                _, length = utf_8_decode(view[self._checked :], "strict", False)
            except UnicodeDecodeError:
                raise _not_utf_8() from None
            self._checked += length
            unfinished = bytes(view[self._checked :])
        # Python waits for a surrogate's third byte, though its second gives it away.
        if unfinished[:1] == b"\xed" and unfinished[1:] >= b"\xa0":
            raise _not_utf_8()


def _decode(data: bytes) -> str:
    """Return a whole message as text (section 8.1)."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _not_utf_8() from None


def _not_utf_8() -> ProtocolError:
    return ProtocolError(
        "a text message is not UTF-8 (RFC 6455, 8.1)", CloseCode.INVALID_FRAME_PAYLOAD_DATA
    )
