"""Text renderer: shows the results of a `Dissector` in lines of at most 80 columns.

`render` shows a frame as a diagram and names its bytes range by range. Then it unmasks the
payload and shows the message. `render_brief` shows the same in a few lines, for `connect --trace`.
Section numbers without an RFC are those of RFC 6455.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Ping, Pong, Role
from wsproto_min.explain.conversation_dissector import CaptureEvent, MessageReport
from wsproto_min.explain.diagram import render_diagram
from wsproto_min.explain.direction import FragmentInfo
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.figure import PAYLOAD_SECTIONS
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.explain.style import (
    COLUMNS,
    Style,
    hexadecimal,
    plain,
    printable,
    quoted,
    shortened,
)
from wsproto_min.explain.verdict import Verdict, close_code_name, count, status_name
from wsproto_min.frames import parse_close

_UNMASKED_BYTES = 12  # shown one by one


def render(event: CaptureEvent, style: Style) -> Iterator[str]:
    """Yield the lines that explain a head, a frame, or a message of a HAR file."""
    if isinstance(event, HandshakeLines):
        yield from _render_head(event, style)
        return
    if isinstance(event, MessageReport):
        yield from _render_message(event, style)
        return
    frame = event.fields
    yield style("title", f"Frame {event.number}: {frame.opcode_name}{_direction(event.sender)}")
    yield ""
    yield from render_diagram(frame, event.offset, style)
    yield ""
    yield from _name_ranges(frame, event.offset)
    if frame.mask is not None and frame.wire_payload:
        yield ""
        yield from _unmask(frame)
    lines = [*_explain_content(event), *_explain_replies(event)]
    if lines:
        yield ""
        yield from (f"  {line}" for line in lines)
    yield ""


def render_brief(event: HandshakeLines | FrameReport) -> Iterator[str]:
    """Yield a few lines about a head or a frame, for the trace of a live connection."""
    if isinstance(event, HandshakeLines):
        yield f"handshake {event.kind}, {event.size} bytes"
        for text, _ in event.lines:
            yield shortened(f"  {printable(text)}", COLUMNS - 2)
        yield from (f"  ({printable(note)})" for note in event.notes)
        return
    frame = event.fields
    mask = "" if frame.mask is None else f" key={frame.mask.hex()}"
    flags = f"FIN={frame.fin:d} RSV={_rsv(frame)}"
    if frame.masked is not None:
        flags += f" MASK={frame.masked:d}{mask} length={frame.length}"
    yield shortened(f"{frame.opcode_name}, {count(len(frame.data), 'byte')}: {flags}", COLUMNS - 2)
    yield f"  {hexadecimal(frame.data, COLUMNS - 4)}"
    yield from (f"  {line}" for line in _explain_content(event))
    if event.verdict is not None:
        yield from render_verdict(event.verdict)


def render_verdict(verdict: Verdict, style: Style = plain) -> Iterator[str]:
    """Yield the lines of a verdict."""
    word = verdict.result.upper()
    section = f" ({verdict.section})" if verdict.section else ""
    where = ""
    if verdict.result == "broken" and verdict.offset is not None:
        where = f" at byte {verdict.offset}"
    if verdict.stream is not None:
        where += f" in the {verdict.stream}'s bytes"
    # The reason may quote the peer.
    reason = f"{word}{where}: {printable(verdict.reason)}{section}."
    first, *more = _wrapped(reason, "  ")
    yield style("good" if verdict.result == "valid" else "bad", word) + first[len(word) :]
    yield from more
    if verdict.rule is not None:
        yield from _wrapped(f"  The rule: {verdict.rule}", "    ")
    if verdict.needs is not None:
        least = "at least " if verdict.at_least else ""
        yield f"  Missing: {least}{count(verdict.needs, 'byte')}."
    if verdict.close_code is not None:
        yield f"  The receiver sends a Close with {close_code_name(verdict.close_code)} (7.1.7)."
    if verdict.status is not None:
        yield f"  The server answers {status_name(verdict.status)} and closes the connection."
    elif verdict.result == "refused":
        yield "  The client closes the connection, without a Close frame (4.1)."


def _render_head(head: HandshakeLines, style: Style) -> Iterator[str]:
    yield style("title", f"Handshake: the {head.kind}, {head.size} bytes")
    yield ""
    for text, meaning in head.lines:
        yield shortened(f"  {printable(text)}", COLUMNS)
        yield style("note", f"      {meaning}")
    if head.accept_key is not None:
        steps = head.accept_key
        yield ""
        yield "  The accept key that the response must have (4.2.2, item 5.4):"
        yield f"    the key in hex  {steps.nonce.hex(' ')}"
        yield f"    key + GUID      {steps.joined}"
        yield f"    its SHA-1       {steps.digest.hex(' ')}"
        yield f"    that in base64  {steps.accept}"
    if head.notes:
        yield ""
        yield from (f"  {printable(note)}" for note in head.notes)
    yield ""


def _direction(sender: Role | None) -> str:
    if sender is None:
        return ""
    return ", client to server" if sender is Role.CLIENT else ", server to client"


def _rsv(frame: FrameFields) -> str:
    return "".join(f"{bit:d}" for bit in frame.rsv)


def _render_message(report: MessageReport, style: Style) -> Iterator[str]:
    message = report.message
    if message.opcode is None:
        yield style("title", f"Error{_direction(message.sender)}")
    else:
        title = f"Message {report.number}: {message.opcode_name}{_direction(message.sender)}"
        yield style("title", title)
        yield f"  {count(len(message.data), 'byte')}"
    if message.text is None:
        yield f"  {hexadecimal(message.data, COLUMNS - 10)}"
    else:
        yield f"  {quoted(message.text, COLUMNS - 10)}"
    yield ""


def _name_ranges(frame: FrameFields, offset: int) -> Iterator[str]:
    """Yield a line for each range of bytes: positions, bytes, field, section."""

    def line(begin: int, end: int, field: str, section: str) -> str:
        data = frame.data[begin:end]
        first, last = offset + begin, offset + begin + len(data) - 1
        where = f"{first}" if first == last else f"{first}-{last}"
        return f"  {where:<11} {hexadecimal(data, 23):<23}  {field:<36}{section:>5}"

    name = frame.opcode_name
    yield line(0, 1, f"FIN {frame.fin:d}, RSV {_rsv(frame)}, {name}", "5.2")
    if frame.masked is None:
        return
    yield line(1, 2, f"MASK {frame.masked:d}, 7-bit length {frame.short_length}", "5.2")
    end = frame.length_end
    available = len(frame.data)
    if end > 2 and available > 2:
        length = "incomplete" if frame.length is None else f"{frame.length}"
        yield line(2, end, f"length in {8 * (end - 2)} bits: {length}", "5.2")
    if frame.masked and end < available:
        state = "" if frame.mask is not None else ", incomplete"
        yield line(end, frame.header_size, f"masking key{state}", "5.3")
    begin, name, masked = frame.header_size, "payload", ", masked" if frame.masked else ""
    section = PAYLOAD_SECTIONS.get(frame.opcode, "5.6")
    if frame.opcode == Opcode.CLOSE and len(frame.payload) >= 2:
        code = int.from_bytes(frame.payload[:2], "big")
        yield line(begin, begin + 2, f"close code{masked}: {code}", section)
        begin, name = begin + 2, "reason"
    if begin < available:
        arrived = f"{available - begin} of " if frame.remaining else ""
        yield line(
            begin,
            frame.size,
            f"{name}{masked}: {arrived}{count(frame.size - begin, 'byte')}",
            section,
        )


def _unmask(frame: FrameFields) -> Iterator[str]:
    """Yield the table that unmasks the payload's first bytes."""
    payload = frame.payload[:_UNMASKED_BYTES]
    key = (frame.mask or b"") * _UNMASKED_BYTES
    rest = len(frame.wire_payload) - len(payload)
    title = "Unmasking: byte i XOR byte i modulo 4 of the key (5.3)"
    yield f"  {title}" + (f"; {rest} more follow" if rest else "")
    rows = {
        "i": [str(index) for index in range(len(payload))],
        "masked": [f"{byte:02x}" for byte in frame.wire_payload[: len(payload)]],
        "key": [f"{byte:02x}" for byte in key[: len(payload)]],
        "XOR": [f"{byte:02x}" for byte in payload],
        "ASCII": [chr(byte) if 0x20 < byte < 0x7F else "." for byte in payload],
    }
    for name, values in rows.items():
        yield f"    {name:<8}" + "".join(f"{value:>5}" for value in values)


