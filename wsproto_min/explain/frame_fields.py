"""Where the fields of a frame lie: RFC 6455, section 5.2, for good frames and bad ones.

`frames.parse_header` judges a header and gives nothing for a bad one. To draw a
frame that breaks a rule, or that is cut off, its fields must be found all the
same. So this reads bytes as the figure has them and judges nothing.
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
    """The fields of the frame that `data`, at least one byte, begins with.

    What has not arrived is None or shorter than it will be. All positions are
    counted from the frame's first byte.

    >>> frame = Layout(bytes.fromhex("81 85 37fa213d 7f9f"))
    >>> frame.opcode_name, frame.length, frame.payload, frame.remaining
    ('TEXT', 5, b'He', 3)
    """

    data: bytes

    @property
    def fin(self) -> bool:
        """Whether this is its message's last frame."""
        return bool(self.data[0] & FIN)

    @property
    def rsv(self) -> tuple[bool, bool, bool]:
        """The three reserved bits."""
        first = self.data[0]
        return bool(first & RSV1), bool(first & RSV2), bool(first & RSV3)

    @property
    def opcode(self) -> int:
        """The opcode's number, which may be a reserved one."""
        return self.data[0] & OPCODE_BITS

    @property
    def opcode_name(self) -> str:
        """The opcode's name in the RFC, or its number if it is reserved."""
        try:
            return Opcode(self.opcode).name
        except ValueError:
            return f"opcode {self.opcode:#x}"

    @property
    def is_control(self) -> bool:
        """Whether the top bit of the opcode is set (section 5.5)."""
        return self.opcode >= Opcode.CLOSE

    @property
    def masked(self) -> bool | None:
        """The MASK bit."""
        return bool(self.data[1] & MASK) if len(self.data) > 1 else None

    @property
    def short_length(self) -> int | None:
        """The 7 bits of the length in the second byte."""
        return self.data[1] & LENGTH_BITS if len(self.data) > 1 else None

    @property
    def length_end(self) -> int:
        """Where the length ends and the masking key or the payload begins."""
        return 2 + _LENGTH_SIZES.get(self.short_length or 0, 0)

    @property
    def header_size(self) -> int:
        """Bytes before the payload, at least: what has not arrived may add to them."""
        return self.length_end + (4 if self.masked else 0)

    @property
    def length(self) -> int | None:
        """Bytes of payload that the header announces."""
        end = self.length_end
        if len(self.data) < end:
            return None
        return self.short_length if end == 2 else int.from_bytes(self.data[2:end], "big")

    @property
    def size(self) -> int:
        """Bytes of the frame, at least: all of them once `length` is known."""
        return self.header_size + (self.length or 0)

    @property
    def remaining(self) -> int:
        """Bytes of the frame that have not arrived, at least."""
        return max(0, self.size - len(self.data))

    @property
    def mask(self) -> bytes | None:
        """The masking key, if there is one and it has arrived whole."""
        if not self.masked or len(self.data) < self.header_size:
            return None
        return self.data[self.length_end : self.header_size]

    @property
    def wire_payload(self) -> bytes:
        """The payload as it stands on the wire, as far as it has arrived."""
        return self.data[self.header_size : self.size]

    @property
    def payload(self) -> bytes:
        """The payload, unmasked."""
        payload = self.wire_payload
        return payload if self.mask is None else apply_mask(payload, self.mask)
