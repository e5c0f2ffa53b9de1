"""Hints at frequent causes of a wrong frame. A broken rule often names only a consequence."""

from __future__ import annotations

import zlib

from wsproto_min.codes import Opcode
from wsproto_min.connection import Event
from wsproto_min.deflate import TAIL
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.heads import split_parts
from wsproto_min.learn.answers import compare

_ZLIB_HEADER = 0x78


def find_hint(frame: FrameFields, right: Event | None, sent: bytes) -> str | None:
    """Return a likely cause of a wrong data frame, or None.

    Args:
        frame: The server's frame.
        right: The right event.
        sent: The bytes that the checker sent before.

    """
    if not isinstance(right, str | bytes) or frame.is_control:
        return None
    payload = right.encode() if isinstance(right, str) else right
    if frame.rsv[0]:
        if frame.payload[:1] == bytes([_ZLIB_HEADER]):
            return "the server's data begins with a zlib header; use wbits=-15"
        if frame.payload.endswith(TAIL):
            return "the server's data ends with 00 00 ff ff; remove these four bytes (7.2.1)"
        return None
    if frame.remaining:
        return None
    if frame.payload == payload:
        opcode = Opcode.TEXT if isinstance(right, str) else Opcode.BINARY
        if frame.opcode != opcode:
            return f"the server's opcode is {frame.opcode:#x}, not {opcode:#x}"
        return None
    if payload and frame.payload == _last_wire_payload(sent):
        return "the server sends the masked payload back, without unmasking"
    if _inflates_to(frame.payload, payload):
        return "the server's message is compressed, but RSV1 is 0"
    if frame.opcode == Opcode.TEXT and frame.fin:
        return f"the server's payload is wrong: {compare(frame.payload, payload)}"
    return None


def _last_wire_payload(sent: bytes) -> bytes | None:
    """Return the masked payload of the checker's last frame."""
    parts = list(split_parts(sent))
    return FrameFields(sent[parts[-1].begin :]).wire_payload if parts else None


def _inflates_to(data: bytes, payload: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=-15).decompress(data + TAIL, len(payload) + 1) == payload
    except zlib.error:
        return False
