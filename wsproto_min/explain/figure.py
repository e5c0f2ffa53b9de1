"""Fields of a frame in the figure of RFC 6455, section 5.2, each with its meaning and rules.

This table is the only source of the figure. Module `diagram` draws it as text, and the page of the
command `tap` draws it with buttons. The rules come from module `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.rules import Rule

ROW = 32
"""Number of bits in a row of the figure."""
PAYLOAD_BYTES = 4
"""Number of payload bytes in the figure, after the row in which the header ends."""

PAYLOAD_SECTIONS: dict[int, str] = {
    Opcode.CLOSE: "5.5.1",
    Opcode.PING: "5.5.2",
    Opcode.PONG: "5.5.3",
}
"""Section of RFC 6455 that defines the payload of a control frame; 5.6 for data frames."""

_HEADER = "RFC 6455, 5.2"
_MASKING = "RFC 6455, 5.3"

_OPCODES: dict[int, str] = {
    Opcode.CONTINUATION: "the next fragment of a message",
    Opcode.TEXT: "a text message, or its first fragment",
    Opcode.BINARY: "a binary message, or its first fragment",
    Opcode.CLOSE: "a Close frame: its sender sends nothing after it",
    Opcode.PING: "a Ping: the receiver answers with a Pong of the same payload",
    Opcode.PONG: "a Pong: the answer to a Ping, or a sign of life",
}
_MASK_RULES = (rules.CLIENT_MASKS, rules.SERVER_DOES_NOT_MASK)


@dataclass(frozen=True, slots=True)
class FigureField:
    """A field of the figure.

    Attributes:
        name: The field's name in the figure.
        role: The field's colour, a role of `explain.style`.
        begin: Position of the first bit in the frame, from 0.
        bits: The bits that have arrived, as digits.
        value: The value as text; empty if it is incomplete.
        meaning: The meaning of this value.
        rules: The rules on this field.
        section: RFC number and section of the field, such as "RFC 6455, 5.2".

    """

    name: str
    role: str
    begin: int
    bits: str
    value: str
    meaning: str
    rules: tuple[Rule, ...]
    section: str = _HEADER


def figure_fields(frame: FrameFields) -> list[FigureField]:
    """Return the fields that have arrived, from left to right.

    >>> fields = figure_fields(FrameFields(bytes.fromhex("8902 6869")))
    >>> [(field.name, field.bits, field.value) for field in fields[4:7]]
    [('opcode', '1001', '0x9'), ('MASK', '0', '0'), ('payload len', '0000010', '2')]
    """
    fields = [*_flags(frame), _opcode(frame)]
    if frame.masked is None or frame.short_length is None:
        return fields
    second = f"{frame.data[1]:08b}"
    masking = "the payload is masked" if frame.masked else "the payload is not masked"
    fields.append(FigureField("MASK", "header", 8, second[0], second[0], masking, _MASK_RULES))
    fields += [_short_length(frame, second[1:]), *_long_length(frame), *_key(frame)]
    return [*fields, *_payload(frame)]


def _flags(frame: FrameFields) -> list[FigureField]:
    """Return the FIN bit and the reserved bits."""
    first = f"{frame.data[0]:08b}"
    final = "the last fragment of its message" if frame.fin else "more fragments follow"
    fin_rule = rules.FRAGMENTED_CONTROL if frame.is_control else rules.MESSAGE_NOT_ENDED
    fields = [FigureField("FIN", "header", 0, first[0], first[0], final, (fin_rule,))]
    for position, bit in enumerate(first[1:4], 1):
        meaning = "reserved for an extension"
        on_bit: tuple[Rule, ...] = (rules.RESERVED_BIT,)
        if position == 1:
            meaning = "1 marks a compressed message (RFC 7692, 6)"
            on_bit += (_compression_rule(frame),)
        fields.append(FigureField(f"RSV{position}", "header", position, bit, bit, meaning, on_bit))
    return fields


def _compression_rule(frame: FrameFields) -> Rule:
    return rules.COMPRESSED_CONTROL if frame.is_control else rules.COMPRESSED_CONTINUATION


def _opcode(frame: FrameFields) -> FigureField:
    meaning = _OPCODES.get(frame.opcode, "reserved")
    more = (rules.NOTHING_TO_CONTINUE,) if frame.opcode == Opcode.CONTINUATION else ()
    on_opcode = (rules.RESERVED_OPCODE, *more)
    bits = f"{frame.opcode:04b}"
    return FigureField("opcode", "header", 4, bits, f"{frame.opcode:#x}", meaning, on_opcode)


def _short_length(frame: FrameFields, bits: str) -> FigureField:
    size = frame.length_end - 2
    meaning = f"the length is in the next {size} bytes" if size else "the payload length in bytes"
    on_length = (rules.LONG_CONTROL if frame.is_control else rules.SHORTEST_LENGTH,)
    return FigureField(
        "payload len", "length", 9, bits, f"{frame.short_length}", meaning, on_length
    )


def _long_length(frame: FrameFields) -> list[FigureField]:
    """Return the length in 16 or 64 bits, if there is one."""
    bits = _bits(frame.data[2 : frame.length_end])
    value = "" if frame.length is None else f"{frame.length}"
    meaning = "the payload length in bytes, most significant byte first"
    more = (rules.LENGTH_TOP_BIT,) if frame.length_end == 10 else ()
    on_length = (rules.SHORTEST_LENGTH, *more)
    field = FigureField("extended length", "length", 16, bits, value, meaning, on_length)
    return [field] if bits else []


def _key(frame: FrameFields) -> list[FigureField]:
    key = frame.data[frame.length_end : frame.header_size]
    meaning = "byte i of the payload is masked with byte i modulo 4 of the key"
    begin = 8 * frame.length_end
    field = FigureField(
        "masking key", "key", begin, _bits(key), key.hex(" "), meaning, _MASK_RULES, _MASKING
    )
    return [field] if key else []


def _payload(frame: FrameFields) -> list[FigureField]:
    """Return the beginning of the payload: the rest of the header's last row, and a few bytes."""
    shown = frame.wire_payload[: -frame.header_size % 4 + PAYLOAD_BYTES]
    if not shown:
        return []
    name, meaning = "payload", "the payload as it is"
    if frame.masked:
        name, meaning = "payload, masked", "the payload, each byte XOR a byte of the key"
    if frame.rsv[0]:
        meaning += "; the message is DEFLATE data"
    on_payload: tuple[Rule, ...] = ()
    if frame.opcode == Opcode.CLOSE:
        on_payload = (rules.CLOSE_PAYLOAD, rules.CLOSE_CODE_RANGE, rules.CLOSE_REASON_NOT_UTF8)
    elif frame.rsv[0]:
        on_payload = (rules.NOT_DEFLATE,)
    elif frame.opcode in (Opcode.TEXT, Opcode.CONTINUATION):
        on_payload = (rules.TEXT_NOT_UTF8,)
    section = f"RFC 6455, {PAYLOAD_SECTIONS.get(frame.opcode, '5.6')}"
    begin, value = 8 * frame.header_size, shown.hex(" ")
    return [FigureField(name, "payload", begin, _bits(shown), value, meaning, on_payload, section)]


def _bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)
