"""Frames written bit by bit, lawful or not: RFC 6455, sections 5.2 and 5.3.

`frames.encode_frame` writes what the RFC allows; to teach, and to test a parser,
one also wants what it forbids. A `RawFrame` sets every field by itself. Nothing
here depends on the codec, so that it can be held against this codec or any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The key of the RFC's own examples (section 5.7).
KEY = bytes.fromhex("37fa213d")


@dataclass(frozen=True)
class RawFrame:
    """A frame as it stands on the wire, lawful or not (section 5.2).

    `rsv` has the three reserved bits, RSV1 the highest. `length_bits` forces a
    form of the length that may be longer than need be; None is the shortest.
    """

    opcode: int
    payload: bytes = b""
    fin: bool = True
    mask: bytes | None = None
    rsv: int = 0b000
    length_bits: Literal[7, 16, 64] | None = None

    @property
    def data(self) -> bytes:
        """The frame's bytes, put together bit by bit."""
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
    """Mask byte by byte, as section 5.3 has it: octet i XOR key octet (i MOD 4)."""
    return bytes(octet ^ mask[(offset + i) % 4] for i, octet in enumerate(data))


def wire(notation: str, *, masked: bool) -> bytes:
    """Return the bytes of frames written in hex, from a client if they are `masked`.

    `|` separates frames and `.` the header from the payload. Both are written
    as a server sends them. For a client the MASK bit is set, KEY put in place
    of the point, and the payload masked. A frame without a point ends within
    its header, before any key:

        >>> wire("89 02 . 6869", masked=False).hex(" ")
        '89 02 68 69'
        >>> wire("89 02 . 6869", masked=True).hex(" ")
        '89 82 37 fa 21 3d 5f 93'
        >>> wire("01 01 . c3 | 80", masked=False).hex(" ")
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
