"""A frame decoder to check faster ones against: slow, and as close to the RFC as it can be.

It reads the figure of RFC 6455, section 5.2, from left to right, one field of
bits after the other, and stops at the first sentence of section 5 that a field
breaks. It shares no code with any package, keeps no state, and takes time in
proportion to the square of its input; give it a few kilobytes at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceFrame:
    """A frame as the figure has it; `payload` is unmasked.

    `length` is what the header announces. The payload is shorter than that in
    a data frame that the input cuts off; only the last frame can be one.
    """

    fin: int
    rsv: tuple[int, int, int]
    opcode: int
    masking_key: bytes | None
    length: int
    payload: bytes


@dataclass(frozen=True)
class Decoded:
    """The frames in some bytes, and the section broken after them, if one was."""

    frames: Sequence[ReferenceFrame]
    broken: str | None


class _Broken(Exception):
    """A rule of the section named is broken."""


class _Incomplete(Exception):
    """The input ends within a header or a control frame."""


class _Bits:
    """The bits of some bytes, the most significant first, to be taken in order."""

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
    """Decode all of `data`; `masked` is True for what a client sends, None for either."""
    bits = _Bits(data)
    frames: list[ReferenceFrame] = []
    try:
        while bits.whole_bytes:
            frames.append(_frame(bits, masked))
    except _Incomplete:
        return Decoded(frames, None)
    except _Broken as error:
        return Decoded(frames, str(error))
    return Decoded(frames, None)


def _frame(bits: _Bits, masked: bool | None) -> ReferenceFrame:
    fin = bits.take(1)
    rsv = (bits.take(1), bits.take(1), bits.take(1))
    if rsv != (0, 0, 0):
        raise _Broken("5.2")
    opcode = bits.take(4)
    if opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF):
        raise _Broken("5.2")
    is_control = opcode in (0x8, 0x9, 0xA)
    if is_control and fin == 0:
        raise _Broken("5.5")

    mask = bits.take(1)
    if masked is True and mask == 0:
        raise _Broken("5.1")
    if masked is False and mask == 1:
        raise _Broken("5.1")

    length = bits.take(7)
    if is_control and length > 125:
        raise _Broken("5.5")
    if length == 126:
        length = bits.take(16)
        if length < 126:
            raise _Broken("5.2")
    elif length == 127:
        if bits.take(1) == 1:
            raise _Broken("5.2")
        length = bits.take(63)
        if length < 65536:
            raise _Broken("5.2")

    masking_key = bits.take_bytes(4) if mask else None
    if is_control and bits.whole_bytes < length:
        raise _Incomplete
    received = bits.take_bytes(min(length, bits.whole_bytes))
    if masking_key is None:
        payload = received
    else:
        payload = bytes(octet ^ masking_key[i % 4] for i, octet in enumerate(received))
    return ReferenceFrame(fin, rsv, opcode, masking_key, length, payload)
