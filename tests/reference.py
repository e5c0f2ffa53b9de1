"""A slow reference decoder for frames, to compare faster decoders with.

It reads the figure of RFC 6455, section 5.2, field by field from left to right, and stops
at the first violation of section 5. It shares no code with `wsproto_min` and keeps no
state. Its time grows with the square of the input: use at most a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceFrame:
    """A frame with the fields of the figure; `payload` is unmasked.

    `length` is the payload length in the header. In the last frame the payload may be
    shorter, if it is a data frame and the input ends within it.
    """

    fin: int
    rsv: tuple[int, int, int]
    opcode: int
    masking_key: bytes | None
    length: int
    payload: bytes


@dataclass(frozen=True)
class Decoded:
    """The frames before the first violation, and the section of RFC 6455 of its rule."""

    frames: Sequence[ReferenceFrame]
    violated_section: str | None


class _Violation(Exception):
    """A violation; the argument is the section of RFC 6455."""


class _Incomplete(Exception):
    """The input ends within a header or a control frame."""


class _Bits:
    """A reader of single bits, the most significant bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data)

    def take(self, count: int) -> int:
        if len(self.bits) < count:
            raise _Incomplete
        taken, self.bits = self.bits[:count], self.bits[count:]
        return int(taken, 2)

    def take_bytes(self, count: int) -> bytes:
        return bytes(self.take(8) for _ in range(count))

    @property
    def whole_bytes(self) -> int:
        return len(self.bits) // 8


def reference_decode(data: bytes, *, masked: bool | None = None) -> Decoded:
    """Decode `data`.

    Args:
        data: The bytes of frames; the last frame may be incomplete.
        masked: True for frames of a client, False for frames of a server, None for both.

    """
    bits = _Bits(data)
    frames: list[ReferenceFrame] = []
    try:
        while bits.whole_bytes:
            frames.append(_frame(bits, masked))
    except _Incomplete:
        return Decoded(frames, None)
    except _Violation as error:
        return Decoded(frames, str(error))
    return Decoded(frames, None)


def _frame(bits: _Bits, masked: bool | None) -> ReferenceFrame:
    fin = bits.take(1)
    rsv = (bits.take(1), bits.take(1), bits.take(1))
    if rsv != (0, 0, 0):
        raise _Violation("5.2")
    opcode = bits.take(4)
    if opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF):
        raise _Violation("5.2")
    is_control = opcode in (0x8, 0x9, 0xA)
    if is_control and fin == 0:
        raise _Violation("5.5")

    mask = bits.take(1)
    if masked is True and mask == 0:
        raise _Violation("5.1")
    if masked is False and mask == 1:
        raise _Violation("5.1")

    length = bits.take(7)
    if is_control and length > 125:
        raise _Violation("5.5")
    if length == 126:
        length = bits.take(16)
        if length < 126:
            raise _Violation("5.2")
    elif length == 127:
        if bits.take(1) == 1:
            raise _Violation("5.2")
        length = bits.take(63)
        if length < 65536:
            raise _Violation("5.2")

    masking_key = bits.take_bytes(4) if mask else None
    if is_control and bits.whole_bytes < length:
        raise _Incomplete
    received = bits.take_bytes(min(length, bits.whole_bytes))
    if masking_key is None:
        payload = received
    else:
        payload = bytes(octet ^ masking_key[i % 4] for i, octet in enumerate(received))
    return ReferenceFrame(fin, rsv, opcode, masking_key, length, payload)
