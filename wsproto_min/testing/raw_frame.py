"""Frames written bit by bit, valid or not (RFC 6455, sections 5.2 and 5.3).

`frames.encode_frame` writes only valid frames. A test of a parser also needs invalid ones, so a
`RawFrame` sets each field by itself. This module does not use the codec, so that the codec can
be tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The masking key of the RFC's own examples (section 5.7).
KEY = bytes.fromhex("37fa213d")


@dataclass(frozen=True)
class RawFrame:
    """The fields of a frame as they are on the wire (section 5.2).

    Attributes:
        opcode: 0 to 15, reserved opcodes included.
        payload: The payload, not masked.
        fin: The FIN bit.
        mask: The masking key, 4 bytes, or None.
        rsv: The three reserved bits; RSV1 is the highest.
        length_bits: The form of the length, possibly longer than needed; None for the shortest.

    """

    opcode: int
    payload: bytes = b""
    fin: bool = True
    mask: bytes | None = None
    rsv: int = 0b000
    length_bits: Literal[7, 16, 64] | None = None

    @property
    def data(self) -> bytes:
        """The bytes of the frame."""
        length = len(self.payload)
        form = self.length_bits or (7 if length <= 125 else 16 if length <= 65535 else 64)
        bits = f"{self.fin:01b}{self.rsv:03b}{self.opcode:04b}{self.mask is not None:01b}"
        if form == 7:
            bits += f"{length:07b}"
        elif form == 16:
            bits += f"{126:07b}{length:016b}"
        else:
            bits += f"{127:07b}{length:064b}"
        header = int(bits, 2).to_bytes(len(bits) // 8, "big")
        if self.mask is None:
            return header + self.payload
        return header + self.mask + naive_mask(self.payload, self.mask)


def naive_mask(data: bytes, mask: bytes, offset: int = 0) -> bytes:
    """Mask byte by byte as section 5.3 defines it: octet i XOR key octet (i MOD 4)."""
    return bytes(octet ^ mask[(offset + i) % 4] for i, octet in enumerate(data))


def patterned(length: int) -> bytes:
    """Return bytes in which neighbouring chunks differ."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def parse_frame_notation(notation: str, *, masked: bool) -> bytes:
    """Return the bytes of frames that are written in hex.

    A `|` separates frames, a `.` separates a header from its payload. The notation shows frames
    as a server sends them. A frame without `.` ends within its header, before a masking key.

    Args:
        notation: The frames.
        masked: True for the frames of a client: sets the MASK bit, puts KEY in place of the `.`
            and masks the payload.

    >>> parse_frame_notation("89 02 . 6869", masked=False).hex(" ")
    '89 02 68 69'
    >>> parse_frame_notation("89 02 . 6869", masked=True).hex(" ")
    '89 82 37 fa 21 3d 5f 93'
    >>> parse_frame_notation("01 01 . c3 | 80", masked=False).hex(" ")
    '01 01 c3 80'

    """
    data = b""
    for frame in notation.split("|"):
        before, point, after = frame.partition(".")
        header, payload = bytearray.fromhex(before), bytes.fromhex(after)
        if masked and len(header) > 1:
            header[1] |= 0x80
        if masked and point:
            data += header + KEY + naive_mask(payload, KEY)
        else:
            data += header + payload
    return data
