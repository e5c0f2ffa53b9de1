r"""The frame codec (RFC 6455, section 5). It knows single frames and nothing beyond them.

`FrameDecoder` reads frames from bytes, `encode_frame` writes them. Module `messages` joins
frames to messages, module `connection` reacts to them. The decoder has three properties:

1. It checks a header before it waits for the payload, and reserves no memory for an announced
   length.
2. It returns a data frame in chunks while the frame arrives. So the receiver finds invalid text
   at the first byte that cannot continue the text. Control frames are small (section 5.5) and
   always returned whole.
3. The frames do not depend on how many bytes each read returned. Only the chunks of a data
   frame do.

`parse_header` follows the figure of section 5.2 from left to right::

                byte 0          byte 1
                0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
               +-+-+-+-+-------+-+-------------+
      header   |F|R|R|R|opcode |M| payload len |    masking key:
               |I|S|S|S|       |A|             |    only if MASK is 1
               |N|V|V|V|       |S|             |    16 bits:
               | |1|2|3|       |K|             |    extended length
               +-+-+-+-+-------+-+-------------+
    payload len  0   1   2   3   4   5   6   7   8   9  10  11  12  13
               +-------+---------------+---------------------------------------+
      0 to 125 |header |  masking key  |                payload                |
               +-------+-------+-------+-------+-------------------------------+
           126 |header |16 bits|  masking key  |            payload            |
               +-------+-------+---------------+-------+---------------+-------+
           127 |header |   extended length: 64 bits    |  masking key  |payload|
               +-------+-------------------------------+---------------+-------+

FIN marks the last frame of a message. The RSV bits belong to extensions. The opcode separates
data frames (text, binary, continuation) from control frames (Close, Ping, Pong).

    >>> encode_frame(Opcode.TEXT, b"Hello").hex(" ")
    '81 05 48 65 6c 6c 6f'
    >>> decoder = FrameDecoder(masked=False)
    >>> decoder.receive_data(bytes.fromhex("810548656c6c6f"))
    >>> decoder.next_frame().payload
    b'Hello'
"""

from typing import NamedTuple

from wsproto_min import rules
from wsproto_min.codes import NEVER_SENT, CloseCode, Opcode, is_sendable_close_code
from wsproto_min.errors import ProtocolError
from wsproto_min.masking import apply_mask

# Section 5.2: the bits of the first two bytes.
FIN = 0b1000_0000
RSV1 = 0b0100_0000
RSV2 = 0b0010_0000
RSV3 = 0b0001_0000
RSV_BITS = RSV1 | RSV2 | RSV3
OPCODE_BITS = 0b0000_1111
MASK = 0b1000_0000
LENGTH_BITS = 0b0111_1111

# Section 5.2: values of the 7-bit length that announce an extended length.
LENGTH_IN_2_BYTES = 126
LENGTH_IN_8_BYTES = 127

# Section 5.5: "All control frames MUST have a payload length of 125 bytes or less".
MAX_CONTROL_PAYLOAD = 125

_OPCODES = {int(opcode): opcode for opcode in Opcode}


# Characters or bytes of data in a repr().
_SHOWN = 64


def shorten(data: str | bytes) -> str:
    """Return the repr of data; of long data, its beginning and its length."""
    if len(data) <= _SHOWN:
        return repr(data)
    unit = "bytes" if isinstance(data, bytes) else "characters"
    return f"{data[:_SHOWN]!r}... ({len(data):,} {unit})"