def _explain_content(report: FrameReport) -> Iterator[str]:
    """Yield the fragment, message or control frame that the receiver gets."""
    frame, fragment, event = report.fields, report.fragment, report.event
    if report.ignored:
        yield "Ignored: a Close frame is the last frame of its sender (5.5.1)."
    if fragment is not None and not (fragment.last and fragment.fragments == 1):
        if fragment.fragments > 1 or not frame.fin:
            more = "the last one" if frame.fin else "more to come"
            yield f"Fragment {fragment.fragments} of a {_kind(fragment)} message, {more} (5.4)"
        if not fragment.compressed and frame.wire_payload:
            yield f"  {_show(fragment.opcode, frame.payload)}"
    if fragment is not None and isinstance(event, str | bytes):
        data = event.encode() if isinstance(event, str) else event
        compressed = f", {fragment.size} on the wire (RFC 7692, 7.2.2)"
        yield f"Message: {_kind(fragment)}, {count(len(data), 'byte')}" + (
            compressed if fragment.compressed else ""
        )
        yield f"  {_show(fragment.opcode, data)}"
    elif isinstance(event, Close):
        reason = f" {quoted(event.reason, 40)}" if event.reason else ""
        yield f"Close {close_code_name(event.code)}{reason}"
    elif isinstance(event, Ping | Pong):
        name = type(event).__name__
        yield f"{name} {quoted(event.payload, COLUMNS - 10)}" if event.payload else name


def _explain_replies(report: FrameReport) -> Iterator[str]:
    """Yield the frames that the receiver sends at once. A verdict shows its own Close frame."""
    for frame in report.replies:
        if frame.opcode is Opcode.PONG:
            yield "The receiver answers with a Pong of the same payload (5.5.3)."
        elif report.verdict is None:
            code, _ = parse_close(frame.payload)
            close = f"Close {close_code_name(code)}" if frame.payload else "an empty Close"
            yield f"The receiver answers with {close} (5.5.1)."


def _kind(fragment: FragmentInfo) -> str:
    return ("compressed " if fragment.compressed else "") + fragment.opcode.name.lower()


def _show(opcode: Opcode, payload: bytes) -> str:
    """Return a payload as text or in hex, shortened to one line."""
    room = COLUMNS - 10
    if opcode is Opcode.BINARY:
        return hexadecimal(payload, room)
    try:
        return quoted(payload.decode(), room)
    except UnicodeDecodeError:  # a fragment may begin or end within a character
        return quoted(payload, room)


def _wrapped(text: str, indent: str) -> list[str]:
    return wrap(text, COLUMNS - 2, subsequent_indent=indent)
