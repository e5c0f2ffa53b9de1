"""Description of frames to make, valid or not, for `explain --make`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsproto_min.codes import Opcode
from wsproto_min.deflate import Compressor
from wsproto_min.testing.raw_frame import RawFrame


@dataclass(frozen=True, slots=True)
class FrameSpec:
    r"""One message or control frame, with all fields of its first frame.

    >>> FrameSpec(Opcode.TEXT, b"Hello", mask=bytes.fromhex("37fa213d")).encode().hex(" ")
    '81 85 37 fa 21 3d 7f 9f 4d 51 58'
    >>> FrameSpec(Opcode.TEXT, "H\u00e9".encode(), fragments=2).encode().hex(" ")
    '01 01 48 80 02 c3 a9'

    Attributes:
        opcode: The opcode, 0 to 15.
        payload: The payload of all fragments together.
        close_code: A number of two bytes that goes before the payload.
        mask: The masking key of each frame, 4 bytes, or None.
        fragments: The number of frames. They share the payload evenly.
        fin: The FIN bit of the last frame.
        rsv1: The first reserved bit of the first frame.
        rsv2: The second reserved bit of the first frame.
        rsv3: The third reserved bit of the first frame.
        length_bits: The size of a length that is longer than necessary, or None.
        compress: True to compress the payload and set RSV1 (RFC 7692).

    """

    opcode: int
    payload: bytes = b""
    close_code: int | None = None
    mask: bytes | None = None
    fragments: int = 1
    fin: bool = True
    rsv1: bool = False
    rsv2: bool = False
    rsv3: bool = False
    length_bits: Literal[16, 64] | None = None
    compress: bool = False

    def encode(self) -> bytes:
        """Return the bytes of the frames. A fragment may end within a character."""
        code = b"" if self.close_code is None else self.close_code.to_bytes(2, "big")
        payload = code + self.payload
        if self.compress:
            payload = Compressor().compress(payload)
        opcode = self.opcode
        rsv = (self.rsv1 or self.compress) << 2 | self.rsv2 << 1 | self.rsv3
        data = b""
        for index in range(self.fragments):
            begin = len(payload) * index // self.fragments
            end = len(payload) * (index + 1) // self.fragments
            fin = self.fin and index == self.fragments - 1
            frame = RawFrame(opcode, payload[begin:end], fin, self.mask, rsv, self.length_bits)
            data += frame.data
            opcode, rsv = Opcode.CONTINUATION, 0
        return data
