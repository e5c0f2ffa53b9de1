"""Frames of the checker, a client: made with `RawFrame`, and shown in a report."""

from __future__ import annotations

import os
from collections.abc import Iterator

from wsproto_min.codes import Opcode
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.heads import split_parts
from wsproto_min.explain.style import COLUMNS, quoted, shortened
from wsproto_min.explain.verdict import count
from wsproto_min.testing.raw_frame import RawFrame

ZERO_KEY = bytes(4)
"""A masking key that changes nothing, for the steps before unmasking."""

_BYTES_PER_ROW = 20
_MAX_ROWS = 4
_MAX_PARTS = 8


def message(data: str | bytes, *, key: bytes | None = None, fin: bool = True) -> bytes:
    """Return a client's text or binary message in one frame, or its first fragment.

    Args:
        data: The message: `str` for text, `bytes` for binary.
        key: The masking key; None for a random one.
        fin: The FIN bit.

    """
    if isinstance(data, str):
        return masked(Opcode.TEXT, data.encode(), key=key, fin=fin)
    return masked(Opcode.BINARY, data, key=key, fin=fin)


def masked(
    opcode: int, payload: bytes = b"", *, key: bytes | None = None, fin: bool = True, rsv: int = 0
) -> bytes:
    """Return a client's frame; see `RawFrame`. None stands for a random key."""
    return RawFrame(opcode, payload, fin, os.urandom(4) if key is None else key, rsv).data


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """Return a client's Close frame, with an empty payload if `code` is None."""
    payload = b"" if code is None else code.to_bytes(2, "big") + reason
    return masked(Opcode.CLOSE, payload)


def fragments(data: str | bytes, *cuts: int) -> list[bytes]:
    """Return a client's message in fragments that end at these indices of its bytes."""
    payload = data.encode() if isinstance(data, str) else data
    opcode = Opcode.TEXT if isinstance(data, str) else Opcode.BINARY
    frames: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        frames.append(masked(opcode, payload[begin:end], fin=len(frames) == len(cuts)))
        opcode = Opcode.CONTINUATION
    return frames


def shown_parts(data: bytes) -> Iterator[str]:
    """Yield the checker's bytes for a report: a request as text, and each frame in a few lines.

    Of many frames only the last ones are shown.
    """
    parts = list(split_parts(data))
    if len(parts) > _MAX_PARTS:
        yield f"  {count(len(parts) - _MAX_PARTS, 'part')} before the last {_MAX_PARTS}"
    for part in parts[-_MAX_PARTS:]:
        found = data[part.begin : part.end]
        if part.kind == "frame":
            yield _describe_frame(FrameFields(found))
            yield from rows(found)
        else:
            yield from head_lines(found)


def _describe_frame(frame: FrameFields) -> str:
    payload = "" if frame.payload == b"" else f": {quoted(frame.payload, 40)}"
    length = "a length that is cut" if frame.length is None else count(frame.length, "byte")
    fin = "" if frame.fin else ", FIN 0"
    rest = ""
    if frame.length and frame.remaining:
        sent = "is not sent" if not frame.wire_payload else "is sent in part"
        rest = f"; the payload {sent}: answer at the header"
    return f"  {frame.opcode_name}{fin}, {length}{payload}{rest}"


def head_lines(head: bytes) -> Iterator[str]:
    """Yield the lines of a request or response, each as Python shows it."""
    for line in head.splitlines(keepends=True):
        yield shortened(f"    {line!r}", COLUMNS)


def rows(data: bytes) -> Iterator[str]:
    """Yield bytes in hex, with the index of each row's first byte. Long data is shortened."""
    shown = data[: _MAX_ROWS * _BYTES_PER_ROW]
    for begin in range(0, len(shown), _BYTES_PER_ROW):
        yield f"{begin:>8}  {shown[begin : begin + _BYTES_PER_ROW].hex(' ')}"
    if len(shown) < len(data):
        yield f"          and {len(data) - len(shown)} more"
