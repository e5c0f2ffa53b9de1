r"""The frame codec: RFC 6455, section 5, with no state beyond a single frame.

The decoder takes bytes as they come and gives frames; the encoder does the
reverse. How frames make up messages is left to `messages`, what a connection
does about them to `connection`. Three rules hold throughout:

- A header is judged before its payload is waited for, and nothing is ever
  allocated on a length that a peer merely announces.
- A data frame that has not arrived whole is handed over in pieces, so that the
  layer above can reject bad text at its first wrong byte. Control frames are
  small (section 5.5) and always whole.
- How the bytes were cut on their way makes no difference to what is decoded.

The figure of section 5.2, which `parse_header` follows from left to right::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| payload len |   extended length: 16 bits    |
    |I|S|S|S|  (4)  |A|     (7)     |   if payload len is 126,      |
    |N|V|V|V|       |S|             |   64 bits if it is 127        |
    | |1|2|3|       |K|             |                               |
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |   masking key: 4 bytes, if the MASK bit is set                |
    +---------------------------------------------------------------+
    |   payload: as many bytes as the length says, masked or not    |
    +---------------------------------------------------------------+

FIN says that this is the last frame of its message, the RSV bits belong to
extensions, the opcode tells data frames (text, binary, continuation) from
control frames (Close, Ping, Pong).

    >>> encode_frame(Opcode.TEXT, b"Hello").hex(" ")
    '81 05 48 65 6c 6c 6f'
    >>> decoder = FrameDecoder(masked=False)
    >>> decoder.receive_data(bytes.fromhex("810548656c6c6f"))
    >>> decoder.next_frame().payload
    b'Hello'
"""

from __future__ import annotations

from typing import NamedTuple

from wsproto_min.codes import CloseCode, Opcode, is_sendable_close_code
from wsproto_min.errors import ProtocolError
from wsproto_min.masking import apply_mask

# Section 5.2: the bits of the first two bytes.
FIN = 0b1000_0000
RSV1 = 0b0100_0000
RSV2 = 0b0010_0000
RSV3 = 0b0001_0000
OPCODE_BITS = 0b0000_1111
MASK = 0b1000_0000
LENGTH_BITS = 0b0111_1111

# Section 5.2: the values of the 7-bit length that announce a longer one.
LENGTH_IN_2_BYTES = 126
LENGTH_IN_8_BYTES = 127

# Section 5.5: "All control frames MUST have a payload length of 125 bytes or less".
MAX_CONTROL_PAYLOAD = 125

_OPCODES = {int(opcode): opcode for opcode in Opcode}


class Frame(NamedTuple):
    """A frame, or the piece of one that has arrived.

    The first seven fields are those of the wire (section 5.2), with `mask` the
    masking key, None if there was none, and `payload` already unmasked. A
    piece holds the payload from byte `offset` on, with `remaining` bytes of the
    frame still to come; a whole frame has 0 for both. `fin` is the frame's bit
    in every piece of it.

        >>> Frame(Opcode.TEXT, b"lo", offset=3).length  # the last piece of "Hello"
        5
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
        """Bytes of payload in the whole frame, as its header gave them."""
        return self.offset + len(self.payload) + self.remaining


class FrameHeader(NamedTuple):
    """All that precedes a payload (section 5.2); `size` is the header's own bytes."""

    fin: bool
    rsv1: bool
    rsv2: bool
    rsv3: bool
    opcode: Opcode
    mask: bytes | None
    length: int
    size: int