class Frame(NamedTuple):
    """A frame, or the chunk of a data frame that has arrived (section 5.2).

    A whole frame has `offset` and `remaining` 0. All chunks of a frame repeat its header.

    >>> Frame(Opcode.TEXT, b"lo", offset=3).length  # the last chunk of "Hello"
    5

    Attributes:
        opcode: The frame's type.
        payload: The payload, unmasked.
        fin: True for the last frame of a message.
        rsv1: The first reserved bit; with permessage-deflate it marks a compressed message.
        rsv2: The second reserved bit.
        rsv3: The third reserved bit.
        mask: The masking key, 4 bytes, or None if the frame is not masked.
        offset: The index of the chunk's first byte in the frame's payload.
        remaining: The number of payload bytes that have not arrived yet.

    """

    opcode: Opcode
    payload: bytes
    fin: bool = True
    rsv1: bool = False
    rsv2: bool = False
    rsv3: bool = False
    mask: bytes | None = None
    offset: int = 0
    remaining: int = 0

    @property
    def length(self) -> int:
        """The payload length of the whole frame in bytes, as its header announces it."""
        return self.offset + len(self.payload) + self.remaining

    def __repr__(self) -> str:
        """Return opcode, payload and the fields that differ from their defaults."""
        fields = [f"{self.opcode.name}", shorten(self.payload)]
        for name, default in self._field_defaults.items():
            value = getattr(self, name)
            if value != default:
                fields.append(f"{name}={value.hex() if name == 'mask' else value}")
        return f"<Frame {' '.join(fields)}>"


class FrameHeader(NamedTuple):
    """The fields before the payload (section 5.2). `size` is the header's own size in bytes."""

    fin: bool
    rsv1: bool
    rsv2: bool
    rsv3: bool
    opcode: Opcode
    mask: bytes | None
    length: int
    size: int


def parse_header(
    data: bytes,
    start: int = 0,
    *,
    masked: bool | None = None,
    rsv1_allowed: bool = False,
    rsv_allowed: int = 0,
) -> FrameHeader | None:
    """Read and check the frame header that begins at `data[start]`.

    Each field is checked as soon as it is complete. The top bit of a 64-bit length is checked as
    soon as its first byte is there.

    Args:
        data: Received bytes.
        start: Index of the header's first byte.
        masked: Section 5.1: True if the peer is a client and must mask, False if the peer is a
            server and must not, None to accept both.
        rsv1_allowed: True if permessage-deflate is negotiated (RFC 7692).
        rsv_allowed: The bits of further negotiated extensions: `RSV1`, `RSV2`, `RSV3`.

    Returns:
        The header, or None if more bytes are needed.

    Raises:
        ProtocolError: A field breaks a rule of section 5.

    The first byte of 81 FE 01 00 has FIN and the opcode of text. The second has MASK and 126, so
    two bytes of length and four bytes of masking key follow:

        >>> parse_header(bytes.fromhex("81 fe 01 00"))  # the masking key is not here yet
        >>> header = parse_header(bytes.fromhex("81 fe 01 00 37 fa 21 3d"))
        >>> header.opcode.name, header.length, header.mask.hex(), header.size
        ('TEXT', 256, '37fa213d', 8)
        >>> parse_header(bytes.fromhex("83"))  # one byte is enough
        Traceback (most recent call last):
        wsproto_min.errors.ProtocolError: opcode 0x3 is reserved (RFC 6455, 5.2)

    """
    available = len(data) - start
    if available < 1:
        return None
    first = data[start]
    # "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
    rsv = first & RSV_BITS
    if rsv and rsv & ~(rsv_allowed | RSV1 if rsv1_allowed else rsv_allowed):
        raise ProtocolError(rules.RESERVED_BIT)
    opcode = _OPCODES.get(first & OPCODE_BITS)
    if opcode is None:
        problem = f"opcode {first & OPCODE_BITS:#x} is reserved"
        raise ProtocolError(rules.RESERVED_OPCODE, problem)
    fin = bool(first & FIN)
    if opcode.is_control:
        if not fin:
            raise ProtocolError(rules.FRAGMENTED_CONTROL)
        # RFC 7692, section 6.1: RSV1 belongs to the first frame of a message.
        if rsv:
            raise ProtocolError(rules.COMPRESSED_CONTROL if rsv == RSV1 else rules.RESERVED_BIT)

    if available < 2:
        return None
    second = data[start + 1]
    has_mask = bool(second & MASK)
    if masked is not None and has_mask is not masked:
        raise ProtocolError(rules.CLIENT_MASKS if masked else rules.SERVER_DOES_NOT_MASK)
    length = second & LENGTH_BITS
    if opcode.is_control and length > MAX_CONTROL_PAYLOAD:
        raise ProtocolError(rules.LONG_CONTROL)

    size = 2
    if length == LENGTH_IN_2_BYTES:
        size += 2
        if available < size:
            return None
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        if length < LENGTH_IN_2_BYTES:
            raise ProtocolError(rules.SHORTEST_LENGTH)
    elif length == LENGTH_IN_8_BYTES:
        size += 8
        # The top bit is in the first of the eight bytes, which may arrive alone.
        if available > 2 and data[start + 2] & 0x80:
            raise ProtocolError(rules.LENGTH_TOP_BIT)
        if available < size:
            return None
        length = int.from_bytes(data[start + 2 : start + 10], "big")
        if length < 1 << 16:
            raise ProtocolError(rules.SHORTEST_LENGTH)

    mask = None
    if has_mask:
        size += 4
        if available < size:
            return None
        mask = data[start + size - 4 : start + size]
    return FrameHeader(
        fin, bool(first & RSV1), bool(first & RSV2), bool(first & RSV3), opcode, mask, length, size
    )


