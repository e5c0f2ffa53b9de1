"""How `explain` and `connect --trace` show what a `Dissector` saw, in 80 columns.

A frame is drawn as in the figure of RFC 6455, section 5.2, with its own bits; then
its bytes are named one range after the other, unmasked, and put together to
messages. The trace shows the same in short. Sections without a name are RFC 6455's.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Ping, Pong, Role
from wsproto_min.explain.diagram import figure
from wsproto_min.explain.dissector import FrameReport, Part
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import Head
from wsproto_min.explain.style import (
    COLUMNS,
    Style,
    hexadecimal,
    plain,
    printable,
    quoted,
    shortened,
)
from wsproto_min.explain.verdict import Verdict, close_code_name, status_name
from wsproto_min.frames import parse_close

_UNMASKED_BYTES = 12  # that are shown one by one
_CONTROL_SECTIONS: dict[int, str] = {
    Opcode.CLOSE: "5.5.1",
    Opcode.PING: "5.5.2",
    Opcode.PONG: "5.5.3",
}


def draw(seen: Head | FrameReport, paint: Style) -> Iterator[str]:
    """Yield the lines that explain a head or a frame."""
    if isinstance(seen, Head):
        yield from _draw_head(seen, paint)
        return
    frame = seen.layout
    yield paint("title", f"Frame {seen.number}: {frame.opcode_name}{_direction(seen.sender)}")
    yield ""
    yield from figure(frame, seen.offset, paint)
    yield ""
    yield from _name_ranges(frame, seen.offset)
    if frame.mask is not None and frame.wire_payload:
        yield ""
        yield from _unmask(frame)
    lines = [*_explain_content(seen), *_explain_answers(seen)]
    if lines:
        yield ""
        yield from (f"  {line}" for line in lines)
    yield ""


def trace(seen: Head | FrameReport) -> Iterator[str]:
    """Yield the same in short, for traffic as it passes."""
    if isinstance(seen, Head):
        yield f"handshake {seen.kind}, {seen.size} bytes"
        for text, _ in seen.lines:
            yield shortened(f"  {printable(text)}", COLUMNS - 2)
        yield from (f"  ({note})" for note in _head_notes(seen))
        return
    frame = seen.layout
    rsv = "".join(f"{bit:d}" for bit in frame.rsv)
    mask = "" if frame.mask is None else f" key={frame.mask.hex()}"
    flags = f"FIN={frame.fin:d} RSV={rsv}"
    if frame.masked is not None:
        flags += f" MASK={frame.masked:d}{mask} length={frame.length}"
    yield shortened(f"{frame.opcode_name}, {_bytes(len(frame.data))}: {flags}", COLUMNS - 2)
    yield f"  {hexadecimal(frame.data, COLUMNS - 4)}"
    yield from (f"  {line}" for line in _explain_content(seen))
    if seen.verdict is not None:
        yield from conclude(seen.verdict)


def conclude(verdict: Verdict, paint: Style = plain) -> Iterator[str]:
    """Yield the lines that give a verdict."""
    word = verdict.result.upper()
    section = f" ({verdict.section})" if verdict.section else ""
    where = f" at byte {verdict.offset}" if verdict.result == "broken" else ""
    # Words from a head may be a peer's own.
    reason = f"{word}{where}: {printable(verdict.reason)}{section}."
    first, *more = _wrapped(reason, "  ")
    yield paint("good" if verdict.result == "valid" else "bad", word) + first[len(word) :]
    yield from more
    if verdict.rule is not None:
        yield from _wrapped(f"  The rule: {verdict.rule}", "    ")
    if verdict.needs is not None:
        least = "at least " if verdict.at_least else ""
        yield f"  It takes {least}{_bytes(verdict.needs)} more."
    if verdict.close_code is not None:
        yield f"  The receiver sends a Close with {close_code_name(verdict.close_code)} (7.1.7)."
    if verdict.status is not None:
        yield f"  The server answers {status_name(verdict.status)} and closes the connection."
    elif verdict.result == "refused":
        yield "  The client closes the connection; there is no close code before it is open."


def _draw_head(head: Head, paint: Style) -> Iterator[str]:
    yield paint("title", f"Handshake: the {head.kind}, {head.size} bytes")
    yield ""
    for text, meaning in head.lines:
        yield shortened(f"  {printable(text)}", COLUMNS)
        yield paint("note", f"      {meaning}")
    if head.accept_key is not None:
        derived = head.accept_key
        yield ""
        yield "  What the answer must prove (4.2.2, item 5.4):"
        yield f"    the key in hex  {derived.nonce.hex(' ')}"
        yield f"    key + GUID      {derived.joined}"
        yield f"    its SHA-1       {derived.digest.hex(' ')}"
        yield f"    that in base64  {derived.accept}"
    notes = _head_notes(head)
    if notes:
        yield ""
        yield from (f"  {note}" for note in notes)
    yield ""


def _head_notes(head: Head) -> list[str]:
    return [printable(note) for note in head.notes]


def _direction(sender: Role | None) -> str:
    if sender is None:
        return ""
    return ", client to server" if sender is Role.CLIENT else ", server to client"


def _name_ranges(frame: FrameFields, offset: int) -> Iterator[str]:
    """Yield a line for each range of bytes: where, the bytes, what, the section."""

    def line(begin: int, end: int, what: str, section: str) -> str:
        data = frame.data[begin:end]
        first, last = offset + begin, offset + begin + len(data) - 1
        where = f"{first}" if first == last else f"{first}-{last}"
        return f"  {where:<11} {hexadecimal(data, 23):<23}  {what:<36}{section:>5}"

    rsv = "".join(f"{bit:d}" for bit in frame.rsv)
    name = frame.opcode_name
    yield line(0, 1, f"FIN {frame.fin:d}, RSV {rsv}, {name}", "5.2")
    if frame.masked is None:
        return
    yield line(1, 2, f"MASK {frame.masked:d}, 7-bit length {frame.short_length}", "5.2")
    end = frame.length_end
    available = len(frame.data)
    if end > 2 and available > 2:
        length = "cut off" if frame.length is None else f"{frame.length}"
        yield line(2, end, f"length in {8 * (end - 2)} bits: {length}", "5.2")
    if frame.masked and end < available:
        cut_off = "" if frame.mask is not None else ", cut off"
        yield line(end, frame.header_size, f"masking key{cut_off}", "5.3")
    begin, name, masked = frame.header_size, "payload", ", masked" if frame.masked else ""
    section = _CONTROL_SECTIONS.get(frame.opcode, "5.6")
    if frame.opcode == Opcode.CLOSE and len(frame.payload) >= 2:
        code = int.from_bytes(frame.payload[:2], "big")
        yield line(begin, begin + 2, f"close code{masked}: {code}", section)
        begin, name = begin + 2, "reason"
    if begin < available:
        of = f"{available - begin} of " if frame.remaining else ""
        what = f"{name}{masked}: {of}{_bytes(frame.size - begin)}"
        yield line(begin, frame.size, what, section)


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


def _explain_content(seen: FrameReport) -> Iterator[str]:
    """Yield what the frame brings its receiver."""
    frame, part, event = seen.layout, seen.part, seen.event
    if seen.ignored:
        yield "Ignored: nothing may follow a Close (5.5.1)."
    if part is not None and not (part.last and part.fragments == 1):
        if part.fragments > 1 or not frame.fin:
            more = "the last one" if frame.fin else "more to come"
            yield f"Fragment {part.fragments} of a {_kind(part)} message, {more} (5.4)"
        if not part.compressed and frame.wire_payload:
            yield f"  {_show(part.opcode, frame.payload)}"
    if part is not None and isinstance(event, str | bytes):
        data = event.encode() if isinstance(event, str) else event
        how = f", inflated from {part.size} (RFC 7692, 7.2.2)" if part.compressed else ""
        yield f"Message: {_kind(part)}, {_bytes(len(data))}{how}"
        yield f"  {_show(part.opcode, data)}"
    elif isinstance(event, Close):
        reason = f" {quoted(event.reason, 40)}" if event.reason else ""
        yield f"Close {close_code_name(event.code)}{reason}"
    elif isinstance(event, Ping | Pong):
        name = type(event).__name__
        yield f"{name} {quoted(event.payload, COLUMNS - 10)}" if event.payload else name


def _explain_answers(seen: FrameReport) -> Iterator[str]:
    for frame in seen.answers:
        if frame.opcode is Opcode.PONG:
            yield "The receiver answers with a Pong of the same payload (5.5.3)."
        elif seen.verdict is None:
            code, _ = parse_close(frame.payload)
            what = f"Close {close_code_name(code)}" if frame.payload else "an empty Close, too"
            yield f"The receiver answers with {what} (5.5.1)."


def _bytes(count: int) -> str:
    return f"{count} byte" + ("" if count == 1 else "s")


def _kind(part: Part) -> str:
    return ("compressed " if part.compressed else "") + part.opcode.name.lower()


def _show(opcode: Opcode, payload: bytes) -> str:
    """Return a payload as its opcode says to read it, in what room there is."""
    room = COLUMNS - 10
    if opcode is Opcode.BINARY:
        return hexadecimal(payload, room)
    try:
        return quoted(payload.decode(), room)
    except UnicodeDecodeError:  # a fragment may begin and end within a character
        return quoted(payload, room)


def _wrapped(text: str, indent: str) -> list[str]:
    return wrap(text, COLUMNS - 2, subsequent_indent=indent)