def parse_header(
    data: bytes, start: int = 0, *, masked: bool | None = None, rsv1_allowed: bool = False
) -> FrameHeader | None:
    """Read the header that begins at `data[start]`, judging each part as it is read.

    `masked` says whether the peer has to mask: True for what a client sends,
    False for what a server sends (section 5.1), None to accept both.
    `rsv1_allowed` is for a negotiated extension that uses the bit (RFC 7692).

    Returns None if the header has not arrived whole. Raises `ProtocolError` for
    each part as soon as that part is whole, of a 64-bit length at its top bit.

    Of 81 FE 01 00 the first byte has FIN and the opcode of text, the second MASK
    and 126, so two bytes of length and four of key follow:

        >>> parse_header(bytes.fromhex("81 fe 01 00"))  # the key is not here
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
    # "MUST be 0 unless an extension is negotiated that defines meanings".
    if first & (RSV2 | RSV3) or (first & RSV1 and not rsv1_allowed):
        raise ProtocolError("a reserved bit is set (RFC 6455, 5.2)")
    opcode = _OPCODES.get(first & OPCODE_BITS)
    if opcode is None:
        raise ProtocolError(f"opcode {first & OPCODE_BITS:#x} is reserved (RFC 6455, 5.2)")
    fin = bool(first & FIN)
    if opcode.is_control:
        if not fin:
            raise ProtocolError("a control frame is fragmented (RFC 6455, 5.5)")
        # RFC 7692, section 6: the bit belongs to the first frame of a message.
        if first & RSV1:
            raise ProtocolError("a control frame is marked as compressed (RFC 7692, 6.1)")

    if available < 2:
        return None
    second = data[start + 1]
    has_mask = bool(second & MASK)
    if masked is not None and has_mask is not masked:
        whose = "client's frame is not" if masked else "server's frame is"
        raise ProtocolError(f"a {whose} masked (RFC 6455, 5.1)")
    length = second & LENGTH_BITS
    if opcode.is_control and length > MAX_CONTROL_PAYLOAD:
        raise ProtocolError("a control frame is longer than 125 bytes (RFC 6455, 5.5)")

    size = 2
    if length == LENGTH_IN_2_BYTES:
        size += 2
        if available < size:
            return None
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        if length < LENGTH_IN_2_BYTES:
            raise ProtocolError("a length is not in its shortest form (RFC 6455, 5.2)")
    elif length == LENGTH_IN_8_BYTES:
        size += 8
        # The top bit is in the first of the eight bytes, which may come alone.
        if available > 2 and data[start + 2] & 0x80:
            raise ProtocolError("the top bit of a 64-bit length is set (RFC 6455, 5.2)")
        if available < size:
            return None
        length = int.from_bytes(data[start + 2 : start + 10], "big")
        if length < 1 << 16:
            raise ProtocolError("a length is not in its shortest form (RFC 6455, 5.2)")

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
    """Bytes in, frames out, for one direction of one connection.

    Call `receive_data` with what arrived, then `next_frame` until it gives
    None. After a `ProtocolError` the decoder is of no further use: there is no
    telling where the next frame would begin. `masked` and `rsv1_allowed` are
    those of `parse_header`; what is received and not decoded yet is in `buffer`,
    from `position` on.

    A frame that comes in two reads is given out in two pieces:

        >>> decoder = FrameDecoder(masked=True)
        >>> decoder.receive_data(bytes.fromhex("81 85 37fa213d 7f9f4d"))
        >>> frame = decoder.next_frame()
        >>> frame.payload, frame.offset, frame.remaining
        (b'Hel', 0, 2)
        >>> decoder.next_frame()  # nothing more yet
        >>> decoder.receive_data(bytes.fromhex("5158"))
        >>> frame = decoder.next_frame()
        >>> frame.payload, frame.offset, frame.remaining
        (b'lo', 3, 0)
    """

    __slots__ = ("_header", "_masked", "_offset", "_rsv1_allowed", "buffer", "position")

    def __init__(self, *, masked: bool | None = None, rsv1_allowed: bool = False) -> None:
        self._masked = masked
        self._rsv1_allowed = rsv1_allowed
        self.buffer = b""
        self.position = 0
        self._header: FrameHeader | None = None  # of a data frame that is not whole yet
        self._offset = 0  # in that frame's payload

    @property
    def in_frame(self) -> bool:
        """Whether a data frame has been handed out in part."""
        return self._header is not None

    @property
    def idle(self) -> bool:
        """Whether all that was received has been handed out as whole frames."""
        return self._header is None and self.position == len(self.buffer)

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes from the peer.

        Once `next_frame` has given None, what is kept of them is at most an
        unfinished header or control frame: under 140 bytes.
        """
        rest = self.buffer[self.position :]
        self.buffer = rest + data if rest else data
        self.position = 0

    def next_frame(self) -> Frame | None:
        """Return the next frame or piece of one, or None if more bytes are needed.

        The first piece of a data frame comes as soon as its header is whole,
        even without payload, so that its length can be judged early. Raises
        `ProtocolError` with the close code due.
        """
        if self.position == len(self.buffer):
            self._wait()
            return None
        header = self._header
        if header is None:
            header = parse_header(
                self.buffer, self.position, masked=self._masked, rsv1_allowed=self._rsv1_allowed
            )
            if header is None:
                self._wait()
                return None
            available = len(self.buffer) - self.position - header.size
            if available < header.length and header.opcode.is_control:
                self._wait()  # short as it is, its header is read anew next time
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
        """Forget what is not decoded yet."""
        self.buffer = b""
        self.position = 0

    def _wait(self) -> None:
        """Keep what is not decoded yet, and let go of the rest of a large read."""
        self.buffer = self.buffer[self.position :]
        self.position = 0