class FrameDecoder:
    """Decoder for the frames of one direction of one connection.

    Call `receive_data` with received bytes, then `next_frame` until it returns None. After a
    `ProtocolError` the decoder is of no further use, because the start of the next frame is
    unknown.

    Args:
        masked: As for `parse_header`.
        rsv1_allowed: As for `parse_header`.
        rsv_allowed: As for `parse_header`.

    A data frame that arrives in two reads is returned in two chunks:

        >>> decoder = FrameDecoder(masked=True)
        >>> decoder.receive_data(bytes.fromhex("81 85 37fa213d 7f9f4d"))
        >>> frame = decoder.next_frame()
        >>> frame.payload, frame.offset, frame.remaining
        (b'Hel', 0, 2)
        >>> decoder.next_frame()  # more data is needed
        >>> decoder.receive_data(bytes.fromhex("5158"))
        >>> frame = decoder.next_frame()
        >>> frame.payload, frame.offset, frame.remaining
        (b'lo', 3, 0)

    Attributes:
        buffer: Received bytes; those from `position` on are not decoded yet.
        position: Index in `buffer` of the next byte to decode.

    """

    __slots__ = ("_header", "_masked", "_offset", "_rsv_allowed", "buffer", "position")

    buffer: bytes
    position: int

    def __init__(
        self, *, masked: bool | None = None, rsv1_allowed: bool = False, rsv_allowed: int = 0
    ) -> None:
        self._masked = masked
        self._rsv_allowed = rsv_allowed | RSV1 if rsv1_allowed else rsv_allowed
        self.buffer = b""
        self.position = 0
        self._header: FrameHeader | None = None  # of a data frame that is not complete
        self._offset = 0  # in the payload of that frame

    @property
    def in_frame(self) -> bool:
        """True while a data frame has been returned in part."""
        return self._header is not None

    @property
    def idle(self) -> bool:
        """True if all received bytes have been returned as whole frames."""
        return self._header is None and self.position == len(self.buffer)

    def receive_data(self, data: bytes) -> None:
        """Store received bytes for `next_frame`.

        Once `next_frame` has returned None, the decoder keeps at most an incomplete header or
        control frame: under 140 bytes.
        """
        rest = self.buffer[self.position :]
        self.buffer = rest + data if rest else data
        self.position = 0

    def next_frame(self) -> Frame | None:
        """Return the next frame or the next chunk of one, or None if more data is needed.

        The first chunk of a data frame follows its header at once, possibly without payload, so
        that the caller can check the announced length early.

        Raises:
            ProtocolError: A header breaks a rule of section 5.

        """
        if self.position == len(self.buffer):
            self._release_decoded()
            return None
        header = self._header
        if header is None:
            header = parse_header(
                self.buffer, self.position, masked=self._masked, rsv_allowed=self._rsv_allowed
            )
            if header is None:
                self._release_decoded()
                return None
            available = len(self.buffer) - self.position - header.size
            if available < header.length and header.opcode.is_control:
                self._release_decoded()  # a control frame is small: parse its header again later
                return None
            self.position += header.size
            self._offset = 0

        offset = self._offset
        payload = self.buffer[self.position : self.position + header.length - offset]
        self.position += len(payload)
        self._offset += len(payload)
        remaining = header.length - self._offset
        self._header = header if remaining else None
        return Frame(
            header.opcode,
            payload if header.mask is None else apply_mask(payload, header.mask, offset),
            header.fin,
            header.rsv1,
            header.rsv2,
            header.rsv3,
            header.mask,
            offset,
            remaining,
        )

    def discard(self) -> None:
        """Drop all bytes that are not decoded yet."""
        self.buffer = b""
        self.position = 0

    def _release_decoded(self) -> None:
        """Keep only the bytes that are not decoded yet, so that a large read can be freed."""
        self.buffer = self.buffer[self.position :]
        self.position = 0


