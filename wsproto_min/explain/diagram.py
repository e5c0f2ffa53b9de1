"""Diagram of a frame: the figure of RFC 6455, section 5.2, with the frame's own bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.style import Style

_ROW = 32  # bits
_MARGIN = " " * 9
_PAYLOAD_BYTES = 4  # shown in full, after the row in which the header ends

_FLAGS = ("FIN", "RSV1", "RSV2", "RSV3")


@dataclass(frozen=True, slots=True)
class _Cell:
    """A field, or its part in one row. A bit is two columns wide."""

    bits: str
    role: str
    labels: tuple[str, ...]

    @property
    def width(self) -> int:
        return 2 * len(self.bits) - 1

    def line(self, text: str) -> str:
        """Return `text` centred in the cell, or spaces if the text is too long."""
        return f"{text if len(text) <= self.width else '':^{self.width}}"


def render_diagram(frame: FrameFields, offset: int, style: Style) -> Iterator[str]:
    """Yield the lines of the diagram. It shows only the beginning of the payload.

    Args:
        frame: The frame, possibly incomplete.
        offset: Index of the frame's first byte in the capture.
        style: Colours, or `plain`.

    """
    tens = (str(bit // 10) if bit % 10 == 0 else " " for bit in range(_ROW))
    yield (f"{_MARGIN} " + " ".join(tens)).rstrip()
    yield f"{_MARGIN} " + " ".join(str(bit % 10) for bit in range(_ROW))
    above: list[_Cell] = []
    for index, row in enumerate(_rows(_cells(frame))):
        yield _MARGIN + _border(above, row)
        bits = "|".join(style(cell.role, " ".join(cell.bits)) for cell in row)
        yield f"{offset + 4 * index:>8} |{bits}|"
        for number in range(max(len(cell.labels) for cell in row)):
            texts = (cell.labels[number] if number < len(cell.labels) else "" for cell in row)
            line = "|".join(cell.line(text) for cell, text in zip(row, texts, strict=True))
            yield f"{_MARGIN}|{line}|"
        above = row
    yield _MARGIN + _border(above, [])


def _cells(frame: FrameFields) -> list[_Cell]:
    """Return the fields that have arrived, from left to right."""
    data = frame.data
    first = f"{data[0]:08b}"
    cells = [_Cell(bit, "header", tuple(name)) for bit, name in zip(first[:4], _FLAGS, strict=True)]
    cells.append(_Cell(first[4:], "header", ("opcode", f"{frame.opcode:#x}")))
    if frame.short_length is None:
        return cells
    second = f"{data[1]:08b}"
    cells.append(_Cell(second[0], "header", tuple("MASK")))
    cells.append(_Cell(second[1:], "length", ("payload len", f"{frame.short_length}")))
    length = data[2 : frame.length_end]
    value = "" if frame.length is None else f"{frame.length}"
    cells.append(_Cell(_bits(length), "length", ("extended length", value)))
    key = data[frame.length_end : frame.header_size]
    cells.append(_Cell(_bits(key), "key", ("masking key", key.hex(" "))))
    in_last_row = -frame.header_size % 4
    payload = frame.wire_payload[: in_last_row + _PAYLOAD_BYTES]
    masked = "payload, masked" if frame.masked else "payload"
    cells.append(_Cell(_bits(payload), "payload", (masked,)))
    return [cell for cell in cells if cell.bits]


def _bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def _rows(cells: list[_Cell]) -> Iterator[list[_Cell]]:
    """Split the fields into rows of 32 bits."""
    row: list[_Cell] = []
    room = _ROW
    for cell in cells:
        bits, labels = cell.bits, cell.labels
        while len(bits) > room:
            row.append(_Cell(bits[:room], cell.role, labels))
            bits = bits[room:]
            labels = (f"{cell.labels[0]} (cont.)",)
            yield row
            row, room = [], _ROW
        row.append(_Cell(bits, cell.role, labels))
        room -= len(bits)
        if not room:
            yield row
            row, room = [], _ROW
    if row:
        yield row


def _border(above: list[_Cell], below: list[_Cell]) -> str:
    """Return the line between two rows, with a plus sign at each end of a field."""
    crosses = {0}
    for row in (above, below):
        column = 0
        for cell in row:
            column += cell.width + 1
            crosses.add(column)
    return "".join("+" if column in crosses else "-" for column in range(max(crosses) + 1))