def encode_frame(
    opcode: Opcode,
    payload: bytes,
    *,
    fin: bool = True,
    rsv1: bool = False,
    mask: bytes | None = None,
) -> bytes:
    """Return the frame's bytes, its length in the shortest form (section 5.2).

    A client passes a fresh, unpredictable 4-byte `mask` for each frame
    (section 5.3), a server none. The caller answers for the rules on control
    frames (section 5.5); `Connection` keeps them.

        >>> encode_frame(Opcode.TEXT, b"Hello", mask=bytes.fromhex("37fa213d")).hex(" ")
        '81 85 37 fa 21 3d 7f 9f 4d 51 58'
        >>> [encode_frame(Opcode.BINARY, bytes(size))[1] for size in (125, 126, 65536)]
        [125, 126, 127]
    """
    first = (FIN if fin else 0) | (RSV1 if rsv1 else 0) | opcode
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
    """Return a Close frame's payload: the code, then the reason (section 5.5.1).

    A reason that does not fit into a control frame is cut between two
    characters, since the reason must be UTF-8. Raises `ValueError` for a code
    that must not be sent (section 7.4).

        >>> encode_close(CloseCode.NORMAL_CLOSURE, "bye").hex(" ")
        '03 e8 62 79 65'
    """
    if not is_sendable_close_code(code):
        raise ValueError(f"{code} may not stand in a Close frame; see RFC 6455, section 7.4")
    # Half a character at the cut is not UTF-8, and so ignored.
    text = reason.encode()[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return code.to_bytes(2, "big") + text


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return the code and reason in a Close frame's payload (section 5.5.1).

    An empty payload gives 1005, "no status received" (section 7.1.5). Raises
    `ProtocolError` for half a code, a code that must not be sent, or a reason
    that is not UTF-8.

        >>> parse_close(bytes.fromhex("03 e8 62 79 65"))
        (1000, 'bye')
        >>> parse_close(bytes.fromhex("03 ed"))  # 1005 is for an API only
        Traceback (most recent call last):
        wsproto_min.errors.ProtocolError: close code 1005 may not be sent (RFC 6455, 7.4)
    """
    if not payload:
        return CloseCode.NO_STATUS_RCVD, ""
    if len(payload) == 1:
        raise ProtocolError("a Close frame has half a close code (RFC 6455, 5.5.1)")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable_close_code(code):
        raise ProtocolError(f"close code {code} may not be sent (RFC 6455, 7.4)")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(
            "a close reason is not UTF-8 (RFC 6455, 5.5.1)", CloseCode.INVALID_FRAME_PAYLOAD_DATA
        ) from None
