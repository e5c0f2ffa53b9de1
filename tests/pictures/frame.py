"""Figure of a frame (RFC 6455, section 5.2): the bits of its first bytes, and all of its bytes.

Names, positions and sizes of the fields come from `explain.figure`, which reads three masked
frames: one for each form of the length.
"""

from __future__ import annotations

from itertools import pairwise

from tests.pictures.canvas import MAX_COLUMNS, Canvas
from tests.pictures.picture import Picture
from wsproto_min.explain.figure import FigureField, figure_fields
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.frames import LENGTH_IN_2_BYTES, LENGTH_IN_8_BYTES
from wsproto_min.testing.raw_frame import KEY, RawFrame

_BYTE = 4  # columns of a byte in the lower part
_LEFT = 11  # column of byte 0
_PAYLOAD = "payload"
# For each form, a payload length and the values of the 7-bit length.
_FORMS = (
    (LENGTH_IN_2_BYTES - 1, f"0 to {LENGTH_IN_2_BYTES - 1}"),
    (LENGTH_IN_2_BYTES, f"{LENGTH_IN_2_BYTES}"),
    (1 << 16, f"{LENGTH_IN_8_BYTES}"),
)


def frame_picture() -> Picture:
    """Return the figure of a frame."""
    canvas = Canvas()
    forms = [(values, _fields(length)) for length, values in _FORMS]
    first_bytes = [field for field in forms[0][1] if field.begin < 16]
    row = _draw_bits(canvas, first_bytes)
    longest = max(fields[-1].begin for _, fields in forms) // 8
    canvas.label((0, row + 1), "payload len")
    for byte in range(longest):
        canvas.label((_LEFT + _BYTE * byte + (2 if byte < 10 else 1), row + 1), f"{byte}", "note")
    row += 2
    masked = {field.name for field in forms[0][1]}
    (optional,) = masked - {field.name for field in _fields(1, None)} - {"payload, masked"}
    notes = [f"{optional}:", "only if MASK is 1"]
    sentences = []
    for values, fields in forms:
        canvas.label_before((9, row + 1), values)
        ends = _draw_bytes(canvas, fields, row, notes)
        sentences.append(f"Payload len {values}: {', '.join(ends)}.")
        row += 2
    for number, note in enumerate(notes):
        canvas.label((_LEFT + 37, 3 + number), note, "note")
    names = ", ".join(f"{field.name} {len(field.bits)}" for field in first_bytes)
    description = f"Bits of the first two bytes: {names}. " + " ".join(sentences)
    return Picture("frame", "The fields of a frame", description, canvas)


def _fields(length: int, mask: bytes | None = KEY) -> list[FigureField]:
    """Return the fields of a frame with a payload of this length."""
    return figure_fields(FrameFields(RawFrame(0x1, bytes(length), mask=mask).data))


def _draw_bits(canvas: Canvas, fields: list[FigureField]) -> int:
    """Draw the first two bytes; return the row of the lower border. A bit has two columns."""
    for bit in range(16):
        canvas.label((_LEFT + 1 + 2 * bit, 1), f"{bit % 8}", "note")
    canvas.label((2, 3), "header")
    canvas.label((_LEFT + 1, 0), "byte 0", "note")
    canvas.label((_LEFT + 17, 0), "byte 1", "note")
    for field in fields:
        left, width = _LEFT + 2 * field.begin, 2 * len(field.bits) + 1
        lines = tuple(field.name) if len(field.bits) == 1 else (field.name,)
        role = "length" if field.role == "length" else "header"
        canvas.box((left, 2), width, ("",) * 4, role)
        for number, line in enumerate(lines):
            canvas.label((left + 1 + (width - 2 - len(line)) // 2, 3 + number), line)
    return 7


def _draw_bytes(canvas: Canvas, fields: list[FigureField], row: int, notes: list[str]) -> list[str]:
    """Draw a frame byte by byte; return the names of its fields with their positions.

    Args:
        canvas: The canvas.
        fields: The fields, from left to right.
        row: The row of the upper border.
        notes: Receives the names that are too long for their boxes.

    """
    later = [field for field in fields if field.begin >= 16]
    starts = [0, *(field.begin // 8 for field in later)]
    names = ["header", *(field.name.partition(",")[0] for field in later)]
    roles = ["header", *(field.role for field in later)]
    described = []
    last = (MAX_COLUMNS - 1 - _LEFT) // _BYTE
    for name, role, (begin, end) in zip(names, roles, pairwise([*starts, last]), strict=True):
        left, width = _LEFT + _BYTE * begin, _BYTE * (end - begin) + 1
        canvas.box((left, row), width, ("",), role)
        bits = f"{8 * (end - begin)} bits"
        text = f"{name}: {bits}" if role == "length" else name
        if len(text) > width - 2:
            notes += [f"{bits}:", name]
            text = bits
        canvas.label((left + 1 + (width - 2 - len(text)) // 2, row + 1), text)
        where = f"byte {begin} on" if name == _PAYLOAD else f"bytes {begin} to {end - 1}"
        described.append(f"{name} {where}")
    return described
