"""Answers of the student's program in a report: described, encoded, and compared."""

from __future__ import annotations

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Ping, Pong
from wsproto_min.explain.style import hexadecimal, quoted
from wsproto_min.explain.verdict import close_code_name, count
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.messages import MessageChunk

_ROOM = 40  # columns for the beginning of a message


def describe(event: Event) -> str:
    """Return a message or control frame in a few words."""
    if isinstance(event, str):
        return f"the text {quoted(event, _ROOM)} of {count(len(event.encode()), 'byte')}"
    if isinstance(event, bytes):
        shown = f" {hexadecimal(event, _ROOM)}" if event else ""
        return f"the binary message{shown} of {count(len(event), 'byte')}"
    if isinstance(event, Close):
        if event.code == CloseCode.NO_STATUS_RCVD:
            return "a Close without a code"
        return f"a Close with {close_code_name(event.code)}"
    assert not isinstance(event, MessageChunk)  # the dissector assembles whole messages
    return f"a {type(event).__name__} with the payload {quoted(event.payload, _ROOM)}"


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


def compare(found: Event, right: Event) -> str:
    """Return a sentence about the difference of two messages of one kind; or nothing.

    >>> compare("abc", "abcd"), compare(b"abc", b"abd")
    ('1 byte is missing at the end', 'byte 2 of the payload is 63, not 64')
    """
    if isinstance(found, str) and isinstance(right, str):
        found, right = found.encode(), right.encode()
    if not isinstance(found, bytes) or not isinstance(right, bytes):
        return ""
    for index, (one, other) in enumerate(zip(found, right, strict=False)):
        if one != other:
            return f"byte {index} of the payload is {one:02x}, not {other:02x}"
    missing = len(right) - len(found)
    if missing > 0:
        return f"{count(missing, 'byte')} {'is' if missing == 1 else 'are'} missing at the end"
    return f"{count(-missing, 'byte')} too many at the end" if missing else ""
