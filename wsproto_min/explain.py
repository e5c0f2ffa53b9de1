"""The frame dissector: bytes in, an explanation of each frame out.

It uses the codec itself, so it cannot drift from it, and it says what the
codec would: what a frame means, or which rule it breaks (RFC 6455, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame, FrameDecoder, encode_frame, parse_close

# Payload that is shown; the rest is only counted.
SHOWN_BYTES = 48


def printable(text: str) -> str:
    r"""Return `text` with all that could steer a terminal written as an escape.

    >>> printable("red: \x1b[31m, right to left: \u202e")
    'red: \\x1b[31m, right to left: \\u202e'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Dissector:
    """Explains the frames of one direction as their bytes arrive."""

    def __init__(self, *, masked: bool | None = None) -> None:
        self._decoder = FrameDecoder(masked=masked, rsv1_allowed=True)
        self._pieces: list[Frame] = []
        self.failed = False

    def receive_data(self, data: bytes) -> Iterator[str]:
        """Yield the lines that explain each frame that `data` completes."""
        if self.failed:
            return
        self._decoder.receive_data(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                self._pieces.append(frame)
                if not frame.missing:
                    payload = b"".join(piece.payload for piece in self._pieces)
                    self._pieces = []
                    yield from explain_frame(frame, payload)
        except ProtocolError as error:
            self.failed = True
            yield f"BROKEN: {error.reason}; the receiver closes with {_close_code(error.code)}"

    def receive_eof(self) -> Iterator[str]:
        """Yield a line if the bytes ended within a frame."""
        if self._pieces:
            yield f"INCOMPLETE: {self._pieces[-1].missing} more bytes of payload are needed"
        elif not self.failed and not self._decoder.idle:
            yield "INCOMPLETE: more bytes of the header or control frame are needed"


def explain_frame(frame: Frame, payload: bytes) -> Iterator[str]:
    """Yield the lines that explain one whole frame."""
    masked = encode_frame(frame.opcode, payload, fin=frame.fin, rsv1=frame.rsv1, mask=frame.mask)
    header = masked[: len(masked) - len(payload)]
    lengths = header[2:] if frame.mask is None else header[2:-4]
    flags = f"FIN={frame.fin:d} RSV1={frame.rsv1:d} RSV2={frame.rsv2:d} RSV3={frame.rsv3:d}"
    yield f"{frame.opcode.name} frame, {len(masked)} bytes"
    yield f"  {header[:1].hex():24}{flags} opcode={frame.opcode:#x} ({frame.opcode.name})"
    yield f"  {header[1:2].hex():24}MASK={frame.mask is not None:d} length={header[1] & 0x7F}"
    if lengths:
        yield f"  {lengths.hex(' '):24}the length: {len(payload)}"
    if frame.mask is not None:
        yield f"  {frame.mask.hex(' '):24}the masking key"
    if payload:
        shown = masked[len(header) :][:SHOWN_BYTES].hex(" ")
        more = "" if len(payload) <= SHOWN_BYTES else f" ... ({len(payload)} bytes)"
        unmasked = "" if frame.mask is None else ", unmasked"
        yield f"  {shown}{more}"
        yield f"  {'':24}the payload{unmasked}: {_meaning(frame, payload)}"


def _meaning(frame: Frame, payload: bytes) -> str:
    """Return a payload as its opcode says to read it."""
    if frame.rsv1:
        return f"compressed, {len(payload)} bytes"
    if frame.opcode is Opcode.CLOSE:
        code, reason = parse_close(payload)
        return f"{_close_code(code)} {printable(reason)!r}"
    shown = payload[:SHOWN_BYTES]
    if frame.opcode is Opcode.TEXT:
        return repr(printable(shown.decode("utf-8", "replace")))
    return shown.hex(" ") if frame.opcode is Opcode.BINARY else repr(shown)[1:]


def _close_code(code: int) -> str:
    try:
        return f"{code} {CloseCode(code).name}"
    except ValueError:
        return str(code)
