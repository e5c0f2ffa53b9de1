"""Answers of the student's program in a report: described, encoded, and as bytes in hex."""

from __future__ import annotations

from collections.abc import Iterator

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Ping, Pong
from wsproto_min.explain.style import COLUMNS, quoted, shortened
from wsproto_min.explain.verdict import close_code_name, count
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.messages import MessageChunk

_BYTES_PER_ROW = 20
_MAX_ROWS = 4
_MAX_HEAD = 2000  # bytes


def rows(data: bytes) -> Iterator[str]:
    """Yield bytes in hex, with the index of each row's first byte. Long data is shortened."""
    shown = data[: _MAX_ROWS * _BYTES_PER_ROW]
    for begin in range(0, len(shown), _BYTES_PER_ROW):
        yield f"{begin:>8}  {shown[begin : begin + _BYTES_PER_ROW].hex(' ')}"
    if len(shown) < len(data):
        yield f"          and {len(data) - len(shown)} more"


def describe(event: Event) -> str:
    """Return a message or control frame in a few words."""
    if isinstance(event, str):
        return f"the text {quoted(event, 40)} of {count(len(event.encode()), 'byte')}"
    if isinstance(event, bytes):
        return f"the binary message {quoted(event, 40)} of {count(len(event), 'byte')}"
    if isinstance(event, Close):
        return f"a Close with {close_code_name(event.code)}"
    assert not isinstance(event, MessageChunk)  # the dissector assembles whole messages
    return f"a {type(event).__name__} with the payload {quoted(event.payload, 40)}"


def encoded(event: Event) -> bytes:
    """Return a server's frame for a message or control frame."""
    if isinstance(event, str):
        return encode_frame(Opcode.TEXT, event.encode())
    if isinstance(event, bytes):
        return encode_frame(Opcode.BINARY, event)
    if isinstance(event, Close):
        empty = event.code == CloseCode.NO_STATUS_RCVD
        return encode_frame(Opcode.CLOSE, b"" if empty else encode_close(event.code, event.reason))
    assert isinstance(event, Ping | Pong)
    opcode = Opcode.PING if isinstance(event, Ping) else Opcode.PONG
    return encode_frame(opcode, event.payload)


def difference(found: bytes, right: bytes) -> list[str]:
    """Return a line with the index of the first byte that differs, if there is one."""
    for index, (one, other) in enumerate(zip(found, right, strict=False)):
        if one != other:
            return [f"The first difference: byte {index} is {one:02x}, not {other:02x}."]
    return []


def shown_head(head: bytes) -> list[str]:
    """Return the lines of a response, each as Python shows it."""
    lines = head[:_MAX_HEAD].splitlines(keepends=True)
    if not lines:
        return ["The server sent nothing."]
    return ["The server sent:", *(shortened(f"    {line!r}", COLUMNS) for line in lines)]