def encode_frame(
    opcode: Opcode,
    payload: bytes,
    *,
    fin: bool = True,
    rsv1: bool = False,
    rsv: int = 0,
    mask: bytes | None = None,
) -> bytes:
    """Encode a frame with its length in the shortest form (section 5.2).

    This function does not check control frames (section 5.5); the caller must, as `Connection`
    does.

    Args:
        opcode: The frame's type.
        payload: The payload, not masked.
        fin: False if more frames of the message follow.
        rsv1: True for the first frame of a compressed message (RFC 7692, section 6.1).
        rsv: The bit of another extension that changed the message: `RSV1`, `RSV2` or `RSV3`.
        mask: A client passes 4 fresh unpredictable bytes for each frame (section 5.3); a server
            passes None.

    Returns:
        The bytes of the frame.

    >>> encode_frame(Opcode.TEXT, b"Hello", mask=bytes.fromhex("37fa213d")).hex(" ")
    '81 85 37 fa 21 3d 7f 9f 4d 51 58'
    >>> [encode_frame(Opcode.BINARY, bytes(size))[1] for size in (125, 126, 65536)]
    [125, 126, 127]

    """
    first = (FIN if fin else 0) | (RSV1 if rsv1 else rsv) | opcode
    mask_bit = 0 if mask is None else MASK
    length = len(payload)
    if length < LENGTH_IN_2_BYTES:
        header = bytes((first, mask_bit | length))
    elif length < 1 << 16:
        header = bytes((first, mask_bit | LENGTH_IN_2_BYTES)) + length.to_bytes(2, "big")
    else:
        header = bytes((first, mask_bit | LENGTH_IN_8_BYTES)) + length.to_bytes(8, "big")
    if mask is None:
        return header + payload
    return header + mask + apply_mask(payload, mask)


def encode_close(code: int, reason: str = "") -> bytes:
    """Encode the payload of a Close frame: the code, then the reason (section 5.5.1).

    A longer reason is shortened to at most 123 bytes, never inside a character.

    Raises:
        ValueError: A Close frame must not carry `code` (section 7.4).

    >>> encode_close(CloseCode.NORMAL_CLOSURE, "bye").hex(" ")
    '03 e8 62 79 65'

    """
    if not is_sendable_close_code(code):
        raise ValueError(f"close code {code} must not be sent; see RFC 6455, section 7.4")
    # The slice may end within a character; "ignore" drops the incomplete one.
    text = reason.encode()[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return code.to_bytes(2, "big") + text


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return the code and the reason in a Close frame's payload (section 5.5.1).

    An empty payload gives 1005, "no status received" (section 7.1.5).

    Raises:
        ProtocolError: The payload has one byte, the code must not be sent, or the reason is not
            UTF-8.

    >>> parse_close(bytes.fromhex("03 e8 62 79 65"))
    (1000, 'bye')
    >>> parse_close(bytes.fromhex("03 ed"))  # 1005 is never sent
    Traceback (most recent call last):
    wsproto_min.errors.ProtocolError: close code 1005 must not be sent (RFC 6455, 7.4.1)

    """
    if not payload:
        return CloseCode.NO_STATUS_RCVD, ""
    if len(payload) == 1:
        raise ProtocolError(rules.CLOSE_PAYLOAD)
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable_close_code(code):
        rule = rules.CLOSE_CODE_NEVER_SENT if code in NEVER_SENT else rules.CLOSE_CODE_RANGE
        raise ProtocolError(rule, f"close code {code} must not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(rules.CLOSE_REASON_NOT_UTF8) from None
