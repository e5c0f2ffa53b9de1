"""Positions and values of a frame's fields (RFC 6455, section 5.2), for valid and invalid frames.

`frames.parse_header` rejects an invalid header. `explain` must also show a frame that breaks a
rule or that is incomplete. So this module reads the fields and checks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsproto_min.codes import Opcode
from wsproto_min.frames import (
    FIN,
    LENGTH_BITS,
    LENGTH_IN_2_BYTES,
    LENGTH_IN_8_BYTES,
    MASK,
    OPCODE_BITS,
    RSV1,
    RSV2,
    RSV3,
)
from wsproto_min.masking import apply_mask

_LENGTH_SIZES = {LENGTH_IN_2_BYTES: 2, LENGTH_IN_8_BYTES: 8}


@dataclass(frozen=True, slots=True)
class FrameFields:
    """Fields of the frame that `data` begins with.

    A field that has not arrived is None, or shorter than its final size. Positions count from
    the frame's first byte.

    >>> frame = FrameFields(bytes.fromhex("81 85 37fa213d 7f9f"))
    >>> frame.opcode_name, frame.length, frame.payload, frame.remaining
    ('TEXT', 5, b'He', 3)

    Attributes:
        data: Bytes of the frame, at least one.

    """

    data: bytes

    @property
    def fin(self) -> bool:
        """The FIN bit: True for the last frame of a message."""
        return bool(self.data[0] & FIN)

    @property
    def rsv(self) -> tuple[bool, bool, bool]:
        """The three reserved bits."""
        first = self.data[0]
        return bool(first & RSV1), bool(first & RSV2), bool(first & RSV3)

    @property
    def opcode(self) -> int:
        """The opcode as a number, 0 to 15; it may be reserved."""
        return self.data[0] & OPCODE_BITS

    @property
    def opcode_name(self) -> str:
        """The opcode's name in the RFC, or its number if the opcode is reserved."""
        try:
            return Opcode(self.opcode).name
        except ValueError:
            return f"opcode {self.opcode:#x}"

    @property
    def is_control(self) -> bool:
        """True if the opcode's top bit is set (section 5.5)."""
        return self.opcode >= Opcode.CLOSE

    @property
    def masked(self) -> bool | None:
        """The MASK bit."""
        return bool(self.data[1] & MASK) if len(self.data) > 1 else None

    @property
    def short_length(self) -> int | None:
        """The 7-bit length in the second byte."""
        return self.data[1] & LENGTH_BITS if len(self.data) > 1 else None

    @property
    def length_end(self) -> int:
        """The position after the length: of the masking key, or of the payload."""
        return 2 + _LENGTH_SIZES.get(self.short_length or 0, 0)

    @property
    def header_size(self) -> int:
        """The header's size in bytes. Without its second byte this is the minimum."""
        return self.length_end + (4 if self.masked else 0)

    @property
    def length(self) -> int | None:
        """The payload length in bytes, as the header announces it."""
        end = self.length_end
        if len(self.data) < end:
            return None
        return self.short_length if end == 2 else int.from_bytes(self.data[2:end], "big")

    @property
    def size(self) -> int:
        """The frame's size in bytes. Before `length` is known this is the minimum."""
        return self.header_size + (self.length or 0)

    @property
    def remaining(self) -> int:
        """The number of bytes that have not arrived. Before `length` is known, the minimum."""
        return max(0, self.size - len(self.data))

    @property
    def mask(self) -> bytes | None:
        """The masking key, or None if it is absent or incomplete."""
        if not self.masked or len(self.data) < self.header_size:
            return None
        return self.data[self.length_end : self.header_size]

    @property
    def wire_payload(self) -> bytes:
        """The received part of the payload, masked as on the wire."""
        return self.data[self.header_size : self.size]

    @property
    def payload(self) -> bytes:
        """The received part of the payload, unmasked."""
        payload = self.wire_payload
        return payload if self.mask is None else apply_mask(payload, self.mask)
